"""Drills of every procedure while life goes on: people log in, write, pay and get mail, and Stripe tells of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.backups import database_copy
from opslib.database.login import KEY, Login
from opslib.runbook import environment, procedure
from opslib.runbook.record import steps
from tests import leaks, recorder, sandbox
from tests.drills import (
    access_key,
    backups,
    database,
    jwt_secret,
    payments,
    recovery,
    slow_query,
    standing,
    stripe_agreement as stripe,
)
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import PM2_HOME
from tests.sandbox.life import Life, Lived

pytestmark = [pytest.mark.usefixtures("fresh", "still"), pytest.mark.long]

RATE = 60
TAIL_SECONDS = 2
"""How long life goes on before and after: what is broken then goes on failing."""
COST_SECONDS = {
    "recover_database": 2,
    "take_recovery_back": 2,
    "change_database_password": 2,
    "stop_and_start_api": 15,
    "revoke_jwt_secret": 60,
}
"""For how long requests may fail, as the procedure says itself: the API is away, or whoever asks is logged out."""
CLOCKS_SECONDS = 1
"""By how much a row may be older than the snapshot that it came too late for: its time is that of its statement."""


@dataclass(frozen=True, eq=False)
class Done:
    """A run that has ended."""

    procedure: str
    parameters: dict[str, object]
    begun: float
    ended: float
    code: int
    record: dict[str, Any]

    def __str__(self) -> str:
        stage = self.parameters.get("stage", "")
        return f"{self.procedure} {stage}".strip()


@dataclass
class Operator:
    """Who applies procedures, one after the other, while life goes on, and goes no further than to one that fails."""

    done: list[Done] = field(default_factory=list)

    def apply(self, name: str, /, **parameters: object) -> None:
        """Apply a procedure, and keep what came of it."""
        given = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
        _, plan, _ = backups.run("--reason", "drill", *given, name=name, apply=False)
        begun = time.time()
        code, record, said = backups.run("--reason", "drill", *given, name=name)
        self.done.append(Done(name, parameters, begun, time.time(), code, record))
        assert record["metadata"]["opslib"]["outcome"] == "applied", said
        assert differences(planned(plan), planned(record)) == [], "an approval of this plan would have been void"


def planned(record: dict[str, Any]) -> dict[str, Any]:
    """Give what a run has planned: what its digest covers."""
    plans = [one for one in steps(record) if one["step"] == "plan"]  # none of a procedure that only looks
    return {"changes": plans[-1]["changes"], **plans[-1]["context"]} if plans else {}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Say where two plans differ."""
    return [f"{key}: {one.get(key)} / {other.get(key)}" for key in {*one, *other} if one.get(key) != other.get(key)]


def check_email_delivery(operator: Operator) -> None:
    """Somebody gets no mail."""
    operator.apply("check_email_delivery", address="gone@tenant.example")


def lift_mail_suppression(operator: Operator) -> None:
    """The mailbox is there again."""
    operator.apply("lift_mail_suppression", address="full@tenant.example", list_name="blocks")


def send_test_mail(operator: Operator) -> None:
    """A message is sent."""
    operator.apply("send_test_mail", send_to="somebody@tenant.example")


def check_webhook_signatures(operator: Operator) -> None:
    """Nothing is wrong."""
    operator.apply("check_webhook_signatures")


def resend_stripe_event(operator: Operator) -> None:
    """An event is sent again: the one that a plan has chosen."""
    _, plan, _ = backups.run(name="resend_stripe_event", apply=False)
    chosen = next(one for one in steps(plan) if one["title"] == "The event")["evidence"][0]["event"]
    operator.apply("resend_stripe_event", event_id=chosen)


def troubleshoot_database(operator: Operator) -> None:
    """Somebody has locked the pending payments, and idles."""
    sandbox.break_("idle-in-transaction")
    operator.apply("troubleshoot_database", older_than_seconds=1)
    sandbox.mend("idle-in-transaction")


