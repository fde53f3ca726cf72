"""Payments in every state, at Stripe and in the database, by the hundred; and what must be true of each afterwards."""

import itertools
import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row

from tests.drills.stripe_agreement import dashboard
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

AMOUNT = 150_000
OPEN = ("PENDING", "PROCESSING", "FAILED")
STATES = (*OPEN, "PAID", "REFUNDED")
NASTY = (
    "pi_1'; DROP TABLE payments; --",
    "pi_../../v1/balance?x=1#y",
    "pi_1\r\nX-Evil: 1",
    "pi_$(id)`id`",
    "",
    "ü" * 90,
)


@dataclass(frozen=True)
class Kind:
    """What Stripe has, where the row differs from it, and by the rule whether that is paid."""

    name: str
    stripe: dict[str, Any] | None = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    paid: bool = False
    says: str = ""
    """A part of the reason that must be given."""


KINDS = (
    Kind("paid", paid=True),
    Kind("paid, its event undelivered", {"event": "undelivered"}, paid=True),
    Kind("paid, its event taken without effect", {"event": "delivered"}, paid=True),
    Kind("paid in yen", {"currency": "jpy"}, {"currency": "jpy"}, paid=True),
    Kind("paid in dinars", {"currency": "kwd"}, {"currency": "kwd"}, paid=True),
    Kind("paid, the row's currency in capitals", {}, {"currency": "USD"}, paid=True),
    Kind("refunded", {"refunded": AMOUNT}, says="charge.refunded is true"),
    Kind("refunded in part", {"refunded": 1}, says="charge.amount_refunded is 1, not 0"),
    Kind("disputed", {"disputed": True}, says="charge.disputed is true"),
    Kind("received in part", {"received": AMOUNT - 1}, says=f"amount_received is {AMOUNT - 1}"),
    Kind("another amount", {"amount": AMOUNT * 100}, says=f"amount is {AMOUNT * 100}, not {AMOUNT}"),
    Kind(
        "a hundredth, in yen", {"amount": AMOUNT // 100, "currency": "jpy"}, {"currency": "jpy"}, says="amount is 1500"
    ),
    Kind("another currency", {"currency": "eur"}, says="currency is eur, not usd"),
    Kind("of live mode", {"livemode": True}, says="livemode is true, not false"),
    Kind("processing", {"status": "processing"}, says="status is processing"),
    Kind("held", {"status": "requires_capture"}, says="status is requires_capture"),
    Kind("not begun", {"status": "requires_payment_method"}, says="status is requires_payment_method"),
    Kind("asking", {"status": "requires_action"}, says="status is requires_action"),
    Kind("canceled", {"status": "canceled"}, says="status is canceled"),
    Kind("unknown at Stripe", None, says="Stripe does not know the intent"),
    Kind("without an intent", None, {"provider_intent_id": None}, says="the row has no intent"),
    Kind("a nasty id", None, {"provider_intent_id": NASTY}, says="no id of Stripe's"),
)


@dataclass(frozen=True)
class Made:
    """A payment that was made, and the row that it began as."""

    kind: Kind
    before: dict[str, Any]

    @property
    def id(self) -> int:
        return int(self.before["id"])

    @property
    def expected(self) -> str:
        """The status that the row must have after a repair."""
        return "PAID" if self.kind.paid and self.before["status"] in OPEN else str(self.before["status"])

    @property
    def repaired(self) -> bool:
        """Whether a repair must change it."""
        return self.kind.paid and self.before["status"] in OPEN


def generated(count: int, seed: int) -> list[tuple[Kind, str]]:
    """Give so many kinds and states, every pair of them as often as another, in an order that the seed decides."""
    pairs = list(itertools.product(KINDS, STATES))
    dice = random.Random(seed)
    dice.shuffle(pairs)
    return list(itertools.islice(itertools.cycle(pairs), count))


def make(wanted: Sequence[tuple[Kind, str]], *, age: int = 3600) -> list[Made]:
    """Make them at Stripe and in the database; `age` is seconds."""
    specs = [{"amount": AMOUNT, "age": age, **kind.stripe} for kind, _ in wanted if kind.stripe is not None]
    answer = dashboard("payment_intents", payments=specs)
    intents, events = iter(answer["ids"]), iter(answer["events"])
    made = []
    for number, (kind, status) in enumerate(wanted):
        name = next(intents) if kind.stripe is not None else f"pi_unknown{secrets.token_hex(6)}"
        if (state := (kind.stripe or {}).get("event")) and (event := next(events)) and state == "delivered":
            ask("INSERT INTO webhook_events (id, type) VALUES (%s, 'payment_intent.succeeded')", [event])
        row = {"amount": AMOUNT, "currency": "usd", "provider_intent_id": name, "status": status, "age": age}
        row |= kind.row
        if row["provider_intent_id"] is NASTY:
            row["provider_intent_id"] = NASTY[number % len(NASTY)] + (
                secrets.token_hex(4) if number >= len(NASTY) else ""
            )
        made.append(Made(kind, insert(**row)))
    return made


def insert(**row: Any) -> dict[str, Any]:
    """Write a row of `payments`; give it as JSON."""
    query = """INSERT INTO payments (tenant_id, property_id, amount, currency, status, due_date, paid_date,
        provider_intent_id, created_at, updated_at) VALUES (3, 3, %(amount)s, %(currency)s, %(status)s::"PaymentStatus",
        now(), CASE WHEN %(status)s IN ('PAID', 'REFUNDED') THEN now() END, %(provider_intent_id)s,
        now() - make_interval(secs => %(age)s), now() - interval '30 minutes')
        RETURNING to_jsonb(payments) AS row"""
    return dict(ask(query, row)[0]["row"])


def ask(query: str, given: Any = None) -> list[dict[str, Any]]:
    """Ask the database as its superuser, in UTC."""
    with postgres.connect_admin(Credentials.load()) as connection:
        connection.execute("SET timezone = 'UTC'")
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query.encode(), given)
            return cursor.fetchall() if cursor.description else []


