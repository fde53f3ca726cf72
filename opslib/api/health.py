"""Health: what the API answers, which of its workers do, and how many requests fail meanwhile."""

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import urllib3

from opslib.runbook.answer import Answer
from opslib.runbook.step import now

TIMEOUT = urllib3.Timeout(total=5)


@dataclass(frozen=True)
class Response:
    """What one request got: `status` is 0 where none came, `problem` then says why."""

    status: int
    seconds: float = field(compare=False)
    problem: str = ""
    late: bool = field(default=False, repr=False)
    """Whether none came in time, which tells nothing: the machine may be too busy."""
    body: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def well(self) -> bool:
        """Whether this is a 200."""
        return self.status == 200


def ask(url: str) -> Response:
    """Send one GET over a connection of its own, so that any worker may take it. Never raises for the network."""
    begun = time.monotonic()
    try:
        got = urllib3.request(
            "GET", url, timeout=TIMEOUT, retries=False, redirect=False, headers={"Connection": "close"}
        )
    except urllib3.exceptions.HTTPError as error:
        none = urllib3.exceptions.NewConnectionError  # refused: to urllib3 this is a time-out too
        late = isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(error, none)
        return Response(0, _since(begun), f"{type(error).__name__}: {error}", late)
    try:
        body = json.loads(got.data)
    except ValueError:
        body = {}
    problem = "" if got.status == 200 else f"HTTP {got.status}"
    return Response(got.status, _since(begun), problem, body=body if isinstance(body, dict) else {})


def steady(url: str, times: int = 10) -> Answer:
    """Whether this many requests in a row are answered 200; with what the first got that was not.

    It cannot be told where that one got no answer in time.
    """
    for _ in range(times):
        if not (got := ask(url)).well:
            return Answer(None if got.late else False, got, f"{url} does not answer well: restart_api says why.")
    return Answer(True, {"answered 200": times})


def away(url: str, times: int = 20) -> bool:
    """Whether nobody answers 200, beyond doubt: this many requests in a row are refused or get another answer."""
    return all(not answer.well and not answer.late for answer in (ask(url) for _ in range(times)))


def answering(url: str, pids: Iterable[int], asks: int = 60, within: float = 30) -> set[int]:
    """Which of these processes answer 200, by the `pid` in the body of their answers; asks for `within` seconds."""
    wanted, seen = set(pids) - {0}, set[int]()  # 0 is the pid of one that is down: nobody is to be waited for
    ends = time.monotonic() + within
    for _ in range(asks):
        if wanted <= seen or time.monotonic() > ends:
            break
        answer = ask(url)
        if answer.well:
            seen.add(answer.body.get("pid", 0))
    return wanted & seen


class Watch:
    """Requests at a steady rate in the background, until stopped; counts the ones that failed."""

    def __init__(self, url: str, *, every: float = 0.05) -> None:
        self.asked = 0
        self.failed = 0
        self.late = 0  # no answer in time, which tells nothing: the machine may be too busy
        self.slowest = 0.0  # seconds
        self.away = 0.0  # seconds: the longest time between two good answers that had a bad one between them
        self.problems: list[dict[str, str]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url, every), daemon=True)
        self._thread.start()

    def stop(self) -> Self:
        """Ask no more; wait for the last answer."""
        self._stopped.set()
        self._thread.join()
        return self

    @property
    def counts(self) -> dict[str, str]:
        """A row of evidence."""
        row = {"asked": str(self.asked), "failed": str(self.failed), "slowest": f"{self.slowest:.3f} s"}
        row |= {"no answer in time": str(self.late)} if self.late else {}
        return row | ({"first failure": " ".join(self.problems[0].values())} if self.problems else {})

    def none_failed(self) -> Answer:
        """Whether every request so far was answered 200."""
        ok = False if self.failed else None if self.late else True
        return Answer(
            ok,
            self.counts,
            "See in the workers' logs what failed, and why; one that is only late may have been served.",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, url: str, every: float) -> None:
        good, failing = time.monotonic(), False
        while not self._stopped.wait(every):
            answer = ask(url)
            self.asked += 1
            self.slowest = max(self.slowest, answer.seconds)
            if answer.well:
                self.away = max(self.away, time.monotonic() - good if failing else answer.seconds)
                good, failing = time.monotonic(), False
            else:
                failing = True
                self.failed += not answer.late
                self.late += answer.late
                if len(self.problems) < 20:
                    self.problems.append({"at": now(), "problem": answer.problem})


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 3)
