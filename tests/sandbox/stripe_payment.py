"""Payment intents in the shapes of the Stripe API that localstripe cannot make, or not by the hundred.

Fields: docs.stripe.com/api/payment_intents/object and /api/charges/object, those that somebody here reads.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

CHARGED = {"succeeded", "processing", "requires_capture"}


@dataclass(frozen=True)
class Payment:
    """What is to be made; amounts in minor units. `event` is the state of its `payment_intent.succeeded`."""

    amount: int
    status: str = "succeeded"
    currency: str = "usd"
    received: int | None = None
    """What arrived, where that is not all of it."""
    refunded: int = 0
    disputed: bool = False
    livemode: bool = False
    age: int = 3600
    """Seconds since the intent and its charge were made."""
    event: str = "none"
    """none, undelivered (given up), or delivered."""


def intent(made: Payment) -> Json:
    """Give the intent, with its latest charge expanded."""
    name, created = f"pi_{secrets.token_hex(12)}", int(time.time()) - made.age
    succeeded, received = made.status == "succeeded", made.amount if made.received is None else made.received
    shared: Json = {"amount": made.amount, "currency": made.currency, "livemode": made.livemode, "created": created}
    charge: Json = {
        **shared,
        "id": f"ch_{secrets.token_hex(12)}",
        "object": "charge",
        "payment_intent": name,
        # Stripe calls a charge paid too that is only authorised.
        "status": "pending" if made.status == "processing" else "succeeded",
        "paid": made.status != "processing",
        "captured": made.status != "requires_capture",
        "amount_captured": received if succeeded else 0,
        "amount_refunded": made.refunded,
        "refunded": made.refunded >= made.amount,
        "disputed": made.disputed,
    }
    return {
        **shared,
        "id": name,
        "object": "payment_intent",
        "status": made.status,
        "amount_received": received if succeeded else 0,
        "amount_capturable": made.amount if made.status == "requires_capture" else 0,
        "capture_method": "manual" if made.status == "requires_capture" else "automatic_async",
        "latest_charge": charge if made.status in CHARGED else None,
        "metadata": {},
    }


def event(made: Json) -> Json:
    """Give the event that says it has succeeded."""
    return {
        "id": f"evt_{secrets.token_hex(12)}",
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": made["created"] + 1,
        "livemode": made["livemode"],
        "request": {"id": None, "idempotency_key": None},
        "data": {"object": collapsed(made)},
    }


def collapsed(made: Json) -> Json:
    """Give it as the API does where nothing is expanded."""
    charge = made["latest_charge"]
    return made | {"latest_charge": charge["id"] if isinstance(charge, dict) else charge}
