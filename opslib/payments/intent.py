"""A payment intent as Stripe has it: asked for one by one or page by page, and the event that says it has succeeded.

Only GETs. Fields: docs.stripe.com/api/payment_intents/object and /api/charges/object. What Stripe did not say is None,
and None equals nothing that is expected.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from stripe import Event, InvalidRequestError, StripeClient

from opslib.payments import event as stripe_event, stripe_account
from opslib.payments.event import KEPT
from opslib.payments.reception import SUCCEEDED
from opslib.payments.stripe_account import pages
from opslib.runbook.errors import RunbookError

FEW = 20
"""How many are asked for one by one; more than that are looked for in Stripe's list first."""
SLACK = 3600
"""Seconds by which a row may be older or newer than its intent."""


@dataclass(frozen=True)
class Intent:
    """What Stripe says of an intent and of its latest charge; amounts in minor units, times in seconds since 1970."""

    id: Any
    status: Any
    amount: Any
    received: Any
    currency: Any
    live: Any
    charge: Any
    charged: Any
    charge_currency: Any
    charge_paid: Any
    captured: Any
    refunded: Any
    amount_refunded: Any
    disputed: Any


def retrieve(stripe: StripeClient, name: str) -> Intent | None:
    """Ask for one; None if Stripe does not know it. Raise StripeError for anything else."""
    try:
        return _read(stripe.v1.payment_intents.retrieve(name, {"expand": ["latest_charge"]}))
    except InvalidRequestError as error:
        if error.http_status == 404:
            return None
        raise


def ask(stripe: StripeClient, wanted: Mapping[str, float]) -> dict[str, Intent]:
    """Ask for these, each with the time that its row was made; give those that Stripe knows.

    The list is not read further than it saves questions. Raise RunbookError if Stripe does not say.
    """
    found: dict[str, Intent] = {}
    if len(wanted) > FEW:
        span = {"gte": int(min(wanted.values())) - SLACK, "lte": int(max(wanted.values())) + SLACK}
        found = {one.id: one for one in islice(listed(stripe, span), 100 * len(wanted)) if one.id in wanted}
    for name in [name for name in wanted if name not in found]:
        one, problem = stripe_account.ask(partial(retrieve, stripe, name))
        if problem:
            raise RunbookError(f"what Stripe has of {name} is not known: {problem}. Run again when Stripe answers.")
        if one is not None:
            found[name] = one
    return found


def listed(stripe: StripeClient, span: Mapping[str, int]) -> Iterator[Intent]:
    """Give the intents that were made in that time, newest first."""
    asked = pages(stripe.v1.payment_intents.list, created=dict(span), expand=["data.latest_charge"])
    return map(_read, asked)


def events(stripe: StripeClient, wanted: Mapping[str, float]) -> dict[str, Event]:
    """Find the events that say these have succeeded, each with the time of its charge.

    Undelivered ones first, which are few; then those from the charges on, no further than it is worth.
    """
    found: dict[str, Event] = {}
    if not wanted:
        return found
    first = int(max(min(wanted.values()) - 60, time.time() - KEPT))
    spans: list[dict[str, Any]] = [
        {"since": first, "undelivered": True},
        {"since": first, "before": max(wanted.values()) + SLACK},
    ]
    for asked in spans:
        for event in islice(stripe_event.listed(stripe, types=[SUCCEEDED], **asked), 1000 + 100 * len(wanted)):
            if event.data.object.id in wanted:
                found.setdefault(event.data.object.id, event)
            if len(found) == len(wanted):
                return found
    return found


def _read(answer: object) -> Intent:
    charge = getattr(answer, "latest_charge", None)
    return Intent(
        id=getattr(answer, "id", None),
        status=getattr(answer, "status", None),
        amount=getattr(answer, "amount", None),
        received=getattr(answer, "amount_received", None),
        currency=getattr(answer, "currency", None),
        live=getattr(answer, "livemode", None),
        charge=getattr(charge, "id", None),
        charged=getattr(charge, "created", None),
        charge_currency=getattr(charge, "currency", None),
        charge_paid=getattr(charge, "paid", None),
        captured=getattr(charge, "captured", None),
        refunded=getattr(charge, "refunded", None),
        amount_refunded=getattr(charge, "amount_refunded", None),
        disputed=getattr(charge, "disputed", None),
    )
