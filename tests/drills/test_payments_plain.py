"""Drills of payments and webhooks on an API that nobody has prepared: dollars, quoted names, no table of events."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.deployment import env_file
from opslib.payments import event, payment, payment_table, stripe_account
from opslib.runbook.procedure import root
from tests import place
from tests.drills import plain_payments as payments
from tests.drills.payments import KINDS, Kind
from tests.drills.plain_payments import MORE, Made, make
from tests.drills.stripe_agreement import dashboard
from tests.sandbox.plain import fault, pm2
from tests.sandbox.plain.account import ENDPOINT

ENV = propertypulse.load("plain")
REASON = "drill: the tenant has paid"
BY_NAME = {kind.name: kind for kind in (*KINDS, *MORE)}


@pytest.fixture(autouse=True)
def cleared(plain: None) -> Iterator[None]:
    payments.clear()
    yield
    fault.mend()
    payments.clear()


def ended(name: str, *arguments: str, apply: bool = True, environment: str = "plain") -> tuple[str, str, str]:
    """Run a procedure; give its outcome, all that its record shows, and what the terminal showed."""
    words = [sys.executable, "-m", "opslib.runbook.cli", "run", name, "-e", environment, *arguments]
    act = ["--apply", "--reason", REASON] if apply else []
    done = subprocess.run([*words, *act], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    made: dict[str, Any] = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return made["metadata"]["opslib"]["outcome"], json.dumps(made, ensure_ascii=False), done.stdout


def repair(made: list[Made], *arguments: str, apply: bool = True) -> tuple[str, str, str]:
    given = ",".join(one.id for one in made)
    return ended("repair_payment_status", "-p", "payments", given, "-p", "wait_seconds", "4", *arguments, apply=apply)


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the environment's file says, which is to be altered and then written by `write`, in a root of its own."""
    content = place.described("plain")
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    return content


def write(described: dict[str, Any]) -> str:
    place.rooted(root(), "plain", described)
    return "plain"


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_200_payments_are_repaired_where_and_only_where_stripe_says_paid(seed: int) -> None:
    made = make(payments.generated(200, seed))
    repaired = [one.id for one in made if one.repaired]
    assert 30 < len(repaired) < 60
    everything = ("-p", "days", "1", "-p", "most", "200", "-p", "wait_seconds", "4")
    outcome, _, shown = ended("repair_payment_status", *everything)
    assert outcome == "applied", shown
    now = payments.rows(made)
    assert [(one.kind.name, now[one.id]["status"]) for one in made if now[one.id]["status"] != one.expected] == []
    assert payments.untouched(made, but=repaired) == []
    noted = {one["payment_id"]: one for one in payments.notes()}
    assert len(payments.notes()) == len(noted)
    for one in made:
        # The API has no note of an event that it has taken: it takes it once more.
        by_event = "event" in (one.kind.stripe or {})
        assert (one.id in noted) == (one.repaired and not by_event), one.kind.name
    for number, note in noted.items():
        assert note["before"] == next(one.before for one in made if one.id == number)
        assert (note["after"], note["reason"], note["undone_at"]) == (now[number], REASON, None)
        charged = payments.ask('SELECT extract(epoch FROM "paidDate")::int AS at FROM payments WHERE id = %s', [number])
        assert abs(charged[0]["at"] - (time.time() - 3600)) < 120
    outcome, _, shown = ended("repair_payment_status", *everything)
    assert outcome == "applied" and "0 changes" in shown, shown
    outcome, _, shown = ended("undo_payment_repair", "-p", "payments", ",".join(noted))
    assert outcome == "applied", shown
    back = [one for one in made if one.id in noted]
    assert payments.untouched(back) == [] and all(one["undone_at"] for one in payments.notes())


def test_every_reason_is_given_and_nothing_is_planned_for_what_is_not_paid() -> None:
    wrong = [kind for kind in (*KINDS, *MORE) if not kind.paid]
    made = make([(kind, "PENDING") for kind in wrong])
    outcome, record, _ = repair(made, apply=False)
    assert outcome == "failed"
    for kind in wrong:
        assert kind.says in record, kind.name
    assert payments.untouched(made) == []


