"""Requests to the API at a fixed rate, from a process of their own, and how many of them failed."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from .credentials import Credentials
from .errors import SandboxError
from .layout import API, PYTHON, ROOT, url

MOST_RATE = 1000
MOST_SECONDS = 300
TIMEOUT_SECONDS = 10
# An odd number, so that two workers, which connections go to in turn, are each asked for all.
PATHS = ("/health", "/api/properties", "/api/auth/refresh", "/api/auth/me", "/health")


@dataclass(kw_only=True)
class Result:
    """What came of the requests: one has failed if it got no answer in time, or one of 400 and above."""

    asked: int = 0
    answered: int = 0
    failed: int = 0
    seconds: float = 0
    p99_ms: float = 0
    slowest_ms: float = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_failures: list[str] = field(default_factory=list)
    workers: list[tuple[int, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.asked} requests in {self.seconds:.1f} s: {self.answered} answered, {self.failed} failed",
            f"p99 {self.p99_ms:.0f} ms, slowest {self.slowest_ms:.0f} ms",
            *(f"{count:6} x {reason}" for reason, count in self.reasons.items()),
            *(f"worker {pid} on {release[:12]}" for pid, release in self.workers),
        ]
        return "\n".join(lines)


class Traffic:
    """Load on the API while the block runs, or for `seconds`; `result` is there once it has ended."""

    def __init__(self, *, rate: int = 200, seconds: float = MOST_SECONDS) -> None:
        if not 1 <= rate <= MOST_RATE or not 0 < seconds <= MOST_SECONDS:
            found = f"rate {rate}, seconds {seconds:g}"
            raise SandboxError(f"{found}: the rate must be 1 to {MOST_RATE}, the seconds up to {MOST_SECONDS}")
        self.rate = rate
        self.seconds = seconds
        self.result = Result()

    def __enter__(self) -> Self:
        command = (PYTHON, "-m", __name__, str(self.rate), str(self.seconds))
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "sending\n":
            _, reason = self._process.communicate()
            raise SandboxError(f"no traffic: {reason.strip().splitlines()[-1]}")
        return self

    def wait(self) -> None:
        """Wait until the requests have been sent for `seconds`."""
        self._process.wait(timeout=self.seconds + 2 * TIMEOUT_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The end of its input tells the sender to stop, also when we are killed.
        answer, reason = self._process.communicate(timeout=self.seconds + 2 * TIMEOUT_SECONDS)
        if self._process.returncode:
            raise SandboxError(f"the traffic ended early: {reason.strip().splitlines()[-1]}")
        found = json.loads(answer)
        self.result = Result(**found | {"workers": [(pid, release) for pid, release in found["workers"]]})


class Sender:
    """Sends the requests on schedule, however late the answers come."""

    def __init__(self, rate: int, seconds: float) -> None:
        self.rate = rate
        self.seconds = seconds
        self.result = Result()
        self.latencies: list[float] = []
        self.reasons: Counter[str] = Counter()
        self.workers: set[tuple[int, str]] = set()
        self.stopped = asyncio.Event()
        self.refresh_token = ""

    async def run(self) -> Result:
        """Log in, send until the time is up or the input ends, and wait for the last answers."""
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        connector = TCPConnector(force_close=True, limit=0)
        async with ClientSession(
            url(API), connector=connector, timeout=ClientTimeout(total=TIMEOUT_SECONDS)
        ) as session:
            self.refresh_token = await _login(session)
            print("sending", flush=True)
            # Nothing is ever written to it: it is readable once whoever wants the traffic has closed it, or is gone.
            asyncio.get_running_loop().add_reader(sys.stdin, self.stopped.set)
            started = time.monotonic()
            async with asyncio.TaskGroup() as requests:
                while not self.stopped.is_set() and time.monotonic() - started < self.seconds:
                    requests.create_task(self._request(session, PATHS[self.result.asked % len(PATHS)], started))
                    self.result.asked += 1
                    await asyncio.sleep(max(0.0, started + self.result.asked / self.rate - time.monotonic()))
                self.result.seconds = round(time.monotonic() - started, 2)
        return self._summed_up()

    async def _request(self, session: Any, path: str, started: float) -> None:
        from aiohttp import ClientError

        begun = time.monotonic()
        reason = None
        try:
            signs = {"json": {"refreshToken": self.refresh_token}} if path.endswith("/refresh") else None
            async with session.request("POST" if signs else "GET", path, **signs or {}) as answer:
                body = await answer.json()
            self.result.answered += 1
            if answer.status >= 400:
                reason = f"{path} answered {answer.status}"
            elif signs:
                # From now on the requests carry what this worker has signed, whichever worker they go to.
                session.headers["Authorization"] = f"Bearer {body['accessToken']}"
            elif path == "/health":
                self.workers.add((body["pid"], body["release"]))
        except (ClientError, OSError, TimeoutError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self.latencies.append((time.monotonic() - begun) * 1000)
        if reason:
            self.result.failed += 1
            self.reasons[reason] += 1
            if len(self.result.first_failures) < 5:
                self.result.first_failures.append(f"after {begun - started:.2f} s: {reason}")

    def _summed_up(self) -> Result:
        self.result.p99_ms = round(statistics.quantiles([0.0, *self.latencies], n=100)[-1], 1)
        self.result.slowest_ms = round(max(self.latencies, default=0), 1)
        self.result.reasons = dict(self.reasons.most_common(8))
        self.result.workers = sorted(self.workers)
        return self.result


async def _login(session: Any) -> str:
    credentials = Credentials.load()
    login = {"email": credentials.login_email, "password": credentials.login_password}
    async with session.post("/api/auth/login", json=login) as answer:
        if answer.status != 200:
            raise SandboxError(f"the login for the traffic answered {answer.status}")
        tokens = await answer.json()
        session.headers["Authorization"] = f"Bearer {tokens['accessToken']}"
        return str(tokens["refreshToken"])


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(Sender(int(sys.argv[1]), float(sys.argv[2])).run()))), flush=True)
