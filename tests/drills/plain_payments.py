"""Payments in every state in the plain schema: dollars in doubles, quoted names, ids of text; as in `payments`."""

import itertools
import random
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import dict_row

from tests.drills.payments import AMOUNT, KINDS, NASTY, Kind
from tests.drills.stripe_agreement import dashboard
from tests.sandbox.plain import database

OPEN = ("PENDING", "OVERDUE", "FAILED")
STATES = (*OPEN, "PAID", "CANCELLED")
PREFIX = "cdrill"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
IN_DOLLARS = {"usd": AMOUNT / 100, "eur": AMOUNT / 100, "jpy": float(AMOUNT), "kwd": AMOUNT / 1000}

MORE = (
    Kind("paid, cents that no double has", {"amount": 91_237}, {"amount": 912.37}, paid=True),
    Kind("paid, three times 1.1", {"amount": 330}, {"amount": 1.1 * 3}, paid=True),
    Kind("paid, a sum of tenths", {"amount": 30}, {"amount": 0.1 + 0.2}, paid=True),
    Kind("a cent less", {"amount": 91_236}, {"amount": 912.37}, says="amount is 91236, not 91237"),
    Kind("half a cent", {"amount": 100}, {"amount": 1.005}, says="amount is 100, not 100.5"),
    Kind("cents for dollars", {"amount": 15_000}, {"amount": 15_000.0}, says="amount is 15000, not 1500000"),
    Kind("no number", {"amount": 100}, {"amount": float("nan")}, says="amount is 100, not NaN"),
)


class Made:
    """A payment that was made, and the row that it began as."""

    def __init__(self, kind: Kind, before: dict[str, Any]) -> None:
        self.kind, self.before = kind, before

    @property
    def id(self) -> str:
        return str(self.before["id"])

    @property
    def repaired(self) -> bool:
        """Whether a repair must change it."""
        return self.kind.paid and self.before["status"] in OPEN

    @property
    def expected(self) -> str:
        """The status that the row must have after a repair."""
        return "PAID" if self.repaired else str(self.before["status"])


def generated(count: int, seed: int) -> list[tuple[Kind, str]]:
    """Give so many kinds and states, every pair of them as often as another, in an order that the seed decides."""
    pairs = list(itertools.product((*KINDS, *MORE), STATES))
    random.Random(seed).shuffle(pairs)
    return list(itertools.islice(itertools.cycle(pairs), count))


def make(wanted: Sequence[tuple[Kind, str]], *, age: int = 3600) -> list[Made]:
    """Make them at Stripe and in the database; `age` is seconds."""
    specs = [{"amount": AMOUNT, "age": age, **kind.stripe} for kind, _ in wanted if kind.stripe is not None]
    intents = iter(dashboard("payment_intents", payments=specs)["ids"])
    made = []
    for number, (kind, status) in enumerate(wanted):
        name = next(intents) if kind.stripe is not None else f"pi_unknown{secrets.token_hex(6)}"
        row: dict[str, Any] = {"currency": "usd", "provider_intent_id": name} | kind.row
        if row["provider_intent_id"] is NASTY:
            more = secrets.token_hex(4) if number >= len(NASTY) else ""
            row["provider_intent_id"] = NASTY[number % len(NASTY)] + more
        # The kinds that are shared with the prepared schema say nothing of an amount: it is AMOUNT of the currency.
        row.setdefault("amount", IN_DOLLARS[row["currency"].lower()])
        row |= {"id": f"{PREFIX}{secrets.token_hex(9)}", "status": status, "age": age}
        made.append(Made(kind, insert(**row)))
    return made


def insert(**row: Any) -> dict[str, Any]:
    """Write a row of `payments`; give it as JSON."""
    query = """INSERT INTO payments (id, "tenantId", amount, currency, status, "dueDate", "paidDate",
        "providerIntentId", "createdAt", "updatedAt") VALUES (%(id)s, (SELECT min(id) FROM users), %(amount)s,
        %(currency)s, %(status)s::"PaymentStatus", now(), CASE WHEN %(status)s = 'PAID' THEN now() END,
        %(provider_intent_id)s, now() - make_interval(secs => %(age)s), now() - interval '30 minutes')
        RETURNING to_jsonb(payments) AS row"""
    return dict(ask(query, row)[0]["row"])


def ask(query: str, given: Any = None) -> list[dict[str, Any]]:
    """Ask the plain database as the superuser, in UTC."""
    with database.connect_admin() as connection:
        connection.execute("SET timezone = 'UTC'")
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query.encode(), given)
            return cursor.fetchall() if cursor.description else []


def rows(made: Sequence[Made]) -> dict[str, dict[str, Any]]:
    """Give their rows as they are now, as JSON."""
    found = ask("SELECT to_jsonb(p) AS row FROM payments p WHERE id = ANY(%s)", [[one.id for one in made]])
    return {one["row"]["id"]: one["row"] for one in found}


def notes() -> list[dict[str, Any]]:
    """Give the audit table, oldest first; nothing where there is none."""
    there = ask("SELECT to_regclass('runbook.payment_repairs') IS NOT NULL AS there")[0]["there"]
    return ask("SELECT * FROM runbook.payment_repairs ORDER BY at") if there else []


def untouched(made: Sequence[Made], *, but: Sequence[str] = ()) -> list[str]:
    """Say which rows are not as they began, of those that had to be left alone."""
    now = rows(made)
    return [
        f"{one.kind.name}, {one.before['status']}" for one in made if one.id not in but and now[one.id] != one.before
    ]


def clear() -> None:
    """Forget everything that was made here."""
    dashboard("faults")
    ids = ask('SELECT "providerIntentId" AS name FROM payments WHERE id LIKE %s', [f"{PREFIX}%"])
    dashboard("payment_intents/forget", ids=[one["name"] for one in ids if one["name"]])
    ask("DELETE FROM payments WHERE id LIKE %s", [f"{PREFIX}%"])
    ask("DROP SCHEMA IF EXISTS runbook CASCADE")
