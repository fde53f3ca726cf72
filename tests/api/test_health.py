"""Health against a real HTTP server that can be told to fail."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from opslib.api import health


class Api(ThreadingHTTPServer):
    """Answers with this status and body."""

    status = 200
    body = b'{"pid": 7}'


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(api: Api) -> str:
    return f"http://127.0.0.1:{api.server_port}/health"


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, False), (301, False), (404, False), (503, False)])
def test_only_200_is_well(api: Api, status: int, well: bool) -> None:
    api.status, api.body = status, b""
    answer = health.ask(url(api))
    assert (answer.status, answer.well) == (status, well)
    assert bool(answer.problem) != well


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b"\xff"])
def test_body_that_is_no_object_names_no_worker(api: Api, body: bytes) -> None:
    api.body = body
    assert health.ask(url(api)).body == {}
    assert health.answering(url(api), [7], asks=3) == health.Answering(frozenset(), 3)


def test_nobody_listening_is_a_problem_not_an_exception() -> None:
    answer = health.ask("http://127.0.0.1:9/health")
    assert answer.status == 0
    assert "refused" in answer.problem


def test_answering_gives_those_that_answered(api: Api) -> None:
    api.body = json.dumps({"pid": 7}).encode()
    assert health.answering(url(api), [7, 8], asks=5) == health.Answering(frozenset({7}))


def test_api_is_away_only_if_that_is_beyond_doubt(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.away("http://127.0.0.1:9/health", 3)
    assert not health.away(url(api), 3)
    api.status = 503
    assert health.away(url(api), 3)
    monkeypatch.setattr(health, "TIMEOUT", urllib3.Timeout(total=0.1))
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and is too busy to answer
        assert not health.away(f"http://127.0.0.1:{mute.getsockname()[1]}/health", 3)


def test_steady_stops_at_the_first_failure(api: Api) -> None:
    assert health.steady(url(api), 3)
    api.status = 500
    got = health.steady(url(api), 3)
    assert (got.ok, got.evidence.status) == (False, 500)


def test_a_late_answer_is_no_failure_and_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT", urllib3.Timeout(total=0.1))
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, and is too busy to answer
        watch = health.Watch(f"http://127.0.0.1:{mute.getsockname()[1]}/health")
        while not watch.asked:
            time.sleep(0.01)
        watch.stop()
        assert health.steady(f"http://127.0.0.1:{mute.getsockname()[1]}/health", 3).ok is None
    assert (watch.failed, watch.none_failed().ok) == (0, None)
    assert watch.none_failed().evidence["no answer in time"] == str(watch.late)


def test_watch_counts_what_failed(api: Api) -> None:
    with health.Watch(url(api), every=0.005) as watch:
        while watch.asked < 5:
            time.sleep(0.01)
        assert watch.failed == 0
        api.status = 503
        while not watch.failed:
            time.sleep(0.01)
    assert watch.asked > watch.failed >= 1
    assert "HTTP 503" in watch.counts["first failure"]
    asked = watch.asked
    time.sleep(0.05)
    assert watch.asked == asked
