"""What an environment's file says of this domain: the Stripe account."""

from typing import Annotated, Literal

from pydantic import Field

from opslib.deployment.deployment import Url
from opslib.runbook.environment import Part


class Stripe(Part):
    """The Stripe account: what its keys must be, and where a person puts what only the Dashboard gives."""

    mode: Literal["live", "test"]
    account: Annotated[str, Field(pattern="^(acct_.+)?$")] = ""
    """The account's id, checked where the key may ask for it; empty does not check."""
    url: Url = "https://api.stripe.com"
    needs: tuple[Annotated[str, Field(pattern="^[a-z][a-z_]+$")], ...] = (
        "balance",
        "charges",
        "events",
        "payment_intents",
        "refunds",
        "webhook_endpoints",
    )
    """What the API's key must be permitted, each proven by one GET: services of `StripeClient.v1`."""
    webhook: Annotated[str, Field(pattern="^/")] = "/api/webhooks/stripe"
    """The path that Stripe delivers events to."""
    endpoint: Annotated[str, Field(pattern="^(we_.+)?$")] = ""
    """The id of the webhook endpoint that delivers to the API, where more than one has that path."""
    handles: Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)+$")], ...], Field(max_length=20)] = (
        "charge.refunded",
        "payment_intent.canceled",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
    )
    """The types of event that the API acts on; Stripe lists at most twenty at once."""
    new_key: str = "env:NEW_STRIPE_SECRET_KEY"
    new_webhook_secret: str = "env:NEW_STRIPE_WEBHOOK_SECRET"
    quiet_hours: Annotated[int, Field(ge=0, le=168)] = 24
    """How long an old key must have been unused before it is retired."""
    reader: str = ""
    """Reference to a key that may read events and endpoints and resend; empty: the API's own key may."""
