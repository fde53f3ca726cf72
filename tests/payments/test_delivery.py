"""Deliveries: counted, told apart by id, in the order in which they were made, however Stripe lists them."""

from collections.abc import Iterator, Set
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from stripe import Event

from opslib.database.postgres import Connection
from opslib.payments import delivery, delivery_diagnosis
from opslib.payments.delivery import BUCKETS, Deliveries
from opslib.payments.delivery_cause import NEXT, Cause
from opslib.payments.delivery_trace import Trace
from opslib.payments.reception import SUCCEEDED, Reception
from opslib.payments.settings import Stripe

STRIPE = Stripe(mode="test", new_key="env:NONE", new_webhook_secret="env:NONE")


class Database:
    """Knows these events and payments; answers the two queries and no other."""

    def __init__(self, taken: Set[str] = frozenset(), paid: Set[str] = frozenset()) -> None:
        self.taken, self.paid = taken, paid

    def execute(self, query: str, parameters: list[list[str]]) -> list[dict[str, str]]:
        (asked,) = parameters
        if "webhook_events" in str(query):
            return [{"id": name} for name in asked if name in self.taken]
        assert "payments" in str(query)
        return [{"intent": name, "status": "PAID"} for name in asked if name in self.paid]


def event(name: str, created: int, *, pending: int = 1, kind: str = "a.b", **thing: Any) -> Event:
    """An event as the library gives it."""
    data = {
        "object": {"id": f"pi_{name}", "object": "payment_intent", **thing},
        "previous_attributes": {"status": None},
    }
    fields = {
        "id": name,
        "object": "event",
        "created": created,
        "type": kind,
        "pending_webhooks": pending,
        "data": data,
    }
    return Event.construct_from(fields, "sk_test_none")


def gathered(
    events: list[Event], *, first: int = 0, taken: set[str] | None = None, paid: set[str] | None = None
) -> Deliveries:
    """What is found of these, listed newest first, from 1000 s to 2000 s."""
    found = Deliveries(1000, 2000)
    found.add(iter(events), Reception(STRIPE, cast(Connection, Database(taken or set(), paid or set()))), first)
    found.judge(lambda created, kind, sent: Cause.NO_TRACE if sent else Cause.DISABLED)
    return found


def test_events_come_out_oldest_first_of_one_second_the_last_listed_first() -> None:
    found = gathered([event("d", 1900), event("c", 1500), event("b", 1500), event("a", 1100), event("c", 1500)])
    assert [one.event for one in found.missing] == ["a", "b", "c", "d"]
    assert [one.event for one in found.shown(2)] == ["a", "b"]  # type: ignore[union-attr]
    assert found.digest(10) != found.digest(2)


