"""The server's statistics: what says that the server, or a whole table, is slow, rather than one statement."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from opslib.database.connection_slots import CROWDED, Limit
from opslib.database.postgres import Connection

HIT, ROLLED_BACK = 0.98, 0.1  # alerts of postgres_exporter's mixin
BIG, BY_INDEX = 10_000, 0.95
"""Rows of a table that counts, and the share of scans by index that it should have: pghero's figures."""

_DATABASE: LiteralString = """
SELECT blks_hit::float8 / nullif(blks_hit + blks_read, 0) AS hit, stats_reset, deadlocks, temp_files,
  xact_rollback::float8 / nullif(xact_commit + xact_rollback, 0) AS rolled_back
FROM pg_stat_database WHERE datname = current_database()"""
_TABLES: LiteralString = """
SELECT schemaname AS schema, relname AS table, n_live_tup AS rows, seq_scan AS scans, seq_tup_read AS rows_read,
  idx_scan::float8 / nullif(seq_scan + coalesce(idx_scan, 0), 0) AS by_index,
  coalesce(last_autoanalyze, last_analyze) IS NOT NULL AS analyzed
FROM pg_stat_user_tables WHERE seq_scan > 0 AND n_live_tup >= %s ORDER BY seq_tup_read DESC LIMIT 10"""


@dataclass(frozen=True)
class Figure:
    """A figure of the server, what is expected of it, and what to do where it is not so."""

    figure: str
    value: str
    expected: str
    well: bool
    do: str = field(repr=False)
    mend: str = field(default="", repr=False)
    """The procedure that mends it, if one does."""


@dataclass(frozen=True)
class BigTable:
    """A big table that is read from end to end more often than it should be."""

    schema: str
    table: str
    rows: int
    scans: int
    rows_read: int
    by_index: float | None  # share of its scans
    analyzed: bool

    @property
    def analyze(self) -> str:
        """The statement by which PostgreSQL gets to know it."""
        return f"ANALYZE {sql.Identifier(self.schema, self.table).as_string(None)};"


def read(connection: Connection, limits: Sequence[Limit]) -> list[Figure]:
    """Give the figures of the server and of this database."""
    found = connection.execute(_DATABASE).fetchone()
    assert found is not None
    since = f"{found['stats_reset']:%Y-%m-%d}" if found["stats_reset"] else "the beginning"
    hit, rolled_back, deadlocks = found["hit"], found["rolled_back"], found["deadlocks"]
    slots = [
        Figure(
            f"slots taken, {limit.of}",
            f"{limit.taken} of {limit.slots}",
            f"at most {CROWDED:.0%}",
            not limit.crowded,
            "see who has the sessions",
            "troubleshoot_database",
        )
        for limit in limits
    ]
    return [
        *slots,
        Figure(
            f"blocks found in the buffers, since {since}",
            "—" if hit is None else f"{hit:.1%}",
            f"at least {HIT:.0%}",
            hit is None or hit >= HIT,
            "find the statement that reads most blocks, then raise shared_buffers",
        ),
        Figure(
            f"transactions rolled back, since {since}",
            "—" if rolled_back is None else f"{rolled_back:.1%}",
            f"at most {ROLLED_BACK:.0%}",
            (rolled_back or 0) <= ROLLED_BACK,
            "look for errors in PostgreSQL's log",
        ),
        Figure("deadlocks", str(deadlocks), "0", not deadlocks, "look for `deadlock detected` in PostgreSQL's log"),
    ]


def scanned(connection: Connection) -> list[BigTable]:
    """Give the big tables that are read from end to end more often than they should be, the most read first."""
    found = [BigTable(**row) for row in connection.execute(_TABLES, [BIG]).fetchall()]
    return [one for one in found if (one.by_index or 0) < BY_INDEX]
