"""The events that may have to be sent again: all pages, in their order, of the types that the endpoint is sent."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from stripe import Event, StripeClient

from opslib import propertypulse
from opslib.payments import delivery, missed_event, stripe_account
from opslib.payments.event import KEPT
from opslib.payments.missed_event import Missed
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import RunbookError
from tests.drills import stripe_agreement as dashboard
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

PREFIX = "evt_missed_"
AGO = 10 * 86400
"""Seconds: longer ago than anything that happens at the stand-in by itself."""
BEGUN = datetime.fromtimestamp(int(time.time()) - AGO, UTC)
PAID = {"amount": 100, "status": "succeeded", "captured": True, "paid": True}
KINDS: dict[str, Any] = {
    "payment_intent.succeeded": {"id": "pi_1", "object": "payment_intent", "latest_charge": None, **PAID},
    "charge.refunded": {"id": "ch_1", "object": "charge", "payment_intent": None, "metadata": {"get": "x"}, **PAID},
    "balance.available": {"object": "balance", "available": [{"amount": 1, "currency": "usd"}]},
    "customer.deleted": {"id": "cus_1", "object": "customer", "deleted": True},
    "invoice.paid": {"id": None, "object": "invoice", "items": {"object": "list", "data": []}},
}
"""What events are about, in the shapes that Stripe gives them."""

on_the_stand_in = pytest.mark.usefixtures("sandbox", "made")


def event(number: int, kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    """An event made so many seconds after BEGUN, as Stripe sends it."""
    about = {"id": f"{PREFIX}{number:04}", "object": "event", "created": int(BEGUN.timestamp()) + number}
    return about | {"type": kind, "data": {"object": thing, "previous_attributes": {"status": None}}}


@pytest.fixture(name="made", scope="module")
def _made(sandbox: None) -> Iterator[None]:
    """Events of every kind at Stripe, more than two pages of them; none of them is sent."""
    events = [event(number, *list(KINDS.items())[number % len(KINDS)]) for number in range(250)]
    dashboard.dashboard("events", events=events)
    yield
    dashboard.dashboard("events/forget", prefix=PREFIX)


@pytest.fixture(name="env")
def _env() -> PropertyPulse:
    return propertypulse.load("sandbox")


def client(env: PropertyPulse) -> StripeClient:
    return stripe_account.reader(env, dashboard.held(dashboard.KEY))


def ours(rows: list[dict[str, str]]) -> list[str]:
    return [row["event"] for row in rows if row["event"].startswith(PREFIX)]


@on_the_stand_in
def test_every_page_is_read_and_events_of_every_kind_can_be_shown(
    env: PropertyPulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed_event, "SHOWN", 1000)
    missed = Missed(missed_event.made(client(env), BEGUN))
    assert ours(missed.rows) == [f"{PREFIX}{number:04}" for number in range(250)]
    assert [row["object"] for row in missed.rows[:5]] == ["pi_1", "ch_1", "", "cus_1", ""]
    assert {row["type"]: row["events"] for row in missed.counted if row["type"] == "balance.available"} == {
        "balance.available": "50"
    }


@on_the_stand_in
def test_only_what_the_endpoint_is_sent_and_no_more_than_a_little_before(env: PropertyPulse) -> None:
    later = BEGUN + timedelta(seconds=missed_event.OVERLAP + 200)
    found = list(missed_event.made(client(env), later, ["charge.refunded", "customer.deleted"]))
    names = [one.id for one in found if one.id.startswith(PREFIX)]
    assert names == [f"{PREFIX}{number:04}" for number in range(249, 199, -1) if number % 5 in (1, 3)]


@on_the_stand_in
def test_what_a_recovered_database_has_noted_is_left_out(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 7)
    with postgres.connect_admin(Credentials.load()) as connection:
        note = "INSERT INTO webhook_events (id, type) SELECT unnest(%s::text[]), 'x'"
        connection.execute(note, ([f"{PREFIX}{number:04}" for number in range(0, 250, 2)],))
    try:
        assert ours(missed_event.since(env, BEGUN, recovered=True)().rows) == [
            f"{PREFIX}{number:04}" for number in range(1, 200, 2)
        ]
        assert len(missed_event.since(env, BEGUN, recovered=False)()) >= 250
    finally:
        with postgres.connect_admin(Credentials.load()) as connection:
            connection.execute("DELETE FROM webhook_events WHERE id LIKE %s", (f"{PREFIX}%",))


@on_the_stand_in
def test_stripe_that_does_not_say_is_an_error_with_its_reason_and_is_asked_again(env: PropertyPulse) -> None:
    missed = missed_event.since(env, BEGUN, recovered=False)
    dashboard.dashboard("faults", path="/v1/events", status=401)
    with pytest.raises(RunbookError, match="not known: refused"):
        missed()
    assert missed() is missed()


@on_the_stand_in
def test_no_more_than_stripe_keeps_is_asked_for(env: PropertyPulse) -> None:
    old = event(0, "charge.refunded", KINDS["charge.refunded"]) | {"id": f"{PREFIX}old"}
    dashboard.dashboard("events", events=[old | {"created": int(time.time()) - KEPT - 60}])
    found = {one.id for one in missed_event.made(client(env), datetime(2020, 1, 1, tzinfo=UTC))}
    assert f"{PREFIX}0000" in found and f"{PREFIX}old" not in found


@on_the_stand_in
def test_more_than_can_be_listed_in_time_are_not_and_it_says_who_does(
    env: PropertyPulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed_event, "MOST", 150)
    with pytest.raises(RunbookError, match=r"found more than 150 events since .* triage_stripe_webhooks finds all"):
        missed_event.since(env, BEGUN, recovered=False)()


def test_of_many_the_oldest_are_kept_and_all_are_counted() -> None:
    newest_first = (
        Event.construct_from(event(number, kind, KINDS[kind]), "sk_test_none")
        for number in range(9999, -1, -1)
        for kind in [list(KINDS)[number % 3 % 2]]
    )
    missed = Missed(newest_first)
    *rows, last = missed.rows
    assert ours(rows) == [f"{PREFIX}{number:04}" for number in range(missed_event.SHOWN)]
    assert last == {"made": "…", "event": f"and {10_000 - missed_event.SHOWN} more, in order"}
    assert [(row["type"], row["events"]) for row in missed.counted] == [
        ("payment_intent.succeeded", "6667"),
        ("charge.refunded", "3333"),
        ("all", "10000"),
    ]
    assert missed.counted[0]["first"] < missed.counted[1]["first"] < missed.counted[1]["last"]
    assert len(missed) == 10_000


def test_an_environment_without_stripe_says_so(env: PropertyPulse) -> None:
    with pytest.raises(RunbookError, match=r"parameters/sandbox.yaml has no `stripe:`"):
        missed_event.since(env.model_copy(update={"stripe": None}), BEGUN, recovered=False)()
