"""The schema that the API works in, as its own login sees it: tables and columns by the catalogue, and the newest rows.

Whoever reads here does so in one transaction that is read only, through a pooler too.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from psycopg import sql

from opslib.database import admin, postgres
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment

SOURCE = "PostgreSQL's catalogue"
NUMBER = ("smallint", "integer", "bigint", "numeric", "double precision", "real")
TEXT = ("text", "character varying", "character", "citext")
INTENT = "^pi_[A-Za-z0-9]+$"
"""What an id of an intent is like, to PostgreSQL."""
NEWEST = 1000
"""How many rows of a table are looked at, by its key the last."""

# Without names that an environment's file cannot have.
_CATALOGUE = """
SELECT relname AS table, attname AS name, format_type(atttypid, NULL) AS type,
  ARRAY(SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = atttypid ORDER BY enumsortorder) AS labels,
  ARRAY(SELECT pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint
        WHERE conrelid = c.oid AND contype = 'c' AND conkey = ARRAY[attnum]) AS checks,
  coalesce(bool_or(i.indisprimary), false) AS key, count(i.indexrelid) > 0 AS is_unique
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_catalog.pg_index i
  ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indkey[0] = attnum
WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())
  AND relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0 AND NOT attisdropped
  AND has_table_privilege(c.oid, 'SELECT') AND relname !~ '[%"]' AND attname !~ '[%"]'
GROUP BY c.oid, relname, attname, atttypid, attnum ORDER BY relname, attnum"""


@dataclass(frozen=True)
class Column:
    """A column: its type, the labels of an enum, the CHECKs on it alone, and whether a key or index makes it unique."""

    name: str
    type: str
    labels: tuple[str, ...]
    checks: tuple[str, ...]
    key: bool
    unique: bool

    @property
    def word(self) -> str:
        """Its name as both spellings have it: `paiddate` of paidDate and of paid_date."""
        return word(self.name)


@dataclass(frozen=True)
class Table:
    """A table that the API's login may read."""

    name: str
    columns: tuple[Column, ...]

    @property
    def key(self) -> Column | None:
        """The column that is its primary key, if one alone is."""
        return next((one for one in self.columns if one.key), None)

    def named(self, *words: str) -> list[Column]:
        """Give the columns of these names, in whatever spelling."""
        return [one for one in self.columns if one.word in words]


def word(name: str) -> str:
    """Give a name without capitals and underscores."""
    return name.replace("_", "").lower()


def shown(table: Table, column: Column) -> str:
    """Say what the catalogue has of a column."""
    unique = ", each value once" if column.unique else ""
    return f"{SOURCE}: {table.name}.{column.name} is {column.type}{unique}"


@contextlib.contextmanager
def reading(environment: Deployment) -> Iterator[Connection]:
    """Log in as the API, and read only. Raise RunbookError, or psycopg.Error where a statement fails."""
    with contextlib.closing(postgres.connect(admin.api_url(environment))) as connection, connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        yield connection


def tables(connection: Connection) -> list[Table]:
    """Give the tables of the schema, sorted."""
    found = connection.execute(_CATALOGUE).fetchall()
    return [Table(name, tuple(map(_column, rows))) for name, rows in groupby(found, lambda row: str(row["table"]))]


def newest(connection: Connection, table: Table, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Give these columns of the last rows by the table's key, as text."""
    each = [sql.SQL("{0}::text AS {0}").format(sql.Identifier(one.name)) for one in columns]
    return connection.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(each), _last(table))).fetchall()


def holding(connection: Connection, table: Table, columns: Sequence[Column], pattern: str) -> Mapping[str, bool | None]:
    """Say of each of these columns whether some of its newest values are of this form; None where it has no value."""
    if not columns:
        return {}
    # What is longer than any id is not fetched.
    each = [sql.SQL("bool_or(left({0}::text, 255) ~ {1}) AS {0}").format(sql.Identifier(one.name), pattern)
            for one in columns]  # fmt: skip
    found = connection.execute(sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(each), _last(table))).fetchone()
    assert found is not None
    return found


def of_payments(connection: Connection) -> list[tuple[Table, list[Column]]]:
    """Give the tables with a status, an amount and Stripe's intents, each with its columns of intents.

    They are known by what they hold; in a table without any, by their names.
    """
    likely = [one for one in tables(connection) if _has_amount(one) and _has_status(one)]
    return [(one, intents) for one in likely if (intents := _intents(connection, one))]


def _intents(connection: Connection, table: Table) -> list[Column]:
    texts = [one for one in table.columns if one.type in TEXT]
    held = holding(connection, table, texts, INTENT)
    return [one for one in texts if held[one.name]] or [
        one for one in texts if "intent" in one.word and held[one.name] is None
    ]


def _last(table: Table) -> sql.Composed:
    order = sql.SQL(" ORDER BY {} DESC").format(sql.Identifier(table.key.name)) if table.key else sql.SQL("")
    return sql.SQL("(SELECT * FROM {}{} LIMIT {}) AS newest").format(sql.Identifier(table.name), order, NEWEST)


def _has_amount(table: Table) -> bool:
    return any("amount" in one.word and one.type in NUMBER for one in table.columns)


def _has_status(table: Table) -> bool:
    return any(one.word.endswith("status") for one in table.columns)


def _column(row: dict[str, Any]) -> Column:
    return Column(row["name"], row["type"], tuple(row["labels"]), tuple(row["checks"]), row["key"], row["is_unique"])
