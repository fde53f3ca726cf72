"""A replay against an API that takes and refuses as told: order, each once, when it stops, what it says of that."""

import json
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from stripe import Event, StripeClient, WebhookEndpoint

from opslib import propertypulse
from opslib.database.postgres import Connection
from opslib.payments import delivery_trace, reception, replay
from opslib.payments.delivery import Deliveries
from opslib.payments.delivery_cause import Cause
from opslib.payments.delivery_trace import Trace
from opslib.payments.replay import Replay
from opslib.runbook.answer import answered
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed, UndoFailed

KEY = "sk_test_none"


class Api:
    """Takes what it is sent, but for what it refuses or loses; stands for the log and the database at once."""

    def __init__(self, refuses: Collection[str] = (), *, loses: Collection[str] = ()) -> None:
        self.refuses, self.loses = refuses, loses
        self.sent: list[str] = []
        self.taken: set[str] = set()
        self.logged: list[Trace] = []

    def receive(self, event: str) -> None:
        """Be sent an event."""
        self.sent.append(event)
        if event in self.refuses:
            self.logged.append(Trace(0, 1, Cause.APP_ERROR, f"TypeError: {event}\n  at webhooks.js"))
        elif event not in self.loses:
            self.taken.add(event)

    def execute(self, query: str, parameters: list[list[str]]) -> Any:
        found = [{"id": name} for name in parameters[0] if name in self.taken] if "webhook_events" in str(query) else []

        class Cursor(list[dict[str, str]]):
            def fetchone(self) -> dict[str, str] | None:
                return self[0] if self else None

            def fetchall(self) -> list[dict[str, str]]:
                return self

        return Cursor(found)

    def mark(self, environment: object, workers: object) -> list[object]:
        self.logged = []
        return []


def event(name: str, created: int) -> dict[str, Any]:
    """An event as Stripe sends it."""
    about = {"id": name, "object": "event", "type": "a.b", "created": created, "pending_webhooks": 1}
    return about | {"data": {"object": {"id": "pi_1", "object": "payment_intent"}}}


class Stripe(ThreadingHTTPServer):
    """Sends the API again what it is asked to, unless that is one that it `fails` at; lists what the API has not."""

    def __init__(self, api: Api, names: str, fails: Collection[str]) -> None:
        super().__init__(("127.0.0.1", 0), Asking)
        self.api, self.fails = api, fails
        self.events = [event(name, created) for created, name in enumerate(names)]

    def client(self) -> StripeClient:
        """A client of the library's own that asks here."""
        address = f"http://127.0.0.1:{self.server_port}"
        return StripeClient(KEY, base_addresses={"api": address}, max_network_retries=0)


class Asking(BaseHTTPRequestHandler):
    """One question to that Stripe."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Stripe) and urlsplit(self.path).path == "/v1/events"
        missing = [one for one in self.server.events if one["id"] not in self.server.api.taken]
        self._say(200, {"object": "list", "has_more": False, "data": missing[::-1]})

    def do_POST(self) -> None:
        assert isinstance(self.server, Stripe)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        *_, name, retry = self.path.split("/")
        assert retry == "retry"
        if name in self.server.fails:
            self._say(500, {"error": {"message": "out of order"}})
            return
        self.server.api.receive(name)
        self._say(200, event(name, 0))

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Begin:
    """Begins replays of events `a`, `b`, … in this order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, servers: ExitStack) -> None:
        self._patch, self._servers = monkeypatch, servers

    def __call__(
        self, api: Api, *, events: int = 6, fails: Collection[str] = (), skip: int = 0, most: int = 1000
    ) -> Replay:
        self._patch.setattr(delivery_trace, "mark", api.mark)
        self._patch.setattr(delivery_trace, "read", lambda environment, positions: api.logged)
        self._patch.setattr(delivery_trace, "legible", lambda environment, positions: answered(True))
        self._patch.setattr(replay, "WITHIN", 0.2)
        server = self._servers.enter_context(Stripe(api, "abcdefgh"[:events], fails))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        self._servers.callback(server.shutdown)
        found, database = Deliveries(0, 1000), reception.of(propertypulse.load("sandbox"), cast(Connection, api))
        found.add((Event.construct_from(one, KEY) for one in reversed(server.events)), database, 0)
        target = WebhookEndpoint.construct_from({"id": "we_1"}, KEY)
        env = propertypulse.load("sandbox")
        return Replay(env, server.client(), target, database, [], found, "stripe", "whsec_x", skip, most)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    with ExitStack() as servers:
        yield Begin(monkeypatch, servers)


