"""A replay against an API that takes and refuses as told: order, each once, when it stops, what it says of that."""

from typing import Any, cast

import pytest
from stripe import Event, StripeClient, WebhookEndpoint

from opslib import environment
from opslib.api import log
from opslib.database.postgres import Connection
from opslib.errors import ChangeFailed, UndoFailed
from opslib.payments import delivery, replay, trace, webhook
from opslib.payments.cause import Cause
from opslib.payments.delivery import Deliveries
from opslib.payments.replay import Replay
from opslib.payments.trace import Trace


class Api:
    """Takes what it is sent, but for what it refuses; stands for Stripe, the log and the database at once."""

    def __init__(self, refuses: set[str], problems: dict[str, str] | None = None) -> None:
        self.refuses, self.problems = refuses, problems or {}
        self.sent: list[str] = []
        self.taken: set[str] = set()
        self.logged: list[Trace] = []

    def resend(self, stripe: object, event: str, target: str) -> str:
        if problem := self.problems.get(event):
            return problem
        self.sent.append(event)
        if event in self.refuses:
            self.logged.append(Trace(0, 1, Cause.APP_ERROR, f"TypeError: {event}\n  at webhooks.js"))
        else:
            self.taken.add(event)
        return ""

    def execute(self, query: str, parameters: list[list[str]]) -> Any:
        found = [{"id": name} for name in parameters[0] if name in self.taken] if query == delivery.TAKEN else []

        class Cursor(list[dict[str, str]]):
            def fetchone(self) -> dict[str, str] | None:
                return self[0] if self else None

            def fetchall(self) -> list[dict[str, str]]:
                return self

        return Cursor(found)

    def mark(self, paths: object) -> list[object]:
        self.logged = []
        return []


def begin(api: Api, monkeypatch: pytest.MonkeyPatch, events: int = 6, skip: int = 0, most: int = 1000) -> Replay:
    """A replay of events `a`, `b`, … in this order."""
    monkeypatch.setattr(webhook, "resend", api.resend)
    monkeypatch.setattr(log, "mark", api.mark)
    monkeypatch.setattr(trace, "read", lambda environment, positions: api.logged)
    monkeypatch.setattr(replay, "WITHIN", 0.2)
    monkeypatch.setattr(Deliveries, "pending", lambda self, stripe: 0)
    found, database = Deliveries(0, 1000), cast(Connection, api)
    data = {"object": {"id": "pi_1", "object": "payment_intent"}}
    fields = {"object": "event", "type": "a.b", "pending_webhooks": 1, "data": data}
    made = [Event.construct_from({**fields, "id": chr(97 + n), "created": n}, "sk_test_none") for n in range(events)]
    found.add(reversed(made), database, 0)
    found.judge(lambda created, kind, sent: Cause.NO_TRACE)
    stripe, target = cast(StripeClient, None), WebhookEndpoint.construct_from({"id": "we_1"}, "sk_test_none")
    sandbox = environment.load("sandbox")
    return Replay(sandbox, stripe, target, database, [], found, "stripe", "whsec_x", skip, most)


def test_sends_each_once_in_order_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(set())
    again = begin(api, monkeypatch)
    again.change().do()
    assert api.sent == list("abcdef")
    assert again.compared()[0]
    again.change().do()
    assert api.sent == list("abcdef")


def test_what_has_arrived_meanwhile_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(set())
    again = begin(api, monkeypatch)
    api.taken |= {"b", "d"}
    again.change().do()
    assert api.sent == list("acef")


def test_stops_at_the_first_refusal_and_says_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api({"c"})
    change = begin(api, monkeypatch).change()
    with pytest.raises(ChangeFailed, match=r"refused c, made at 1970.*error in the handler: TypeError: c") as stopped:
        change.do()
    assert api.sent == list("abc")
    assert stopped.value.evidence[0]["reason"].endswith("at webhooks.js")
    assert change.undo is not None
    with pytest.raises(UndoFailed, match="2 events were sent again and taken, and stay so"):
        change.undo()


def test_nothing_is_to_be_undone_where_the_first_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    change = begin(Api({"a"}), monkeypatch).change()
    with pytest.raises(ChangeFailed):
        change.do()
    assert change.undo is not None
    change.undo()


def test_leaves_out_as_many_as_it_may_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api({"b", "e"})
    again = begin(api, monkeypatch, skip=2)
    again.change().do()
    assert [row["event"] for row in again.refused] == ["b", "e"]
    assert again.compared() == (
        True,
        [again.compared()[1][0] | {"refused and left out": "2", "sent again and taken": "4"}],
    )
    with pytest.raises(ChangeFailed, match="-p skip_refused 2"):
        begin(Api({"b", "e"}), monkeypatch, skip=1).change().do()


def test_an_event_that_leaves_no_trace_is_refused_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(set())
    again = begin(api, monkeypatch, skip=1, events=1)
    monkeypatch.setattr(webhook, "resend", lambda stripe, event, target: "")
    again.change().do()
    assert again.refused[0]["reason"] == "not in the database, and the API's log has no error of it"


def test_what_stripe_does_not_send_stops_it_however_many_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(set(), {"b": "b was not sent again: HTTP 500"})
    again = begin(api, monkeypatch, skip=5)
    with pytest.raises(ChangeFailed, match="b was not sent again"):
        again.change().do()
    assert (api.sent, again.refused) == (["a"], [])


def test_one_run_sends_no_more_than_it_is_to(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(set())
    again = begin(api, monkeypatch, most=4)
    assert "4 events" in again.change().replaces()
    again.change().do()
    assert api.sent == list("abcd")
    assert again.compared()[1][0]["left for another run"] == "2"


def test_the_comparison_fails_where_the_database_has_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(set())
    again = begin(api, monkeypatch)
    again.change().do()
    api.taken.discard("c")
    ok, (row,) = again.compared()
    assert (ok, row["of these in the database"]) == (False, "5")
