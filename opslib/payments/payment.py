"""A payment as the database has it: a row of `payments`, found by its id, by its intent, or by when it was made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from opslib.database import admin as database, database_url, postgres
from opslib.database.postgres import Connection
from opslib.database.settings import Database
from opslib.deployment import secret_reference
from opslib.deployment.deployment import Deployment
from opslib.runbook.errors import BadParameter

OPEN = ("PENDING", "PROCESSING", "FAILED")
"""The states from which the API itself marks a payment paid."""
ALL = "all"
PATIENCE = 60
"""Seconds for which an undo goes on trying to reach PostgreSQL."""
INTENT = re.compile(r"pi_[A-Za-z0-9_]{1,250}")

# In Stripe's minor units. docs.stripe.com/currencies: UGX and ISK have no decimals and are written with two.
_ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THREE = "bhd jod kwd omr tnd"

READ = """
SELECT id, provider_intent_id AS intent, amount, currency, status::text AS status, paid_date AS paid,
       created_at AS created,
       (SELECT count(*) FROM payments AS other WHERE other.provider_intent_id = p.provider_intent_id) AS rows
FROM payments AS p WHERE """


@dataclass(frozen=True)
class Payment:
    """One row; `amount` is in minor units, `rows` says how many rows have this intent."""

    id: int
    intent: str | None
    amount: int
    currency: str
    status: str
    paid: datetime | None
    created: datetime
    rows: int


def connect(environment: Deployment, *, within: float = 10) -> Connection:
    """Log in as the administrator that the environment names, in UTC and in the schema that the API works in.

    Not as the API: what notes a repair must not be the API's to change. Raise LoginFailed, BadEnvironment.
    """
    name = "the administrator's URL"
    connection = postgres.connect(secret_reference.resolve(environment.part(Database).admin, name), name, within=within)
    # A row is compared as JSON, in which a time is written in the session's zone.
    connection.execute("SET timezone = 'UTC'")
    # A run that hangs between two statements must not hold a row that the API wants.
    connection.execute("SET idle_in_transaction_session_timeout = '45s'")
    schema = database_url.schema(database.api_url(environment))
    connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
    return connection


def names(text: str) -> list[str]:
    """Give the ids and intents that a parameter names, each once. Raise BadParameter for anything else."""
    given = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [part for part in given if not re.fullmatch(r"[0-9]{1,9}", part) and not INTENT.fullmatch(part)]
    if wrong or not given:
        found = ", ".join(ascii(part[:40]) for part in wrong[:5]) or "nothing"
        raise BadParameter(f"payments: found {found}, expected `{ALL}`, or ids and intents (pi_…) with commas between")
    return given


def ids(text: str) -> list[int]:
    """Give the ids that a parameter names, each once. Raise BadParameter for anything else."""
    given = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if wrong := [part for part in given if not re.fullmatch(r"[0-9]{1,9}", part)]:
        raise BadParameter(f"payments: found {wrong[0][:40]!a}, expected ids with commas between")
    return [int(part) for part in given]


def named(connection: Connection, given: Sequence[str]) -> dict[str, list[Payment]]:
    """Give the rows of each name, which may be none, or more than one."""
    ids = [int(name) for name in given if name.isdigit()]
    intents = [name for name in given if not name.isdigit()]
    found = _read(connection, "(id = ANY(%s) OR provider_intent_id = ANY(%s)) ORDER BY id", ids, intents)
    return {name: [one for one in found if name in (str(one.id), one.intent)] for name in given}


def since(connection: Connection, when: datetime) -> list[Payment]:
    """Give the rows made since then that have an intent, oldest first."""
    return _read(connection, "provider_intent_id IS NOT NULL AND created_at >= %s ORDER BY created_at, id", when)


def money(amount: int, currency: str) -> str:
    """Write an amount for people: 1500 is 15.00 usd, 1500 jpy, or 1.500 kwd."""
    places = 0 if currency.lower() in _ZERO.split() else 3 if currency.lower() in _THREE.split() else 2
    return f"{amount / 10**places:,.{places}f} {currency}"


def _read(connection: Connection, where: str, *given: object) -> list[Payment]:
    return [Payment(**row) for row in connection.execute((READ + where).encode(), given)]