def change(again: Replay) -> Change:
    """The one change of a replay."""
    (one,) = again.changes()
    return one


def test_where_the_api_has_everything_nothing_is_planned(begin: Begin) -> None:
    assert begin(Api(), events=0).changes() == []


def test_sends_each_once_in_order_and_agrees(begin: Begin) -> None:
    api = Api()
    again = begin(api)
    change(again).do()
    assert api.sent == list("abcdef")
    assert again.compared()
    change(again).do()
    assert api.sent == list("abcdef")


def test_what_has_arrived_meanwhile_is_not_sent(begin: Begin) -> None:
    api = Api()
    again = begin(api)
    api.taken |= {"b", "d"}
    change(again).do()
    assert api.sent == list("acef")


def test_stops_at_the_first_refusal_and_says_what_stays(begin: Begin) -> None:
    api = Api({"c"})
    sent = change(begin(api))
    with pytest.raises(ChangeFailed, match=r"refused c, made at 1970.*error in the handler: TypeError: c") as stopped:
        sent.do()
    assert api.sent == list("abc")
    assert stopped.value.evidence[0]["reason"].endswith("at webhooks.js")
    with pytest.raises(UndoFailed, match="2 events were sent again and taken, and stay so"):
        sent.put_back()


def test_nothing_is_to_be_undone_where_the_first_is_refused(begin: Begin) -> None:
    sent = change(begin(Api({"a"})))
    with pytest.raises(ChangeFailed):
        sent.do()
    sent.put_back()


def test_leaves_out_as_many_as_it_may_and_not_one_more(begin: Begin) -> None:
    api = Api({"b", "e"})
    again = begin(api, skip=2)
    change(again).do()
    assert [one["event"] for one in again.refused] == ["b", "e"]
    compared = again.compared()
    assert compared
    assert (compared.evidence["refused and left out"], compared.evidence["sent again and taken"]) == (2, 4)
    with pytest.raises(ChangeFailed, match="-p skip_refused 2"):
        change(begin(Api({"b", "e"}), skip=1)).do()


def test_an_event_that_leaves_no_trace_is_refused_with_that_reason(begin: Begin) -> None:
    again = begin(Api(loses={"a"}), skip=1, events=1)
    change(again).do()
    assert again.refused[0]["reason"] == "not in the database, and the API's log has no error of it"


def test_what_stripe_does_not_send_stops_it_however_many_may_be_left_out(begin: Begin) -> None:
    api = Api()
    again = begin(api, skip=5, fails={"b"})
    with pytest.raises(ChangeFailed, match="b was not sent again: HTTP 500: out of order"):
        change(again).do()
    assert (api.sent, again.refused) == (["a"], [])


def test_one_run_sends_no_more_than_it_is_to(begin: Begin) -> None:
    api = Api()
    again = begin(api, most=4)
    assert "4 events" in change(again).replaces()
    change(again).do()
    assert api.sent == list("abcd")
    assert again.compared().evidence["left for another run"] == 2


def test_the_comparison_fails_where_the_database_has_fewer(begin: Begin) -> None:
    api = Api()
    again = begin(api)
    change(again).do()
    api.taken.discard("c")
    compared = again.compared()
    assert (compared.ok, compared.evidence["of these in the database"]) == (False, 5)
