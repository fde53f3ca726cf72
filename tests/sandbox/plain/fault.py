"""The ways to break the plain stand-in on purpose, by the first's names where they mean the same."""

import json
import secrets
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from .. import fault as first, postgres, process
from ..credentials import Credentials as Shared
from ..errors import SandboxError
from ..fault import ENDPOINT as FIRST_ENDPOINT, Fault, stripe
from ..layout import AWS, HOST, ROOT, SENDGRID, url
from ..lock import exclusively
from ..variable import put_back, set_aside
from . import api, checkout, client, database, pm2
from .account import ENDPOINT
from .credentials import ROLE
from .layout import API, DOTENV, SAVED, STARTED

BACKLOG = 6
CONNECTIONS = 8
"""That the role may have while they are used up: the server has more, and the first stand-in needs its own."""


def break_(name: str) -> None:
    """Break the running plain stand-in in the way of this name."""
    broken = _known(name)
    with exclusively():
        _require_running()
        SAVED.mkdir(exist_ok=True)
        broken.apply()


def mend(name: str | None = None) -> None:
    """Mend one fault, or all of them, and bring code and API back to what was started."""
    faults = list(FAULTS.values()) if name is None else [_known(name)]
    with exclusively():
        _require_running()
        for broken in faults:
            broken.mend()
        checkout.restore()
        if not pm2.as_started():
            pm2.begin()


def _known(name: str) -> Fault:
    if name not in FAULTS:
        raise SandboxError(f"fault {name!r} is not known of the plain stand-in: choose from {', '.join(FAULTS)}")
    return FAULTS[name]


def _require_running() -> None:
    if not STARTED.exists():
        raise SandboxError("the plain stand-in is not running: start it first, with --plain")


def _nothing() -> None:
    """Mend what the return to the good commit mends by itself."""


def _pull(branch: str) -> Callable[[], None]:
    def apply() -> None:
        checkout.pull(branch)

    return apply


def _run(branch: str) -> Callable[[], None]:
    def apply() -> None:
        checkout.pull(branch)
        pm2.restart()
        process.wait(lambda: pm2.problem() is None, "the plain API to run the release")

    return apply


def _crash_again_and_again() -> None:
    before = sum(worker["pm2_env"]["restart_time"] for worker in pm2.workers())
    checkout.pull(checkout.CRASHING)
    pm2.restart()
    process.wait(
        lambda: sum(worker["pm2_env"]["restart_time"] for worker in pm2.workers()) > before + 2,
        "the plain API to have crashed twice",
    )


def _stop_database() -> None:
    postgres.part().stop()


def _start_database() -> None:
    postgres.part().start()
    _await_recovery()


def _await_recovery() -> None:
    # The pool needs a moment to connect again; what has crashed is not waited for.
    process.wait(lambda: "answered 503" not in (pm2.problem() or ""), "the plain API to find its database again")


def _take_port() -> None:
    pm2.run("-s", "stop", pm2.APPLICATION)
    _start_helper(client.PORT_HOLDER)
    process.wait(lambda: process.accepts(API), "the port to be taken")


def _start_helper(command: tuple[str, ...]) -> None:
    if process.find(command) is None:
        process.spawn(command, cwd=ROOT, log=SAVED / "helper.log")


def _end_helper(command: tuple[str, ...]) -> Callable[[], None]:
    def mend() -> None:
        process.end(filter(None, [process.find(command)]))

    return mend


def _saturate() -> None:
    _limit_connections(CONNECTIONS)
    _start_helper(client.SATURATOR)
    process.wait(lambda: database.problem() is not None, "the connections to be used up")


def _free_connections() -> None:
    _end_helper(client.SATURATOR)()
    _limit_connections(-1)
    _await_recovery()


def _limit_connections(count: int) -> None:
    with database.connect_admin() as connection:
        connection.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {count}".encode())


def _idle_in_transaction() -> None:
    _start_helper(client.IDLER)
    process.wait(_someone_waits, "a session that waits for the idle transaction")


def _someone_waits() -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    with database.connect_admin() as connection:
        return connection.execute(query, (client.NAME,)).fetchone() is not None


def _lose_firebase_key() -> None:
    set_aside(DOTENV, SAVED, "FIREBASE_PRIVATE_KEY", None)


def _restore_firebase_key() -> None:
    put_back(DOTENV, SAVED, "FIREBASE_PRIVATE_KEY")


def _change_webhook_secret() -> None:
    set_aside(DOTENV, SAVED, "STRIPE_WEBHOOK_SECRET", f"whsec_{secrets.token_hex(16)}")
    pm2.restart()
    process.wait(lambda: pm2.problem() is None, "the plain API to run with the secret")


def _restore_webhook_secret() -> None:
    put_back(DOTENV, SAVED, "STRIPE_WEBHOOK_SECRET")


def _change_maker() -> None:
    # The SDK reads this one; the API's own variable is S3_ENDPOINT.
    set_aside(DOTENV, SAVED, "AWS_ENDPOINT_URL", None)
    with DOTENV.open("a") as file:
        file.write(f"S3_ENDPOINT={url(AWS)}\n")
    pm2.restart()
    process.wait(lambda: pm2.problem() is None, "the plain API to run with the endpoint")


def _return_to_aws() -> None:
    if put_back(DOTENV, SAVED, "AWS_ENDPOINT_URL"):
        set_aside(DOTENV, SAVED, "S3_ENDPOINT", None)
        (SAVED / "S3_ENDPOINT").unlink()


