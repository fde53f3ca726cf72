"""A loss of data: what a database holds now and a backup of it does not, table by table."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pandas import DataFrame, Series
from psycopg import errors

from opslib.backups import database_copy, manifest
from opslib.backups.manifest import Manifest, Table, utc
from opslib.database import admin, postgres
from opslib.deployment.deployment import Deployment
from opslib.runbook.errors import RunbookError

UNREADABLE = (errors.DataCorrupted, errors.IndexCorrupted, errors.InternalError, errors.IoError, errors.UndefinedFile)


def present(environment: Deployment, name: str = "") -> tuple[tuple[Table, ...], str | None]:
    """Count what a database holds now, by default the live one; or nothing, and why: it is gone, or damaged.

    Raise LoginFailed where nobody could tell, as when PostgreSQL is down.
    """
    try:
        with admin.connect(environment, name) as connection:
            return manifest.tables(connection, datetime.now(UTC)), None
    except postgres.LoginFailed as error:
        if error.failure != "no-database":
            raise
        return (), str(error)
    except UNREADABLE as error:
        return (), str(error).splitlines()[0]


def replaced(environment: Deployment, then: Manifest) -> list[dict[str, object]]:
    """Give what the database that was replaced last holds and the backup of it does not, as `compared` does."""
    one = database_copy.last_replaced(environment)
    if not one:
        raise RunbookError("there was no database of the live name before, so nothing of one was replaced")
    held, unreadable = present(environment, one.name)
    if unreadable:
        raise RunbookError(f"{one.name}: cannot be read: {unreadable}")
    return [row for row in compared(then.tables, held) if row["since then"]]


def compared(then: Sequence[Table], now: Sequence[Table]) -> list[dict[str, object]]:
    """Give a row for each table: its rows and newest time in the backup and now, the greatest difference first.

    A row that was only changed shows in the newest time, where its table notes when a row is changed, and else not.
    """
    both = _frame(then).merge(_frame(now), on="table", how="outer", suffixes=(" then", " now"))
    both["since then"] = both["rows now"].fillna(0) - both["rows then"].fillna(0)
    both["changed"] = (both["newest then"].fillna("") != both["newest now"].fillna("")) | both["since then"].ne(0)
    both = both.sort_values(["changed", "since then", "table"], key=_rank, ascending=[False, False, True])
    counts = dict.fromkeys(["rows then", "rows now", "since then"], "Int64")
    shown = both[["table", "since then", "rows then", "rows now", "newest then", "newest now"]]
    rows: list[dict[str, object]] = shown.astype(counts).astype(object).fillna("no table").to_dict("records")
    return rows


def _frame(tables: Sequence[Table]) -> DataFrame:
    rows = [(one.name, one.rows, utc(one.newest) if one.newest else "") for one in tables]
    return DataFrame(rows, columns=["table", "rows", "newest"])


def _rank(column: "Series[int]") -> "Series[int]":
    return column.abs() if column.name == "since then" else column
