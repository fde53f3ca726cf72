"""A diagnosis: why the API has not had events, by what stands now and by the traces that earlier ones have left."""

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from opslib.api.pm2 import Worker
from opslib.payments.delivery_cause import FROM_ANYBODY, NEXT, Cause
from opslib.payments.delivery_trace import Trace
from opslib.runbook.answer import Answer
from opslib.runbook.finding import Finding, Severity

AFTER = 3600
"""Seconds after an event was made in which what the API logged is taken to be about it; Stripe first tries at once."""
AT_ONCE = 60
"""Seconds in which it is taken to be about it though anybody may have sent that."""
TRACELESS = (Cause.WRONG_URL, Cause.UNREACHABLE, Cause.SLOW)
"""What keeps events from the API without a line in its log."""
UNPROBED = (Cause.NO_SCHEME, Cause.SPACED_SECRET, Cause.WRONG_SECRET)
"""What only Stripe's own deliveries tell of."""
SLACK = 0.5
"""Seconds by which clocks that are right may differ."""
Judge = Callable[[float, str, bool], Cause]
"""Says why the API has not an event that was made then, of this type, and that Stripe has sent or not."""


def standing(found: Sequence[Trace], workers: Sequence[Worker], *, skew: float = 0) -> list[Cause]:
    """Give what the last signed delivery to these workers was refused for, if no probe tells of it: what Stripe signs
    with, and how it arrives.

    What was logged before they started tells of a secret that they may not have any more; what was logged more than
    AFTER seconds ago, of one that Stripe may not sign with any more.
    """
    up = max((worker.up for worker in workers), default=0)
    started = time.time() - min(up, AFTER) + skew
    signed = [trace.cause for trace in found if trace.at >= started and trace.cause in (None, *UNPROBED)]
    return [cause for cause in signed[-1:] if cause]


def nearest(failures: Sequence[Trace], created: float, *, skew: float = 0) -> Cause:
    """Give why an event of that time failed, by what the API logged next; failures are in order of time."""
    for place in range(bisect_left(failures, created + skew - SLACK, key=lambda trace: trace.at), len(failures)):
        late, cause = failures[place].at - skew - created, failures[place].cause or Cause.REFUSED
        if late > AFTER:
            break
        if late <= AT_ONCE or cause not in FROM_ANYBODY:
            return cause
    return Cause.NO_TRACE


def judge(
    now: Sequence[Cause], found: Sequence[Trace], *, lacks: Sequence[str], skew: float = 0, told: bool = True
) -> Judge:
    """Make what says of an event why the API has it not; the endpoint `lacks` these types.

    What was logged just after it counts first. Where nothing was, it is laid to what stands now, if that leaves no
    trace or the logs do not reach back so far. `told` is whether the logs can be read; what has no time is about none.
    """
    unable = [cause for cause in now if cause not in (Cause.DISABLED, Cause.NOT_ENABLED, Cause.OPEN)]
    failures = [trace for trace in found if trace.cause]
    told = told and all(trace.at for trace in failures)
    began = min((trace.at for trace in found if trace.at), default=math.inf) - skew

    def why(created: float, kind: str, sent: bool) -> Cause:
        if not sent and Cause.DISABLED in now:
            return Cause.DISABLED
        if not sent:
            return Cause.NOT_ENABLED if kind in lacks else Cause.NO_TRACE
        traced = nearest(failures, created, skew=skew)
        silent = created < began or (unable and unable[0] in TRACELESS)
        if traced is not Cause.NO_TRACE:
            return traced
        return unable[0] if unable and silent else traced if told else Cause.UNTOLD

    return why


def findings(causes: Sequence[Cause], clocks: str = "") -> list[Finding]:
    """Give for each cause that stands now what mends it; `clocks` says which clock is off, where that is known."""
    found = []
    for cause in causes:
        mend = NEXT[cause]
        do = f"{clocks}; then restart_api" if cause is Cause.CLOCK and clocks else mend.do
        found.append(Finding(f"{cause.value}: this stands now", mend.procedure, do=do and f"{do}."))
    return found


def missing(counts: Mapping[str, int], *, young: int, minutes: float) -> list[Finding]:
    """Give how many events the API has not. `young` were not looked at, as they are younger than so many minutes."""
    found = []
    if lost := sum(events for name, events in counts.items() if name not in (Cause.TAKEN, Cause.IGNORED)):
        many = f"{lost} event{'s' * (lost != 1)} of Stripe's that the API has not"
        found.append(Finding(many, "replay_stripe_events", {"retrying_minutes": minutes}))
    if young:
        many = f"{young} undelivered event{'s' * (young != 1)} younger than {minutes:g} minutes"
        again = {"retrying_minutes": 0}
        found.append(Finding(f"{many}, not looked at", "triage_stripe_webhooks", again, severity=Severity.NOTICE))
    return found


def unread(told: Answer) -> list[Finding]:
    """Give that the logs cannot be read, if they hold something: then nobody can say why a delivery has failed."""
    if told or not (told.evidence["entries"] or told.evidence["kept nowhere"]):
        return []
    what = "why deliveries have failed cannot be told"
    return [Finding(what, do=told.otherwise, severity=Severity.NOTICE)]


def said(found: Sequence[Trace], told: Answer) -> list[dict[str, object]] | str:
    """Give the errors of the handler, or say that there are none; without logs that can be read, why nobody knows."""
    return errors(found) or told.otherwise or "no error is in the logs"


def errors(found: Sequence[Trace]) -> list[dict[str, object]]:
    """Give the errors of the handler, each once, the most frequent first."""
    counts = Counter(trace.said for trace in found if trace.cause is Cause.APP_ERROR)
    return [{"times": times, "error": said} for said, times in counts.most_common(5)]


def table(counts: Mapping[str, int], now: Sequence[Cause], traces: Sequence[Trace]) -> list[dict[str, object]]:
    """Say of each cause found how many events it has, whether it stands now, and when the log last told of it."""
    rows: list[dict[str, object]] = []
    for cause in Cause:
        told = [t for t in traces if t.cause is cause or (cause is Cause.IGNORED and t.outcome == "ignored")]
        events = counts.get(cause, 0)
        if not (cause in now or told or events):
            continue
        kinds = ", ".join(sorted({trace.type for trace in told if trace.type}))
        last = datetime.fromtimestamp(int(told[-1].at), UTC) if told and told[-1].at else None
        row = {"cause": cause, "stands now": cause in now, "events": events, "in the log": len(told), "last": last}
        rows.append({**row, "types": kinds, "next": NEXT[cause]})
    return rows
