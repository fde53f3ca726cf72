"""Requests to the API at a fixed rate, from a process of their own, and how many of them failed."""

import json
import subprocess
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from .errors import SandboxError
from .layout import PYTHON, ROOT

MOST_RATE = 1000
MOST_SECONDS = 1800
TIMEOUT_SECONDS = 30
"""A busy machine's answers come late, and what is lost never: this tells them apart."""
LATE_SECONDS = 10
"""An answer that took longer is counted as late."""
ARRIVAL_SECONDS = 45
"""How long an event is waited for: Stripe gives up after 31."""


@dataclass(kw_only=True)
class Result:
    """What came of the requests: one has failed if it got no answer, or one of 400 and above.

    `failed` is the sum of `refused` (no connection, or one that was cut), `unanswered` (nothing came) and `bad` (400
    and above). An answer after LATE_SECONDS is `late`, and none of these. The sender is a process of a busy machine
    too: `behind` is how far it was behind its schedule at most, and `skipped` how many requests it therefore did not
    send, as all of them at once would be another load than the one that was asked for.
    Of `writes` that were answered `written` are in the database; of `events` that Stripe made `applied` have had
    their effect there.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    unanswered: int = 0
    bad: int = 0
    late: int = 0
    skipped: int = 0
    behind: float = 0  # seconds
    unauthorized: int = 0
    writes: int = 0
    written: int = 0
    events: int = 0
    applied: int = 0
    seconds: float = 0
    p99_ms: float = 0
    slowest_ms: float = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_failures: list[str] = field(default_factory=list)
    workers: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.asked} requests in {self.seconds:.1f} s: {self.answered} answered, {self.failed} failed",
            f"failed: {self.refused} refused or cut, {self.unanswered} unanswered, {self.bad} answered 400 and up",
            f"not failed: {self.late} late, {self.skipped} not sent by a sender up to {self.behind:.1f} s behind",
            f"p99 {self.p99_ms:.0f} ms, slowest {self.slowest_ms:.0f} ms",
            *(f"{count:6} x {reason}" for reason, count in self.reasons.items()),
            *(f"worker {pid} on {release[:12]}" for pid, release in self.workers),
        ]
        if self.writes or self.events:
            arrived = f"{self.written} of {self.writes} writes and {self.applied} of {self.events} events arrived"
            lines.insert(3, arrived)
        return "\n".join(lines)

    @property
    def lossless(self) -> bool:
        """Whether requests were written and events made, and each of them is in the database."""
        return self.written == self.writes > 0 and self.applied == self.events > 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what the sender has printed."""
        found = json.loads(text)
        return cls(**found | {"workers": [(pid, release) for pid, release in found["workers"]]})


class Traffic:
    """Load on the API while the block runs, or for `seconds`; `result` is there once it has ended.

    `rate` authenticated requests a second read, and sign tokens; health checks go along. With `writes` some of them
    write a row, upload a file, or have Stripe send an event, and the result waits until the last event has arrived.
    """

    def __init__(self, *, rate: int = 200, seconds: float = 300, writes: bool = False) -> None:
        if not 1 <= rate <= MOST_RATE or not 0 < seconds <= MOST_SECONDS:
            found = f"rate {rate}, seconds {seconds:g}"
            raise SandboxError(f"{found}: the rate must be 1 to {MOST_RATE}, the seconds up to {MOST_SECONDS}")
        self.rate = rate
        self.seconds = seconds
        self.writes = writes
        self.result = Result()

    @property
    def _command(self) -> tuple[str, ...]:
        sender = f"{__package__}.sender"
        return (PYTHON, "-m", sender, str(self.rate), str(self.seconds), "writes" if self.writes else "reads")

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "sending\n":
            _, reason = self._process.communicate()
            raise SandboxError(f"no traffic: {reason.strip().splitlines()[-1]}")
        return self

    def wait(self) -> None:
        """Wait until the requests have been sent for `seconds`."""
        self._process.wait(timeout=self.seconds + 2 * TIMEOUT_SECONDS + ARRIVAL_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The end of its input tells the sender to stop, also when we are killed.
        answer, reason = self._process.communicate(timeout=self.seconds + 2 * TIMEOUT_SECONDS + ARRIVAL_SECONDS)
        if self._process.returncode:
            raise SandboxError(f"the traffic ended early: {reason.strip().splitlines()[-1]}")
        self.result = type(self.result).read(answer)