def free_database_connections(operator: Operator) -> None:
    """Somebody has locked the pending payments, and idles."""
    sandbox.break_("idle-in-transaction")
    operator.apply("free_database_connections", older_than_seconds=1)
    sandbox.mend("idle-in-transaction")


def start_database(operator: Operator) -> None:
    """It is up already, and stays so."""
    operator.apply("start_database")


def tune_queries(operator: Operator) -> None:
    """A table has grown, and is read from end to end."""
    with slow_query.slow():
        operator.apply("tune_queries", seconds=1)


def build_index(operator: Operator) -> None:
    """For the table that has grown."""
    with slow_query.slow():
        operator.apply("build_index", name=slow_query.INDEX)


def drop_invalid_index(operator: Operator) -> None:
    """A build has failed."""
    with slow_query.broken():
        operator.apply("drop_invalid_index", name=slow_query.BROKEN)


def repair_payment_status(operator: Operator) -> None:
    """Payments are paid at Stripe, and not here: of two Stripe has an event to send again, of two it has none."""
    kinds = [kind for kind in payments.KINDS if kind.name in ("paid", "paid, its event undelivered")]
    made = payments.make([(kind, status) for kind in kinds for status in ("PENDING", "FAILED")])
    operator.apply("repair_payment_status", wait_seconds=4)
    assert {row["status"] for row in payments.rows(made).values()} == {"PAID"}


def undo_payment_repair(operator: Operator) -> None:
    """One of the payments should not have been marked paid."""
    (one,) = payments.make([(kind, "PENDING") for kind in payments.KINDS if kind.name == "paid"])
    operator.apply("repair_payment_status", payments=one.id, wait_seconds=0)
    operator.apply("undo_payment_repair", payments=one.id)
    assert {row["status"] for row in payments.rows([one]).values()} == {"PENDING"}


def triage_stripe_webhooks(operator: Operator) -> None:
    """Stripe has delivered nothing for a while: what triage finds, a replay mends."""
    sandbox.break_("webhook-backlog")
    operator.apply("triage_stripe_webhooks", retrying_minutes=0)
    operator.apply("replay_stripe_events", retrying_minutes=0)


def replay_stripe_events(operator: Operator) -> None:
    """As triage says, sent from here."""
    sandbox.break_("webhook-backlog")
    operator.apply("replay_stripe_events", sent_by="here", retrying_minutes=0)


def enable_webhook_endpoint(operator: Operator) -> None:
    """Somebody has disabled the endpoint."""
    sandbox.break_("endpoint-disabled")
    operator.apply("enable_webhook_endpoint")
    operator.apply("replay_stripe_events", retrying_minutes=0)


def restart_api(operator: Operator) -> None:
    """One worker after the other."""
    operator.apply("restart_api", settle_seconds=2)


def stop_and_start_api(operator: Operator) -> None:
    """All workers at once."""
    operator.apply("stop_and_start_api", settle_seconds=2, accept_downtime=True)


def rotate_jwt_secret(operator: Operator) -> None:
    """Nobody has to log in again."""
    operator.apply("rotate_jwt_secret", settle_seconds=2)


def retire_jwt_secret(operator: Operator) -> None:
    """A week after a rotation."""
    rotate_jwt_secret(operator)
    standing.stage({"JWT_SECRET_SINCE": "2026-01-01T00:00:00Z"})
    operator.apply("retire_jwt_secret", settle_seconds=2)


def revoke_jwt_secret(operator: Operator) -> None:
    """The secret has leaked."""
    operator.apply("revoke_jwt_secret", settle_seconds=2)


def rotate_s3_credentials(operator: Operator) -> None:
    """The old key stays."""
    operator.apply("rotate_s3_credentials", settle_seconds=2)


def deactivate_s3_key(operator: Operator) -> None:
    """Nobody uploads with a URL that the old key signed."""
    if access_key.keys().staged.previous is None:
        rotate_s3_credentials(operator)
    operator.apply("deactivate_s3_key", accept_broken_uploads=True)


