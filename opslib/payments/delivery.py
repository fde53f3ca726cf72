"""Deliveries: which of Stripe's events of a time the API has, which it has not, and why not.

The events are held in a temporary database of SQLite's on the disk, which goes with the process: their number costs no
memory, they are told apart by id, and come out in the order in which they were made.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from stripe import Event as StripeEvent, StripeClient

from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.payments.cause import Cause
from opslib.payments.delivery_diagnosis import Judge
from opslib.payments.stripe_account import pages, settings
from opslib.payments.trace import moment

BATCH = 500
SENDING = 30
"""Seconds in which a first delivery may be under way."""
BUCKETS = 24
WIDTH = 40
"""Columns of the longest bar."""
SHOWN = 20
"""Rows of a table of events."""
TAKEN = "SELECT id FROM webhook_events WHERE id = ANY(%s)"
PAYMENTS = "SELECT provider_intent_id AS intent, status::text FROM payments WHERE provider_intent_id = ANY(%s)"

_SCHEMA = """
CREATE TABLE event (id TEXT PRIMARY KEY, created INT, place INT, type TEXT, object TEXT, payment TEXT, sent INT,
    taken INT, cause TEXT, replay TEXT);
CREATE INDEX event_order ON event (created, place);
CREATE TABLE bucket (number INTEGER PRIMARY KEY, taken INT, missing INT);
CREATE TABLE pending (id TEXT PRIMARY KEY);
"""
_NEXT = """
SELECT created, place, id, type, object, payment, cause FROM event
WHERE replay = 'due' AND (created, place) > (?, ?) ORDER BY created, place LIMIT ?
"""


class Event(NamedTuple):
    """One event that the API has not. `payment` is the state of the payment that it is about, empty if of none."""

    id: str
    created: int  # seconds since 1970
    type: str
    object: str
    payment: str
    cause: str = ""

    @property
    def row(self) -> dict[str, str]:
        """A row of evidence."""
        about = {"object": self.object, "payment now": self.payment, "cause": self.cause}
        return {"made": moment(self.created), "event": self.id, "type": self.type} | about


class Deliveries:
    """The events of a time, in seconds since 1970, as Stripe and the API's database tell of them."""

    def __init__(self, since: float, before: float) -> None:
        self.since, self.before = int(since), int(before)
        self._spool = sqlite3.connect("", isolation_level=None)
        self._spool.executescript(_SCHEMA)
        self._place = 0

    @property
    def left(self) -> int:
        """How many events the API has not, whether they are to be replayed or were refused."""
        return self._one("SELECT count(*) FROM event WHERE NOT taken")

    @property
    def causes(self) -> dict[str, int]:
        """How many events each cause has."""
        return dict(self._spool.execute("SELECT cause, count(*) FROM event WHERE cause <> '' GROUP BY cause"))

    def add(self, events: Iterable[StripeEvent], database: Connection, first: int) -> None:
        """Take in events of Stripe's, which come newest first, beside what the database says of them.

        One that the API has and Stripe has delivered is only counted. What was made before `first` (seconds since
        1970), when the API had no endpoint, is owed to nobody.
        """
        found = iter(events)
        while batch := [_plain(event) for event in islice(found, BATCH)]:
            taken = {row["id"] for row in database.execute(TAKEN, [[one["id"] for one in batch]])}
            states = _states(database, [intent for one in batch if (intent := _intent(one))])
            self._spool.execute("BEGIN")
            for one in batch:
                has, sent = one["id"] in taken, one["pending_webhooks"] > 0
                if has or sent or one["created"] >= first:
                    self._add(one, states.get(_intent(one), ""), has=has, sent=sent)
            self._spool.execute("COMMIT")

    def judge(self, why: Judge) -> None:
        """Note the cause of each event."""
        self._spool.create_function("why", 3, lambda created, kind, sent: why(created, kind, bool(sent)).value)
        self._spool.execute("UPDATE event SET cause = ? WHERE taken", (Cause.TAKEN.value,))
        self._spool.execute("UPDATE event SET cause = why(created, type, sent), replay = 'due' WHERE NOT taken")

    def due(self, most: int) -> Iterator[Event]:
        """Give the events to replay, oldest first, at most so many; what is marked meanwhile does not disturb it."""
        last = (-1, 0)
        while most > 0 and (rows := self._spool.execute(_NEXT, (*last, min(BATCH, most))).fetchall()):
            for created, place, name, kind, thing, payment, cause in rows:
                last = created, place
                yield Event(name, created, kind, thing, payment, cause)
            most -= len(rows)

    def mark(self, event: str, replay: str) -> None:
        """Note what became of an event: `taken` or `refused`."""
        self._spool.execute("UPDATE event SET replay = ?1, taken = (?1 = 'taken') WHERE id = ?2", (replay, event))

    def marked(self, replay: str) -> Iterator[str]:
        """Give the ids that were marked so."""
        yield from (name for (name,) in self._spool.execute("SELECT id FROM event WHERE replay = ?", (replay,)))

    def pending(self, stripe: StripeClient) -> int:
        """Ask Stripe which events of this time it takes to be undelivered; give how many of those were marked taken."""
        self._spool.execute("DELETE FROM pending")
        for event in pages(stripe.v1.events.list, delivery_success=False, created=self._created):
            self._spool.execute("INSERT OR IGNORE INTO pending VALUES (?)", (event.id,))
        return self._one("SELECT count(*) FROM pending JOIN event USING (id) WHERE replay = 'taken'")

    def digest(self, most: int) -> str:
        """Digest of the ids to replay, in their order: 16 hexadecimal digits."""
        made = hashlib.sha256()
        for event in self.due(most):
            made.update(f"{event.id}\n".encode())
        return made.hexdigest()[:16]

    def chart(self) -> list[dict[str, str]]:
        """Draw the events over the time: a row for each part of it, `█` for what the API has and `░` for what not."""
        known = {number: (taken, missing) for number, taken, missing in self._spool.execute("SELECT * FROM bucket")}
        highest = max((taken + missing for taken, missing in known.values()), default=0)
        rows = []
        for number in range(BUCKETS):
            taken, missing = known.get(number, (0, 0))
            bar = "█" * _columns(taken, highest) + "░" * _columns(missing, highest)
            begun = self.since + number * (self.before - self.since) // BUCKETS
            rows.append({"from": moment(begun), "taken": str(taken), "not": str(missing), "": bar or "·"})
        return rows

    @property
    def _created(self) -> dict[str, int]:
        return {"gte": self.since, "lt": self.before}

    def _add(self, one: dict[str, Any], payment: str, *, has: bool, sent: bool) -> None:
        self._place -= 1  # Stripe lists the newest first: of one second, the one that comes later was made earlier
        row = (one["id"], one["created"], self._place, one["type"], _object(one), payment, sent, has)
        settled = has and not sent
        if not settled and not self._spool.execute(_INSERT, row).rowcount:
            return  # it was listed before
        number = (one["created"] - self.since) * BUCKETS // max(1, self.before - self.since)
        self._spool.execute(_COUNT, (number, has))

    def _one(self, query: str) -> int:
        return int(self._spool.execute(query).fetchone()[0])


