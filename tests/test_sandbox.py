"""The stand-in is what the procedures are tested against: it must work, break and mend as it says."""

import hashlib
import hmac
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from opslib.deployment import env_file
from tests import sandbox as stand_in
from tests.drills.stripe_agreement import dashboard
from tests.sandbox import pm2, postgres, process, release
from tests.sandbox.credentials import Credentials
from tests.sandbox.fault import ENDPOINT, stripe
from tests.sandbox.layout import API, BIN, CURRENT, DOTENV, ENVIRONMENT, POSTGRES, PYTHON, STRIPE, url
from tests.sandbox.life import Life
from tests.sandbox.stripe_server import Endpoint

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def credentials() -> Credentials:
    return Credentials.load()


@pytest.fixture
def broken() -> Iterator[Callable[[str], None]]:
    """Break the stand-in, and mend it whatever the test finds."""
    yield stand_in.break_
    stand_in.mend()


def ask(address: str, data: Any = None, *, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """Return the status and the body of an answer; `data` is sent as JSON unless it is bytes."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urlopen(Request(address, body, sent, method=method), timeout=5) as answer:
            status, text = answer.status, answer.read()
    except HTTPError as error:
        status, text = error.code, error.read()
    return status, json.loads(text) if text.startswith((b"{", b"[")) else text


def login(credentials: Credentials) -> str:
    secret = {"email": credentials.login_email, "password": credentials.login_password}
    _, tokens = ask(f"{url(API)}/api/auth/login", secret)
    return f"Bearer {tokens['accessToken']}"


def deliver(event: dict[str, Any], secret: str) -> tuple[int, Any]:
    """Send an event to the API as Stripe would."""
    payload, now = json.dumps(event).encode(), int(time.time())
    mac = hmac.new(secret.encode(), f"{now}.".encode() + payload, hashlib.sha256).hexdigest()
    return ask(f"{url(API)}/api/webhooks/stripe", payload, Stripe_Signature=f"t={now},v1={mac}")


def payment(credentials: Credentials, condition: str) -> tuple[Any, ...]:
    with postgres.connect(credentials) as connection:
        query = f"SELECT id, provider_intent_id, status, paid_date FROM payments WHERE {condition} LIMIT 1"
        row = connection.execute(query.encode()).fetchone()
        assert row
        return row


def secret_names(credentials: Credentials) -> list[str]:
    return [name for name in vars(credentials) if name.endswith(("password", "secret", "key", "token", "key_id"))]


def problems() -> dict[str, str | None]:
    return {state.name: state.problem for state in stand_in.status()}


def test_every_part_is_ready() -> None:
    assert not any(problems().values())


def test_a_second_start_does_nothing() -> None:
    before = stand_in.status()
    assert stand_in.start() is False
    assert stand_in.status() == before


ONE = f"/v1/webhook_endpoints/{ENDPOINT}"
LEADS = {"url": f"{url(API)}/api/webhooks/stripe"}
SENDING, ROLL = "/_sandbox/deliveries", f"/_sandbox/webhook_endpoints/{ENDPOINT}/roll"
SECRET, KEY = "STRIPE_WEBHOOK_SECRET", "STRIPE_SECRET_KEY"


@pytest.mark.parametrize(
    ("broken", "mended", "said"),
    [
        ((ROLL, {}), (ROLL, {"secret": SECRET}), "no secret that signs is in the .env"),
        (("/_sandbox/keys/expire", {"secret": KEY}), ("/_sandbox/keys", {"secret": KEY}), "the key in the .env is not"),
        ((ONE, {"disabled": "true"}), (ONE, {"disabled": "false"}), "the endpoint is disabled"),
        ((ONE, {"url": f"{url(API)}/nowhere"}), (ONE, LEADS), f"the endpoint leads to {url(API)}/nowhere"),
        ((ONE, {"enabled_events[]": "a.b"}), (ONE, {"enabled_events[]": "*"}), "the endpoint is sent a.b only"),
        ((SENDING, {"enabled": False}), (SENDING, {"enabled": True}), "events are not delivered"),
        (("/_sandbox/faults", {"path": "/v1/x"}), ("/_sandbox/faults", {}), "1 requests will be answered with a fault"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_status_names_what_was_left_behind(
    broken: tuple[str, dict[str, Any]], mended: tuple[str, dict[str, Any]], said: str
) -> None:
    held = env_file.read(DOTENV)

    def do(path: str, data: dict[str, Any]) -> str:
        sent = {name: held.get(value, value) for name, value in data.items()}
        stripe(path, **({"form": sent} if path == ONE else sent))
        return problems()["stripe_server"] or ""

    assert do(*broken).startswith(said)
    assert do(*mended) == ""


def test_an_expired_key_and_a_stripe_that_fails_are_in_nobody_s_way_who_mends(broken: Callable[[str], None]) -> None:
    broken("endpoint-disabled")
    key = env_file.read(DOTENV)[KEY]
    stripe("/_sandbox/keys/expire", secret=key)
    stripe("/_sandbox/faults", status=500, times=99)
    stand_in.mend()
    assert problems()["stripe_server"] == "the key in the .env is not known; 99 requests will be answered with a fault"
    stripe("/_sandbox/faults")
    stripe("/_sandbox/keys", secret=key)
    assert problems()["stripe_server"] is None


def test_an_endpoint_signs_with_its_secret_whatever_was_rolled_and_rolled_back() -> None:
    endpoint = Endpoint(ENDPOINT, url(API), "first")
    endpoint.roll("second", 0.2)
    assert endpoint.secrets == ["second", "first"]
    endpoint.roll("first", 0)
    endpoint.roll("first", 0.1)
    assert endpoint.secrets == ["first"]
    time.sleep(0.3)  # past the end of what the first roll has overlapped
    assert endpoint.secrets == ["first"] and ",v1=" in endpoint.signature(b"{}")


def test_health_names_the_release() -> None:
    status, health = ask(f"{url(API)}/health")
    assert (status, health["database"], health["redis"]) == (200, "ok", "ok")
    assert health["release"] == CURRENT.resolve().name == release.sha_of(release.GOOD)


def test_workers_run_in_the_release_directory_without_secrets(credentials: Credentials) -> None:
    workers = pm2.workers()
    assert {os.readlink(f"/proc/{worker['pid']}/cwd") for worker in workers} == {str(CURRENT.resolve() / "server")}
    captured = json.dumps(workers)
    assert not [name for name in secret_names(credentials) if getattr(credentials, name) in captured]


def test_login(credentials: Credentials) -> None:
    status, user = ask(f"{url(API)}/api/auth/me", Authorization=login(credentials))
    assert (status, user["email"]) == (200, credentials.login_email)
    assert ask(f"{url(API)}/api/auth/me")[0] == 401


def test_a_signed_webhook_marks_a_payment_paid_once(credentials: Credentials) -> None:
    number, intent, *_ = payment(credentials, "status = 'PENDING'")
    event: dict[str, Any] = {"id": f"evt_test_{time.time_ns()}", "object": "event", "type": "payment_intent.succeeded"}
    event["data"] = {"object": {"id": intent, "object": "payment_intent"}}
    assert deliver(event, "whsec_wrong")[0] == 400
    assert deliver(event, credentials.stripe_webhook_secret) == (200, {"received": True, "outcome": "PAID"})
    assert deliver(event, credentials.stripe_webhook_secret)[1]["outcome"] == "duplicate"
    _, _, status, paid = payment(credentials, f"id = {number}")
    assert status == "PAID" and paid


def test_stripe_delivers_and_refuses_revoked_keys(credentials: Credentials) -> None:
    key = {"Authorization": f"Bearer {credentials.stripe_secret_key}"}
    _, events = ask(f"{url(STRIPE)}/v1/events?limit=1", **key)
    assert events["data"][0].keys() >= {"id", "type", "created", "pending_webhooks", "data"}
    assert ask(f"{url(STRIPE)}/v1/account", **key)[0] == 200
    assert ask(f"{url(STRIPE)}/v1/account", Authorization="Bearer sk_test_revoked")[0] == 401


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("PENDING", "requires_payment_method"),
        ("PROCESSING", "processing"),
        ("PAID", "succeeded"),
        ("FAILED", "requires_payment_method"),
        ("REFUNDED", "succeeded"),
    ],
)
def test_stripe_agrees_with_each_payment(credentials: Credentials, status: str, expected: str) -> None:
    # The last ones: other tests settle the first.
    _, intent, *_ = payment(credentials, f"status = '{status}' AND id <= 300 ORDER BY id DESC")
    key = f"Bearer {credentials.stripe_secret_key}"
    _, found = ask(f"{url(STRIPE)}/v1/payment_intents/{intent}?expand[]=latest_charge", Authorization=key)
    assert found["status"] == expected
    assert bool((found["latest_charge"] or {}).get("refunded")) == (status == "REFUNDED")


def test_an_upload_with_a_signed_url(credentials: Credentials) -> None:
    token = login(credentials)
    _, signed = ask(f"{url(API)}/api/uploads/signed-url", {"fileName": "lease.pdf"}, Authorization=token)
    assert ask(signed["url"], b"lease", method="PUT")[0] == 200
    assert ask(signed["url"].replace("lease.pdf", "other.pdf"), b"lease", method="PUT")[0] == 403


def test_mail(credentials: Credentials) -> None:
    status, result = ask(f"{url(API)}/api/email/test", {}, Authorization=login(credentials))
    assert (status, result["success"]) == (202, True)


def test_migrations_are_up_to_date() -> None:
    command = (BIN / "npx", "prisma", "migrate", "status")
    done = subprocess.run(command, cwd=CURRENT / "server", env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, "up to date" in done.stdout) == (0, True), done.stderr


def test_a_reload_under_load_loses_no_request() -> None:
    with stand_in.Traffic(rate=200, writes=True) as traffic:
        time.sleep(0.5)
        pm2.reload()
        time.sleep(0.5)
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert len({pid for pid, _ in traffic.result.workers}) == 4


def test_traffic_tells_what_is_lost(credentials: Credentials) -> None:
    newest = "SELECT max(id) FROM payments WHERE provider_intent_id IS NULL AND id > 300"
    with stand_in.Traffic(rate=100, writes=True) as traffic:
        time.sleep(1)
        with postgres.connect(credentials) as connection:
            gone = connection.execute(f"DELETE FROM payments WHERE id = ({newest}) RETURNING id").fetchall()
    assert len(gone) == 1 and traffic.result.written == traffic.result.writes - 1, traffic.result
    assert not traffic.result.lossless and traffic.result.failed == 0, traffic.result


def test_a_life_that_nothing_disturbs_loses_nothing() -> None:
    with Life(arrival=10) as life:
        time.sleep(3)
    got = life.result
    assert got.failed == 0 and got.lossless and got.uploads > 0 and got.failures == [], got
    assert 3 * 60 <= got.asked < 5 * 60, got  # what people ask of Stripe and S3 goes along


def test_a_life_tells_by_name_what_is_lost_and_when_a_request_failed(credentials: Credentials) -> None:
    with postgres.connect(credentials) as connection:
        ((known,),) = connection.execute("SELECT max(id) FROM payments").fetchall()
        paid = f"SELECT max(id) FROM payments WHERE id > {known} AND status = 'PAID'"
        with Life(arrival=2) as life:
            process.wait(lambda: connection.execute(paid).fetchone() != (None,), "an event to arrive")
            begun = time.time()
            dashboard("deliveries", enabled=False)
            time.sleep(1.5)
            dashboard("deliveries", enabled=True)
            # Another payment with the id of the lost one: as after a recovery, from which ids are given once more.
            newest = f"SELECT max(id) FROM payments WHERE id > {known} AND provider_intent_id IS NULL"
            gone = connection.execute(f"UPDATE payments SET amount = 1 WHERE id = ({newest}) RETURNING id").fetchall()
            changed = f"UPDATE payments SET status = 'PENDING' WHERE id = ({paid}) RETURNING provider_intent_id"
            ((intent,),) = connection.execute(changed).fetchall()
            dashboard("faults", path="/v1/payment_intents", status=503, times=3)
            time.sleep(1.5)
            ended = time.time()
    dashboard("faults")
    got = life.result
    assert [row for row, _ in got.lost_writes] == [row for (row,) in gone] and got.written == got.writes - 1, got
    assert 1 <= len(got.lost_events) <= 8 and got.applied == got.events - len(got.lost_events), got
    assert intent in got.unpaid and len(got.unpaid) == len(got.lost_events) + 1, got
    assert not got.lost_mails and not got.lossless, got
    assert not got.failed_within(0, begun) and not got.failed_within(ended, time.time()), got
    assert 0 < len(got.failed_within(begun, ended)) == len(got.failures) == got.failed <= 3, got


@pytest.mark.parametrize("fault", ["bad-release", "hanging-release"])
def test_a_failing_release_takes_the_api_down_at_its_reload(broken: Callable[[str], None], fault: str) -> None:
    broken(fault)
    assert CURRENT.resolve().name == release.sha_of(fault)
    assert problems()["api"] is None, "the running workers are untouched"
    pm2.reload()
    assert problems()["api"]
    assert_mended()


def test_a_release_changed_in_place(broken: Callable[[str], None]) -> None:
    broken("bad-release-in-place")
    assert CURRENT.resolve().name == release.sha_of(release.GOOD)
    assert release.git("rev-parse", "HEAD", cwd=CURRENT) == release.sha_of(release.BAD)
    assert problems()["api"] is None
    assert_mended()
    assert release.git("rev-parse", "HEAD", cwd=CURRENT) == release.sha_of(release.GOOD)


def test_fork_mode(broken: Callable[[str], None]) -> None:
    broken("fork-mode")
    assert (pm2.mode(), len(pm2.workers()), problems()["api"]) == ("fork_mode", 1, None)
    assert_mended()


def test_db_down(broken: Callable[[str], None]) -> None:
    broken("db-down")
    found = problems()
    assert found["postgres"] == "not running"
    assert "503" in (found["api"] or "")
    assert_mended()


def test_port_taken(broken: Callable[[str], None]) -> None:
    broken("port-taken")
    holder = process.listener(API)
    assert holder and "http.server" in process.describe(holder)
    assert [worker["pm2_env"]["status"] for worker in pm2.workers()] == ["stopped", "stopped"]
    assert_mended()


def test_env_missing(broken: Callable[[str], None], credentials: Credentials) -> None:
    broken("env-missing")
    assert "JWT_SECRET=" not in DOTENV.read_text()
    assert problems()["api"] is None
    stand_in.mend("env-missing")
    assert f"JWT_SECRET={credentials.jwt_secret}\n" in DOTENV.read_text()
    assert DOTENV.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fault", ["db-saturated", "idle-in-transaction", "wrong-webhook-secret"])
def test_other_faults_mend(broken: Callable[[str], None], fault: str) -> None:
    broken(fault)
    stand_in.mend(fault)
    assert_mended()


def test_a_webhook_backlog_is_there_and_can_be_sent(broken: Callable[[str], None], credentials: Credentials) -> None:
    broken("webhook-backlog")
    address = f"{url(STRIPE)}/v1/events?delivery_success=false&limit=100"
    key = {"Authorization": f"Bearer {credentials.stripe_secret_key}"}
    waiting = ask(address, **key)[1]["data"]
    assert len(waiting) == 8
    intent = waiting[0]["data"]["object"]["id"]
    assert payment(credentials, f"provider_intent_id = '{intent}'")[2] == "PENDING"
    stand_in.mend("webhook-backlog")
    assert ask(address, **key)[1]["data"] == []
    assert payment(credentials, f"provider_intent_id = '{intent}'")[2] == "PAID"


def test_an_unknown_fault_is_one_line_and_exit_2() -> None:
    command = (PYTHON, "-m", "tests.sandbox", "break", "coffee")
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "'coffee'" in done.stderr


def assert_mended() -> None:
    stand_in.mend()
    assert not any(problems().values())
    good = release.sha_of(release.GOOD)
    assert CURRENT.resolve().name == good
    workers = pm2.workers()
    assert pm2.mode() == "cluster_mode"
    assert pm2.serving() == {(worker["pid"], good) for worker in workers} and len(workers) == 2


def test_the_workers_of_another_checkout_are_not_ours() -> None:
    script = f"/elsewhere{CURRENT}/server/src/server.js"
    with subprocess.Popen([BIN / "node", "-e", "setTimeout(() => {}, 60000)", script]) as other:
        assert other.pid not in [found.pid for found in pm2.processes()]
        assert {worker["pid"] for worker in pm2.workers()} <= {found.pid for found in pm2.processes()}
        other.terminate()


def test_stop_leaves_nothing_and_start_tells_who_has_a_port(credentials: Credentials) -> None:
    """Last in this file: it stops the stand-in, and starts it again."""
    pids = [pid for state in stand_in.status() for pid in state.pids]
    assert stand_in.stop() is True
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert stand_in.stop() is False
    with socket.create_server(("127.0.0.1", POSTGRES)):
        with pytest.raises(stand_in.SandboxError, match=rf"port {POSTGRES} is taken by pid {os.getpid()} \(.+\): end"):
            stand_in.start()
    assert stand_in.start() is True
    new = Credentials.load()
    assert not [name for name in secret_names(new) if getattr(new, name) == getattr(credentials, name)]