def reactivate_s3_key(operator: Operator) -> None:
    """Somebody turns out to need the old key."""
    deactivate_s3_key(operator)
    operator.apply("reactivate_s3_key")


def delete_s3_key(operator: Operator) -> None:
    """Nobody has missed the old key."""
    deactivate_s3_key(operator)
    operator.apply("delete_s3_key", quiet_seconds=0)


def rotate_stripe_key(operator: Operator) -> None:
    """A key was made in the Dashboard."""
    stripe.new_key()
    operator.apply("rotate_stripe_key", settle_seconds=2)


def retire_stripe_key(operator: Operator) -> None:
    """The one before it was expired there."""
    stripe.old_key()
    operator.apply("retire_stripe_key", old_key_last_used="leaked")


def rotate_webhook_secret(operator: Operator) -> None:
    """The secret was rolled in the Dashboard."""
    stripe.new_secret()
    operator.apply("rotate_webhook_secret", settle_seconds=2)


def retire_webhook_secret(operator: Operator) -> None:
    """The one before it goes before it expires."""
    stripe.old_secret()
    operator.apply("retire_webhook_secret", settle_seconds=2)


def rotate_database_password(operator: Operator) -> None:
    """Two roles in turn."""
    operator.apply("rotate_database_password", settle_seconds=2)


def retire_database_login(operator: Operator) -> None:
    """The login that a rotation has left."""
    if not Login(standing.sandbox()).secret.previous:
        operator.apply("rotate_database_password", settle_seconds=2)
    operator.apply("retire_database_login")


def change_database_password(operator: Operator) -> None:
    """One role, and no worker happens to open a connection meanwhile."""
    operator.apply("change_database_password", settle_seconds=2)


def backup_database(operator: Operator) -> None:
    """Taken, and proven."""
    operator.apply("backup_database")


def recover_database(operator: Operator) -> None:
    """From the newest backup, then what it says has to be replayed is."""
    if not backups.existing():
        recovery.proven()
    operator.apply("recover_database", confirm=postgres.DATABASE)
    operator.apply("replay_stripe_events", retrying_minutes=0)


def take_recovery_back(operator: Operator) -> None:
    """Back to what the last recovery replaced, and what Stripe had told the other one is replayed."""
    if "old" not in recovery.kinds():
        recover_database(operator)
    operator.apply("take_recovery_back", confirm=postgres.DATABASE)
    operator.apply("replay_stripe_events", retrying_minutes=0)


def drop_replaced_database(operator: Operator) -> None:
    """One that was replaced long ago."""
    with recovery.replaced() as name:
        operator.apply("drop_replaced_database", database=name)


def connect_deployment(operator: Operator) -> None:
    """Under another name, with what nobody needs to be asked for."""
    file = environment.file("life")
    try:
        operator.apply("connect_deployment", environment="life", pm2_home=PM2_HOME, accept_missing=True)
    finally:
        file.unlink(missing_ok=True)


# What the stand-in's own faults and logins are used for comes before the rotation of these.
WAYS: dict[str, Callable[[Operator], None]] = {
    way.__name__: way
    for way in (
        connect_deployment,
        check_email_delivery,
        lift_mail_suppression,
        send_test_mail,
        check_webhook_signatures,
        resend_stripe_event,
        troubleshoot_database,
        free_database_connections,
        start_database,
        tune_queries,
        build_index,
        drop_invalid_index,
        repair_payment_status,
        undo_payment_repair,
        triage_stripe_webhooks,
        replay_stripe_events,
        enable_webhook_endpoint,
        restart_api,
        stop_and_start_api,
        revoke_jwt_secret,
        retire_jwt_secret,
        rotate_jwt_secret,
        rotate_s3_credentials,
        deactivate_s3_key,
        reactivate_s3_key,
        delete_s3_key,
        rotate_stripe_key,
        retire_stripe_key,
        rotate_webhook_secret,
        retire_webhook_secret,
        rotate_database_password,
        retire_database_login,
        change_database_password,
        backup_database,
        recover_database,
        take_recovery_back,
        drop_replaced_database,
    )
}


