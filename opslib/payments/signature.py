"""Webhook signatures: which of them a route must take, which it does take, and what is wrong where the two differ."""

import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.deployment import secret_reference
from opslib.deployment.deployment import Deployment
from opslib.deployment.env_file import fingerprint
from opslib.payments import clock_skew, delivery_diagnosis, delivery_trace, webhook_route
from opslib.payments.delivery_cause import FROM_ANYBODY, NEXT, Cause
from opslib.payments.delivery_trace import Trace
from opslib.payments.webhook_route import Case, Tried
from opslib.runbook.answer import Answer
from opslib.runbook.finding import Finding, Severity

FUTURE = 600
LOG_SECONDS = 2
"""How long a line may take from a worker to its log."""
SECRETS = ("STRIPE_WEBHOOK_SECRET", "STRIPE_WEBHOOK_SECRET_PREVIOUS")
FROM_OTHERS = {*FROM_ANYBODY, *delivery_diagnosis.UNPROBED}
"""What may be logged of others while the probes are taken."""
COMPACT, ODD, FUTURE_CASE = "valid, compact", "valid, odd white space", f"valid, {FUTURE} s in the future"


@dataclass(frozen=True)
class Probed:
    """What the live route did with the cases, and what the API logged of those that it must take."""

    tried: list[Tried]
    traces: list[Trace]
    skew: float | None
    """Seconds by which the API's clock is fast, by the times in its log; None if the log does not tell."""

    @property
    def pids(self) -> set[int]:
        """The workers that were asked: they have logged a case, or had the other end of its connection."""
        return ({trace.pid for trace in self.traces} | {pid for one in self.tried for pid in one.pids}) - {0}

    @property
    def causes(self) -> list[Cause]:
        """What is wrong now, what keeps most events out first."""
        tried = {one.signature: one for one in self.tried}
        plain, odd, ahead = tried[COMPACT], tried[ODD], tried[FUTURE_CASE]
        found = []
        if not plain.taken and not plain.refused:
            if "ReadTimeout" in plain.instead:
                found.append(Cause.SLOW)
            elif not any(trace.cause is Cause.APP_ERROR for trace in self.traces):
                found.append(Cause.UNREACHABLE)
        logged = {trace.cause for trace in self.traces if trace.cause}
        said = [cause for cause in Cause if cause in logged and cause is not Cause.REFUSED]
        found += [cause for cause in said if cause not in FROM_OTHERS]
        if plain.well and not odd.well:
            found.append(Cause.PARSED)  # parsed and written again, which only a compact body survives
        if (plain.refused and ahead.well) or abs(self.skew or 0) > clock_skew.APART:
            found.append(Cause.CLOCK)
        if plain.refused and not found:
            # Signed as the `.env` says: who does not find that right holds another.
            stale = {Cause.SPACED_SECRET: Cause.STALE_SECRET, Cause.WRONG_SECRET: Cause.STALE_SECRET}
            found += [stale.get(cause, cause) for cause in said] or [Cause.REFUSED]
        if any(one.taken for one in self.tried if one.expected == webhook_route.REFUSED):
            found.append(Cause.OPEN)
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Secret:
    """A webhook secret by its fingerprint, and whether it is the endpoint's own; None where that was not compared."""

    secret: str
    fingerprint: str
    endpoints_own: bool | None


def cases(environment: Deployment, secret: str) -> list[Case]:
    """Make the deliveries to try: an event of a type that nothing handles, signed in many ways."""
    event = webhook_route.probe(environment)
    compact = webhook_route.body(event)
    odd = json.dumps(event, indent="\t ").replace("\n", " \r\n").encode() + b" \n\t "
    good, other = webhook_route.header(secret, compact), webhook_route.header(webhook_route.MADE_UP, compact)
    made = [
        (COMPACT, compact, good),
        (ODD, odd, webhook_route.header(secret, odd)),
        ("valid, two signatures", compact, f"{other},{good.partition(',')[2]}"),
        (FUTURE_CASE, compact, webhook_route.header(secret, compact, -FUTURE)),
        (f"stale, {webhook_route.STALE} s old", compact, webhook_route.header(secret, compact, webhook_route.STALE)),
        ("tampered", compact.replace(b'"opslib_probe"', b'"opslib_prove"'), good),
        ("wrong secret", compact, other),
        ("malformed, test", compact, "test"),
        ("no signature", compact, None),
    ]
    return [Case(name, payload, header, webhook_route.holds(payload, header, secret)) for name, payload, header in made]