def test_the_plan_shows_names_as_postgresql_has_them_and_changes_nothing() -> None:
    made = make([(BY_NAME["paid, cents that no double has"], "OVERDUE"), (BY_NAME["without an intent"], "PENDING")])
    outcome, record, shown = repair(made, apply=False)
    assert outcome == "planned", shown
    assert 'SET \\"status\\" = \'PAID\', \\"paidDate\\" = to_timestamp' in record.replace("\\\\", "\\")
    assert "912.37 usd" in shown and "OVERDUE → PAID" in record
    assert "a manual payment, left alone" in record
    assert payments.untouched(made) == [] and payments.notes() == []


def test_all_leaves_manual_payments_alone() -> None:
    made = make([(BY_NAME["paid"], "PENDING"), (BY_NAME["without an intent"], "PENDING")])
    arguments = ("-p", "payments", "all", "-p", "days", "1", "-p", "wait_seconds", "0")
    outcome, record, shown = ended("repair_payment_status", *arguments)
    assert outcome == "applied", shown
    assert payments.rows(made)[made[0].id]["status"] == "PAID" and payments.untouched(made[1:]) == []
    assert made[1].id not in record


@pytest.mark.long
@pytest.mark.parametrize("way", ["stripe", "here"])
def test_without_a_table_of_events_the_missing_ones_are_found_and_sent_again(way: str) -> None:
    payable = """SELECT count(*) AS payable FROM payments WHERE status = 'PENDING' AND "providerIntentId" IS NOT NULL"""
    lost = min(fault.BACKLOG, payments.ask(payable)[0]["payable"])
    fault.break_("webhook-backlog")
    young = ("-p", "retrying_minutes", "0", "-p", "window_hours", "1")
    _, _, shown = ended("triage_stripe_webhooks", *young, apply=False)
    assert f"{lost} events of Stripe's that the API has not" in shown
    assert "Stripe (delivery_success, pending_webhooks), and the status of the payment" in shown
    before = payments.ask("SELECT count(*) AS paid FROM payments WHERE status = 'PAID'")[0]["paid"]
    outcome, _, shown = ended("replay_stripe_events", *young, "-p", "sent_by", way)
    assert outcome == "applied" and f"Replay {lost} events" in shown, shown
    after = payments.ask("SELECT count(*) AS paid FROM payments WHERE status = 'PAID'")[0]["paid"]
    assert after - before == lost > 1
    outcome, _, shown = ended("replay_stripe_events", *young, "-p", "sent_by", way)
    assert outcome == "applied" and "0 changes" in shown, shown


@pytest.fixture
def happened() -> Iterator[Callable[[int], str]]:
    """Make an event of a type that the API does not act on, sent so often; give its id."""
    prefix = f"evt_plaindrill{time.time_ns()}"

    def make(attempts: int) -> str:
        about = {"id": "pi_none", "object": "payment_intent", "status": "canceled", "amount": 1}
        one = {"id": f"{prefix}{attempts}", "object": "event", "type": "payment_intent.payment_failed"}
        made = one | {"created": int(time.time()), "data": {"object": about}}
        dashboard("events", events=[made], attempts=attempts)
        return str(one["id"])

    yield make
    dashboard("events/forget", prefix=prefix)


@pytest.mark.long
def test_an_event_sent_again_whose_end_nobody_tells_is_not_called_failed(happened: Callable[[int], str]) -> None:
    outcome, _, shown = ended("resend_stripe_event", "-p", "event_id", happened(1))
    assert outcome == "needs-person" and "The API does not say which events it takes" in shown, shown


@pytest.mark.long
def test_that_an_event_sent_again_was_taken_stripe_tells_if_it_had_not_delivered_it(
    happened: Callable[[int], str],
) -> None:
    name = happened(0)
    outcome, record, shown = ended("resend_stripe_event")
    assert outcome == "applied" and name in shown, shown
    assert re.search(r"pending_webhooks was (\d) and is (?!\1)\d", record)