@pytest.fixture(scope="module")
def fresh(sandbox: None) -> Iterator[None]:
    """A stand-in that was just started, here and for the drills that follow."""
    _start_anew()
    yield
    _start_anew()


def _start_anew() -> None:
    assert leaks.left() == []
    sandbox.stop()
    sandbox.start()


@pytest.fixture
def still() -> None:
    """No procedure is under way, and none has left anything."""
    if stripe.held(KEY) != Credentials.load().database_url:
        database.first()  # the others log in with it
    recovery.clean()
    payments.clear()
    jwt_secret.idle()
    access_key.one()
    stripe.first()


@pytest.fixture(autouse=True)
def shown_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a change runs, its plan has shown."""
    with recorder.recording(tmp_path / "acts", monkeypatch) as found:
        yield
    assert {one.change: one.unshown for one in found if one.unshown} == {}


@contextmanager
def living() -> Iterator[Operator]:
    """Let life go on around an operator; then show what each run cost, and see that it was nothing.

    Some cost what they say that they cost, and a recovery loses what it says that it loses.
    """
    operator, life = Operator(), Life(rate=RATE)
    try:
        with life:
            yield operator
    finally:
        got = life.result
        failed = {one: got.failed_within(one.begun, one.ended) for one in operator.done}
        print(f"\n{got}")
        for one, reasons in failed.items():
            seconds = f"{one.ended - one.begun:5.1f} s"
            print(f"{one!s:<40} exit {one.code}, {seconds}, {len(reasons)} failed {sorted(set(reasons))}")
    recovered = [one for one in operator.done if one.procedure == "recover_database"]
    allowed = {one: COST_SECONDS.get(one.procedure, 0) * RATE for one in operator.done}
    assert not {str(one): reasons for one, reasons in failed.items() if len(reasons) > allowed[one]}
    assert got.seconds >= operator.done[-1].ended - operator.done[0].begun, "life has ended before the last run"
    assert got.mails and got.uploads and not (got.lost_events or got.lost_mails or got.unpaid), got
    assert unexplained(got, recovered) == []


def test_every_procedure_is_applied_once_in_a_row() -> None:
    assert set(WAYS) == set(procedure.names())
    with living() as operator:
        for way in WAYS.values():
            way(operator)
    assert {one.procedure for one in operator.done} == set(WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_a_procedure_is_applied(name: str) -> None:
    with living() as operator:
        time.sleep(TAIL_SECONDS)
        WAYS[name](operator)
        time.sleep(TAIL_SECONDS)


def unexplained(life: Lived, recovered: list[Done]) -> list[tuple[int, int]]:
    """Give the lost writes that no recovery has put aside: those after its backup, which are in what it replaced.

    Once it was taken back, they are in what was live in between.
    """
    left = set(life.lost_writes)
    aside = [one.name for one in database_copy.listed(standing.sandbox()) if one.kind in database_copy.REPLACED]
    assert len(aside) == len(recovered)
    for name, run in zip(reversed(aside), recovered, strict=True):
        taken = datetime.fromisoformat(shown(run, "The backup")["taken"]) - timedelta(seconds=CLOCKS_SECONDS)
        with postgres.connect_admin(Credentials.load(), name) as old:
            found = old.execute("SELECT id, amount FROM payments WHERE created_at >= %s", [taken]).fetchall()
        put = {(row, amount) for row, amount in found}
        print(f"{run} has put {len(left & put)} acknowledged writes aside in {name}")
        left -= put
    return sorted(left)


def shown(run: Done, title: str) -> dict[str, str]:
    """Give what a run has noted under this title."""
    outputs = [output for cell in run.record["cells"] for output in cell.get("outputs", [])]
    steps = [step for output in outputs if (step := output.get("metadata", {}).get("opslib"))]
    row: dict[str, str] = next(step for step in steps if step["title"] == title)["evidence"][0]
    return row
