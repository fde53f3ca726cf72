"""The plain stand-in is PropertyPulse as it is: it must work, lack, break and mend as that one does."""

import hashlib
import hmac
import json
import os
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import Request, urlopen

import psutil
import psycopg
import pytest

from opslib import propertypulse
from opslib.deployment import env_file
from tests import sandbox as stand_in
from tests.sandbox import fault as first, postgres, process
from tests.sandbox.credentials import Credentials as Shared
from tests.sandbox.errors import SandboxError
from tests.sandbox.layout import BIN, url
from tests.sandbox.plain import checkout, database, deployment, fault, firebase, pm2
from tests.sandbox.plain.account import ENDPOINT
from tests.sandbox.plain.api import ask, oncall
from tests.sandbox.plain.credentials import BUCKET, DATABASE, ROLE, Credentials
from tests.sandbox.plain.layout import ADMIN, API, CHECKOUT, DOTENV, ENVIRONMENT, GOOGLE, LOGS, ORIGIN, SERVER, STATE
from tests.sandbox.plain.seed import STATES
from tests.sandbox.plain.traffic import PlainTraffic
from tests.sandbox.release import git

REMINDER_SECONDS = 1.5
# The first stand-in may have run before, and SendGrid remembers whom it was asked to write to.
ONCE, TWICE, NEVER, ADA = (f"{name}.{time.time_ns()}@renters.example" for name in ("once", "twice", "never", "ada"))


@pytest.fixture(scope="module", autouse=True)
def plain(sandbox: None) -> Iterator[None]:
    """The plain stand-in beside the first, in fork mode, which sends reminders often."""
    deployment.stop()
    deployment.start(reminder_seconds=REMINDER_SECONDS)
    yield
    deployment.stop()
    assert not any(state.problem for state in stand_in.status())


@pytest.fixture
def broken() -> Iterator[Callable[[str], None]]:
    """Break the plain stand-in, and mend it whatever the test finds."""
    yield fault.break_
    fault.mend()


def printed(line: str, kind: str = "out") -> None:
    """Wait until the API has printed a line that begins so."""
    process.wait(lambda: any(one.startswith(line) for one in pm2.log(kind).splitlines()), f"the line {line!r}")


def payment(condition: str) -> dict[str, Any]:
    with database.connect(Credentials.load()) as connection:
        connection.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
        row: Any = connection.execute(
            f"SELECT * FROM payments WHERE {condition} ORDER BY id LIMIT 1".encode()
        ).fetchone()
        assert row
        return dict(row)


def deliver(event: dict[str, Any], secret: str) -> tuple[int, Any]:
    """Send an event to the API as Stripe would."""
    payload, now = json.dumps(event).encode(), int(time.time())
    mac = hmac.new(secret.encode(), f"{now}.".encode() + payload, hashlib.sha256).hexdigest()
    return ask("/api/webhooks/stripe", payload, Stripe_Signature=f"t={now},v1={mac}")[:2]


def succeeded(**intent: Any) -> dict[str, Any]:
    data = {"object": {"object": "payment_intent", **intent}}
    return {"id": "evt_plain", "object": "event", "type": "payment_intent.succeeded", "data": data}


