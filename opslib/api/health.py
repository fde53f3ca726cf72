"""Health: what the API answers, which of its workers do, and how many requests fail meanwhile."""

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psutil
import urllib3

from opslib.runbook.answer import Answer
from opslib.runbook.step import now

TIMEOUT = urllib3.Timeout(total=5)
UNTOLD = 12
"""Answers from nobody knows whom after which no more are asked for: nobody will know of the next one either."""

ANONYMOUS = "The answers do not say which process gave them, nor does the system: see whether each worker serves."


@dataclass(frozen=True)
class Response:
    """What one request got: `status` is 0 where none came, `problem` then says why."""

    status: int
    seconds: float = field(compare=False)
    problem: str = ""
    late: bool = field(default=False, repr=False)
    """Whether none came in time, which tells nothing: the machine may be too busy."""
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    pid: int = field(default=0, compare=False, repr=False)
    """The process that answered; 0 where nobody can tell."""
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Those of the answer, by their names in lower case."""

    @property
    def well(self) -> bool:
        """Whether this is a 200."""
        return self.status == 200


@dataclass(frozen=True)
class Answering:
    """Which processes answered 200, and how many such answers came from nobody knows which."""

    pids: frozenset[int]
    untold: int = 0

    def __bool__(self) -> bool:
        return bool(self.pids or self.untold)

    def silent(self, pid: int) -> bool:
        """Whether this process does not answer, as far as can be told."""
        return pid not in self.pids and (not self.untold or not pid)


def ask(
    url: str, among: Iterable[int] = (), headers: Mapping[str, str] | None = None, *, content: object = None
) -> Response:
    """Send one GET over a connection of its own, so that any worker may take it. Never raises for the network.

    It is a POST of `content` as JSON if there is some.

    Which process answered is what the body says (`pid`), or else which one `among` these has the other end of the
    connection, as the system tells: behind a proxy, or for another user's process, nobody can.
    """
    begun = time.monotonic()
    try:
        with urllib3.PoolManager() as connections:
            got = connections.request(
                "GET" if content is None else "POST",
                url,
                headers=headers,
                json=content,
                timeout=TIMEOUT,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            here = near_end(got.connection)
            body = _object(got.data)
            pid = body.get("pid") or owner(here, among)
    except urllib3.exceptions.HTTPError as error:
        none = urllib3.exceptions.NewConnectionError  # refused: to urllib3 this is a time-out too
        late = isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(error, none)
        return Response(0, _since(begun), f"{type(error).__name__}: {error}", late)
    problem = "" if got.status == 200 else f"HTTP {got.status}"
    return Response(
        got.status,
        _since(begun),
        problem,
        body=body,
        pid=pid if isinstance(pid, int) else 0,
        headers={name.lower(): value for name, value in got.headers.items()},
    )


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


def answering(url: str, pids: Iterable[int], asks: int = 60, within: float = 30) -> Answering:
    """Which of these processes answer 200, as far as can be told; asks for `within` seconds.

    An answer that none of them gave is not counted where its body names somebody else.
    """
    wanted = set(pids) - {0}  # the pid of one that is down: nobody is to be waited for
    seen, untold = set[int](), 0
    ends = time.monotonic() + within
    for _ in range(asks):
        if wanted <= seen or untold >= UNTOLD or time.monotonic() > ends:
            break
        answer = ask(url, wanted)
        if answer.well:
            seen.add(answer.pid)
            untold += not answer.pid
    return Answering(frozenset(wanted & seen), untold)


def all_answer(url: str, pids: Iterable[int]) -> Answer:
    """Whether each of these processes answers 200; it cannot be told where nobody knows which one does."""
    wanted = sorted(pids)
    found = answering(url, wanted)
    silent = [pid for pid in wanted if found.silent(pid)]
    told = all(pid in found.pids for pid in wanted)
    says = {pid: "yes" if pid in found.pids else "no" if pid in silent else "cannot tell" for pid in wanted}
    otherwise = "restart_api replaces those that do not answer." if silent or not wanted else ANONYMOUS
    return Answer(
        False if silent or not wanted else None if not told else True,
        [{"process": pid, "answers": said} for pid, said in says.items()],
        otherwise,
    )


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


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def near_end(connection: Any) -> tuple[str, int] | None:
    """Give our end of a connection, address and port, while it is open."""
    try:
        return connection.sock.getsockname()[:2]  # type: ignore[no-any-return]
    except (AttributeError, OSError):
        return None


def owner(end: tuple[str, int] | None, among: Iterable[int]) -> int:
    """Give which of these processes has the other end of a connection; 0 if none that we may look at."""
    for pid in among if end else ():
        try:
            held = psutil.Process(pid).net_connections("tcp")
        except psutil.Error:
            continue
        # A server that listens on IPv6 too has IPv4 addresses in this form.
        if any(one.raddr and (one.raddr.ip.removeprefix("::ffff:"), one.raddr.port) == end for one in held):
            return pid
    return 0
