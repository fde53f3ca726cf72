"""A backlog: thousands of events that were never delivered, and the payments that they tell of."""

import random
import time
from typing import Any

from . import fault, postgres
from .credentials import Credentials

PREFIX = "backlog"
CHUNK = 1000


def pile_up(
    events: int, *, refused: int = 0, attempts: int = 0, seconds: float = 216_000, name: str = PREFIX
) -> dict[str, str]:
    """Make so many undelivered events; give for each payment the state in which they must leave it.

    A twentieth are a second event of another's kind and object, a twentieth pairs of which Stripe lists the later one
    first, and a hundredth are in the database already, their answers lost. The `refused` are of a currency that only
    the release of `webhook-error` trips over, spread over the time. `attempts` says how often each is sent at once.
    """
    dice, ends = random.Random(7), dict[str, str]()
    made: list[dict[str, Any]] = []
    taken: list[tuple[str, str]] = []
    # Of the payments, of which there are at least so many.
    chosen = set(range(1, events + 1, max(1, events * 2 // 3 // refused))[:refused]) if refused else set()
    number = 0

    def add(kind: str, intent: str, currency: str, at: int) -> str:
        event = f"evt_{name}_{len(made):06}"
        made.append({"id": event, "object": "event", "type": kind, "created": at, "data": {"object": {}}})
        thing: dict[str, Any] = {
            "id": intent,
            "object": "payment_intent",
            "amount": 90_000,
            "currency": currency,
            "status": "succeeded",
        }
        if kind == "charge.refunded":
            thing = {"id": f"ch_{event}", "object": "charge", "captured": True, "paid": True, "amount": 90_000}
            thing |= {"currency": currency, "payment_intent": intent}
        made[-1]["data"]["object"] = thing
        return event

    begun = int(time.time() - seconds)
    while len(made) < events:
        intent, at = f"pi_{name}_{number:06}", begun + int(len(made) * max(0, seconds - 120) / events)
        kind = dice.random()
        number += 1
        ends[intent] = "PAID"
        if number in chosen:
            add("payment_intent.succeeded", intent, "chf", at)
            ends[intent] = "PENDING"
        elif kind < 0.05 and len(made) < events - 1:
            add("payment_intent.succeeded", intent, "usd", at)
            add("payment_intent.succeeded", intent, "usd", at + 30)
        elif kind < 0.10 and len(made) < events - 1:
            add("charge.refunded", intent, "usd", at + 1)
            add("payment_intent.succeeded", intent, "usd", at)
            ends[intent] = "REFUNDED"
        else:
            event = add("payment_intent.succeeded", intent, "usd", at)
            if kind > 0.99:
                taken.append((event, intent))
    dice.shuffle(made)
    _write(list(ends), taken)
    for start in range(0, len(made), CHUNK):
        fault.stripe("/_sandbox/events", events=made[start : start + CHUNK], attempts=attempts)
    return ends


def clear() -> None:
    """Remove what was piled up, at Stripe and in the database."""
    fault.stripe("/_sandbox/events/forget", prefix=f"evt_{PREFIX}_")
    with postgres.connect_admin(Credentials.load()) as connection:
        connection.execute("DELETE FROM webhook_events WHERE id LIKE %s", (f"evt\\_{PREFIX}\\_%",))
        connection.execute("DELETE FROM payments WHERE provider_intent_id LIKE %s", (f"pi\\_{PREFIX}\\_%",))


def states() -> dict[str, str]:
    """Give the state of each payment of the backlog."""
    query = "SELECT provider_intent_id, status::text FROM payments WHERE provider_intent_id LIKE %s"
    with postgres.connect_admin(Credentials.load()) as connection:
        return dict(connection.execute(query, (f"pi\\_{PREFIX}\\_%",)).fetchall())


def noted() -> set[str]:
    """Give the events of the backlog that the API has noted."""
    with postgres.connect_admin(Credentials.load()) as connection:
        found = connection.execute(
            "SELECT id FROM webhook_events WHERE id LIKE %s", (f"evt\\_{PREFIX}\\_%",)
        ).fetchall()
    return {name for (name,) in found}


def _write(intents: list[str], taken: list[tuple[str, str]]) -> None:
    query = (
        "INSERT INTO payments (tenant_id, property_id, amount, status, due_date, provider_intent_id)"
        " SELECT 1, 1, 90000, 'PENDING', current_date, unnest(%s::text[])"
    )
    with postgres.connect_admin(Credentials.load()) as connection:
        connection.execute(query, (intents,))
        names, paid = [event for event, _ in taken], [intent for _, intent in taken]
        note = "INSERT INTO webhook_events (id, type) SELECT unnest(%s::text[]), 'payment_intent.succeeded'"
        connection.execute(note, (names,))
        connection.execute("UPDATE payments SET status = 'PAID' WHERE provider_intent_id = ANY(%s)", (paid,))
