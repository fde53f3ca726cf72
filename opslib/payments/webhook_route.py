"""The webhook route: what is sent to the live one, signed in some way, and what it does with that."""

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import urllib3
from stripe import SignatureVerificationError, WebhookSignature

from opslib.api import health
from opslib.deployment.deployment import Deployment
from opslib.payments.stripe_account import settings
from opslib.runbook.answer import Answer

ASKS = 8
"""Times that each signature is tried, over a connection of its own, so that every worker is asked."""
PROBE = "evt_opslib_probe"
TOLERANCE = 300
"""Seconds that a signature may be old; Stripe's libraries have this default, and take one from the future."""
STALE = 400
TAKEN, REFUSED = "taken", "refused"
MADE_UP = "whsec_madeup"


@dataclass(frozen=True)
class Case:
    """One delivery to try; `takes` is whether a route that checks signatures takes it."""

    name: str
    payload: bytes = field(repr=False)
    header: str | None = field(repr=False)
    takes: bool


@dataclass(frozen=True)
class Tried:
    """What the live route did with a case: how often it took and refused it, and what came instead of either."""

    signature: str
    expected: str
    taken: int
    refused: int
    instead: str
    pids: frozenset[int] = field(default=frozenset(), repr=False)
    """The processes that answered, as far as the system tells."""

    @property
    def well(self) -> bool:
        """Whether every worker did as expected."""
        return not self.instead and not (self.refused if self.expected == TAKEN else self.taken)


def header(secret: str, payload: bytes, age: int = 0) -> str:
    """Sign as Stripe does, so many seconds ago: the key is the whole `whsec_…` text, not what base64 makes of it."""
    return str(WebhookSignature.generate_signature_header(payload.decode(), secret, int(time.time()) - age))


def holds(payload: bytes, header: str | None, secret: str) -> bool:
    """Whether a signature of this secret holds now, as the route must say."""
    try:
        return bool(WebhookSignature.verify_header(payload.decode(), header, secret, TOLERANCE))
    except SignatureVerificationError:
        return False


def probe(environment: Deployment, name: str = "opslib_probe") -> dict[str, object]:
    """Make an event of a type that nothing handles, always with the same id.

    Its one trace is a line in a log, and a row where the API notes the events that it has seen.
    """
    return {
        "id": PROBE,
        "object": "event",
        "type": "opslib.probe",
        "created": int(time.time()),
        "livemode": settings(environment).mode == "live",
        "data": {"object": {"id": name, "object": "opslib_probe", "metadata": {"name": "Zoë <b>'; --"}}},
    }


def body(event: Mapping[str, object]) -> bytes:
    """Write an event as compactly as Stripe does."""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def tells(
    environment: Deployment, *, takes: Mapping[str, str], refuses: Mapping[str, str] = MappingProxyType({})
) -> Answer:
    """Whether the live route takes what these secrets have signed now, and refuses these others, by name.

    It must also refuse one that is made up, and a signature that is old.
    """
    payload = body(probe(environment))
    cases = [Case(name, payload, header(secret, payload), True) for name, secret in takes.items() if secret]
    bad = {**refuses, "one made up": MADE_UP}
    cases += [Case(name, payload, header(secret, payload), False) for name, secret in bad.items() if secret]
    cases += [Case(f"{name}, {STALE} s old", payload, header(secret, payload, STALE), False)
              for name, secret in takes.items() if secret]  # fmt: skip
    found = asked(environment, [case for case in cases if case.takes])
    found += asked_besides(environment, cases, found)
    otherwise = "check_webhook_signatures says what is wrong."
    return Answer(len(found) == len(cases) and all(one.well for one in found), found, otherwise)


def asked(environment: Deployment, cases: Sequence[Case], among: Collection[int] = ()) -> list[Tried]:
    """Send each as often as it takes to ask every worker; note which `among` these processes answered."""
    return [_asked(environment, case, among) for case in cases]


def asked_besides(environment: Deployment, cases: Sequence[Case], found: Sequence[Tried]) -> list[Tried]:
    """Send those that it must refuse, between two that it has taken, if there is one.

    By that a reader of the log knows that they were no events of Stripe's.
    """
    taken = {one.signature for one in found if one.taken}
    between = [case for case in cases if case.name in taken]
    bad = [case for case in cases if not case.takes]
    if not between or not bad:
        return []
    besides = asked(environment, bad)
    send(environment, between[-1].payload, between[-1].header)
    return besides


def url(environment: Deployment) -> str:
    """Give where the API takes Stripe's events on this machine."""
    return f"{environment.api.url}{settings(environment).webhook}"


def send(environment: Deployment, payload: bytes, signature: str | None, to: str = "") -> str:
    """Send an event to the live route, or to another address; give TAKEN, REFUSED, or what came instead."""
    return _sent(environment, payload, signature, to)[0]


def _sent(
    environment: Deployment, payload: bytes, signature: str | None, to: str = "", among: Collection[int] = ()
) -> tuple[str, int]:
    """Send it; give the answer, and which `among` these processes gave it: 0 where nobody can tell."""
    # The connection is to be open still when the system is asked whose its other end is.
    headers = {"Content-Type": "application/json"} | ({} if among else {"Connection": "close"})
    headers |= {} if signature is None else {"Stripe-Signature": signature}
    to = to or url(environment)
    try:
        with urllib3.PoolManager(timeout=health.TIMEOUT, retries=False) as connections:
            got = connections.request("POST", to, body=payload, headers=headers, preload_content=False)
            pid = health.owner(health.near_end(got.connection), among)
            got.drain_conn()
    except urllib3.exceptions.HTTPError as error:
        return type(error).__name__, 0
    return {200: TAKEN, 400: REFUSED}.get(got.status, f"HTTP {got.status}"), pid


def _asked(environment: Deployment, case: Case, among: Collection[int] = ()) -> Tried:
    got, pids = Counter[str](), set[int]()
    for _ in range(ASKS):
        answer, pid = _sent(environment, case.payload, case.header, among=among)
        got[answer] += 1
        pids.add(pid)
        if "Timeout" in answer:  # the others would take as long
            break
    instead = ", ".join(f"{answer} ×{n}" for answer, n in sorted(got.items()) if answer not in (TAKEN, REFUSED))
    return Tried(case.name, TAKEN if case.takes else REFUSED, got[TAKEN], got[REFUSED], instead, frozenset(pids - {0}))
