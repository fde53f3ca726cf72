"""Traces: what the API has logged of deliveries, and which of them were Stripe's."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from opslib.api import log
from opslib.api.log import Position
from opslib.environment import Environment
from opslib.payments.cause import Cause
from opslib.payments.stripe_account import settings
from opslib.payments.webhook import PROBE

NEAR = 10
"""Seconds at most between two probes that were taken, what was refused between them being probes too."""

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


def read(environment: Environment, positions: Iterable[Position]) -> list[Trace]:
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


def moment(at: float) -> str:
    """A time in UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def _time(entry: dict[str, object]) -> float:
    try:
        return datetime.fromisoformat(str(entry.get("timestamp"))).timestamp()
    except ValueError:
        return 0.0