def _pile_up_webhooks() -> None:
    query = """SELECT "providerIntentId" FROM payments
        WHERE status = 'PENDING' AND "providerIntentId" IS NOT NULL ORDER BY id LIMIT %s"""
    with database.connect_admin() as connection:
        pending = [intent for (intent,) in connection.execute(query, (BACKLOG,))]
    stripe("/_sandbox/deliveries", enabled=False)
    for intent in pending:
        first.pay(intent)
    stripe("/_sandbox/deliveries", enabled=True)
    # The first stand-in, which has an endpoint in the same account, is not to miss them.
    stripe("/_sandbox/deliveries/retry", endpoint=FIRST_ENDPOINT)


def _resend_webhooks() -> None:
    stripe("/_sandbox/deliveries", enabled=True)
    stripe("/_sandbox/deliveries/retry", endpoint=ENDPOINT)


def _disable_endpoint() -> None:
    stripe(f"/v1/webhook_endpoints/{ENDPOINT}", form={"disabled": "true"})


def _enable_endpoint() -> None:
    stripe(f"/v1/webhook_endpoints/{ENDPOINT}", form={"disabled": "false"})


# What SendGrid answers: two that it explains, and a connection that breaks.
REFUSALS: tuple[dict[str, Any], ...] = (
    {"status": 401, "message": "Maximum credits exceeded"},
    {"status": 403, "message": "The from address does not match a verified Sender Identity."},
    {"status": 0},
)


def _fail_mails() -> None:
    token = api.oncall()
    for number, refusal in enumerate(REFUSALS):
        sendgrid("/_sandbox/faults", path="/v3/mail/send", **refusal)
        mail = {"to": f"tenant{number}@renters.example", "subject": "Your rent", "message": "Thank you."}
        api.ask("/api/notifications/email", mail, token=token)


def _send_mails() -> None:
    sendgrid("/_sandbox/faults")


def sendgrid(path: str, /, **data: Any) -> Any:
    """Ask SendGrid as the administrator."""
    connection = HTTPConnection(HOST, SENDGRID, timeout=10)
    headers = {"Authorization": f"Bearer {Shared.load().stripe_admin_token}", "Content-Type": "application/json"}
    method = "GET" if path == "/_sandbox/messages" else "POST"
    connection.request(method, path, body=json.dumps(data), headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.status != 200:
        raise SandboxError(f"SendGrid answered {method} {path} with {answer.status}: {text[:200]}")
    return json.loads(text)


FAULTS = {
    "bad-release": Fault(
        "a commit that crashes at start was pulled in place; the running API is untouched",
        _pull(checkout.BAD),
        _nothing,
    ),
    "hanging-release": Fault(
        "a commit that never listens was pulled in place; the running API is untouched",
        _pull(checkout.HANGING),
        _nothing,
    ),
    "slow-release": Fault("the API runs a commit that takes four seconds to listen", _run(checkout.SLOW), _nothing),
    "crash-looping": Fault(
        "the API runs a commit that crashes a second and a half after it listens, again and again",
        _crash_again_and_again,
        _nothing,
    ),
    "dirty-checkout": Fault("somebody has changed the checkout by hand", checkout.soil, _nothing),
    "env-missing": Fault(
        "FIREBASE_PRIVATE_KEY is gone from .env: the API crashes at its next start",
        _lose_firebase_key,
        _restore_firebase_key,
    ),
    "port-taken": Fault(
        "the API is stopped and another process has its port", _take_port, _end_helper(client.PORT_HOLDER)
    ),
    "db-down": Fault("PostgreSQL is stopped, for the first stand-in too", _stop_database, _start_database),
    "db-saturated": Fault(
        "another client holds every connection that the API's role may have", _saturate, _free_connections
    ),
    "idle-in-transaction": Fault(
        "another client has locked the pending payments and idles, with a session waiting for it",
        _idle_in_transaction,
        _end_helper(client.IDLER),
    ),
    "memory-leak": Fault("the API runs a commit that keeps memory with each request", _run(checkout.LEAKING), _nothing),
    "wrong-webhook-secret": Fault(
        "the API checks webhooks with a secret that Stripe does not sign with",
        _change_webhook_secret,
        _restore_webhook_secret,
    ),
    "webhook-backlog": Fault(
        f"{BACKLOG} payments have succeeded at Stripe, and their events were never delivered",
        _pile_up_webhooks,
        _resend_webhooks,
    ),
    "endpoint-disabled": Fault("Stripe's endpoint for the API is disabled", _disable_endpoint, _enable_endpoint),
    "webhook-error": Fault(
        "the API runs a commit that fails on payments in a currency that it does not know",
        _run(checkout.WEBHOOK_ERROR),
        _nothing,
    ),
    "parsed-body": Fault(
        "the API runs a commit whose webhook gets parsed JSON instead of the raw body",
        _run(checkout.PARSED_BODY),
        _nothing,
    ),
    "clock-off": Fault("the API runs a commit whose clock is ten minutes fast", _run(checkout.CLOCK_OFF), _nothing),
    "failed-mails": Fault(
        f"SendGrid has refused {len(REFUSALS)} mails, each for another reason", _fail_mails, _send_mails
    ),
    "other-s3": Fault("uploads go to an S3 that is not AWS's: S3_ENDPOINT is set", _change_maker, _return_to_aws),
}
