"""Webhook signatures: which of them a route must take, which it does take, and what is wrong where the two differ."""

import hashlib
import hmac
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from opslib.api import log
from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.deployment import reference
from opslib.deployment.env_file import fingerprint
from opslib.deployment.environment import Deployment
from opslib.payments import clock, delivery_diagnosis, trace as traces, webhook
from opslib.payments.cause import FROM_ANYBODY, Cause
from opslib.payments.stripe_account import settings
from opslib.payments.trace import Trace

TOLERANCE = 300
"""Seconds that a signature may be old; Stripe's libraries have this default, and take one from the future."""
FUTURE = 600
LOG_SECONDS = 2
"""How long a line may take from a worker to its log."""
SECRETS = ("STRIPE_WEBHOOK_SECRET", "STRIPE_WEBHOOK_SECRET_PREVIOUS")
FROM_OTHERS = {*FROM_ANYBODY, *delivery_diagnosis.UNPROBED}
"""What may be logged of others while the probes are taken."""
COMPACT, ODD, FUTURE_CASE = "valid, compact", "valid, odd white space", f"valid, {FUTURE} s in the future"


@dataclass(frozen=True)
class Case:
    """One delivery to try; `takes` is whether a route that checks signatures takes it."""

    name: str
    payload: bytes = field(repr=False)
    header: str | None = field(repr=False)
    takes: bool


@dataclass(frozen=True)
class Probed:
    """What the live route did with the cases, and what the API logged of them."""

    rows: list[dict[str, str]]
    answers: dict[str, Counter[str]]
    wrong: list[str]
    """The names of the cases that were answered otherwise than expected."""
    traces: list[Trace]
    skew: float | None
    """Seconds by which the API's clock is fast, by the times in its log; None if the log does not tell."""
    pids: set[int]
    """The workers that have logged a case."""

    @property
    def causes(self) -> list[Cause]:
        """What is wrong now, what keeps most events out first."""
        plain, found = self.answers[COMPACT], []
        if not plain.keys() & {"taken", "refused"}:
            if any("ReadTimeout" in answer for answer in plain):
                found.append(Cause.SLOW)
            elif not any(trace.cause is Cause.APP_ERROR for trace in self.traces):
                found.append(Cause.UNREACHABLE)
        logged = {trace.cause for trace in self.traces if trace.cause}
        said = [cause for cause in Cause if cause in logged and cause is not Cause.REFUSED]
        found += [cause for cause in said if cause not in FROM_OTHERS]
        if not plain.keys() - {"taken"} and self.answers[ODD].keys() - {"taken"}:
            found.append(Cause.PARSED)  # parsed and written again, which only a compact body survives
        ahead = self.answers[FUTURE_CASE]
        only_ahead = "refused" in plain and not ahead.keys() - {"taken"}
        if only_ahead or abs(self.skew or 0) > clock.APART:
            found.append(Cause.CLOCK)
        if "refused" in plain and not found:
            # Signed as the `.env` says: who does not find that right holds another.
            stale = {Cause.SPACED_SECRET: Cause.STALE_SECRET, Cause.WRONG_SECRET: Cause.STALE_SECRET}
            found += [stale.get(cause, cause) for cause in said] or [Cause.REFUSED]
        if any("taken" in self.answers[name] for name in self.wrong if not name.startswith("valid")):
            found.append(Cause.OPEN)
        return list(dict.fromkeys(found))


def verdict(payload: bytes, header: str | None, secrets: Iterable[str], at: float) -> bool:
    """Whether a signature of one of these secrets holds at that time (seconds since 1970), as the route must say.

    As stripe/_webhook.py and node-stripe's src/Webhooks.ts: the last `t`, any `v1`, other schemes ignored, no limit
    to how far in the future.
    """
    pairs = [item.split("=") for item in (header or "").split(",")]
    stamps = [pair[1] for pair in pairs if pair[0] == "t" and len(pair) > 1]
    given = [pair[1].encode() for pair in pairs if pair[0] == "v1" and len(pair) > 1]
    if not stamps or not re.fullmatch(r"\d{1,15}", stamps[-1]):
        return False
    signed = f"{int(stamps[-1])}.".encode() + payload
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode() for secret in secrets if secret]
    matches = [hmac.compare_digest(one, other) for one in made for other in given]
    return any(matches) and int(at) - int(stamps[-1]) <= TOLERANCE


