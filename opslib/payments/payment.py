"""A payment as the database has it: a row of `payments`, found by its id, by its intent, or by when it was made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal

from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.payments import payment_table
from opslib.payments.settings import Payments
from opslib.payments.stripe_account import settings
from opslib.runbook.errors import BadParameter

ALL = "all"
PATIENCE = 60
"""Seconds for which an undo goes on trying to reach PostgreSQL."""
INTENT = re.compile(r"pi_[A-Za-z0-9_]{1,250}")

# In Stripe's minor units. docs.stripe.com/currencies: UGX and ISK have no decimals and are written with two.
_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THREE = "bhd jod kwd omr tnd"

_ID = {
    "integer": r"[0-9]{1,9}",
    "text": r"(?!pi_)[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
# What a double holds for sure: of 59.97 written as 59.970000000000006 what lies beyond comes from adding.
_DIGITS = Context(prec=15)

READ = """
SELECT p.{id}::text AS id, p.{intent} AS intent, coalesce(p.{amount}::text, 'NaN') AS written,
       coalesce(p.{currency}::text, '') AS currency,
       p.{status}::text AS status, p.{created}::timestamptz AS created,
       (SELECT count(*) FROM {table} AS other WHERE other.{intent} = p.{intent}) AS rows
FROM {table} AS p WHERE """


@dataclass(frozen=True)
class Payment:
    """One row; `amount` is in minor units, `rows` says how many rows have this intent.

    An amount that is no whole number of minor units is a Decimal, and equals nothing that Stripe says.
    """

    id: str
    intent: str | None
    amount: int | Decimal
    currency: str
    status: str
    created: datetime
    rows: int
    written: str = ""
    """The amount as the row has it."""


def connect(environment: Deployment, *, within: float = 10) -> Connection:
    """Log in as the administrator that the environment names, in the schema that the API works in.

    Not as the API: what notes a repair must not be the API's to change. In UTC: a row is compared as JSON, in which a
    time is written in the session's zone. Raise LoginFailed, also if it leads through a pooler, and BadEnvironment.
    """
    connection = admin.connect(environment, within=within)
    # A run that hangs, in a statement or between two, must not hold a row that the API wants.
    for limit, seconds in (("statement_timeout", 30), ("idle_in_transaction_session_timeout", 45)):
        connection.execute(f"SET {limit} = '{seconds}s'".encode())
    return connection


def names(text: str, table: Payments) -> list[str]:
    """Give the ids and intents that a parameter names, each once. Raise BadParameter for anything else."""
    given = _parts(text)
    wrong = [part for part in given if not re.fullmatch(_ID[table.id_type], part) and not INTENT.fullmatch(part)]
    if wrong or not given:
        found = ", ".join(ascii(part[:40]) for part in wrong[:5]) or "nothing"
        raise BadParameter(f"payments: found {found}, expected `{ALL}`, or ids and intents (pi_…) with commas between")
    return given


def ids(environment: Deployment, text: str) -> list[str]:
    """Give the ids that a parameter names, each once. Raise BadParameter for anything else."""
    kind, given = settings(environment).payments.id_type, _parts(text)
    if wrong := [part for part in given if not re.fullmatch(_ID[kind], part)]:
        raise BadParameter(f"payments: found {wrong[0][:40]!a}, expected ids ({kind}) with commas between")
    return given


def named(connection: Connection, table: Payments, given: Sequence[str]) -> dict[str, list[Payment]]:
    """Give the rows of each name, which may be none, or more than one."""
    intents = [name for name in given if INTENT.fullmatch(name) or not re.fullmatch(_ID[table.id_type], name)]
    ids = [name for name in given if name not in intents]
    where = f"(p.{{id}} = ANY(%s::text[]::{table.id_type}[]) OR p.{{intent}} = ANY(%s)) ORDER BY p.{{id}}"
    found = _read(connection, table, where, ids, intents)
    return {name: [one for one in found if name in (one.id, one.intent)] for name in given}


def since(connection: Connection, table: Payments, when: datetime) -> list[Payment]:
    """Give the rows made since then that have an intent, oldest first."""
    where = "p.{intent} IS NOT NULL AND p.{created} >= %s ORDER BY p.{created}, p.{id}"
    return _read(connection, table, where, when)


def minor(written: str, currency: str, table: Payments) -> int | Decimal:
    """Give an amount as a row has it in Stripe's minor units: an int, or a Decimal if there is no whole number."""
    exact = _DIGITS.create_decimal(written)
    exact = exact.scaleb(places(currency)) if table.unit == "major" else exact
    return int(exact) if exact.is_finite() and exact == exact.to_integral_value() else exact


def places(currency: str) -> int:
    """How many decimals Stripe writes amounts of this currency with."""
    return 0 if currency.lower() in _ZERO.split() else 3 if currency.lower() in _THREE.split() else 2


def money(amount: int | Decimal, currency: str) -> str:
    """Write an amount for people: 1500 is 15.00 usd, 1500 jpy, or 1.500 kwd."""
    if isinstance(amount, Decimal):
        return f"{amount.scaleb(-places(currency)):f} {currency}"
    return f"{Decimal(amount).scaleb(-places(currency)):,.{places(currency)}f} {currency}"


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _read(connection: Connection, table: Payments, where: str, *given: object) -> list[Payment]:
    rows = connection.execute(payment_table.fill(table, READ + where), given).fetchall()
    return [Payment(**row, amount=minor(row["written"], row["currency"], table)) for row in rows]
