"""Traces of deliveries: what the API has logged of them, and which were Stripe's."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from opslib.api import log
from opslib.api.log import Position
from opslib.api.log_event import Event
from opslib.api.pm2 import Worker
from opslib.api.settings import Log
from opslib.deployment.deployment import Deployment
from opslib.payments.delivery_cause import Cause
from opslib.payments.reception import SUCCEEDED
from opslib.payments.stripe_account import settings
from opslib.payments.webhook_route import ASKS, PROBE
from opslib.runbook.answer import Answer

NEAR = 10
"""Seconds at most between two probes that were taken, what was refused between them being probes too."""
TAKEN = {"payment paid": "paid", "payment unknown": "no such payment"}
"""What a line that means this says of how a signed event ended."""

# What Stripe's library for Node says (node-stripe, src/Webhooks.ts), and Node itself of a key that is not there; whole,
# or by its first line, which does not tell of white space. The first that fits: one text adds to another.
_SAID = (
    (Cause.NO_BODY, re.compile(r"No webhook payload")),
    (Cause.PARSED, re.compile(r"parsed JavaScript object|must be provided as a string or a Buffer")),
    (Cause.NO_SIGNATURE, re.compile(r"No stripe-signature header")),
    (Cause.GARBLED, re.compile(r"Unable to extract timestamp|array was passed as a header")),
    (Cause.NO_SCHEME, re.compile(r"No signatures found with expected scheme")),
    (Cause.CLOCK, re.compile(r"Timestamp outside the tolerance zone")),
    (Cause.NO_SECRET, re.compile(r'(signature|webhook).*The "key" argument must be', re.I)),
    (Cause.SPACED_SECRET, re.compile(r"signing secret contains whitespace")),
    (Cause.WRONG_SECRET, re.compile(r"No signatures found matching")),
)


@dataclass(frozen=True)
class Trace:
    """What the API has logged of one delivery: when by its own clock, by which process, why it failed if it did."""

    at: float  # seconds since 1970; 0 where the log does not say
    pid: int
    cause: Cause | None
    said: str
    event: str = ""
    type: str = ""
    outcome: str = ""
    object: str = ""
    """The payment or intent that it was about, where the log names that instead of the event."""


def read(environment: Deployment, positions: Iterable[Position]) -> list[Trace]:
    """Give what the API has logged of deliveries since those positions, by time; at most LIMIT_BYTES a file."""
    path = settings(environment).webhook
    found = [_trace(one, path) for one in log.read(positions, _known(environment)).events]
    return sorted((trace for trace in found if trace), key=lambda trace: trace.at)


def legible(environment: Deployment, positions: Iterable[Position]) -> Answer:
    """Whether the logs can be read since those positions: else what is not in them may have happened all the same.

    One that is empty can: it holds no trace.
    """
    reading = log.read(positions, _known(environment))
    empty = not (reading.events or reading.nowhere)
    return Answer(True, reading.legible.evidence) if empty else reading.legible


def beginnings(environment: Deployment, workers: Iterable[Worker]) -> list[Position]:
    """Give the beginnings of the API's logs as they are now."""
    return log.beginnings((position for worker in workers for position in worker.logs), _known(environment))


def mark(environment: Deployment, workers: Iterable[Worker]) -> list[Position]:
    """Give where the API's logs end now."""
    return log.mark(position.path for position in beginnings(environment, workers))


def of_stripe(found: Sequence[Trace], *, since: float, skew: float = 0) -> list[Trace]:
    """Give the deliveries since then that were no probes, and those of which the log does not say when.

    `skew` is by how many seconds the API's clock is fast.
    """
    probes = [trace.at for trace in found if trace.event == PROBE]
    unnamed = [] if any(trace.event for trace in found) else _bursts(found)

    def probed(at: float) -> bool:
        place = bisect_left(probes, at)
        between = 0 < place < len(probes) and probes[place] - probes[place - 1] <= NEAR
        return between or any(abs(at - burst) <= NEAR for burst in unnamed)

    refused = {cause for cause in Cause if cause is not Cause.APP_ERROR}
    late = [trace for trace in found if (not trace.at or trace.at - skew >= since) and trace.event != PROBE]
    return [trace for trace in late if trace.cause not in refused or not probed(trace.at)]


def _bursts(found: Sequence[Trace]) -> list[float]:
    """Give when probes were refused, in a log that does not name what is taken.

    One signature that is old and one of a secret that is made up are each sent ASKS times: no events of Stripe's are
    refused for both.
    """
    old, other = ([trace.at for trace in found if trace.cause is cause] for cause in (Cause.CLOCK, Cause.WRONG_SECRET))

    def many(times: Sequence[float], at: float) -> bool:
        return bisect_left(times, at + NEAR) - bisect_left(times, at - NEAR) >= ASKS

    return [at for at in dict.fromkeys(old) if many(old, at) and many(other, at)]


def moment(at: float) -> str:
    """A time in UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def _known(environment: Deployment) -> Log:
    return environment.find(Log) or Log()


def _trace(one: Event, path: str) -> Trace | None:
    """Give what an event of the log tells of a delivery; None if it is about something else."""
    said, at = one.said, one.at.timestamp() if one.at else 0.0
    pid = said.get("pid")
    trace = Trace(at, pid if isinstance(pid, int) else 0, None, "", str(said.get("event", "")))
    message, error = str(said.get("message", one.text)), str(said.get("error", ""))
    if one.means == "webhook failed":
        return replace(
            trace, cause=Cause.APP_ERROR, said=log.redact(str(said.get("stack") or error or message).strip())
        )
    if one.means == "signature refused" or (one.level == "error" and not one.means):
        text = f"{message} {error}"
        cause = next((cause for cause, words in _SAID if words.search(text)), None)
        if cause is None and path in message:
            cause, error = Cause.APP_ERROR, str(said.get("stack") or message)
        elif cause is None and not one.means and ("message" not in said or "signature" not in text.lower()):
            return None
        return replace(trace, cause=cause or Cause.REFUSED, said=log.redact((error or message).lstrip()))
    kind, outcome = str(said.get("type", "")), str(said.get("outcome", ""))
    if trace.event.startswith("evt_"):
        return replace(trace, type=kind, outcome=outcome)
    if one.means in TAKEN:
        thing = str(said.get("payment") or said.get("intent") or "")
        return replace(trace, type=SUCCEEDED, outcome=TAKEN[one.means], object=thing)
    return None
