"""Deliveries: which of Stripe's events of a time the API has, which it has not, and why not.

Of the events that the API has and Stripe has delivered only their number is kept, for each part of the time.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from stripe import Event as StripeEvent, StripeClient

from opslib.deployment.deployment import Deployment
from opslib.payments import event
from opslib.payments.delivery_cause import Cause
from opslib.payments.delivery_diagnosis import Judge
from opslib.payments.reception import Reception
from opslib.payments.stripe_account import settings

BATCH = 500
SENDING = 30
"""Seconds in which a first delivery may be under way."""
BUCKETS = 24
WIDTH = 40
"""Columns of the longest bar."""
SHOWN = 20
"""Rows of a table of events."""


@dataclass(slots=True)
class Event:
    """One event that the API has not, or that Stripe takes to be undelivered; the state of the payment it is about."""

    made: datetime
    event: str
    type: str
    object: str
    payment: str
    sent: bool = field(repr=False)
    taken: bool = field(repr=False)
    cause: str = ""


class Deliveries:
    """The events of a time, in seconds since 1970, as Stripe and the API's database tell of them."""

    def __init__(self, since: float, before: float) -> None:
        self.since, self.before = int(since), int(before)
        self._events: dict[str, Event] = {}  # newest first
        self._bars: Counter[tuple[int, bool]] = Counter()

    def add(self, events: Iterable[StripeEvent], reception: Reception, first: int) -> None:
        """Take in events of Stripe's, which come newest first, beside what the reception tells of them.

        What was made before `first` (seconds since 1970), when the API had no endpoint, is owed to nobody.
        """
        found = iter(events)
        while batch := list(islice(found, BATCH)):
            things = {one.id: _thing(one) for one in batch}
            taken = reception.taken(things)
            intents = {name: _intent(thing) for name, thing in things.items()}
            states = reception.states([intent for intent in intents.values() if intent])
            for one in batch:
                noted, sent, state = one.id in taken, one.pending_webhooks > 0, states.get(intents[one.id], "")
                has = reception.has(one.type, noted=noted, sent=sent, state=state)
                if one.id in self._events or not (noted or sent or one.created >= first):
                    continue
                number = (one.created - self.since) * BUCKETS // max(1, self.before - self.since)
                self._bars[number, has] += 1
                if sent or not has:
                    thing = str(things[one.id].get("id") or "")
                    made = datetime.fromtimestamp(one.created, UTC)
                    self._events[one.id] = Event(made, one.id, one.type, thing, state, sent, has)

    @property
    def missing(self) -> list[Event]:
        """The events that the API has not, oldest first: of one second, the one that is listed later was made first."""
        found = [one for one in reversed(self._events.values()) if not one.taken]
        return sorted(found, key=lambda one: one.made)

    @property
    def causes(self) -> Counter[str]:
        """How many events each cause has."""
        return Counter(one.cause for one in self._events.values() if one.cause)

    def judge(self, why: Judge) -> None:
        """Note the cause of each event."""
        for one in self._events.values():
            one.cause = Cause.TAKEN if one.taken else why(one.made.timestamp(), one.type, one.sent)

    def digest(self, most: int) -> str:
        """Digest of the ids to replay, in their order: 16 hexadecimal digits."""
        names = "".join(f"{one.event}\n" for one in self.missing[:most])
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def shown(self, most: int) -> list[Event | dict[str, str]]:
        """Give the events to replay, in their order; of many the first ones and how many more there are."""
        found = self.missing[:most]
        more = len(found) - SHOWN
        return [*found[:SHOWN], *([{"made": "…", "event": f"and {more} more, in order"}] if more > 0 else [])]

    def pending(self, stripe: StripeClient) -> set[str]:
        """Ask Stripe which events of this time it takes to be undelivered."""
        return {one.id for one in event.listed(stripe, since=self.since, before=self.before, undelivered=True)}

    def chart(self) -> list[dict[str, object]]:
        """Draw the events over the time: a row for each part of it, `█` for what the API has and `░` for what not."""
        counts = [(self._bars[number, True], self._bars[number, False]) for number in range(BUCKETS)]
        highest = max(map(sum, counts))
        rows: list[dict[str, object]] = []
        for number, (taken, missing) in enumerate(counts):
            bar = "█" * _columns(taken, highest) + "░" * _columns(missing, highest)
            begun = self.since + number * (self.before - self.since) // BUCKETS
            rows.append({"from": datetime.fromtimestamp(begun, UTC), "taken": taken, "not": missing, "": bar or "·"})
        return rows


def gather(
    environment: Deployment, stripe: StripeClient, reception: Reception, *, since: float, before: float, first: int
) -> Deliveries:
    """Ask Stripe page by page for the events of a time (seconds since 1970) that the API must have, and the reception.

    Those of the types that the API acts on, and of any type those that Stripe takes to be undelivered: it counts what
    it is still trying among them. Raise RunbookError if Stripe does not say.
    """
    found = Deliveries(since, before)
    listed = partial(event.listed, stripe, since=found.since, before=found.before)
    found.add(listed(types=settings(environment).handles), reception, first)
    found.add(listed(undelivered=True), reception, first)
    return found


def young(stripe: StripeClient, *, since: float) -> int:
    """Count the events since then that Stripe has not delivered, but for those that it may just be sending."""
    return sum(1 for _ in event.listed(stripe, since=since, before=time.time() - SENDING, undelivered=True))


def lacking(events: Iterable[StripeEvent], reception: Reception) -> Iterator[StripeEvent]:
    """Leave out the events that this database has noted, which is asked about a batch at a time."""
    some = iter(events)
    while batch := list(islice(some, BATCH)):
        noted = reception.taken([one.id for one in batch])
        yield from (one for one in batch if one.id not in noted)


def _thing(one: StripeEvent) -> dict[str, Any]:
    """Give what an event is about as plain values: some have keys that are names of methods."""
    return (one.to_dict().get("data") or {}).get("object") or {}


def _intent(thing: dict[str, Any]) -> str:
    intent = thing.get("id") if thing.get("object") == "payment_intent" else thing.get("payment_intent")
    return intent if isinstance(intent, str) else ""


def _columns(count: int, highest: int) -> int:
    return -(-count * WIDTH // highest) if count else 0