def cases(environment: Deployment, secret: str) -> list[Case]:
    """Make the deliveries to try: an event of a type that nothing handles and always the same id, signed in many ways.

    Its one trace is a line in a log and a row where the API notes the events that it has seen.
    """
    event = {
        "id": webhook.PROBE,
        "object": "event",
        "type": "opslib.probe",
        "created": int(time.time()),
        "livemode": settings(environment).mode == "live",
        "data": {"object": {"id": "opslib_probe", "object": "opslib_probe", "metadata": {"name": "Zoë <b>'; --"}}},
    }
    compact = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    odd = json.dumps(event, indent="\t ").replace("\n", " \r\n").encode() + b" \n\t "
    good, other = webhook.header(secret, compact), webhook.header("whsec_madeup", compact)
    made = [
        (COMPACT, compact, good),
        (ODD, odd, webhook.header(secret, odd)),
        ("valid, two signatures", compact, f"{other},{good.partition(',')[2]}"),
        (FUTURE_CASE, compact, webhook.header(secret, compact, -FUTURE)),
        (f"stale, {webhook.STALE} s old", compact, webhook.header(secret, compact, webhook.STALE)),
        ("tampered", compact.replace(b'"opslib_probe"', b'"opslib_prove"'), good),
        ("wrong secret", compact, other),
        ("malformed, test", compact, "test"),
        ("no signature", compact, None),
    ]
    now = time.time()
    return [Case(name, payload, header, verdict(payload, header, [secret], now)) for name, payload, header in made]


def probe(environment: Deployment, secret: str, workers: Sequence[Worker], *, good_only: bool = False) -> Probed:
    """Send the live route the cases, each as often as it takes to ask every worker; read what the API logs of them.

    With `good_only`, or where it takes none of them, those that it must take: the others leave errors in its log.
    """
    made = cases(environment, secret)
    marks = log.mark(position.path for worker in workers for position in worker.logs)
    begun = time.time()
    good = {case.name: _asked(environment, case) for case in made if case.takes}
    ended = time.time()
    traces = _logged(environment, marks, sum(answers.total() for answers in good.values()))
    skew = clock.skew([trace.at for trace in traces if trace.at], begun, ended)
    answers = dict(good)
    # What must be refused is only sent between what is taken: that tells a reader of the log that it was no event.
    if not good_only and any("taken" in got for got in good.values()):
        answers |= {case.name: _asked(environment, case) for case in made if not case.takes}
        webhook.send(environment, made[0].payload, webhook.header(secret, made[0].payload, -FUTURE))
    expected = {case.name: "taken" if case.takes else "refused" for case in made}
    rows = [
        {
            "signature": name,
            "expected": expected[name],
            "answer": ", ".join(f"{answer} ×{n}" for answer, n in sorted(got.items())),
        }
        for name, got in answers.items()
    ]
    wrong = [name for name, got in answers.items() if got.keys() != {expected[name]}]
    return Probed(rows, answers, wrong, traces, skew, {trace.pid for trace in traces})


def compared(held: Mapping[str, str], endpoint_secret: str) -> list[dict[str, str]]:
    """Compare the webhook secrets of the `.env` with the endpoint's own, which a reference names; by fingerprints."""
    own = reference.resolve(endpoint_secret, "endpoint_secret") if endpoint_secret else ""
    rows = (
        [] if not own else [{"secret": "the endpoint's", "fingerprint": fingerprint(own), "is the endpoint's": "yes"}]
    )
    for name in SECRETS:
        if value := held.get(name):
            same = ("yes" if hmac.compare_digest(value.encode(), own.encode()) else "no") if own else "not compared"
            rows.append({"secret": name, "fingerprint": fingerprint(value), "is the endpoint's": same})
    return rows


def found(
    probed: Probed,
    clocks: Sequence[dict[str, str]],
    secrets: Sequence[dict[str, str]],
    deliveries: Sequence[Trace],
    workers: Sequence[Worker],
) -> list[Cause]:
    """Give what is wrong with the signatures now; the log only tells of the secret where it was not compared."""
    same = [row["is the endpoint's"] for row in secrets if row["secret"] in SECRETS]
    wrong = [Cause.WRONG_SECRET] if same and "yes" not in same else []
    if "not compared" in same:
        stale = Cause.STALE_SECRET in probed.causes
        wrong = [] if stale else delivery_diagnosis.standing(deliveries, workers, skew=probed.skew or 0)
    off = [] if clock.agree(clocks) else [Cause.CLOCK]
    return list(dict.fromkeys([*wrong, *probed.causes, *off]))


def _asked(environment: Deployment, case: Case) -> Counter[str]:
    got: Counter[str] = Counter()
    for _ in range(webhook.ASKS):
        got[answer := webhook.send(environment, case.payload, case.header)] += 1
        if "Timeout" in answer:  # the others would take as long
            break
    return got


def _logged(environment: Deployment, marks: Sequence[Position], expected: int) -> list[Trace]:
    """Give what was logged since the marks, as soon as it is all there."""
    ends = time.monotonic() + LOG_SECONDS
    while len(found := traces.read(environment, marks)) < expected and time.monotonic() < ends:
        time.sleep(0.05)
    return found
