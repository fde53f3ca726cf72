"""Webhook endpoints: where Stripe sends events, which of them, and whether it does."""

from collections.abc import Sequence
from dataclasses import dataclass

import urllib3
from stripe import StripeClient, WebhookEndpoint

from opslib.deployment.environment import Deployment
from opslib.payments import webhook
from opslib.payments.cause import Cause
from opslib.payments.stripe_account import pages, said, settings
from opslib.runbook.act import act
from opslib.runbook.change import Change
from opslib.runbook.errors import ChangeFailed, RunbookError, UndoFailed


@dataclass(frozen=True)
class Endpoints:
    """All endpoints of the account that the key may see; `reached` is what their addresses answered to a probe."""

    environment: Deployment
    listed: Sequence[WebhookEndpoint]
    reached: dict[str, str]

    @property
    def ours(self) -> WebhookEndpoint | None:
        """The endpoint whose address has the API's route: one that is enabled, else one that is not."""
        path = settings(self.environment).webhook
        here = [one for one in self.listed if urllib3.util.parse_url(one.url).path == path]
        return min(here, key=lambda one: one.status != "enabled", default=None)

    @property
    def lacks(self) -> list[str]:
        """The types that the API acts on and that this endpoint is not sent."""
        sent = set(self.ours.enabled_events if self.ours else ())
        return [] if "*" in sent else [kind for kind in settings(self.environment).handles if kind not in sent]

    @property
    def causes(self) -> list[Cause]:
        """What keeps Stripe from sending events to the API now."""
        if self.ours is None:
            return [Cause.WRONG_URL]
        found = [Cause.DISABLED] if self.ours.status != "enabled" else []
        found += [Cause.NOT_ENABLED] if self.lacks else []
        # Not what the address answers: its route may be as ill as the one that is asked directly.
        return found + (
            [Cause.WRONG_URL] if self.reached.get(self.ours.id, "").startswith(("HTTP 3", "HTTP 4")) else []
        )

    @property
    def first(self) -> int:
        """When the first of the API's endpoints was made, in seconds since 1970."""
        return int(self.ours.created) if self.ours else 0

    @property
    def rows(self) -> list[dict[str, str]]:
        """Rows of evidence."""
        return [
            {
                "endpoint": one.id,
                "address": one.url,
                "state": one.status,
                "events": ", ".join(one.enabled_events),
                "a probe sent there": self.reached.get(one.id, "not sent: not the API's route"),
            }
            for one in self.listed
        ]


def read(environment: Deployment, stripe: StripeClient, secret: str) -> Endpoints:
    """Ask Stripe for the endpoints, and send each address with the API's route a probe that this secret has signed.

    Raise RunbookError if Stripe does not say.
    """
    listed = list(pages(stripe.v1.webhook_endpoints.list))
    path, reached = settings(environment).webhook, {}
    for one in listed:
        if urllib3.util.parse_url(one.url).path == path:
            payload = webhook.probe(environment)
            reached[one.id] = webhook.send(environment, payload, webhook.header(secret, payload), one.url)
    return Endpoints(environment, listed, reached)


def the_one(endpoints: Endpoints) -> WebhookEndpoint:
    """Give the endpoint that delivers to the API. Raise RunbookError if there is none."""
    if endpoints.ours is None:
        raise RunbookError(
            f"found no webhook endpoint at {settings(endpoints.environment).webhook}, expected one. Look at Developers "
            "> Webhooks in the Dashboard, and at `stripe.webhook` in the environment's file."
        )
    return endpoints.ours


def enable(endpoints: Endpoints, stripe: StripeClient) -> Change:
    """Make the change that has Stripe send the API's endpoint all types that the API acts on."""
    one = the_one(endpoints)
    before = {"disabled": one.status != "enabled", "enabled_events": list(one.enabled_events)}
    after = {"disabled": False, "enabled_events": [*one.enabled_events, *endpoints.lacks]}

    def update(to: dict[str, object]) -> str:
        return said(lambda: stripe.v1.webhook_endpoints.update(one.id, to))[1]  # type: ignore[arg-type]

    def do() -> None:
        if problem := update(after):
            raise ChangeFailed(
                f"{one.id} was not enabled: {problem}. Enable it in the Dashboard, Developers > Webhooks."
            )

    def undo() -> None:
        if problem := update(before):
            raise UndoFailed(f"{one.id} is not as it was: {problem}. It should be {before}.")

    def replaces() -> str:
        found, problem = said(lambda: stripe.v1.webhook_endpoints.retrieve(one.id))
        return f"{one.id}: {problem or (found and f'{found.status}, ' + ', '.join(found.enabled_events))}"

    return Change(
        "Have Stripe send events to the API's endpoint",
        [act(f"v1.webhook_endpoints.update({one.id!r}, {after})", run=do)],
        undo=[act(f"v1.webhook_endpoints.update({one.id!r}, {before})", run=undo)],
        replaces=replaces,
    )
