"""A poll: the same request until every worker has answered it, and no more often, for the API may count requests."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from opslib.api import health, pm2
from opslib.deployment.deployment import Deployment

ASKS = 16
"""New connections go to the workers in turn: with this many, every worker is asked, also where none can be told."""
WAIT = 60
"""Seconds for which a proof waits in all for an API that was asked too often."""
UNSAID = 10.0
"""Seconds after which such an API is asked again if it does not say when."""
TOO_OFTEN = 429


@dataclass(frozen=True)
class Limit:
    """How often the API says that it may be asked: so many requests are left of so many, until it counts anew."""

    of: int
    left: int
    seconds: int


@dataclass(frozen=True)
class Poll:
    """What the workers answered, how many requests that takes, and what the API says of a limit."""

    answers: list[health.Response] = field(repr=False)
    takes: int
    limit: Limit | None = None
    again: float = 0
    """Seconds until the API answers again that was asked too often."""

    @property
    def statuses(self) -> frozenset[int]:
        """The HTTP statuses of the answers; 0 alone is no answer."""
        return frozenset(got.status for got in self.answers) or frozenset({0})


def ask(
    environment: Deployment,
    path: str,
    headers: Callable[[], Mapping[str, str]],
    *,
    content: object = None,
    ends: float | None = None,
) -> Poll:
    """Ask with these headers, which are made anew for each request; `content` is posted as JSON.

    Which worker answered is what the system tells; where it does not, ASKS answers are taken for those of all. A busy
    machine may answer too late: then it is asked again, at most as often as it was to be asked. An API that was asked
    too often is waited for until `ends`.
    """
    ends = time.monotonic() + WAIT if ends is None else ends
    wanted = {worker.pid for worker in pm2.workers(environment) if worker.pid}
    found, seen = list[health.Response](), set[int]()
    late, again = 0, 0.0
    while not (wanted and wanted <= seen) and len(found) < (1 if len(wanted) == 1 else ASKS) and late < ASKS:
        got = health.ask(f"{environment.api.url}{path}", wanted, headers(), content=content)
        if got.status == TOO_OFTEN:
            again = _pause(got)
            if time.monotonic() + again <= ends:
                time.sleep(again)
                continue
            found.append(got)
            break
        seen.add(got.pid)
        late += got.status == 0
        found += [got] if got.status else []
    limit = next((said for got in reversed(found) if (said := _limit(got.headers))), None)
    return Poll(found, len(wanted) if wanted <= seen or len(wanted) == 1 else ASKS, limit, again)


def _pause(got: health.Response) -> float:
    """Give the seconds after which an API that was asked too often wants to be asked again, as far as it says."""
    said = str(got.headers.get("retry-after") or got.body.get("retryAfter") or "")
    return max(1.0, float(said)) if re.fullmatch(r"\d+(\.\d+)?", said) else UNSAID


def _limit(headers: Mapping[str, str]) -> Limit | None:
    """Give the limit that an answer tells of, as express-rate-limit and others write it."""
    names = ("limit", "remaining", "reset")
    told = [headers.get(f"ratelimit-{name}") or headers.get(f"x-ratelimit-{name}", "") for name in names]
    if not all(re.fullmatch(r"\d+", text) for text in told):
        return None
    of, left, reset = map(int, told)
    # The older headers give a time instead of the seconds until it.
    return Limit(of, left, reset if reset < 10**9 else max(0, reset - int(time.time())))
