"""Drills of the repair of payments and of its undo: payments in every state, a Stripe that is not well, and kills."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.payments import comparison, payment, repair_audit, stripe_account
from opslib.payments.repair import Repair
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed, RunbookError, UndoFailed
from tests import sandbox
from tests.drills import payments
from tests.drills.payments import KINDS, Made, make
from tests.drills.stripe_agreement import ENDPOINT, dashboard
from tests.sandbox.credentials import Credentials

pytestmark = pytest.mark.usefixtures("sandbox", "cleared")

BY_NAME = {kind.name: kind for kind in KINDS}
REASON = "drill: the tenant has paid"


@pytest.fixture
def cleared() -> Iterator[None]:
    payments.clear()
    yield
    payments.clear()


def paid(count: int = 1, kind: str = "paid", status: str = "PENDING", age: int = 3600) -> list[Made]:
    """Make payments that are paid at Stripe, and not here."""
    return make([(BY_NAME[kind], status)] * count, age=age)


def names(made: list[Made]) -> str:
    return ",".join(str(one.id) for one in made)


def command(given: str, *arguments: str, apply: bool = True) -> list[str]:
    act = ["--apply", "--reason", REASON] if apply else []
    words = [sys.executable, "-m", "opslib.runbook.cli", "run", "repair_payment_status", "-p", "payments", given]
    return [*words, *act, *arguments]


def repair(given: str, *arguments: str, apply: bool = True) -> tuple[str, str, str]:
    """Repair; give its outcome, all that its record shows, and what the terminal showed."""
    return ended(command(given, *arguments, apply=apply))


def undo(given: str) -> tuple[str, str, str]:
    """Take repairs back; give the same."""
    return ended([*command(given)[:4], "undo_payment_repair", *command(given)[5:]])


def ended(words: list[str]) -> tuple[str, str, str]:
    """Run a procedure to its end."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    made: dict[str, Any] = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return made["metadata"]["opslib"]["outcome"], json.dumps(made, ensure_ascii=False), done.stdout


def prepared(made: list[Made], run: str = "run1", reason: str = REASON) -> Change:
    """The change that marks these paid, outside of a notebook, with the table that notes it."""
    env = propertypulse.load("sandbox")
    stripe = stripe_account.client(env, env_file.read(env.api.env_file)["STRIPE_SECRET_KEY"])
    with payment.connect(env) as admin:
        for one in repair_audit.prepare(env, admin, made):
            one.do()
        compared = comparison.compare(env, admin, stripe, names(made))
    assert {one.verdict for one in compared} == {"repair"}
    return Repair(env, stripe, run, reason, "").mark(compared)[0]


def slow_from_the_tenth(seconds: float, *, times: int) -> None:
    """Let Stripe be slow when it is asked to mark three payments: by then each was asked for three times."""
    dashboard("faults", path="/v1/payment_intents/", times=9)
    dashboard("faults", path="/v1/payment_intents/", seconds=seconds, times=times)


def effects(made: list[Made]) -> tuple[set[str], list[int]]:
    """The states of the rows, and which payments have how many notes."""
    return {row["status"] for row in payments.rows(made).values()}, [one["payment_id"] for one in payments.notes()]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_200_payments_are_repaired_where_and_only_where_stripe_says_paid(seed: int) -> None:
    made = make(payments.generated(200, seed))
    repaired = [one.id for one in made if one.repaired]
    assert 25 < len(repaired) < 40
    outcome, record, shown = repair(names(made), "-p", "most", "200", "-p", "wait_seconds", "4")
    assert outcome == "applied", shown
    now = payments.rows(made)
    assert [(one.kind.name, now[one.id]["status"]) for one in made if now[one.id]["status"] != one.expected] == []
    assert payments.untouched(made, but=repaired) == []
    noted = {one["payment_id"]: one for one in payments.notes()}
    assert len(payments.notes()) == len(noted)
    for one in made:
        by_event = one.kind.name == "paid, its event undelivered"
        assert (one.id in noted) == (one.repaired and not by_event), one.kind.name
        assert one.kind.paid or one.kind.says in record, one.kind.name
    for number, note in noted.items():
        assert note["before"] == next(one.before for one in made if one.id == number)
        assert (note["after"], note["reason"], note["undone_at"]) == (now[number], REASON, None)
        charged = payments.ask("SELECT extract(epoch FROM paid_date)::int AS at FROM payments WHERE id = %s", [number])
        assert abs(charged[0]["at"] - (time.time() - 3600)) < 120
    before = payments.rows(made)
    outcome, _, shown = repair(names(made), "-p", "most", "200", "-p", "wait_seconds", "4")
    assert outcome == "applied" and "0 changes" in shown, shown
    assert payments.rows(made) == before and len(payments.notes()) == len(noted)


