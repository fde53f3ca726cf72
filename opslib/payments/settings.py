"""What an environment's file says of this domain: the Stripe account, and where the API keeps payments and events."""

from typing import Annotated, Literal

from pydantic import Field

from opslib.deployment.deployment import Reference, Url
from opslib.runbook.environment import Part

Name = Annotated[str, Field(pattern=r'^[^\x00%"]{1,63}$')]
"""A table or a column, spelt as PostgreSQL has it and without quotes: `providerIntentId`."""
Status = Annotated[str, Field(pattern=r"^[A-Za-z][\w -]{0,62}$")]


class Columns(Part):
    """The columns of the table of payments that a procedure reads or sets."""

    id: Name = "id"
    intent: Name = "provider_intent_id"
    """Stripe's intent (pi_…); null where somebody has paid by hand."""
    amount: Name = "amount"
    currency: Name = "currency"
    status: Name = "status"
    paid: Name = "paid_date"
    created: Name = "created_at"
    updated: Name = "updated_at"


class Statuses(Part):
    """What the status of a payment may be."""

    open: Annotated[tuple[Status, ...], Field(min_length=1)] = ("PENDING", "PROCESSING", "FAILED")
    """Those from which a payment may be marked paid."""
    paid: Status = "PAID"
    refunded: Annotated[str, Field(pattern=r"^([A-Za-z][\w -]{0,62})?$")] = "REFUNDED"
    """Empty where the API does not note refunds."""


class Payments(Part):
    """The table of payments: its names, and how it writes ids, amounts and statuses."""

    table: Name = "payments"
    columns: Columns = Columns()
    id_type: Literal["integer", "text", "uuid"] = "integer"
    unit: Literal["minor", "major"] = "minor"
    """What an amount is in: minor is cents, major is dollars."""
    statuses: Statuses = Statuses()


class Events(Part):
    """The table in which the API notes the events that it has taken."""

    table: Name = "webhook_events"
    id: Name = "id"
    received: Name = "received_at"


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
    new_key: Reference = "env:NEW_STRIPE_SECRET_KEY"
    new_webhook_secret: Reference = "env:NEW_STRIPE_WEBHOOK_SECRET"
    quiet_hours: Annotated[int, Field(ge=0, le=168)] = 24
    """How long an old key must have been unused before it is retired."""
    reader: Reference = ""
    """Reference to a key that may read events and endpoints and resend; empty: the API's own key may."""
    payments: Payments = Payments()
    events: Events | None = Events()
    """None (`null` in the file) where the API does not note which events it has taken."""
