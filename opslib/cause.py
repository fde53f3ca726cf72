"""Causes: why an event of Stripe's has not had its effect, and the procedure or step that mends each."""

import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from opslib import log
from opslib.environment import Environment
from opslib.log import Position
from opslib.pm2 import Worker
from opslib.stripe_account import settings
from opslib.webhook import PROBE

AFTER = 3600
"""Seconds after an event was made in which what the API logged is taken to be about it; Stripe first tries at once."""
SLACK = 0.5
"""Seconds by which clocks that are right may differ."""
NEAR = 10
"""Seconds at most between two probes that were taken, what was refused between them being probes too."""


class Cause(StrEnum):
    """What stands between an event and its effect."""

    DISABLED = "endpoint disabled"
    WRONG_URL = "endpoint leads elsewhere"
    NOT_ENABLED = "endpoint lacks the type"
    UNREACHABLE = "API unreachable"
    SLOW = "answer too slow"
    PARSED = "parsed instead of raw body"
    CLOCK = "clock off"
    STALE_SECRET = "workers hold another secret than the .env"
    WRONG_SECRET = "wrong secret"
    APP_ERROR = "error in the handler"
    OPEN = "signatures are not checked"
    REFUSED = "refused, the log does not say why"
    IGNORED = "handler ignores the type"
    TAKEN = "taken here, not known to Stripe"
    NO_TRACE = "no trace at the API"


NEXT = {
    Cause.DISABLED: "this procedure, stage enable; then stage replay",
    Cause.WRONG_URL: "correct the endpoint's URL in the Dashboard; then this procedure, stage replay",
    Cause.NOT_ENABLED: "this procedure, stage enable; then stage replay",
    Cause.UNREACHABLE: "restart_api; then this procedure, stage replay",
    Cause.SLOW: "look for locks in the database, then restart_api; Stripe gives up on slow answers",
    Cause.PARSED: "express.raw() before express.json() in the release, then restart_api",
    Cause.CLOCK: "set the machine's clock (chronyc makestep), then restart_api",
    Cause.STALE_SECRET: "restart_api",
    Cause.WRONG_SECRET: "rotate_stripe_keys, stage webhook, with the endpoint's secret from the Dashboard",
    Cause.APP_ERROR: "mend the release by the stack below, then restart_api",
    Cause.OPEN: "mend the release at once: anybody may send events; then restart_api",
    Cause.REFUSED: "check_webhook_signatures",
    Cause.IGNORED: "nothing, or let the release handle the type",
    Cause.TAKEN: "nothing: an answer was lost, or another endpoint does not take it",
    Cause.NO_TRACE: "this procedure, stage replay: it was sent while the API was away, or not sent at all",
}
"""What to do about each."""

Judge = Callable[[float, str, bool], Cause]
"""Says why the API has not an event that was made then, of this type, and that Stripe has sent or not."""

# What Stripe's library for Node says (node-stripe, src/Webhooks.ts), by its first line, which the API logs.
_SAID = (
    (Cause.PARSED, re.compile(r"parsed JavaScript object|must be provided as a string or a Buffer")),
    (Cause.CLOCK, re.compile(r"Timestamp outside the tolerance zone")),
    (Cause.WRONG_SECRET, re.compile(r"No signatures found matching")),
)
_MALFORMED = re.compile(
    r"Unable to extract timestamp|No signatures found with expected|No stripe-signature header|No webhook payload"
)


@dataclass(frozen=True)
class Trace:
    """What the API has logged of one delivery: when by its own clock, by which process, why it failed if it did."""

    at: float  # seconds since 1970
    pid: int
    cause: Cause | None
    said: str
    event: str = ""
    type: str = ""
    outcome: str = ""

    @property
    def when(self) -> str:
        """The time to the second, in UTC."""
        return datetime.fromtimestamp(self.at).astimezone().isoformat(timespec="seconds")