def test_every_reason_is_given_and_nothing_is_planned_for_what_is_not_paid() -> None:
    wrong = [kind for kind in KINDS if not kind.paid]
    made = make([(kind, "PENDING") for kind in wrong])
    outcome, record, _ = repair(f"{names(made)},999999999,pi_nobody", apply=False)
    assert outcome == "failed"
    for kind in wrong:
        assert kind.says in record, kind.name
    assert "no payment here has this id or intent" in record and "pi_nobody" in record
    assert payments.untouched(made) == []


def test_all_repairs_what_is_paid_and_leaves_what_is_fresh_and_says_what_has_no_row() -> None:
    made = [*make(payments.generated(110, 3)), *paid(age=60)]
    nobody = dashboard("payment_intents", payments=[{"amount": 500}])["ids"][0]
    outcome, record, shown = repair("all", "-p", "days", "1", "-p", "most", "100", "-p", "wait_seconds", "4")
    assert outcome == "applied", shown
    now = payments.rows(made)
    assert [one.kind.name for one in made[:-1] if now[one.id]["status"] != one.expected] == []
    assert now[made[-1].id] == made[-1].before
    assert "its event may be on its way" in record
    assert nobody in record


def test_two_rows_with_one_intent_are_refused() -> None:
    payments.ask('DROP INDEX "payments_provider_intent_id_key"')
    try:
        made = paid()
        twin = payments.insert(
            amount=payments.AMOUNT, currency="usd", status="FAILED", age=10,
            provider_intent_id=made[0].before["provider_intent_id"],
        )  # fmt: skip
        outcome, record, _ = repair(made[0].before["provider_intent_id"])
        assert outcome == "failed" and "2 rows have this intent" in record
        assert payments.untouched([*made, Made(made[0].kind, twin)]) == []
    finally:
        payments.clear()
        payments.ask('CREATE UNIQUE INDEX "payments_provider_intent_id_key" ON payments (provider_intent_id)')


def test_a_parameter_with_metacharacters_is_refused() -> None:
    outcome, _, shown = repair("1'; DROP TABLE payments; --, pi_a/../../balance?x=1, $(id)")
    assert outcome == "refused" and "expected `all`, or ids and intents" in shown


def test_to_apply_a_reason_is_needed_and_no_more_than_the_most_are_repaired() -> None:
    made = paid(3)
    words = [word for word in command(names(made)) if word not in ("--reason", REASON)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "✗ There is a reason" in done.stdout
    outcome, _, shown = repair(names(made), "-p", "most", "2")
    assert outcome == "failed" and "✗ At most 2 payments are to be repaired" in shown
    assert payments.untouched(made) == []


def test_without_replay_the_row_is_updated_and_the_late_event_changes_nothing() -> None:
    made = paid(kind="paid, its event undelivered")
    outcome, _, shown = repair(names(made), "-p", "wait_seconds", "0")
    assert outcome == "applied", shown
    after = payments.rows(made)
    assert effects(made) == ({"PAID"}, [made[0].id])
    dashboard("deliveries/retry")
    assert payments.rows(made) == after


def test_an_event_that_the_api_refuses_changes_no_row() -> None:
    made = paid(kind="paid, its event undelivered") + paid()
    sandbox.break_("wrong-webhook-secret")
    try:
        outcome, _, shown = repair(names(made), "-p", "wait_seconds", "3")
    finally:
        sandbox.mend("wrong-webhook-secret")
    assert outcome == "undone" and "and not taken within 3 s" in shown, shown
    assert payments.untouched(made) == []
    assert not payments.ask("SELECT to_regclass('runbook.payment_repairs') AS t")[0]["t"]  # undone too


def test_two_repairs_at_once_have_one_effect() -> None:
    made = paid(12)
    both = [prepared(made, "run1"), prepared(made, "run2")]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(one.do) for one in both]:
            done.result()
    states, noted = effects(made)
    assert states == {"PAID"} and sorted(noted) == sorted(one.id for one in made)