def hs256(secret: str) -> str:
    """Sign a token as an API that reads JWT_SECRET would accept it."""
    head, claims = (
        urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "0", "exp": int(time.time()) + 600})
    )
    mac = hmac.new(secret.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()
    return f"{head}.{claims}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def remind(address: str) -> None:
    """Have a reminder come due in a moment: later than it is written."""
    with database.connect(Credentials.load()) as connection:
        connection.execute(
            'INSERT INTO reminder_schedules (id, "recipientEmail", subject, message, "scheduledFor", "updatedAt")'
            " VALUES (%s, %s, 'Rent', 'Rent is due.', now() AT TIME ZONE 'UTC' + interval '1s', now())",
            (f"c{time.time_ns():024}", address),
        )


def mails(address: str) -> int:
    """Count the mails that SendGrid has accepted for somebody."""
    sent = fault.sendgrid("/_sandbox/messages")
    return sum(to["email"] == address for mail in sent for one in mail["personalizations"] for to in one["to"])


def test_it_runs_as_pm2_start_leaves_it() -> None:
    (worker,) = pm2.workers()
    env = worker["pm2_env"]
    assert (env["exec_mode"], env["status"], env.get("wait_ready")) == ("fork_mode", "online", None)
    assert env["pm_exec_path"] == f"{SERVER}/server.js" and os.readlink(f"/proc/{worker['pid']}/cwd") == str(SERVER)
    assert not any(state.problem for state in deployment.status()) and len(deployment.status()) == 2
    held = env_file.read(DOTENV)
    assert not [name for name in propertypulse.load("plain").secrets if held[name] in json.dumps(worker)]


def test_a_second_start_does_nothing() -> None:
    assert deployment.start() is False


def test_its_checkout_is_one_that_is_pulled_in_place() -> None:
    assert git("remote", "get-url", "origin", cwd=CHECKOUT) == str(ORIGIN)
    assert (CHECKOUT / ".gitignore").read_text() == ".env\n" and checkout.changes() == ""
    (SERVER / ".runbook.lock").touch()
    assert checkout.changes() == "?? server/.runbook.lock"
    (SERVER / ".runbook.lock").unlink()


def test_health_does_not_say_who_answers() -> None:
    status, found, _ = ask("/health")
    assert (status, found.keys()) == (200, {"status", "database", "timestamp"})
    assert (found["status"], found["database"]) == ("healthy", "postgresql")
    status, first_answer, _ = ask("/health/detailed")
    assert (
        status == 200
        and first_answer["nodeVersion"].startswith("v")
        and first_answer["checks"].keys()
        == {
            "database",
            "application",
        }
    )
    assert ask("/health/detailed")[1] == first_answer, "cached"
    assert ask("/health/canary")[0] == 200


def test_only_an_id_token_of_firebase_opens_it() -> None:
    credentials = Credentials.load()
    status, found, _ = ask("/api/properties", token=oncall())
    assert (status, len(found["data"])) == (200, 8)
    refused = [
        ask("/api/properties", token=token)[:2]
        for token in (
            hs256(credentials.jwt_secret),
            "garbage",
            firebase.id_token(seconds=-60),
            firebase.id_token(aud="another-project"),
            firebase.id_token("nobody"),
            oncall()[:-8] + "AAAAAAAA",
        )
    ]
    assert refused == [(401, {"error": "Invalid or expired token"})] * 6
    assert ask("/api/properties")[:2] == (401, {"error": "No token provided"})
    printed("❌ Authentication error: ", "error")
    printed("❌ No token provided", "error")


def test_firebase_signs_somebody_in() -> None:
    login = json.loads((ADMIN / "login.json").read_text())
    address = f"{url(GOOGLE)}/v1/accounts:signInWithPassword?key={login.pop('key')}"
    body = json.dumps(login | {"returnSecureToken": True}).encode()
    with urlopen(Request(address, body, {"Content-Type": "application/json"})) as answer:
        token = json.load(answer)["idToken"]
    assert ask("/api/auth/me", token=token)[1]["data"]["email"] == Credentials.load().login_email


def test_an_upload_with_a_signed_url(broken: Callable[[str], None]) -> None:
    wanted = {"entityType": "lease", "entityId": "c1", "contentType": "application/pdf"}
    for sort, starts in (
        ("", f"https://{BUCKET}.s3.us-east-1.amazonaws.com/"),
        ("other-s3", f"{url(25001)}/{BUCKET}/"),
    ):
        if sort:
            broken(sort)
        status, found, _ = ask("/api/uploads/signed-url", wanted, token=oncall())
        data = found["data"]
        assert status == 200 and data["fileUrl"] == starts + data["key"] and "X-Amz-Expires=900" in data["uploadUrl"]
        sent = Request(data["uploadUrl"], b"lease", {"Content-Type": "application/pdf"}, method="PUT")
        with urlopen(sent) as answer:
            assert answer.status == 200
    assert ask("/api/uploads/signed-url", {"entityType": "lease"}, token=oncall())[0] == 400


def test_payments_are_in_dollars_and_in_every_state() -> None:
    with database.connect(Credentials.load()) as connection:
        counted: dict[str, int] = dict(
            connection.execute("SELECT status::text, count(*) FROM payments GROUP BY 1").fetchall()
        )
        columns: dict[str, str] = dict(
            connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'payments'"
            ).fetchall()
        )
    assert counted == {status: count for status, (count, _) in STATES.items()}
    assert (columns["id"], columns["amount"], columns["paidDate"]) == (
        "text",
        "double precision",
        "timestamp without time zone",
    )
    held = env_file.read(DOTENV)["STRIPE_SECRET_KEY"]
    for status, there in (("PAID", "succeeded"), ("PENDING", "requires_payment_method"), ("CANCELLED", "canceled")):
        row = payment(f"""status = '{status}' AND "providerIntentId" IS NOT NULL""")
        request = Request(f"{url(25003)}/v1/payment_intents/{row['providerIntentId']}")
        request.add_header("Authorization", f"Bearer {held}")
        with urlopen(request) as answer:
            intent = json.load(answer)
        assert (intent["status"], intent["amount"]) == (there, round(row["amount"] * 100))


