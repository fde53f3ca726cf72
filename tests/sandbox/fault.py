"""The ways to break the stand-in on purpose, and how each is mended again."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

from . import database_client, pm2, postgres, process, release
from .credentials import Credentials
from .errors import SandboxError
from .layout import API, CREDENTIALS, CURRENT, DOTENV, HOST, PYTHON, ROOT, STATE, STRIPE
from .lock import exclusively
from .variable import put_back, set_aside

SAVED = STATE / "faults"
BACKLOG = 8
ENDPOINT = "we_1PropertyPulse"

PORT_HOLDER = (PYTHON, "-m", "http.server", str(API), "--bind", HOST, "--directory", str(SAVED))
SATURATOR = (PYTHON, "-m", database_client.__name__, str(STATE), "saturate")
IDLER = (PYTHON, "-m", database_client.__name__, str(STATE), "idle-in-transaction")


@dataclass(frozen=True)
class Fault:
    """A way to break the stand-in; `mend` removes the cause, and may be called when it is not there."""

    description: str
    apply: Callable[[], None]
    mend: Callable[[], None]


def break_(name: str) -> None:
    """Break the running stand-in in the way of this name."""
    fault = _known(name)
    with exclusively():
        _require_running()
        SAVED.mkdir(exist_ok=True)
        fault.apply()


def mend(name: str | None = None) -> None:
    """Mend one fault, or all of them, and bring the API back to the good release."""
    faults = list(FAULTS.values()) if name is None else [_known(name)]
    with exclusively():
        _require_running()
        for fault in faults:
            fault.mend()
        _return_to_good_release()


def end_helpers() -> bool:
    """End the processes that faults have started; False if there was none."""
    found = list(filter(None, map(process.find, (PORT_HOLDER, SATURATOR, IDLER))))
    process.end(found)
    return bool(found)


def _known(name: str) -> Fault:
    if name not in FAULTS:
        raise SandboxError(f"fault {name!r} is not known: choose from {', '.join(FAULTS)}")
    return FAULTS[name]


def _require_running() -> None:
    if not CREDENTIALS.exists():
        raise SandboxError("the stand-in is not running: start it first")


def _return_to_good_release() -> None:
    good = release.check_out(release.GOOD)
    release.restore(good, release.GOOD)
    release.make_current(good)
    sha = release.sha_of(release.GOOD)
    workers = pm2.workers()
    online = {worker["pid"] for worker in workers if worker["pm2_env"]["status"] == "online"}
    as_started = len(online) == pm2.INSTANCES and pm2.mode() == "cluster_mode" and not pm2.orphans()
    if not as_started or pm2.serving() != {(pid, sha) for pid in online}:
        pm2.start()


def _nothing() -> None:
    """Mend what the return to the good release mends by itself."""


def _flip_to(branch: str) -> Callable[[], None]:
    def apply() -> None:
        release.make_current(release.check_out(branch))

    return apply


def _change_in_place() -> None:
    release.restore(release.check_out(release.GOOD), release.BAD)


def _run(branch: str) -> Callable[[], None]:
    def apply() -> None:
        _flip_to(branch)()
        pm2.reload()

    return apply


def _run_also(branch: str) -> Callable[[], None]:
    """Add the defect of a branch to whatever release runs: such faults may be had together."""

    def apply() -> None:
        release.make_current(release.add_defect(branch))
        pm2.reload()
        process.wait(_all_current, "the workers to run the release")

    return apply


def _all_current() -> bool:
    sha = json.loads((CURRENT / "server" / "release.json").read_text())["sha"]
    seen = pm2.serving()
    return len(seen) == pm2.INSTANCES and {running for _, running in seen} == {sha}


def _run_slow_release() -> None:
    _flip_to(release.SLOW)()
    pm2.start(pm2.HASTY_ECOSYSTEM)
    process.wait(_all_current, "the workers to run the release")


def _run_in_fork_mode() -> None:
    pm2.start(pm2.FORK_ECOSYSTEM)


def _stop_database() -> None:
    postgres.part().stop()


def _start_database() -> None:
    postgres.part().start()
    _await_recovery()


def _await_recovery() -> None:
    # The workers' pools need a moment to connect again; one that has crashed is not waited for.
    process.wait(lambda: "answered 503" not in (pm2.problem() or ""), "the API to find its database again")


def _take_port() -> None:
    pm2.run("-s", "stop", pm2.APPLICATION)
    _start_helper(PORT_HOLDER)
    process.wait(lambda: process.accepts(API), "the port to be taken")


def _start_helper(command: tuple[str, ...]) -> None:
    if process.find(command) is None:
        process.spawn(command, cwd=ROOT, log=SAVED / "helper.log")


def _end_helper(command: tuple[str, ...]) -> Callable[[], None]:
    def mend() -> None:
        process.end(filter(None, [process.find(command)]))

    return mend


def _saturate() -> None:
    _start_helper(SATURATOR)
    process.wait(lambda: postgres.api_problem() is not None, "the connections to be used up")


def _free_connections() -> None:
    _end_helper(SATURATOR)()
    _await_recovery()


def _idle_in_transaction() -> None:
    _start_helper(IDLER)
    process.wait(_someone_waits, "a session that waits for the idle transaction")


def _someone_waits() -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    with postgres.connect_admin(Credentials.load()) as connection:
        return connection.execute(query, (database_client.NAME,)).fetchone() is not None


def _lose_jwt_secret() -> None:
    set_aside(DOTENV, SAVED, "JWT_SECRET", None)


def _restore_jwt_secret() -> None:
    put_back(DOTENV, SAVED, "JWT_SECRET")


def _change_webhook_secret() -> None:
    set_aside(DOTENV, SAVED, "STRIPE_WEBHOOK_SECRET", f"whsec_{secrets.token_hex(16)}")
    pm2.reload()


def _restore_webhook_secret() -> None:
    if put_back(DOTENV, SAVED, "STRIPE_WEBHOOK_SECRET") and pm2.workers():
        pm2.reload()


def _pile_up_webhooks() -> None:
    stripe("/_sandbox/deliveries", enabled=False)
    with postgres.connect_admin(Credentials.load()) as connection:
        pending = connection.execute(
            "SELECT provider_intent_id FROM payments WHERE status = 'PENDING' ORDER BY id LIMIT %s", (BACKLOG,)
        ).fetchall()
    for (intent,) in pending:
        pay(intent)
    stripe("/_sandbox/deliveries", enabled=True)


def pay(intent: str) -> None:
    """Pay an intent by card, as a tenant does."""
    card = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2040", "cvc": "123"}
    fields = {f"card[{name}]": value for name, value in card.items()}
    method = stripe("/v1/payment_methods", form={"type": "card", **fields})["id"]
    stripe(f"/v1/payment_intents/{intent}", form={"payment_method": method})
    stripe(f"/v1/payment_intents/{intent}/confirm", form={})


def _resend_webhooks() -> None:
    stripe("/_sandbox/deliveries", enabled=True)
    stripe("/_sandbox/deliveries/retry")


def _disable_endpoint() -> None:
    stripe(f"/v1/webhook_endpoints/{ENDPOINT}", form={"disabled": "true"})


def _enable_endpoint() -> None:
    stripe(f"/v1/webhook_endpoints/{ENDPOINT}", form={"disabled": "false"})


def stripe(path: str, /, *, form: dict[str, str] | None = None, **data: Any) -> dict[str, Any]:
    """Ask Stripe as the administrator, whom no rotation can lock out and no fault of Stripe's keeps from mending it."""
    connection = HTTPConnection(HOST, STRIPE, timeout=10)
    kind, body = "application/json", json.dumps(data)
    if form is not None:
        kind, body = "application/x-www-form-urlencoded", urlencode(form)
    token = Credentials.load().stripe_admin_token
    connection.request("POST", path, body=body, headers={"Authorization": f"Bearer {token}", "Content-Type": kind})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.status != 200:
        raise SandboxError(f"Stripe answered POST {path} with {answer.status}: {text[:200]}")
    result: dict[str, Any] = json.loads(text)
    return result


