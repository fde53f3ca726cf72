"""The vitals of a database: figures that say whether the server, not a statement, is what is slow."""

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from opslib.database.postgres import Connection
from opslib.database.slots import CROWDED, Limit

HIT, ROLLED_BACK = 0.98, 0.1  # alerts of postgres_exporter's mixin
BIG, BY_INDEX = 10_000, 0.95
"""Rows of a table that counts, and the share of scans by index that it should have: pghero's figures."""

_DATABASE: LiteralString = """
SELECT blks_hit::float8 / nullif(blks_hit + blks_read, 0) AS hit, stats_reset, deadlocks, temp_files,
  xact_rollback::float8 / nullif(xact_commit + xact_rollback, 0) AS rolled_back
FROM pg_stat_database WHERE datname = current_database()"""
_TABLES: LiteralString = """
SELECT schemaname AS schema, relname AS name, n_live_tup AS live, seq_scan AS scans, seq_tup_read AS read,
  idx_scan::float8 / nullif(seq_scan + coalesce(idx_scan, 0), 0) AS by_index, pg_table_size(relid) AS size,
  n_dead_tup AS dead, coalesce(last_autoanalyze, last_analyze) IS NULL AS unknown
FROM pg_stat_user_tables WHERE seq_scan > 0 AND n_live_tup >= %s ORDER BY seq_tup_read DESC LIMIT 10"""


def rows(connection: Connection, limits: Sequence[Limit]) -> list[dict[str, str]]:
    """Give each figure with what is expected of it; `verdict` is what to do where it is not so."""
    found = connection.execute(_DATABASE).fetchone()
    assert found is not None
    since = f"{found['stats_reset']:%Y-%m-%d}" if found["stats_reset"] else "the beginning"
    hit, rolled_back = found["hit"], found["rolled_back"]
    return [
        {
            "figure": f"slots taken, {limit.of}",
            "value": f"{limit.taken} of {limit.slots}",
            "expected": f"at most {CROWDED:.0%}",
            "verdict": "open troubleshoot_database" if limit.crowded else "well",
        }
        for limit in limits
    ] + [
        {
            "figure": f"blocks found in the buffers, since {since}",
            "value": "—" if hit is None else f"{hit:.1%}",
            "expected": f"at least {HIT:.0%}",
            "verdict": "well" if hit is None or hit >= HIT else "find what reads most below, then more shared_buffers",
        },
        {
            "figure": f"transactions rolled back, since {since}",
            "value": "—" if rolled_back is None else f"{rolled_back:.1%}",
            "expected": f"at most {ROLLED_BACK:.0%}",
            "verdict": "well" if (rolled_back or 0) <= ROLLED_BACK else "look for errors in PostgreSQL's log",
        },
        {
            "figure": "deadlocks",
            "value": str(found["deadlocks"]),
            "expected": "0",
            "verdict": "look for `deadlock detected` in PostgreSQL's log" if found["deadlocks"] else "well",
        },
    ]


def scanned(connection: Connection) -> list[dict[str, str]]:
    """Give the big tables that are read from end to end more often than they should be, the most read first."""
    return [
        {
            "table": row["name"],
            "rows": str(row["live"]),
            "size": f"{row['size'] / 2**20:.0f} MiB",
            "scans": str(row["scans"]),
            "rows read by them": str(row["read"]),
            "scans by index": f"{row['by_index']:.0%}" if row["by_index"] is not None else "—",
            "advice": f"ANALYZE {sql.Identifier(row['schema'], row['name']).as_string(connection)};"
            if row["unknown"]
            else "see the indexes that would help, below",
        }
        for row in connection.execute(_TABLES, [BIG]).fetchall()
        if (row["by_index"] or 0) < BY_INDEX
    ]
