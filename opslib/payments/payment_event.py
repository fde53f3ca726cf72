"""Payment events: those that say payments have succeeded, sent again by Stripe, and taken by the API."""

import time
from collections.abc import Mapping, Sequence

from stripe import Event, StripeClient, WebhookEndpoint

from opslib.deployment.environment import Deployment
from opslib.payments import payment, webhook
from opslib.payments.comparison import Comparison
from opslib.payments.payment import OPEN
from opslib.payments.stripe_account import said
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed


def replay(
    environment: Deployment,
    stripe: StripeClient,
    planned: Sequence[Comparison],
    events: Mapping[str, Event],
    *,
    wait: float,
) -> list[Change]:
    """Make the change that has Stripe send the events of these payments again, and waits for their rows.

    `events` are by intent, `wait` is seconds. Fails if the API does not take one; one that it takes without effect, as
    it does one that it has seen before, is left to what comes after.
    """
    sent = [one for one in planned if one.key in events]
    if not sent:
        return []
    target = webhook.endpoint(environment, stripe)

    def do() -> None:
        for one in sent:
            if problem := webhook.resend(stripe, events[one.key].id, target.id):
                raise ChangeFailed(problem)
        for one in _still_open(environment, sent, wait):
            event, problem = said(lambda one=one: stripe.v1.events.retrieve(events[one.key].id))  # type: ignore[misc]
            if event is None or event.pending_webhooks:
                raise ChangeFailed(_not_taken(one, target, wait, problem))

    return [
        Change(
            "Have Stripe send the missing events again",
            [
                act(
                    f"to {target.id}, as `stripe events resend EVENT --webhook-endpoint` does:",
                    *(f"POST /v1/events/{events[one.key].id}/retry for {one.title}" for one in sent),
                    run=do,
                )
            ],
            undo=Kept("an event that was taken stays taken", matters=False),
            replaces=lambda: f"endpoint {target.id} ({target.url})",
        )
    ]


def _still_open(environment: Deployment, sent: Sequence[Comparison], wait: float) -> list[Comparison]:
    ends = time.monotonic() + wait
    with payment.connect(environment) as connection:
        while True:
            rows = payment.named(connection, [one.key for one in sent])
            left = [one for one in sent if any(row.status in OPEN for row in rows[one.key])]
            if not left or time.monotonic() > ends:
                return left
            time.sleep(0.3)


def _not_taken(one: Comparison, target: WebhookEndpoint, wait: float, problem: str) -> str:
    why = f" ({problem})" if problem else ""
    return (
        f"{one.title}: its event was sent to {target.url} and not taken within {wait:g} s{why}. "
        "Run triage_stripe_webhooks: it says why. To update the row without its event: -p wait_seconds 0"
    )
