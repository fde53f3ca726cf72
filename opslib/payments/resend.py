"""One event that Stripe sends again, to see whether the API takes what Stripe itself has signed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from stripe import StripeClient, WebhookEndpoint

from opslib.api import log
from opslib.api.log import Position
from opslib.api.pm2 import Worker
from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.payments import trace as traces, webhook
from opslib.payments.stripe_account import pages, said, settings
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed, RunbookError

LATEST = "SELECT id FROM webhook_events WHERE id <> %s ORDER BY received_at DESC LIMIT 5"
SETTLED = "SELECT 1 FROM payments WHERE provider_intent_id = %s AND status IN ('PAID', 'REFUNDED')"
SUCCEEDED = "payment_intent.succeeded"
LOOKED = 500
"""Events among which one is looked for that would change nothing."""


@dataclass
class Resend:
    """The event is sent once; what the workers log from then on tells how it ended."""

    environment: Deployment
    stripe: StripeClient
    target: WebhookEndpoint
    event: str
    workers: Sequence[Worker]
    marks: list[Position] = field(default_factory=list)

    def change(self) -> Change:
        """Make the change that has Stripe send it."""

        def do() -> None:
            self.marks[:] = log.mark(position.path for worker in self.workers for position in worker.logs)
            if problem := webhook.resend(self.stripe, self.event, self.target.id):
                raise ChangeFailed(problem)

        return Change(
            "Have Stripe send an event again that changes nothing",
            [act(f"POST /v1/events/{self.event}/retry webhook_endpoint={self.target.id}", run=do)],
            undo=Kept("the event has no effect a second time", matters=False),
            replaces=lambda: f"endpoint {self.target.id}",
        )

    def taken(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether the API has logged that it took the event; with what it logged since."""
        found = traces.read(self.environment, self.marks)
        rows = [{"event": t.event, "outcome": t.outcome, "refused as": t.cause or "", "log": t.said} for t in found]
        return any(trace.event == self.event for trace in found), rows[-5:]


def harmless(environment: Deployment, stripe: StripeClient, database: Connection) -> str:
    """Give an event that the API has taken before, else one that it does not act on, else of a payment that is paid.

    Raise RunbookError if Stripe has neither, or does not say.
    """
    for row in database.execute(LATEST, [webhook.PROBE]).fetchall():
        name = row["id"]
        if said(lambda name=name: stripe.v1.events.retrieve(name))[0] is not None:  # type: ignore[misc]
            return str(name)
    acted_on = settings(environment).handles
    for event in islice(pages(stripe.v1.events.list), LOOKED):
        if event.type not in acted_on:
            return str(event.id)
        if event.type == SUCCEEDED and database.execute(SETTLED, [event.data.object.id]).fetchone():
            return str(event.id)
    raise RunbookError(
        "found no event at Stripe that would change nothing, expected one that the API has taken in the last 30 days. "
        "Send one from the Dashboard (Developers > Events > Resend), and look into the API's log."
    )
