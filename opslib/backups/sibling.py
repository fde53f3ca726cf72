"""The databases beside the live one that a recovery has made, by their names, and what a run has noted on each.

| name | what it is |
| --- | --- |
| `LIVE_new_TIME` | restored from the backup of that time; never live |
| `LIVE_old_TIME` | live until a recovery replaced it at that time |
| `LIVE_undone_TIME` | live between a recovery and its undo at that time |

TIME is UTC, as 20260131_235959. What was live once is never dropped but by stage drop-old. The note, a comment on the
database, says how far a run has come with it.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import sql

from opslib.database.postgres import Connection
from opslib.runbook.errors import RunbookError

TIME = "%Y%m%d_%H%M%S"
LONGEST = 63
"""Bytes of a name in PostgreSQL, as it is usually built."""


@dataclass(frozen=True)
class Sibling:
    """The live database, or one beside it."""

    name: str
    kind: str  # live, new, old or undone
    oid: int
    at: datetime | None
    size: int  # bytes
    note: dict[str, str] = field(repr=False)
    """What a run has noted on it; empty if none has."""

    @property
    def days(self) -> float:
        """Days since the time in its name; 0 of the live one."""
        return (datetime.now(UTC) - self.at).total_seconds() / 86400 if self.at else 0.0

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        days = f"{self.days:.1f}" if self.at else ""
        return {"database": self.name, "is": self.kind, "size": f"{self.size / 1e6:.1f} MB", "days": days}


def read(connection: Connection, live: str) -> list[Sibling]:
    """Give the live database, where there is one, then those beside it, newest first."""
    pattern = re.compile(rf"{re.escape(live)}_(new|old|undone)_(\d{{8}}_\d{{6}})")
    rows = connection.execute(
        "SELECT datname AS name, oid, pg_database_size(oid) AS size, shobj_description(oid, 'pg_database') AS comment"
        " FROM pg_database WHERE starts_with(datname::text, %s)",
        [live],
    ).fetchall()
    found = []
    for row in rows:
        match = pattern.fullmatch(row["name"])
        if match or row["name"] == live:
            at = datetime.strptime(match[2], TIME).replace(tzinfo=UTC) if match else None
            kind, note = match[1] if match else "live", _noted(row["comment"])
            found.append(Sibling(row["name"], kind, row["oid"], at, row["size"], note))
    return sorted(found, key=lambda one: (one.kind == "live", one.at.timestamp() if one.at else 0.0), reverse=True)


def name(live: str, kind: str, at: datetime | None = None) -> str:
    """Name a database beside the live one, by a time or else by now. Raise RunbookError if that is too long."""
    made = f"{live}_{kind}_{(at or datetime.now(UTC)).astimezone(UTC):{TIME}}"
    if len(made.encode()) > LONGEST:
        raise RunbookError(
            f"{made} has more than {LONGEST} bytes, which PostgreSQL would cut: {live} is too long a name"
        )
    return made


def note(connection: Connection, database: str, noted: dict[str, str]) -> None:
    """Note on a database how far a run has come with it, or nothing any more. A person's own comment is kept inside."""
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') AS comment FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    comment = (row["comment"] if row else None) or ""
    own = _noted(comment).get("comment", "") if _noted(comment) else comment
    text = json.dumps({"made by": "recover_database", **noted, "comment": own}) if noted else own or None
    statement = sql.SQL("COMMENT ON DATABASE {} IS {}")
    connection.execute(statement.format(sql.Identifier(database), sql.Literal(text)))


def _noted(comment: str | None) -> dict[str, str]:
    with suppress(ValueError):
        found: Any = json.loads(comment or "")
        if isinstance(found, dict) and found.get("made by") == "recover_database":
            return {str(key): str(value) for key, value in found.items()}
    return {}