def test_of_many_the_first_are_shown_and_how_many_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BATCH", 7)
    found = gathered([event(f"evt_{n}", 1000 + n // 3) for n in reversed(range(100))])
    assert [one.event for one in found.missing] == [f"evt_{n}" for n in range(100)]
    shown = found.shown(60)
    assert len(shown) == delivery.SHOWN + 1
    assert shown[-1] == {"made": "…", "event": "and 40 more, in order"}


def test_what_the_api_has_is_not_replayed_and_what_was_made_before_the_endpoint_is_owed_to_nobody() -> None:
    events = [event("lost answer", 1900), event("missing", 1800, pending=0), event("done", 1700, pending=0)]
    found = gathered([*events, event("before", 1100, pending=0)], first=1500, taken={"lost answer", "done"})
    assert [(one.event, one.cause) for one in found.missing] == [("missing", Cause.DISABLED)]
    assert found.causes == {Cause.TAKEN: 1, Cause.DISABLED: 1}


def test_the_payment_now_is_that_of_the_intent_or_of_the_charges_intent() -> None:
    events = [
        event("charge", 1300, object="charge", payment_intent="pi_a"),
        event("a", 1200),
        event("none", 1100, object="x"),
    ]
    assert [one.payment for one in gathered(events, paid={"pi_a"}).missing] == ["", "PAID", "PAID"]


def test_the_chart_has_a_bar_for_each_part_of_the_time() -> None:
    rows = gathered([event("b", 1999), event("a", 1000, pending=0)], taken={"a"}).chart()
    assert len(rows) == BUCKETS
    assert (rows[0]["taken"], rows[0]["not"], rows[0][""]) == (1, 0, "█" * delivery.WIDTH)
    assert (rows[-1]["taken"], rows[-1]["not"], rows[-1][""]) == (0, 1, "░" * delivery.WIDTH)
    assert {row[""] for row in rows[1:-1]} == {"·"}


@pytest.mark.parametrize(
    ("thing", "shown"),
    [
        ({"object": "balance", "id": None, "available": [{"amount": 1}]}, ""),
        ({"object": "charge", "id": "ch_1", "payment_intent": None}, "ch_1"),
        ({"object": "charge", "id": "ch_1", "payment_intent": {"id": "pi_1", "object": "payment_intent"}}, "ch_1"),
        ({"object": "subscription", "id": "sub_1", "items": {"object": "list", "data": []}, "metadata": {}}, "sub_1"),
        ({"object": "customer", "id": "cus_1", "deleted": True, "metadata": {"get": "x", "values": "y"}}, "cus_1"),
    ],
)
def test_an_event_about_anything_is_an_event(thing: dict[str, Any], shown: str) -> None:
    assert [one.object for one in gathered([event("a", 1100, **thing)]).missing] == [shown]


def test_an_event_without_an_object_is_an_event() -> None:
    bare = event("a", 1100)
    bare.data.object = None  # type: ignore[assignment]  # Stripe's type rules it out
    assert [one.object for one in gathered([bare]).missing] == [""]


def test_each_cause_that_was_found_has_its_next_step() -> None:
    rows = delivery_diagnosis.table(gathered([event("a", 1100)]).causes, [Cause.CLOCK], [])
    assert {row["cause"]: row["next"] for row in rows} == {
        cause: NEXT[cause] for cause in (Cause.CLOCK, Cause.NO_TRACE)
    }


def test_a_type_that_the_handler_ignores_is_told_by_the_log() -> None:
    traces = [Trace(1_700_000_000, 1, None, "", "evt_1", "customer.created", "ignored"), Trace(0, 1, None, "", "evt_2")]
    (row,) = [row for row in delivery_diagnosis.table({}, [], traces) if row["cause"] is Cause.IGNORED]
    assert (row["in the log"], row["last"], row["types"]) == (
        1,
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "customer.created",
    )


def test_a_listing_is_never_held_whole() -> None:
    def listed() -> Iterator[Event]:
        for number in range(delivery.BATCH * 2):
            assert len(database.asked) == number // delivery.BATCH  # those before are asked about, and gone
            yield event(f"evt_{number}", 1900 - number % 900)

    database = Counting()
    Deliveries(1000, 2000).add(listed(), Reception(STRIPE, cast(Connection, database)), 0)
    assert [len(asked) for asked in database.asked] == [delivery.BATCH] * 2


class Counting(Database):
    """Notes what was asked about events."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def execute(self, query: str, parameters: list[list[str]]) -> list[dict[str, str]]:
        if "webhook_events" in str(query):
            self.asked.append(parameters[0])
        return super().execute(query, parameters)


@pytest.mark.parametrize(
    ("kind", "sent", "state", "has"),
    [
        (SUCCEEDED, True, "PENDING", False),
        (SUCCEEDED, False, "PENDING", False),  # delivered, and without effect
        (SUCCEEDED, True, "PAID", True),  # Stripe counts another endpoint's too
        (SUCCEEDED, False, "PAID", True),
        (SUCCEEDED, True, "", False),
        (SUCCEEDED, False, "", True),
        (SUCCEEDED, True, "CANCELLED", False),
        ("a.b", False, "PENDING", True),
        ("a.b", True, "PAID", False),
    ],
)
def test_without_a_table_of_events_stripe_and_the_payment_tell(kind: str, sent: bool, state: str, has: bool) -> None:
    told = Reception(STRIPE.model_copy(update={"events": None}), cast(Connection, Database()))
    assert told.has(kind, noted=False, sent=sent, state=state) is has
    assert told.taken(["evt_1"]) == set() and told.latest("") == []
    with_table = Reception(STRIPE, cast(Connection, Database()))
    assert [with_table.has(kind, noted=noted, sent=sent, state=state) for noted in (True, False)] == [True, False]
