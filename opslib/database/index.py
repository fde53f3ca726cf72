"""The indexes of a database, and which of them are of no use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from opslib.database.postgres import Connection
from opslib.runbook.act import composed
from opslib.runbook.answer import Answer

RARELY = 50
"""Scans up to which an index counts as unused: pghero's figure."""
SMALL = 2**20
"""Bytes below which an unused index is not worth a word."""
DROP = "DROP INDEX CONCURRENTLY IF EXISTS {index}"
"""Removes an index, if it is there, beside the work that goes on."""

_READ: LiteralString = """
SELECT n.nspname AS schema, c.relname AS name, t.relname AS "table", indisunique AS "unique", indisvalid AS valid,
  EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND contype <> 'f') AS "constraint",
  EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) AS building,
  a.amname AS method, coalesce(idx_scan, 0) AS scans, pg_relation_size(i.indexrelid) AS size,
  pg_get_indexdef(i.indexrelid) AS definition, coalesce(pg_get_expr(indpred, indrelid), '') AS only,
  ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) || ' ' || indclass[k - 1] || ' ' || indcollation[k - 1] || ' '
    || indoption[k - 1] FROM generate_series(1, indnkeyatts) AS k) AS keys,
  ARRAY(SELECT attname::text FROM generate_series(0, indnkeyatts - 1) AS k LEFT JOIN pg_attribute f
    ON f.attrelid = indrelid AND f.attnum = indkey[k] AND indkey[k] > 0 ORDER BY k) AS columns
FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = c.relam
  LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = i.indexrelid
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY 1, 3, 2"""


@dataclass(frozen=True)
class Index:
    """An index as it is; `columns` has None where it is on an expression, `only` the condition of a partial one."""

    schema: str
    name: str
    table: str
    unique: bool
    valid: bool
    constraint: bool
    building: bool
    method: str
    scans: int
    size: int  # bytes
    definition: str
    only: str
    keys: list[str]
    columns: list[str | None]

    @property
    def identifier(self) -> sql.Identifier:
        """Its name, quoted as a statement needs it."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Useless:
    """An index that costs every write and helps nobody, and the statement that drops it."""

    index: str
    table: str
    mib: float
    why: str
    drop: str
    invalid: bool = field(repr=False)  # left behind by a build that failed or was killed

    @classmethod
    def of(cls, one: Index, why: str) -> "Useless":
        """Say why this index is of no use."""
        dropped = composed(DROP, {"index": one.identifier}).as_string()
        return cls(one.name, one.table, round(one.size / 2**20, 1), why, f"{dropped};", not one.valid)


def read(connection: Connection) -> list[Index]:
    """Give every index of the database."""
    return [Index(**row) for row in connection.execute(_READ).fetchall()]


def useless(connection: Connection, indexes: Sequence[Index]) -> list[Useless]:
    """Say which indexes cost writes and help nobody: invalid, covered by another one, hardly ever used."""
    counters = connection.execute(
        "SELECT (SELECT stats_reset::date::text FROM pg_stat_database WHERE datname = current_database()) AS since,"
        " (SELECT count(*) FROM pg_stat_replication) AS replicas"
    ).fetchone()
    assert counters is not None
    counted = f"since {counters['since']}" if counters["since"] else "since the server was made"
    if counters["replicas"]:
        counted += f"; {counters['replicas']} replicas count their own scans: ask them too"
    broken = [one for one in indexes if not one.valid and not one.building]
    found = [Useless.of(one, "invalid: a build failed or was cut off") for one in broken]
    for one in indexes:
        if one.unique or one.constraint or not one.valid:
            continue
        if other := next((other for other in indexes if _covers(other, one)), None):
            found.append(Useless.of(one, f"covered by {other.name}"))
        elif one.scans <= RARELY and one.size >= SMALL:
            found.append(Useless.of(one, f"used {one.scans} times {counted}"))
    return found


def broken(indexes: Sequence[Index], name: str) -> Answer:
    """Whether this index is what a build has left behind; where none is named, whether there is just one such."""
    found = [one for one in indexes if not one.valid]
    of_them = [one for one in found if name in ("", one.name)]
    evidence = [{"index": one.name, "table": one.table, "is being built": one.building} for one in found]
    well = len(of_them) == 1 and not of_them[0].building
    return Answer(well, evidence, "Name one of these that nobody builds; one that is valid is not dropped from here.")


def _covers(other: Index, one: Index) -> bool:
    """Whether whatever `one` is good for, `other` is too."""
    if (other.schema, other.table, other.method, other.only) != (one.schema, one.table, one.method, one.only):
        return False
    if other.name == one.name or not other.valid or one.method != "btree" or other.keys[: len(one.keys)] != one.keys:
        return False
    # Of two alike, the one that a constraint or uniqueness needs stays, else the first by name.
    alike = len(other.keys) == len(one.keys)
    return not alike or other.unique or other.constraint or other.name < one.name