def test_what_stripe_sends_marks_a_payment_paid() -> None:
    before = payment("""status = 'PENDING' AND "providerIntentId" IS NOT NULL""")
    first.pay(before["providerIntentId"])
    printed(f"✅ Payment marked as paid: {before['id']}")
    after = payment(f"id = '{before['id']}'")
    assert after["status"] == "PAID" and after["paidDate"]
    status, made, _ = ask("/api/payments/intent", {"tenantId": before["tenantId"], "amount": 1112.37}, token=oncall())
    assert status == 201
    first.pay(made["data"]["payment"]["providerIntentId"])
    printed(f"✅ Payment marked as paid: {made['data']['payment']['id']}")


def test_the_ends_of_a_webhook_and_what_they_print() -> None:
    secret = Credentials.load().stripe_webhook_secret
    assert deliver(succeeded(id="pi_unknown"), secret) == (200, {"received": True})
    printed("⚠️ Payment not found for intent: pi_unknown", "error")
    assert deliver({**succeeded(id="pi_unknown"), "type": "charge.refunded"}, secret) == (200, {"received": True})
    status, body = deliver(succeeded(id="pi_unknown"), "whsec_wrong")
    assert status == 400 and body.startswith("Webhook Error: No signatures found")
    printed("❌ Webhook signature verification failed: No signatures found", "error")
    assert deliver(succeeded(), secret) == (500, {"error": "Webhook handler failed"})
    printed("❌ Stripe webhook error: PrismaClientValidationError", "error")
    assert "\n    at " in pm2.log("error")


def test_a_slow_request_and_an_error_are_told() -> None:
    token = oncall()
    with database.connect_admin() as connection, ThreadPoolExecutor() as pool:
        with connection.transaction():
            connection.execute("LOCK TABLE properties")
            asked = pool.submit(ask, "/api/properties", token=token)
            time.sleep(1.5)
        assert asked.result()[0] == 200
    printed("🐌 Slow request: GET /api/properties - 1")
    assert ask("/api/payments", b"{", token=token)[0] == 400
    process.wait(lambda: (LOGS / "error.log").read_text().endswith("}\n"), "the error's line")
    line = json.loads((LOGS / "error.log").read_text().splitlines()[-1])
    assert (line["level"], line["method"], line["url"]) == ("error", "POST", "/api/payments")
    assert (LOGS / "combined.log").exists() and checkout.changes() == ""


def test_mails_that_fail_print_the_whole_error(broken: Callable[[str], None]) -> None:
    broken("failed-mails")
    process.wait(lambda: pm2.log("error").count("📧 Email send failed: ") == 3, "three failed mails")
    process.wait(lambda: "  [cause]: Error: socket hang up" in pm2.log("error"), "all of the last error")
    assert "📧 Email send failed: ResponseError: Unauthorized\n    at " in pm2.log("error")
    fault.mend("failed-mails")
    mail = {"to": ADA, "subject": "Hello", "message": "…"}
    assert ask("/api/notifications/email", mail, token=oncall())[:2] == (200, {"success": True})
    printed(f"📧 Email sent successfully to: {ADA}")
    assert mails(ADA) == 1


def test_rate_limits_are_by_address() -> None:
    pm2.begin()
    token = oncall()
    answers = [ask("/api/auth/me", token=token) for _ in range(11)]
    assert [status for status, *_ in answers] == [200] * 10 + [429]
    _, body, headers = answers[-1]
    assert 0 < body["retryAfter"] <= 900 and headers["retry-after"] == str(body["retryAfter"])
    assert [ask("/api/payments", token=token)[0] for _ in range(21)] == [200] * 20 + [429]
    assert [ask("/health")[0] for _ in range(5)] == [200] * 5
    assert ask("/api/webhooks/stripe", b"{}", Stripe_Signature="test")[0] == 400
    left = 200 - 32
    assert [ask("/api/nowhere")[0] for _ in range(left + 1)] == [404] * left + [429]


