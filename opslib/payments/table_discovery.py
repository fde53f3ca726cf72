"""What an environment's file says of the tables of payments and events: by the catalogue, their rows, and Stripe."""

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any, Literal

import psycopg
from stripe import StripeClient

from opslib.database import schema
from opslib.database.schema import Column, Table
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.payments import event_table_discovery, intent, payment, payment_table
from opslib.payments.payment import INTENT
from opslib.payments.settings import Payments
from opslib.payments.stripe_account import ask
from opslib.runbook.errors import RunbookError, first_line

ASKED = 3
"""Rows of which Stripe is asked, at most, to prove the unit of amounts."""
WORDS: Mapping[str, Sequence[str]] = {
    "amount": ("amount", "amountcents", "amountincents", "amountminor"),
    "currency": ("currency", "currencycode"),
    "status": ("status", "paymentstatus"),
    "paid": ("paiddate", "paidat", "paidon", "datepaid"),
    "created": ("createdat", "created", "createdon", "createddate"),
    "updated": ("updatedat", "updated", "updatedon", "updateddate", "modifiedat"),
}
"""What a column is called, in whatever spelling."""
EXAMPLES = {"intent": "provider_intent_id", "paid": "paid_date", "created": "created_at", "updated": "updated_at"}
OPEN, PAID, REFUNDED = ("PENDING", "PROCESSING", "FAILED", "OVERDUE"), ("PAID", "SUCCEEDED"), ("REFUNDED",)
_LABEL = re.compile(r"'((?:[^']|'')*)'")
Unit = Literal["minor", "major"]
UNITS: tuple[Unit, ...] = ("minor", "major")
Rows = Sequence[Mapping[str, Any]]
Candidates = Mapping[str, Sequence[Column]]
UNIT = "What an amount is in: minor (cents) or major (dollars)."
WITHOUT = "Not known, as little as `stripe.payments.table`."
_ASKED = (
    ("table", "The table of payments.", "payments"),
    ("columns", "Its columns.", "{intent: providerIntentId, paid: paidDate}"),
    ("id_type", "Of what type its ids are: integer, text or uuid.", "text"),
    ("unit", UNIT, "minor"),
    ("statuses", "What the status of a payment may be.", "{open: [PENDING], paid: PAID, refunded: REFUNDED}"),
)
"""What is to be asked where nothing of the table is known."""


def discover(environment: Deployment, account: StripeClient | None) -> Iterator[Line | Asked]:
    """Give what was found of both tables, and what is to be asked, with an account that can be asked of intents."""
    try:
        with schema.reading(environment) as connection:
            tables = [(table, _candidates(table, intents)) for table, intents in schema.of_payments(connection)]
            rows = [schema.newest(connection, table, [*_clear(columns).values()]) for table, columns in tables]
            events = list(event_table_discovery.discover(connection))
    except (RunbookError, OSError, psycopg.Error) as error:
        why = f"PostgreSQL could not be asked: {first_line(error)}"
        yield from _unknown(why)
        yield Asked("stripe.events", f"{event_table_discovery.EVENTS} {WITHOUT}", event_table_discovery.EXAMPLE)
        return
    if len(tables) == 1:  # Stripe is asked when no transaction is open any more
        yield from _payments(*tables[0], rows[0], account)
    else:
        names = ", ".join(table.name for table, _ in tables) or "none"
        yield from _unknown(f"Tables with Stripe's intents, a status and an amount: {names}.")
    yield from events


def _unknown(why: str) -> Iterator[Asked]:
    (first, what, example), *others = _ASKED
    yield Asked(f"stripe.payments.{first}", f"{what} {why}", example)
    yield from (Asked(f"stripe.payments.{key}", f"{what} {WITHOUT}", example) for key, what, example in others)


def _candidates(table: Table, intents: Sequence[Column]) -> Candidates:
    found = {field: _of_type(field, table.named(*words)) for field, words in WORDS.items()}
    return {"id": [table.key] if table.key else [], "intent": intents, **found}


def _clear(candidates: Candidates) -> dict[str, Column]:
    """Give the columns that alone may be meant."""
    return {field: columns[0] for field, columns in candidates.items() if len(columns) == 1}


def _payments(table: Table, candidates: Candidates, rows: Rows, account: StripeClient | None) -> Iterator[Line | Asked]:
    yield Line("stripe.payments.table", table.name, f"{schema.SOURCE}: it alone has Stripe's intents")
    for field, columns in candidates.items():
        yield _column(table, field, columns)
    found = _clear(candidates)
    yield _id_type(table, found.get("id"))
    yield _unit(found, rows, account)
    yield from _statuses(found.get("status"), rows)


def _of_type(field: str, columns: list[Column]) -> list[Column]:
    types = payment_table.OF.get(field)
    return [one for one in columns if types is None or one.type in types]


