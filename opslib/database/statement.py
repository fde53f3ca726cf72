"""Statements of the database, as pg_stat_statements counts them: what each cost between two moments.

Its columns differ by version: `total_exec_time` was `total_time` before 1.8 (PostgreSQL 13). Times are milliseconds.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from opslib.database.postgres import Connection
from opslib.runbook.mask import mask

LONGEST = 100
"""Characters of a statement that are shown."""

_LITERAL = re.compile(r"\$(?P<tag>(?:[a-zA-Z_]\w*)?)\$.*?\$(?P=tag)\$|'(?:[^']|'')*'?", re.DOTALL)
_OURS = r"\mpg_|clock_timestamp|current_setting|runbook|transaction read only|^set (\w+_timeout|timezone)|search_path"
"""Statements about the server itself, this module's among them."""

LOAD = (
    "add pg_stat_statements to shared_preload_libraries in postgresql.conf (not by ALTER SYSTEM, which quotes a list as"
    " one name), then restart PostgreSQL, which interrupts the API"
)
CREATE = "CREATE EXTENSION pg_stat_statements"


@dataclass(frozen=True)
class Statement:
    """A normalised statement, and what it cost; times in milliseconds, blocks of 8 KiB."""

    id: int
    role: str
    query: str
    calls: int
    total: float
    rows: int
    blocks: int  # found in the buffers or read

    @property
    def reads(self) -> bool:
        """Whether it is a query, which may be tried."""
        return re.match(r"\s*(SELECT|WITH)\b", self.query, re.IGNORECASE) is not None

    @property
    def mean(self) -> float:
        """Milliseconds a call."""
        return self.total / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Snapshot:
    """What all statements had cost by then, and since when it is counted."""

    at: datetime
    reset: datetime | None  # None before PostgreSQL 14, which does not say
    statements: dict[tuple[int, str, bool], Statement]

    @property
    def since(self) -> str:
        """Since when it is counted, in words."""
        return f"{self.reset:%Y-%m-%d %H:%M} UTC" if self.reset else "the counters were reset"

    def __sub__(self, before: "Snapshot") -> list[Statement]:
        """Give what each cost since an earlier snapshot, the dearest first; a reset in between counts from there."""
        old = before.statements if before.reset == self.reset else {}
        found = []
        for key, now in self.statements.items():
            was = old.get(key)
            if was is None or was.calls > now.calls:  # it was thrown out meanwhile, and counted anew
                was = Statement(now.id, now.role, now.query, 0, 0, 0, 0)
            costs = (now.calls - was.calls, now.total - was.total, now.rows - was.rows, now.blocks - was.blocks)
            found.append(Statement(now.id, now.role, now.query, *costs))
        return ranked(found)


def missing(connection: Connection) -> list[dict[str, str]]:
    """Say what is to be done before statements are counted here; nothing if they are."""
    loaded = connection.execute("SELECT current_setting('shared_preload_libraries') AS libraries").fetchone()
    steps = []
    if loaded and "pg_stat_statements" not in loaded["libraries"]:
        steps.append({"missing": "the library is not loaded", "do": LOAD})
    if _schema(connection) is None:
        steps.append({"missing": "the extension is not in this database", "do": CREATE})
    return steps


def snapshot(connection: Connection) -> Snapshot:
    """Read what every statement of this database has cost so far; nothing where the extension is missing."""
    moment = connection.execute("SELECT clock_timestamp() AS at").fetchone()
    assert moment is not None
    schema = _schema(connection)
    if schema is None or missing(connection):
        return Snapshot(moment["at"], None, {})
    view = sql.Identifier(schema, "pg_stat_statements")
    has = {row["attname"] for row in connection.execute(_COLUMNS, [view.as_string(connection)])}
    reset = None
    if "toplevel" in has:  # 1.9, PostgreSQL 14, which has the moment of the reset too
        info = sql.Identifier(schema, "pg_stat_statements_info")
        found = connection.execute(sql.SQL("SELECT stats_reset FROM {}").format(info)).fetchone()
        reset = found["stats_reset"] if found else None
    query = sql.SQL(
        "SELECT queryid AS id, coalesce(rolname, '') AS role, {top} AS toplevel, query, calls, {total} AS total, rows,"
        " shared_blks_hit + shared_blks_read AS blocks FROM {view} s LEFT JOIN pg_roles r ON r.oid = userid"
        " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query !~* {ours}"
        " AND queryid IS NOT NULL"
    ).format(
        top=sql.SQL("toplevel" if "toplevel" in has else "true"),
        total=sql.SQL("total_exec_time" if "total_exec_time" in has else "total_time"),
        view=view,
        ours=_OURS,
    )
    rows: list[dict[str, Any]] = connection.execute(query).fetchall()
    return Snapshot(
        moment["at"],
        reset,
        {(row["id"], row["role"], row.pop("toplevel")): Statement(**row) for row in rows},
    )


def since(connection: Connection, before: Snapshot, *, seconds: float) -> list[Statement]:
    """Give what each statement has cost since a snapshot, once `seconds` have passed since then."""
    moment = connection.execute("SELECT clock_timestamp() AS at").fetchone()
    assert moment is not None
    time.sleep(max(0.0, seconds - (moment["at"] - before.at).total_seconds()))
    return [one for one in snapshot(connection) - before if one.calls > 0]


def ranked(statements: Iterable[Statement]) -> list[Statement]:
    """Order statements by all the time that they took."""
    return sorted(statements, key=lambda one: (-one.total, one.query))


def dearest(*rankings: Iterable[Statement], most: int = 20) -> list[Statement]:
    """Give the dearest of several rankings, each once: a quick statement that is asked all the time is one too."""
    found: dict[int, Statement] = {}
    for one in (one for ranking in rankings for one in ranking):
        found.setdefault(one.id, one)
    return ranked(found.values())[:most]


def rows(statements: Iterable[Statement], *, most: int = 15) -> list[dict[str, str]]:
    """A row of evidence for each of the dearest, with its share of all the time as a bar."""
    found = list(statements)
    everything = sum(one.total for one in found) or 1.0
    return [
        {
            "share of the time": f"{'█' * round(20 * one.total / everything):░<20} {one.total / everything:.0%}",
            "calls": str(one.calls),
            "total": f"{one.total:.0f} ms",
            "mean": f"{one.mean:.2f} ms",
            "rows": str(one.rows),
            "blocks": str(one.blocks),
            "role": one.role,
            "statement": shown(one.query),
        }
        for one in found[:most]
    ]


def shown(text: str) -> str:
    """Give a statement fit to be shown: without its literals, which are people's data, on one line, cut."""
    line = mask.text(" ".join(_LITERAL.sub("'…'", mask.text(text)).split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


_COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"


def _schema(connection: Connection) -> str | None:
    """Where the extension is, None if it is not in this database."""
    found = connection.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'pg_stat_statements'"
    ).fetchone()
    return found["nspname"] if found else None