def test_a_restart_loses_requests() -> None:
    with PlainTraffic(rate=100) as traffic:
        time.sleep(1)
        pm2.restart()
        process.wait(lambda: pm2.problem() is None, "the API to answer")
        time.sleep(1)
    assert traffic.result.refused > 10, traffic.result
    assert traffic.result.bad == 0 and traffic.result.answered > 0, traffic.result


def test_a_commit_that_crashes_takes_the_api_down_at_its_restart(broken: Callable[[str], None]) -> None:
    broken("bad-release")
    assert checkout.head() == checkout.sha_of(checkout.BAD) == checkout.sha_of("main")
    assert checkout.changes() == "" and pm2.problem() is None, "what runs is untouched"
    pm2.restart()
    process.wait(lambda: "Cannot find module '../config/lateFees'" in pm2.log("error"), "the crash")
    assert pm2.problem()
    fault.mend()
    assert checkout.head() == checkout.sha_of("main") == checkout.sha_of(checkout.KEPT) and pm2.problem() is None


def test_a_commit_that_hangs(broken: Callable[[str], None]) -> None:
    broken("hanging-release")
    pm2.restart()
    printed("⏳ Waiting for feature flags...")
    assert pm2.problem() and pm2.workers()[0]["pm2_env"]["status"] == "online"


def test_crash_looping(broken: Callable[[str], None]) -> None:
    broken("crash-looping")
    assert "Error: Subscription check failed" in pm2.log("error")
    assert pm2.workers()[0]["pm2_env"]["restart_time"] > 2


def test_a_missing_variable(broken: Callable[[str], None]) -> None:
    before = DOTENV.read_text()
    broken("env-missing")
    assert "FIREBASE_PRIVATE_KEY" not in DOTENV.read_text() and pm2.problem() is None
    pm2.restart()
    process.wait(lambda: "Error: Firebase is not configured" in pm2.log("error"), "the crash")
    fault.mend()
    assert sorted(DOTENV.read_text().split("\n")) == sorted(before.split("\n")) and pm2.problem() is None


def test_port_taken(broken: Callable[[str], None]) -> None:
    broken("port-taken")
    holder = process.listener(API)
    assert holder and "http.server" in process.describe(holder)
    assert [worker["pm2_env"]["status"] for worker in pm2.workers()] == ["stopped"]
    fault.mend()
    assert pm2.problem() is None


def test_a_dirty_checkout_mends_without_a_restart(broken: Callable[[str], None]) -> None:
    pids = [worker["pid"] for worker in pm2.workers()]
    broken("dirty-checkout")
    assert checkout.changes() == "M server/src/routes/uploads.js\n?? server/fix-payments.js"
    fault.mend()
    assert checkout.changes() == "" and [worker["pid"] for worker in pm2.workers()] == pids


@pytest.mark.parametrize("name", ["db-saturated", "idle-in-transaction", "endpoint-disabled"])
def test_other_faults_mend(broken: Callable[[str], None], name: str) -> None:
    broken(name)
    if name == "db-saturated":
        refused = f'too many connections for role "{ROLE}"'
        process.wait(lambda: refused in (database.problem() or ""), "a refusal")
    fault.mend()
    assert pm2.problem() is None and database.problem() is None


def test_db_down(broken: Callable[[str], None]) -> None:
    broken("db-down")
    status, found, _ = ask("/health")
    assert (status, found["status"]) == (503, "unhealthy") and "reach database server" in found["error"]
    fault.mend()
    assert pm2.problem() is None


def test_webhooks_fail_as_the_log_says(broken: Callable[[str], None]) -> None:
    secret, event = Credentials.load().stripe_webhook_secret, succeeded(id="pi_unknown", amount=100, currency="chf")
    refused = "❌ Webhook signature verification failed: "
    for name, status, line in (
        ("parsed-body", 400, f"{refused}Webhook payload must be provided as"),
        ("clock-off", 400, f"{refused}Timestamp outside the tolerance zone"),
        ("webhook-error", 500, "❌ Stripe webhook error: TypeError: Cannot read properties of undefined"),
        ("wrong-webhook-secret", 400, f"{refused}No signatures found"),
    ):
        broken(name)
        assert deliver(event, secret)[0] == status
        printed(line, "error")