def _column(table: Table, field: str, columns: Sequence[Column]) -> Line | Asked:
    key = f"stripe.payments.columns.{field}"
    if len(columns) == 1:
        return Line(key, columns[0].name, schema.shown(table, columns[0]))
    names = ", ".join(one.name for one in columns) or "none"
    what = f"The column of {table.name} with the {field} of a payment. Those that may be it: {names}."
    return Asked(key, what, EXAMPLES.get(field, field))


def _id_type(table: Table, id: Column | None) -> Line | Asked:
    kind = next((kind for kind, types in payment_table.TYPES.items() if id and id.type in types), "")
    if id and kind:
        return Line("stripe.payments.id_type", kind, schema.shown(table, id))
    return Asked("stripe.payments.id_type", "Of what type the ids of payments are: integer, text or uuid.", "text")


def _unit(found: Mapping[str, Column], rows: Rows, account: StripeClient | None) -> Line | Asked:
    """Tell cents from dollars: by an intent that Stripe is asked of, else by fractions and by the type."""
    key = "stripe.payments.unit"
    if not {"intent", "amount"} <= found.keys():
        return Asked(key, UNIT, "minor")
    amount = found["amount"]
    written = {row[found["intent"].name]: row[amount.name] for row in rows}
    known = {name: text for name, text in written.items() if name and text and INTENT.fullmatch(name)}
    fractions = any(map(_fraction, known.values()))
    said = _compared(dict(islice(known.items(), ASKED)), account)
    told = [one for one in said if one[1]]
    units = {unit for _, unit in told}
    if len(units) == 1 and not (fractions and "minor" in units) and len(told) * 2 > len(said):
        return Line(key, told[0][1], f"a row has {told[0][0]} in minor units")
    if said:
        why = f"Rows do not agree: {'; '.join(text for text, _ in said)}{'; some have fractions' if fractions else ''}."
        return Asked(key, f"{UNIT} {why}", "minor")
    if amount.type in payment_table.TYPES["integer"]:
        source = f"{schema.SOURCE}: {amount.name} is {amount.type}; Stripe could not be asked of a row"
        return Line(key, "minor", source)
    if fractions:
        return Line(key, "major", f"{amount.name} is {amount.type}, and some have fractions")
    return Asked(key, f"{UNIT} {amount.name} is {amount.type}, and no row tells.", "minor")


def _fraction(written: str) -> bool:
    """Whether an amount is no whole number, but for what a double adds."""
    amount = payment.minor(written, "", Payments(unit="minor"))
    return isinstance(amount, Decimal) and amount.is_finite()


def _compared(written: Mapping[str, str], account: StripeClient | None) -> list[tuple[str, Unit | Literal[""]]]:
    """Compare amounts of rows with those of their intents, where Stripe knows these: in which unit they are the same.

    "" where they are in none; a row is left out that is the same in both.
    """
    found: list[tuple[str, Unit | Literal[""]]] = []
    for name, text in written.items() if account else ():
        assert account
        there, problem = ask(partial(intent.retrieve, account, name))
        if problem:
            break
        if there is None or not there.amount:
            continue
        same = [unit for unit in UNITS if payment.minor(text, there.currency, Payments(unit=unit)) == there.amount]
        if len(same) < len(UNITS):
            found.append((f"{text} where Stripe has {there.amount} {there.currency}", same[0] if same else ""))
    return found


def _statuses(status: Column | None, rows: Rows) -> Iterator[Line | Asked]:
    """Sort the statuses by their words: all there may be, by the type or a CHECK; else those that rows have."""
    key = "stripe.payments.statuses"
    may = [*(status.labels or _checked(status))] if status else []
    seen = sorted({row[status.name] for row in rows if row[status.name]}) if status and not may else []
    open, paid, refunded = ([one for one in may or seen if one.upper() in words] for words in (OPEN, PAID, REFUNDED))
    told = f"a status may be {', '.join(may)}" if may else f"rows have {', '.join(seen) or 'no status'}"
    source = f"{schema.SOURCE}: {told}" if may else told
    if may and open:
        yield Line(f"{key}.open", open, source)
    else:
        example = f"[{', '.join(open) or 'PENDING'}]"
        yield Asked(f"{key}.open", f"From which statuses a payment may be marked paid; {told}.", example)
    if len(paid) == 1:
        yield Line(f"{key}.paid", paid[0], source)
    else:
        yield Asked(f"{key}.paid", f"The status of a payment that is paid; {told}.", "PAID")
    if len(refunded) == 1 or (may and not refunded):
        yield Line(f"{key}.refunded", refunded[0] if refunded else "", source)
    else:
        yield Asked(f"{key}.refunded", f'The status of one that is refunded, "" where there is none; {told}.', '""')


def _checked(status: Column) -> list[str]:
    """Give what a CHECK lists, as PostgreSQL writes `IN (…)`."""
    lists = [check for check in status.checks if " = ANY (" in check]
    return [label.replace("''", "'") for label in _LABEL.findall(lists[0])] if len(lists) == 1 else []