FAULTS = {
    "bad-release": Fault(
        "current points at a release that crashes at boot; the running workers are untouched",
        _flip_to(release.BAD),
        _nothing,
    ),
    "hanging-release": Fault(
        "current points at a release that never listens; the running workers are untouched",
        _flip_to(release.HANGING),
        _nothing,
    ),
    "slow-release": Fault(
        "the API runs a release that comes up long after PM2 has taken the worker before it away",
        _run_slow_release,
        _nothing,
    ),
    "bad-release-in-place": Fault(
        "the code under the running workers is changed to the release that crashes at boot",
        _change_in_place,
        _nothing,
    ),
    "fork-mode": Fault("the API runs in fork mode, one worker", _run_in_fork_mode, _nothing),
    "db-down": Fault("PostgreSQL is stopped", _stop_database, _start_database),
    "port-taken": Fault("the API is stopped and another process has its port", _take_port, _end_helper(PORT_HOLDER)),
    "env-missing": Fault(
        "JWT_SECRET is gone from .env: the next worker that starts crashes", _lose_jwt_secret, _restore_jwt_secret
    ),
    "memory-leak": Fault("the API runs a release that keeps memory with each request", _run(release.LEAKING), _nothing),
    "no-previous-secret": Fault(
        "the API runs a release that does not accept JWT_SECRET_PREVIOUS", _run_also(release.NO_PREVIOUS), _nothing
    ),
    "db-saturated": Fault("another client holds every database connection", _saturate, _free_connections),
    "idle-in-transaction": Fault(
        "another client has locked the pending payments and idles, with a session waiting for it",
        _idle_in_transaction,
        _end_helper(IDLER),
    ),
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
        "the API runs a release that fails on events in a currency that it does not know",
        _run_also(release.WEBHOOK_ERROR),
        _nothing,
    ),
    "parsed-body": Fault(
        "the API runs a release whose webhook gets parsed JSON instead of the raw body",
        _run_also(release.PARSED_BODY),
        _nothing,
    ),
    "clock-off": Fault(
        "the API runs a release whose clock is ten minutes fast", _run_also(release.CLOCK_OFF), _nothing
    ),
}