def test_a_webhook_backlog_is_there_and_can_be_sent(broken: Callable[[str], None]) -> None:
    def waiting() -> list[Any]:
        request = Request(f"{url(25003)}/v1/events?delivery_success=false&limit=100")
        request.add_header("Authorization", f"Bearer {Credentials.load().stripe_secret_key}")
        with urlopen(request) as answer:
            return list(json.load(answer)["data"])

    assert waiting() == []
    broken("webhook-backlog")
    events = waiting()
    assert [event["pending_webhooks"] for event in events] == [1] * fault.BACKLOG, "the first API's have arrived"
    intent = events[0]["data"]["object"]["id"]
    assert payment(f""""providerIntentId" = '{intent}'""")["status"] == "PENDING"
    fault.mend("webhook-backlog")
    assert waiting() == [] and payment(f""""providerIntentId" = '{intent}'""")["status"] == "PAID"


def test_an_unknown_fault_names_those_there_are() -> None:
    with pytest.raises(SandboxError, match="'fork-mode' is not known of the plain stand-in: choose from bad-release, "):
        fault.break_("fork-mode")


def test_its_migrations_were_resolved_and_do_not_apply_in_order() -> None:
    def prisma(*arguments: str, **environment: str) -> tuple[int, str]:
        command = (str(BIN / "npx"), "prisma", *arguments)
        done = subprocess.run(command, cwd=SERVER, env=ENVIRONMENT | environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said = prisma("migrate", "status")
    assert (code, "Database schema is up to date!" in said) == (0, True), said
    with postgres.connect_admin(Shared.load(), "postgres") as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}_empty OWNER {ROLE}".encode())
    address = Credentials.load().database_url.replace(f"/{DATABASE}?", f"/{DATABASE}_empty?")
    code, said = prisma("migrate", "deploy", DATABASE_URL=address)
    assert code == 1 and "No such table: maintenance_tickets" in said, said


def test_its_environment_is_described() -> None:
    env = propertypulse.load("plain")
    assert env.api.env_file == DOTENV and env.api.release == CHECKOUT and env.api.url == url(API)
    assert env.values()["FIREBASE_PRIVATE_KEY"] == Credentials.load().firebase_private_key
    assert env.stripe and env.stripe.endpoint == ENDPOINT and env.s3 and env.s3.bucket == BUCKET


def test_every_process_sends_the_reminders(broken: Callable[[str], None]) -> None:
    remind(ONCE)
    process.wait(lambda: mails(ONCE) > 0, "the reminder")
    printed("🔔 Processing due reminders...")
    assert deployment.start(2, reminder_seconds=REMINDER_SECONDS) is True
    workers = pm2.workers()
    assert [worker["pm2_env"]["exec_mode"] for worker in workers] == ["cluster_mode"] * 2
    assert not any(worker["pm2_env"].get("wait_ready") for worker in workers)
    process.wait(lambda: pm2.log().count("🚀 PropertyPulse API running on port 5001") == 2, "both to listen")
    remind(TWICE)
    process.wait(lambda: mails(TWICE) == 2, "the reminder, from both")
    with DOTENV.open("a") as file:
        file.write("REMINDERS=false\n")
    pm2.restart()
    process.wait(lambda: pm2.log().count("🔕 Reminders are off") == 2, "the job to be off")
    remind(NEVER)
    time.sleep(2 * REMINDER_SECONDS)
    assert (mails(ONCE), mails(TWICE), mails(NEVER)) == (1, 2, 0)


def test_stop_leaves_nothing_and_the_first_as_it_was() -> None:
    """Last in this file: it stops the plain stand-in."""
    fault.break_("idle-in-transaction")
    pids = [pid for state in deployment.status() for pid in state.pids]
    assert deployment.stop() is True
    assert not [pid for pid in pids if psutil.pid_exists(pid)] and not STATE.exists()
    assert deployment.stop() is False and deployment.status() == []
    with postgres.connect_admin(Shared.load(), "postgres") as connection:
        left = "SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles"
        assert not [name for (name,) in connection.execute(left) if name.startswith("pulse")]
    endpoints = first.stripe("/_sandbox/account")["endpoints"]
    assert [endpoint["id"] for endpoint in endpoints] == [first.ENDPOINT]
