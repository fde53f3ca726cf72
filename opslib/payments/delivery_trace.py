"""Traces of deliveries: what the API has logged of them, and which were Stripe's."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from opslib.api import log
from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.deployment.deployment import Deployment
from opslib.payments.delivery_cause import NEXT, Cause
from opslib.payments.stripe_account import settings
from opslib.payments.webhook_route import PROBE
from opslib.runbook.answer import Answer

NEAR = 10
"""Seconds at most between two probes that were taken, what was refused between them being probes too."""

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

    at: float  # seconds since 1970
    pid: int
    cause: Cause | None
    said: str
    event: str = ""
    type: str = ""
    outcome: str = ""


def read(environment: Deployment, positions: Iterable[Position]) -> list[Trace]:
    """Give what the API has logged of deliveries since those positions, by time; at most LIMIT_BYTES a file."""
    path, found = settings(environment).webhook, []
    for entry in log.fields(positions):
        message, error = str(entry.get("message", "")), str(entry.get("error", ""))
        cause, said, event = None, "", str(entry.get("event", ""))
        if entry.get("level") == "error":
            text = f"{message} {error}"
            cause = next((cause for cause, words in _SAID if words.search(text)), None)
            if cause is None and path in message:
                cause, error = Cause.APP_ERROR, str(entry.get("stack") or message)
            elif cause is None and "signature" not in text.lower():
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


def mark(workers: Iterable[Worker]) -> list[Position]:
    """Give where the workers' logs end now."""
    return log.mark(position.path for worker in workers for position in worker.logs)


def taken(environment: Deployment, positions: Sequence[Position], event: str) -> Answer:
    """Whether the API has logged since those positions that it took this event; with what it logged of deliveries."""
    found = read(environment, positions)
    why = next((trace.cause for trace in reversed(found) if trace.cause), None)
    said = f"It was refused: {why.value}. {NEXT[why]}." if why else "The API has logged nothing of it."
    if why is None and settings(environment).events is None:  # it keeps no events, and its log names none
        said = f"The API does not say which events it takes: see its answer to {event} in the Dashboard (Developers)."
        return Answer(None, found[-5:], said)
    return Answer(any(trace.event == event for trace in found), found[-5:], said)


def of_stripe(found: Sequence[Trace], *, since: float, skew: float = 0) -> list[Trace]:
    """Give the deliveries since then that were no probes; `skew` is by how many seconds the API's clock is fast."""
    probes = [trace.at for trace in found if trace.event == PROBE]

    def probed(at: float) -> bool:
        place = bisect_left(probes, at)
        return 0 < place < len(probes) and probes[place] - probes[place - 1] <= NEAR

    refused = {cause for cause in Cause if cause is not Cause.APP_ERROR}
    late = [trace for trace in found if trace.at - skew >= since and trace.event != PROBE]
    return [trace for trace in late if trace.cause not in refused or not probed(trace.at)]


def moment(at: float) -> str:
    """A time in UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def _time(entry: dict[str, object]) -> float:
    try:
        return datetime.fromisoformat(str(entry.get("timestamp"))).timestamp()
    except ValueError:
        return 0.0