def traces(environment: Environment, positions: Iterable[Position]) -> list[Trace]:
    """Give what the API has logged of deliveries since those positions, in order of time; at most LIMIT_BYTES a file.

    A malformed signature is nobody's event, and is left out.
    """
    path, found = settings(environment).webhook, []
    for entry in log.fields(positions):
        message, error = str(entry.get("message", "")), str(entry.get("error", ""))
        cause, said, event = None, "", str(entry.get("event", ""))
        if entry.get("level") == "error":
            text = f"{message} {error}"
            cause = next((cause for cause, words in _SAID if words.search(text)), None)
            if cause is None and path in message:
                cause, error = Cause.APP_ERROR, str(entry.get("stack") or message)
            elif cause is None and ("signature" not in text.lower() or _MALFORMED.search(text)):
                continue
            cause, said = cause or Cause.REFUSED, log.redact(error or message)
        elif not event.startswith("evt_"):
            continue
        kind, outcome = str(entry.get("type", "")), str(entry.get("outcome", ""))
        pid = entry.get("pid")
        found.append(Trace(_time(entry), pid if isinstance(pid, int) else 0, cause, said, event, kind, outcome))
    return sorted(found, key=lambda trace: trace.at)


def beginnings(positions: Iterable[Position]) -> list[Position]:
    """Give the beginnings of the same files as they are now."""
    return [Position(position.path, 0, 0) for position in positions]


def of_stripe(found: Sequence[Trace], *, since: float, skew: float = 0) -> list[Trace]:
    """Give the deliveries since then that were no probes; `skew` is by how many seconds the API's clock is fast."""
    probes = [trace.at for trace in found if trace.event == PROBE]

    def probed(at: float) -> bool:
        place = bisect_left(probes, at)
        return 0 < place < len(probes) and probes[place] - probes[place - 1] <= NEAR

    refused = {cause for cause in Cause if cause is not Cause.APP_ERROR}
    late = [trace for trace in found if trace.at - skew >= since and trace.event != PROBE]
    return [trace for trace in late if trace.cause not in refused or not probed(trace.at)]


def standing(found: Sequence[Trace], workers: Sequence[Worker], *, skew: float = 0) -> list[Cause]:
    """Give `wrong secret` if the last delivery to these workers ended so: no probe tells what Stripe signs with.

    What was logged before they started tells of a secret that they may not have any more.
    """
    started = time.time() - max((worker.up for worker in workers), default=0) + skew
    signed = [trace for trace in found if trace.at >= started and trace.cause in (None, Cause.WRONG_SECRET)]
    return [Cause.WRONG_SECRET] if signed and signed[-1].cause else []


def nearest(failures: Sequence[Trace], created: float, *, skew: float = 0) -> Cause:
    """Give why an event of that time failed, by what the API logged next; failures are in order of time."""
    place = bisect_left(failures, created + skew - SLACK, key=lambda trace: trace.at)
    if place < len(failures) and failures[place].at - skew <= created + AFTER:
        return failures[place].cause or Cause.REFUSED
    return Cause.NO_TRACE


def judge(now: Sequence[Cause], found: Sequence[Trace], *, lacks: Sequence[str], skew: float = 0) -> Judge:
    """Make what says of an event why the API has it not; the endpoint `lacks` these types."""
    unable = [cause for cause in now if cause not in (Cause.DISABLED, Cause.NOT_ENABLED, Cause.OPEN)]
    failures = [trace for trace in found if trace.cause]

    def why(created: float, kind: str, sent: bool) -> Cause:
        if not sent and Cause.DISABLED in now:
            return Cause.DISABLED
        if not sent:
            return Cause.NOT_ENABLED if kind in lacks else Cause.NO_TRACE
        return unable[0] if unable else nearest(failures, created, skew=skew)

    return why


def errors(found: Sequence[Trace]) -> list[dict[str, str]]:
    """Give the errors of the handler, each once with its stack, and how often it was logged."""
    counts = Counter(trace.said for trace in found if trace.cause is Cause.APP_ERROR)
    return [{"times": str(times), "error": said} for said, times in counts.most_common(5)]


def _time(entry: dict[str, object]) -> float:
    try:
        return datetime.fromisoformat(str(entry.get("timestamp"))).timestamp()
    except ValueError:
        return 0.0