_INSERT = "INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', '')"
_COUNT = """
INSERT INTO bucket VALUES (?1, ?2, 1 - ?2)
ON CONFLICT DO UPDATE SET taken = taken + ?2, missing = missing + 1 - ?2
"""


def gather(
    environment: Deployment, stripe: StripeClient, database: Connection, *, since: float, before: float, first: int
) -> Deliveries:
    """Ask Stripe page by page for the events of a time (seconds since 1970) that the API must have, and the database.

    Those of the types that the API acts on, and of any type those that Stripe takes to be undelivered: it counts what
    it is still trying among them. Raise RunbookError if Stripe does not say.
    """
    found = Deliveries(since, before)
    created = {"gte": found.since, "lt": found.before}
    found.add(pages(stripe.v1.events.list, types=[*settings(environment).handles], created=created), database, first)
    found.add(pages(stripe.v1.events.list, delivery_success=False, created=created), database, first)
    return found


def young(stripe: StripeClient, *, since: float) -> int:
    """Count the events since then that Stripe has not delivered, but for those that it may just be sending."""
    created = {"gte": int(since), "lt": int(time.time() - SENDING)}
    return sum(1 for _ in pages(stripe.v1.events.list, delivery_success=False, created=created))


def _plain(event: StripeEvent) -> dict[str, Any]:
    return event.to_dict()


def _thing(one: dict[str, Any]) -> dict[str, Any]:
    return (one.get("data") or {}).get("object") or {}


def _object(one: dict[str, Any]) -> str:
    return str(_thing(one).get("id") or "")


def _intent(one: dict[str, Any]) -> str:
    thing = _thing(one)
    intent = thing.get("id") if thing.get("object") == "payment_intent" else thing.get("payment_intent")
    return intent if isinstance(intent, str) else ""


def _states(database: Connection, intents: list[str]) -> dict[str, str]:
    return {row["intent"]: row["status"] for row in database.execute(PAYMENTS, [intents])}


def _columns(count: int, highest: int) -> int:
    return -(-count * WIDTH // highest) if count else 0