def probe(environment: Deployment, secret: str, workers: Sequence[Worker], *, good_only: bool = False) -> Probed:
    """Send the live route the cases, each as often as it takes to ask every worker; read what the API logs of them.

    With `good_only`, or where it takes none of them, those that it must take: the others leave errors in its log.
    """
    made = cases(environment, secret)
    marks = delivery_trace.mark(environment, workers)
    begun = time.time()
    good = webhook_route.asked(environment, [case for case in made if case.takes], [one.pid for one in workers])
    ended = time.time()
    found = _logged(environment, marks, sum(one.taken + one.refused for one in good))
    skew = clock_skew.measured([trace.at for trace in found if trace.at], begun, ended)
    bad = [] if good_only else webhook_route.asked_besides(environment, made, good)
    return Probed(good + bad, found, skew)


def takes(environment: Deployment, secret: str, workers: Sequence[Worker]) -> Answer:
    """Whether the live route takes all that this secret signs, as Stripe would send it."""
    found = probe(environment, secret, workers, good_only=True)
    otherwise = "; ".join(f"{cause.value}: {NEXT[cause]}" for cause in found.causes)
    return Answer(not found.causes, found.tried, otherwise)


def asked(workers: Sequence[Worker], probed: Probed) -> list[dict[str, object]]:
    """Say of each worker whether it was asked; nobody can tell where neither log nor system names one."""
    told = {one.pid: one.pid in probed.pids if probed.pids else "cannot tell" for one in workers}
    return [{"worker": one.id, "process": one.pid, "asked": told[one.pid]} for one in workers]


def unasked(workers: Sequence[Worker], probed: Probed) -> list[Finding]:
    """Give the workers that no probe has reached, where one has reached another: what they would say is not known."""
    left = [one.id for one in workers if one.pid not in probed.pids]
    what = f"worker {', '.join(map(str, left))} was not asked: no probe has reached it"
    return [Finding(what, "check_webhook_signatures", severity=Severity.NOTICE)] if left and probed.pids else []


def compared(held: Mapping[str, str], endpoint_secret: str) -> list[Secret]:
    """Compare the webhook secrets of the `.env` with the endpoint's own, which a reference names."""
    own = secret_reference.resolve(endpoint_secret, "endpoint_secret") if endpoint_secret else ""
    found = [Secret("the endpoint's", fingerprint(own), True)] if own else []
    for name in SECRETS:
        if value := held.get(name):
            same = hmac.compare_digest(value.encode(), own.encode()) if own else None
            found.append(Secret(name, fingerprint(value), same))
    return found


def found(
    probed: Probed, clocks: Answer, secrets: Sequence[Secret], deliveries: Sequence[Trace], workers: Sequence[Worker]
) -> list[Cause]:
    """Give what is wrong with the signatures now; the log only tells of the secret where it was not compared."""
    same = [one.endpoints_own for one in secrets if one.secret in SECRETS]
    wrong = [Cause.WRONG_SECRET] if same and True not in same else []
    if None in same:
        stale = Cause.STALE_SECRET in probed.causes
        wrong = [] if stale else delivery_diagnosis.standing(deliveries, workers, skew=probed.skew or 0)
    off = [Cause.CLOCK] if clocks.ok is False else []
    return list(dict.fromkeys([*wrong, *probed.causes, *off]))


def _logged(environment: Deployment, marks: Sequence[Position], expected: int) -> list[Trace]:
    """Give what was logged since the marks, as soon as it is all there."""
    ends = time.monotonic() + LOG_SECONDS
    while len(found := delivery_trace.read(environment, marks)) < expected and time.monotonic() < ends:
        time.sleep(0.05)
    return found
