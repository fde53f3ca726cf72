"""The events that may have to be sent again: all pages, in their order, of the types that the endpoint is sent."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import stripe

from opslib import environment
from opslib.errors import RunbookError
from opslib.payments import missed_event

BEGUN = datetime.now(UTC) - timedelta(hours=1)


class Events:
    """Stripe's list of events, newest first, two a page; notes what was asked."""

    def __init__(self, kinds: list[str]) -> None:
        self.asked: dict[str, Any] = {}
        at = int(time.time())
        self._all = [
            SimpleNamespace(id=f"evt_{n}", type=kind, created=at - n, data=SimpleNamespace(object={"id": f"pi_{n}"}))
            for n, kind in enumerate(kinds)
        ]

    def list(self, asked: dict[str, Any]) -> Any:
        self.asked = asked
        after = asked.get("starting_after")
        first = next((n for n, one in enumerate(self._all, 1) if one.id == after), 0)
        return SimpleNamespace(data=self._all[first : first + 2], has_more=len(self._all) > first + 2)


def client(events: Any) -> Any:
    return SimpleNamespace(v1=SimpleNamespace(events=events))


def test_oldest_first_and_only_what_the_endpoint_is_sent() -> None:
    events = Events(["a", "b", "a", "c"])
    rows = missed_event.made(client(events), BEGUN, ["a", "c"])
    assert [(row["event"], row["object"]) for row in rows] == [("evt_3", "pi_3"), ("evt_2", "pi_2"), ("evt_0", "pi_0")]
    assert events.asked["created"]["gte"] == int(BEGUN.timestamp()) - missed_event.OVERLAP
    assert len(missed_event.made(client(events), BEGUN)) == 4


def test_no_more_than_stripe_keeps_is_asked_for() -> None:
    events = Events([])
    missed_event.made(client(events), datetime(2020, 1, 1, tzinfo=UTC))
    assert abs(events.asked["created"]["gte"] - (time.time() - 30 * 86400)) < 5


def test_stripe_that_does_not_say_is_an_error_with_its_reason() -> None:
    def refuse(asked: object) -> None:
        raise stripe.AuthenticationError("no")

    with pytest.raises(RunbookError, match="not known: refused"):
        missed_event.made(client(SimpleNamespace(list=refuse)), BEGUN)


def test_counted_by_type_with_the_first_and_the_last() -> None:
    rows = [{"event": str(n), "type": kind, "made": f"0{n}", "object": ""} for n, kind in enumerate("abb")]
    assert missed_event.counted(rows) == [
        {"type": "b", "events": "2", "first": "01", "last": "02"},
        {"type": "a", "events": "1", "first": "00", "last": "00"},
    ]


def test_environment_without_stripe_says_so() -> None:
    env = environment.load("sandbox").model_copy(update={"stripe": None})
    assert missed_event.missed(env, BEGUN) == ([], "parameters/sandbox.yaml has no `stripe`")
