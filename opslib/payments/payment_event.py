"""Payment events: those that say payments have succeeded, sent again by Stripe, and taken by the API."""

import time
from collections.abc import Mapping, Sequence
from functools import partial

from stripe import Event, StripeClient, WebhookEndpoint

from opslib.deployment.deployment import Deployment
from opslib.payments import event, intent, payment, webhook_endpoint
from opslib.payments.comparison import Comparison
from opslib.payments.stripe_account import ask, settings
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed


def of(stripe: StripeClient, planned: Sequence[Comparison], *, wait: float) -> dict[str, Event]:
    """Find the events that say these have succeeded, by intent; none where none is to be waited for."""
    return intent.events(stripe, {one.key: one.intent.charged for one in planned if one.intent}) if wait else {}


def shown(planned: Sequence[Comparison], events: Mapping[str, Event]) -> list[dict[str, str]]:
    """Say of each payment which event is to be sent again."""
    return [{"payment": one.title, "event": events[one.key].id if one.key in events else "none"} for one in planned]


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
    target = webhook_endpoint.enabled(environment, stripe)

    def await_rows() -> None:
        for one in _still_open(environment, sent, wait):
            found, problem = ask(partial(stripe.v1.events.retrieve, events[one.key].id))
            if found is None or found.pending_webhooks:
                raise ChangeFailed(_not_taken(one, target, wait, problem))

    return [
        Change(
            "Have Stripe send the missing events again",
            [
                *(event.resend(stripe, events[one.key].id, target) for one in sent),
                act(f"wait up to {wait:g} s until the API has taken them", run=await_rows),
            ],
            undo=Kept("an event that was taken stays taken", matters=False),
            replaces=lambda: f"endpoint {target.id} ({target.url})",
        )
    ]


def _still_open(environment: Deployment, sent: Sequence[Comparison], wait: float) -> list[Comparison]:
    ends, table = time.monotonic() + wait, settings(environment).payments
    with payment.connect(environment) as connection:
        while True:
            rows = payment.named(connection, table, [one.key for one in sent])
            left = [one for one in sent if any(row.status in table.statuses.open for row in rows[one.key])]
            if not left or time.monotonic() > ends:
                return left
            time.sleep(0.3)


def _not_taken(one: Comparison, target: WebhookEndpoint, wait: float, problem: str) -> str:
    why = f" ({problem})" if problem else ""
    return (
        f"{one.title}: its event was sent to {target.url} and not taken within {wait:g} s{why}. "
        "Run triage_stripe_webhooks: it says why. To update the row without its event: -p wait_seconds 0"
    )