@pytest.mark.long
def test_that_an_event_sent_again_was_taken_the_log_tells_by_its_payment() -> None:
    (one,) = make([(BY_NAME["paid, its event undelivered"], "PENDING")], age=600)
    stripe = stripe_account.reader(ENV, env_file.read(ENV.api.env_file)["STRIPE_SECRET_KEY"])
    listed = event.listed(stripe, since=time.time() - 900, types=["payment_intent.succeeded"])
    (name,) = (found.id for found in listed if found.data.object.id == one.before["providerIntentId"])
    outcome, record, shown = ended("resend_stripe_event", "-p", "event_id", name)
    assert outcome == "applied" and one.id in record and payments.rows([one])[one.id]["status"] == "PAID", shown


def test_what_a_plain_log_says_of_the_handler_is_shown() -> None:
    fault.break_("webhook-error")
    make(
        [(Kind("yen", {"event": "undelivered", "currency": "jpy"}, {"currency": "jpy"}, paid=True), "PENDING")], age=600
    )
    dashboard("deliveries/retry", endpoint=ENDPOINT)
    _, _, shown = ended("triage_stripe_webhooks", "-p", "retrying_minutes", "0", "-p", "window_hours", "1", apply=False)
    assert "TypeError: Cannot read properties of undefined (reading 'card')" in shown, shown
    assert "cannot be told from the log" in shown and "no trace at the API" not in shown, shown


def test_a_cause_that_stands_in_a_plain_log_is_named() -> None:
    fault.break_("parsed-body")
    _, _, shown = ended("check_webhook_signatures", apply=False)
    assert "parsed instead of raw body: this stands now" in shown and "does not say why" not in shown, shown


def test_the_worker_that_a_probe_has_asked_is_known_by_its_connection() -> None:
    outcome, _, shown = ended("check_webhook_signatures", apply=False)
    worker = pm2.workers()[0]
    assert [str(worker["pm_id"]), str(worker["pid"]), "yes"] in [line.split() for line in shown.splitlines()], shown
    assert outcome == "planned" and "Nothing was found wrong" in shown


@pytest.mark.parametrize("name", ["repair_payment_status", "undo_payment_repair"])
def test_what_the_database_has_not_is_said_at_once_with_what_it_has(name: str, described: dict[str, Any]) -> None:
    described["stripe"]["payments"] = {"statuses": {"open": ["PENDING", "PROCESSING"]}}
    outcome, record, shown = ended(name, apply=False, environment=write(described))
    assert outcome == "failed" and "Undefined" not in record, shown
    lines = [line.split() for line in shown.splitlines()]
    for wanted in (
        ["payments.columns.intent", "provider_intent_id", "no", "providerIntentId"],
        ["payments.columns.paid", "paid_date", "no", "paidDate"],
        ["payments.id_type", "integer", "no", "text"],
    ):
        assert wanted in lines, shown
    assert "PENDING, PAID, OVERDUE, FAILED, CANCELLED" in shown


def test_a_table_that_is_not_there_and_a_column_of_another_type_are_named(described: dict[str, Any]) -> None:
    part = described["stripe"]["payments"]
    part["columns"]["amount"] = "dueDate"
    env = propertypulse.load(write(described))
    with payment.connect(env) as admin:
        (wrong,) = payment_table.fits(env, admin).evidence
        assert wrong["in the file"] == "payments.columns.amount" and "it is timestamp" in wrong["instead"]
        part["table"] = "Payment"
        (wrong,) = payment_table.fits(propertypulse.load(write(described)), admin).evidence
        assert (wrong["there"], wrong["instead"]) == ("no", "payments")
        admin.execute('BEGIN; ALTER TABLE payments ADD COLUMN "a\'b{c}" text')
        part |= {"table": "payments"}
        part["columns"] |= {"amount": "amount", "currency": "a'b{c}"}
        env = propertypulse.load(write(described))
        assert payment_table.fits(env, admin)
        found = payment.since(admin, stripe_account.settings(env).payments, payments.LONG_AGO)
        assert len(found) > 20 and {one.currency for one in found} == {""}  # null, which no currency equals
        admin.execute("ROLLBACK")