def rows(made: Sequence[Made]) -> dict[int, dict[str, Any]]:
    """Give their rows as they are now, as JSON."""
    found = ask("SELECT to_jsonb(p) AS row FROM payments p WHERE id = ANY(%s)", [[one.id for one in made]])
    return {one["row"]["id"]: one["row"] for one in found}


def notes() -> list[dict[str, Any]]:
    """Give the audit table, oldest first; nothing where there is none."""
    there = ask("SELECT to_regclass('runbook.payment_repairs') IS NOT NULL AS there")[0]["there"]
    return ask("SELECT * FROM runbook.payment_repairs ORDER BY at") if there else []


def untouched(made: Sequence[Made], *, but: Sequence[int] = ()) -> list[str]:
    """Say which rows are not as they began, of those that had to be left alone."""
    now = rows(made)
    return [
        f"{one.kind.name}, {one.before['status']}" for one in made if one.id not in but and now[one.id] != one.before
    ]


def clear() -> None:
    """Forget everything that was made here."""
    dashboard("faults")
    dashboard("payment_intents/forget")
    ask("DELETE FROM payments WHERE tenant_id = 3 AND property_id = 3 AND due_date = current_date")
    ask("DROP SCHEMA IF EXISTS runbook CASCADE")


@contextmanager
def held(payment: int, *, then: str = "") -> Iterator[None]:
    """Hold the lock on a row, as somebody else's transaction, which may do something at its end."""
    with postgres.connect_admin(Credentials.load()) as connection, connection.transaction():
        connection.execute("SELECT 1 FROM payments WHERE id = %s FOR UPDATE", [payment])
        yield
        if then:
            connection.execute(then.encode(), [payment])
