"""Reception: which of Stripe's events the API has had, by its table of them, or else by Stripe and by the payments."""

from collections.abc import Collection
from dataclasses import dataclass

from psycopg import sql

from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.payments import payment_table
from opslib.payments.settings import Stripe
from opslib.payments.stripe_account import settings
from opslib.runbook.answer import Answer

SUCCEEDED = "payment_intent.succeeded"
TAKEN = "SELECT {id}::text AS id FROM {events} WHERE {id} = ANY(%s)"
LATEST = "SELECT {id}::text AS id FROM {events} WHERE {id} <> %s ORDER BY {received} DESC LIMIT 5"
PAYMENT = "SELECT {id}::text AS id FROM {table} WHERE {intent} = %s"
PAYMENTS = "SELECT {intent} AS intent, {status}::text AS status FROM {table} WHERE {intent} = ANY(%s)"


@dataclass(frozen=True)
class Reception:
    """What the API's database tells of events; `stripe` says where it stands."""

    stripe: Stripe
    database: Connection

    @property
    def noted(self) -> bool:
        """Whether the API notes the events that it takes."""
        return self.stripe.events is not None

    @property
    def rests_on(self) -> dict[str, str]:
        """What tells whether the API has an event, and what that does not tell."""
        if self.stripe.events:
            return {"told by": f"the table {self.stripe.events.table}", "not told": "nothing"}
        return {
            "told by": "Stripe (delivery_success, pending_webhooks), and the status of the payment",
            "not told": "which endpoint has not taken an event; what was never sent, or taken in vain, of other types "
            f"than {SUCCEEDED} and of what has no payment here",
        }

    @property
    def unless(self) -> str:
        """When an event is not sent again."""
        return f"{self.stripe.events.table} has it" if self.stripe.events else "its payment or Stripe says it was taken"

    def fits(self, environment: Deployment) -> Answer:
        """Whether the tables are as the environment's file says."""
        return payment_table.fits(environment, self.database, events=True)

    def taken(self, events: Collection[str]) -> set[str]:
        """Give which of these the API has noted; none where it notes none."""
        if self.stripe.events is None:
            return set()
        found = self.database.execute(self._of_events(TAKEN), [[*events]])
        return {row["id"] for row in found}

    def latest(self, but: str) -> list[str]:
        """Give the events that the API has noted last, but for one; none where it notes none."""
        if self.stripe.events is None:
            return []
        return [row["id"] for row in self.database.execute(self._of_events(LATEST), [but]).fetchall()]

    def states(self, intents: Collection[str]) -> dict[str, str]:
        """Give the status of the payment of each of these intents that has one."""
        found = self.database.execute(payment_table.fill(self.stripe.payments, PAYMENTS), [[*intents]])
        return {row["intent"]: row["status"] for row in found}

    def payment(self, intent: str) -> str:
        """Give the id of the payment that an intent has; empty if it has none."""
        row = self.database.execute(payment_table.fill(self.stripe.payments, PAYMENT), [intent]).fetchone()
        return str(row["id"]) if row else ""

    def settled(self, state: str) -> bool:
        """Whether a payment of this status is paid, or was."""
        return state in (self.stripe.payments.statuses.paid, self.stripe.payments.statuses.refunded) and bool(state)

    def has(self, kind: str, *, noted: bool, sent: bool, state: str) -> bool:
        """Whether the API has an event: one of this type, that Stripe is still sending, of a payment of this status."""
        if self.noted:
            return noted
        if kind == SUCCEEDED and state in self.stripe.payments.statuses.open:
            return False
        return not sent or (kind == SUCCEEDED and self.settled(state))

    def _of_events(self, statement: str) -> sql.Composed:
        assert self.stripe.events
        table, id, received = self.stripe.events.table, self.stripe.events.id, self.stripe.events.received
        names = {"events": table, "id": id, "received": received}
        return sql.SQL(statement).format(**{key: sql.Identifier(name) for key, name in names.items()})


def of(environment: Deployment, database: Connection) -> Reception:
    """Give what tells which events the API has, in this environment."""
    return Reception(settings(environment), database)
