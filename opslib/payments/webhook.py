"""The webhook: which signatures the live route takes, and which of Stripe's events it has not been given."""

import hashlib
import hmac
import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from urllib.parse import quote

import urllib3
from stripe import Event, StripeClient, WebhookEndpoint

from opslib.api import health
from opslib.deployment.environment import Deployment
from opslib.payments.stripe_account import pages, said, settings
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed, RunbookError

ASKS = 8
"""Times that each signature is tried, over a connection of its own, so that every worker is asked."""
PROBE = "evt_opslib_probe"
STALE = 400
"""Seconds; Stripe's libraries refuse a signature that is older than 300."""


def header(secret: str, payload: bytes, age: int = 0) -> str:
    """Sign as Stripe does (`stripe/_webhook.py`): the key is the whole `whsec_…` text, not what base64 makes of it."""
    at = int(time.time()) - age
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.' % at + payload, hashlib.sha256).hexdigest()}"


def probe(environment: Deployment) -> bytes:
    """Make an event of a type that nothing handles, always with the same id."""
    return json.dumps(
        {
            "id": PROBE,
            "object": "event",
            "type": "opslib.probe",
            "created": int(time.time()),
            "livemode": settings(environment).mode == "live",
            "data": {"object": {"id": "opslib_probe", "object": "opslib_probe"}},
        }
    ).encode()


def answers(environment: Deployment, secrets: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Send the live route events that these secrets have signed; say how often each was taken or refused.

    The event is of a type that nothing handles and always has the same id, so that its one trace is a line in a log,
    and a row where the API notes the events that it has seen. A stale signature is tried besides. The first one is
    sent once more at the end: what was refused between two that were taken, a reader of the log knows for a probe.
    """
    payload = probe(environment)
    signatures = {name: (secret, 0) for name, secret in secrets.items() if secret}
    if first := next(iter(signatures), None):
        signatures[f"{first}, {STALE} s old"] = (signatures[first][0], STALE)
    rows = {}
    for name, (secret, age) in signatures.items():
        got = Counter(send(environment, payload, header(secret, payload, age)) for _ in range(ASKS))
        rows[name] = {"signed with": name, "answer": ", ".join(f"{answer} ×{n}" for answer, n in sorted(got.items()))}
    if first and "taken" in rows[first]["answer"]:
        send(environment, payload, header(secrets[first], payload))
    return rows


def judged(rows: Mapping[str, dict[str, str]], expected: Mapping[str, str]) -> tuple[bool, list[dict[str, str]]]:
    """Whether each signature of these names got the answer that is expected, from every worker; with the evidence."""
    wrong = [name for name in expected.keys() & rows.keys() if rows[name]["answer"] != f"{expected[name]} ×{ASKS}"]
    return not wrong, list(rows.values())


def endpoint(environment: Deployment, stripe: StripeClient) -> WebhookEndpoint:
    """Give the one endpoint that delivers to the API. Raise RunbookError if there is none, or more than one."""
    path = settings(environment).webhook
    listed, problem = said(lambda: list(stripe.v1.webhook_endpoints.list({"limit": 100}).auto_paging_iter()))
    found = [one for one in listed or () if one.status == "enabled" and urllib3.util.parse_url(one.url).path == path]
    if len(found) != 1:
        raise RunbookError(
            f"found {problem or len(found)} for enabled webhook endpoints at {path}, expected one. Look at Developers "
            "> Webhooks in the Dashboard, and at `stripe.webhook` in the environment's file."
        )
    return found[0]


def undelivered(stripe: StripeClient, since: float, before: float) -> list[Event]:
    """Give the events made in that time (seconds since 1970) that not every endpoint has taken, oldest first.

    Stripe counts what it is still trying among them. Raise RunbookError if Stripe does not say.
    """
    made = {"gte": int(since), "lt": int(before)}
    return list(pages(stripe.v1.events.list, delivery_success=False, created=made))[::-1]


def all_taken(stripe: StripeClient, since: float, before: float) -> tuple[bool, list[dict[str, str]]]:
    """Whether every event of that time was taken; with those that were not. An unknown answer is no."""
    try:
        events = undelivered(stripe, since, before)
    except RunbookError as error:
        return False, [{"event": "unknown", "type": str(error)}]
    return not events, shown(events)


def shown(events: list[Event]) -> list[dict[str, str]]:
    """Rows of evidence for events."""
    return [{"event": event.id, "type": event.type, "pending": str(event.pending_webhooks)} for event in events]


def deliver(stripe: StripeClient, target: WebhookEndpoint, since: float, *, newest: bool = False) -> Change:
    """Make the change that has Stripe send again what was not taken since then, and if asked its newest event too.

    The call is that of `stripe events resend EVENT --webhook-endpoint ENDPOINT` (stripe-cli,
    pkg/cmd/resource/events_resend.go). The API must take an event twice without effect, as Stripe demands anyway.
    """

    def do() -> None:
        events = undelivered(stripe, since, time.time() + 1)
        if newest and not events:
            listed, problem = said(lambda: stripe.v1.events.list({"limit": 1}).data)
            if listed is None:
                raise ChangeFailed(f"the newest event is not known: {problem}")
            events = listed
        for event in events:
            if problem := resend(stripe, event.id, target.id):
                raise ChangeFailed(problem)

    extra = " and the newest" if newest else ""
    return Change(
        "Have Stripe send again what was not taken",
        [
            act(
                "v1.events.list({'delivery_success': False, 'created': {'gte': the beginning of the switch}})",
                f"POST /v1/events/EVENT/retry webhook_endpoint={target.id} for each{extra}",
                "as `stripe events resend` does",
                run=do,
            )
        ],
        undo=Kept("an event that was taken stays taken", matters=False),
        replaces=lambda: f"endpoint {target.id} ({target.url})",
    )


def resend(stripe: StripeClient, event: str, target: str) -> str:
    """Have Stripe send an event to an endpoint once more, as `deliver` does; say what went wrong, if anything did."""
    _, problem = said(_retry(stripe, event, target))
    return f"{event} was not sent again: {problem}. {_by_hand(event, target)}" if problem else ""


def _retry(stripe: StripeClient, event: str, target: str) -> Callable[[], object]:
    return lambda: stripe.raw_request("post", f"/v1/events/{quote(event, safe='')}/retry", webhook_endpoint=target)


def _by_hand(event: str, target: str) -> str:
    return f"By hand: stripe events resend {shlex.quote(event)} --webhook-endpoint {target}, with --live in live mode."


def send(environment: Deployment, payload: bytes, signature: str | None, url: str = "") -> str:
    """Send an event to the live route, or to another address; give `taken`, `refused`, or what came instead."""
    headers = {"Content-Type": "application/json", "Connection": "close"}
    headers |= {} if signature is None else {"Stripe-Signature": signature}
    url = url or f"{environment.api.url}{settings(environment).webhook}"
    try:
        got = urllib3.request("POST", url, body=payload, headers=headers, timeout=health.TIMEOUT, retries=False)
    except urllib3.exceptions.HTTPError as error:
        return type(error).__name__
    return {200: "taken", 400: "refused"}.get(got.status, f"HTTP {got.status}")