@pytest.mark.long
def test_two_runs_at_once_one_is_refused() -> None:
    made = paid(3)
    slow_from_the_tenth(8, times=3)  # as long as a second run may take to start on a busy machine
    with subprocess.Popen(command(names(made)), stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout
        assert any("Mark paid" in line and "under way" in line for line in iter(first.stdout.readline, ""))
        outcome, _, shown = repair(names(made))
        assert outcome == "refused" and "another run holds this environment" in shown
        first.communicate(timeout=120)
    assert first.returncode == 0
    assert effects(made) == ({"PAID"}, [one.id for one in made])


@pytest.fixture
def slow_note(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold each row's lock for a second and a half; the event is set once it is held."""
    held, note = threading.Event(), repair_audit.note

    def slow(*given: Any, **words: Any) -> None:
        held.set()
        time.sleep(1.5)
        note(*given, **words)

    monkeypatch.setattr(repair_audit, "note", slow)
    return held


def test_a_webhook_in_the_middle_has_one_effect(slow_note: threading.Event) -> None:
    """The event comes while the row is locked, waits, and finds the row paid."""
    made = paid(kind="paid, its event undelivered")
    change = prepared(made)
    with ThreadPoolExecutor() as pool:
        repairing = pool.submit(change.do)
        assert slow_note.wait(5)
        began = time.monotonic()
        assert dashboard("deliveries/retry")["undelivered"] == 0
        assert time.monotonic() - began > 0.5  # it did wait for the lock
        repairing.result()
    (note,) = payments.notes()
    assert payments.rows(made)[made[0].id] == note["after"]


def test_a_webhook_that_was_first_is_waited_for_and_believed() -> None:
    made = paid()
    change = prepared(made)
    with ThreadPoolExecutor() as pool:
        with payments.held(made[0].id, then="UPDATE payments SET status = 'PAID' WHERE id = %s"):
            repairing = pool.submit(change.do)
            time.sleep(1)
        repairing.result()
    assert effects(made) == ({"PAID"}, [])


def test_a_row_that_somebody_holds_for_long_is_given_up() -> None:
    made = paid()
    change = prepared(made)
    with payments.held(made[0].id), pytest.raises(ChangeFailed, match="somebody else has held its row for 5 s"):
        change.do()
    assert payments.untouched(made) == [] and payments.notes() == []


@pytest.mark.parametrize("what", ["refund", "dispute", "amount", "row"])
def test_what_changes_after_the_plan_is_refused(what: str) -> None:
    made = paid(2)
    change = prepared(made)
    planned, name = change.replaces(), made[1].before["provider_intent_id"]
    if what == "row":
        payments.ask("UPDATE payments SET amount = amount - 1 WHERE id = %s", [made[1].id])
    else:
        data: dict[str, dict[str, Any]] = {
            "refund": {"charge": {"amount_refunded": 1}},
            "dispute": {"charge": {"disputed": True}},
            "amount": {"amount_received": 1},
        }
        dashboard(f"payment_intents/{name}", **data[what])
        assert change.replaces() != planned  # which makes the plan void
    with pytest.raises(ChangeFailed, match="may not be marked paid any more"):
        change.do()
    assert change.undo is not None
    change.put_back()
    assert payments.rows(made)[made[0].id] == made[0].before
    assert payments.rows(made)[made[1].id]["status"] == "PENDING"


WELL_NOT = {
    "401": {"status": 401},
    "403": {"status": 403},
    "429": {"status": 429},
    "429, a long Retry-After": {"status": 429, "retry_after": 3600},
    "500": {"status": 500},
    "garbage": {"status": 200, "garbage": "<html>not Stripe</html>"},
    "JSON of somebody else": {"status": 200, "garbage": '{"object": "cat", "status": "succeeded"}'},
    "half an answer": {"status": 200, "garbage": '{"id": "pi_1", "object": "payment_inte'},
    "nothing": {"status": 0},
}


@pytest.mark.parametrize("fault", WELL_NOT.values(), ids=WELL_NOT)
def test_a_stripe_that_is_not_well_when_asked_again_leaves_the_row_alone(fault: dict[str, Any]) -> None:
    made = paid(2)
    change = prepared(made)
    dashboard("faults", path=f"/v1/payment_intents/{made[1].before['provider_intent_id']}", times=99, **fault)
    with pytest.raises(ChangeFailed) as failed:
        change.do()
    assert f"payment {made[1].id}" in str(failed.value)
    assert payments.rows(made)[made[1].id] == made[1].before
    assert change.undo is not None
    change.put_back()
    assert payments.untouched(made) == []
    assert [bool(note["undone_at"]) for note in payments.notes()] == [True]


@pytest.mark.parametrize("fault", WELL_NOT.values(), ids=WELL_NOT)
def test_a_stripe_that_is_not_well_is_not_taken_for_an_answer(fault: dict[str, Any]) -> None:
    made = paid(25 if fault.get("status") == 500 else 1)  # page by page, and one by one
    dashboard("faults", path="/v1/payment_intents", times=99, **fault)
    env = propertypulse.load("sandbox")
    stripe = stripe_account.client(env, env_file.read(env.api.env_file)["STRIPE_SECRET_KEY"])
    with payment.connect(env) as admin:
        if "cat" in str(fault):
            assert {one.verdict for one in comparison.compare(env, admin, stripe, names(made))} == {"refused"}
        else:
            with pytest.raises(RunbookError, match="Run again when Stripe answers"):
                comparison.compare(env, admin, stripe, names(made))


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [{"status": 429}, {"status": 429, "retry_after": 2}, {"status": 500}, {"status": 0}], ids=str
)
def test_what_passes_is_retried(fault: dict[str, Any]) -> None:
    made = paid()
    dashboard("faults", path="/v1/payment_intents", times=1, **fault)
    outcome, _, shown = repair(names(made))
    assert outcome == "applied", shown
    assert effects(made) == ({"PAID"}, [made[0].id])


@pytest.mark.long
@pytest.mark.parametrize("what", [{"disputed": True}, {"refunded": True, "amount_refunded": payments.AMOUNT}], ids=str)
def test_a_dispute_or_refund_right_after_undoes_the_repair(what: dict[str, Any]) -> None:
    made = paid(3)
    slow_from_the_tenth(2, times=3)
    with subprocess.Popen(command(names(made)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any("Mark paid" in line and "under way" in line for line in iter(process.stdout.readline, ""))
        time.sleep(3)
        dashboard(f"payment_intents/{made[0].before['provider_intent_id']}", charge=what)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "✗ Every payment of the plan agrees with Stripe" in out, out
    assert payments.untouched(made) == []
    assert all(note["undone_at"] for note in payments.notes()) and len(payments.notes()) == 3


def test_a_repair_is_put_back_later_unless_the_row_has_gone_on() -> None:
    made = paid(3, status="FAILED")
    assert repair(names(made))[0] == "applied"
    outcome, _, shown = undo(names(made[:2]))
    assert outcome == "applied", shown
    assert payments.untouched(made[:2]) == []
    outcome, _, shown = undo(names(made[:2]))
    assert outcome == "applied" and "0 changes" in shown
    payments.ask("UPDATE payments SET status = 'REFUNDED' WHERE id = %s", [made[2].id])
    outcome, _, shown = undo(names(made[2:]))
    assert outcome != "applied" and "no longer as the repair left it" in shown
    assert effects(made[2:])[0] == {"REFUNDED"}
    assert repair(names(made[:2]))[0] == "applied"  # and again
    assert effects(made[:2])[0] == {"PAID"} and len(payments.notes()) == 5


def test_an_undo_leaves_a_row_alone_that_has_gone_on() -> None:
    made = paid(2)
    change = prepared(made)
    change.do()
    payments.ask("UPDATE payments SET status = 'REFUNDED' WHERE id = %s", [made[0].id])
    assert change.undo is not None
    with pytest.raises(UndoFailed, match=f"payment {made[0].id}: the row is no longer"):
        change.put_back()
    assert {row["status"] for row in payments.rows(made).values()} == {"REFUNDED", "PAID"}


def test_the_api_may_read_the_notes_and_not_write_them_and_no_secret_is_in_them() -> None:
    secret = Credentials.load().stripe_secret_key
    propertypulse.load("sandbox")
    from opslib.runbook.mask import mask

    mask.add("STRIPE_SECRET_KEY", secret)
    prepared(paid(), reason=f"pasted by mistake: {secret}").do()
    assert secret not in str(payments.notes())
    may = "SELECT has_table_privilege('propertypulse', 'runbook.payment_repairs', %s) AS may"
    assert [payments.ask(may, [word])[0]["may"] for word in ("SELECT", "INSERT", "UPDATE", "DELETE")] == [
        True, False, False, False,
    ]  # fmt: skip


# In which change, how many seconds after it began, and who dies; inside of a row's transaction where notes are slow.
KILLS = [
    ("Make the table", 0.0, "runner"),
    ("Make the table", 0.05, "kernel"),
    ("Have Stripe send", 0.1, "runner"),
    ("Have Stripe send", 0.3, "kernel"),
    ("Mark paid", 0.02, "runner"),
    ("Mark paid", 0.7, "runner"),
    ("Mark paid", 1.2, "kernel"),
    ("Mark paid", 2.1, "kernel"),
    ("Mark paid, inside", 0.8, "runner"),
    ("Mark paid, inside", 2.2, "kernel"),
]


@pytest.mark.long
@pytest.mark.parametrize(("change", "after", "victim"), KILLS, ids=str)
def test_killed_it_is_run_again(change: str, after: float, victim: str) -> None:
    made = paid(6) + paid(2, kind="paid, its event undelivered")
    change, _, inside = change.partition(",")
    if inside:
        slow_notes(made)
    else:
        dashboard("faults", path="/v1/payment_intents/pi_", seconds=0.3, times=60)
    with subprocess.Popen(command(names(made)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(change in line and "under way" in line for line in iter(process.stdout.readline, ""))
        time.sleep(after)
        below = psutil.Process(process.pid).children(recursive=True) if victim == "kernel" else []
        for pid in [p.pid for p in below if "ipykernel" in " ".join(p.cmdline())] or [process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=120)
    time.sleep(1.5)
    now = payments.rows(made)
    noted = {note["payment_id"]: note for note in payments.notes() if note["undone_at"] is None}
    for one in made:  # both or neither, whenever it died
        by_event = one.kind.name != "paid"
        assert now[one.id] == (noted[one.id]["after"] if one.id in noted else one.before) or by_event
    outcome, _, shown = repair(names(made))
    assert outcome == "applied", shown
    states, _ = effects(made)
    standing = [note["payment_id"] for note in payments.notes() if note["undone_at"] is None]
    assert states == {"PAID"}
    assert sorted(standing) == sorted(one.id for one in made if one.kind.name == "paid")


def slow_notes(made: list[Made]) -> None:
    """Have PostgreSQL take a second for each note, in the middle of its transaction."""
    prepared(made)  # makes the table
    payments.ask(
        "CREATE FUNCTION runbook.slow() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(1); RETURN new; END'"
    )
    payments.ask(
        "CREATE TRIGGER slow BEFORE INSERT ON runbook.payment_repairs FOR EACH ROW EXECUTE FUNCTION runbook.slow()"
    )


@pytest.mark.parametrize("victim", [ENDPOINT])
def test_a_disabled_endpoint_is_said_before_anything_changes(victim: str) -> None:
    made = paid(kind="paid, its event undelivered")
    key = Credentials.load().stripe_secret_key
    _endpoint(victim, key, "true")
    try:
        outcome, _, shown = repair(names(made))
        assert outcome == "failed" and "is disabled: Stripe sends it nothing" in shown
        assert payments.untouched(made) == []
        assert repair(names(made), "-p", "wait_seconds", "0")[0] == "applied"
    finally:
        _endpoint(victim, key, "false")


def _endpoint(name: str, key: str, disabled: str) -> None:
    import urllib3

    from tests.sandbox.layout import STRIPE, url

    got = urllib3.request(
        "POST",
        f"{url(STRIPE)}/v1/webhook_endpoints/{name}",
        body=f"disabled={disabled}",
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert got.status == 200
