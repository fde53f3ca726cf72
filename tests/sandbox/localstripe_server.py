"""localstripe, on loopback only, filled with the intents of the seeded payments."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta

from aiohttp import web
from localstripe import resources
from localstripe.errors import UserError
from localstripe.server import app

from . import seed
from .layout import HOST, INTENTS, LOCALSTRIPE

GOOD_CARD = "4242424242424242"
DECLINED_CARD = "4000000000000341"


async def fill(_: web.Application) -> AsyncIterator[None]:
    """Create an intent for each seeded payment, in a state that agrees, and note their ids."""
    intents = [_intent(payment) for payment in seed.payments()]
    part = INTENTS.with_suffix(".part")
    part.write_text(json.dumps(intents))
    part.replace(INTENTS)
    yield


def _intent(payment: seed.Payment) -> str:
    before = set(resources.store)
    data = {"amount": payment.amount, "currency": "usd", "metadata": {"tenant": str(payment.tenant)}}
    if payment.status in ("PAID", "REFUNDED", "FAILED"):
        number = DECLINED_CARD if payment.status == "FAILED" else GOOD_CARD
        card = {"number": number, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
        data |= {"payment_method": resources.PaymentMethod(type="card", card=card).id, "confirm": True}
    elif payment.status == "PROCESSING":
        method = resources.PaymentMethod(type="sepa_debit", sepa_debit={"iban": "DE89370400440532013000"})
        data |= {"payment_method": method.id}
    with suppress(UserError):  # how localstripe reports the declined card
        resources.PaymentIntent._api_create(**data)
    made = {key: resources.store[key] for key in resources.store if key not in before}
    intent = next(thing for thing in made.values() if thing.object == "payment_intent")
    if payment.status == "REFUNDED":
        refund = resources.Refund(payment_intent=intent.id)
        made[refund.id] = refund
    elif payment.status == "PROCESSING":
        # A direct debit that the bank has not answered: localstripe alone would settle it in half a second.
        charge = resources.Charge(amount=payment.amount, currency="usd", source=intent.payment_method)
        charge.payment_intent = intent.id
        intent.latest_charge = charge
        made[charge.id] = charge
    for thing in made.values():
        thing.created = _when(payment)
    return str(intent.id)


def _when(payment: seed.Payment) -> int:
    when: datetime = payment.paid or payment.due - timedelta(days=1)
    return int(when.timestamp())


async def list_intents(_: web.Request) -> web.Response:
    """List the intents by what orders them: each that is shown whole takes a walk over all there is."""
    intents = [thing for key, thing in resources.store.items() if key.startswith("payment_intent:")]
    return web.json_response([{"id": intent.id, "created": intent.created} for intent in intents])


if __name__ == "__main__":
    # It would write all it holds to a fixed file outside our folder, at each change.
    resources.Store.dump_to_disk = lambda self: None
    app.router.add_get("/_config/payment_intents", list_intents)
    app.cleanup_ctx.append(fill)
    web.run_app(app, host=HOST, port=LOCALSTRIPE, access_log=None, print=None)
