"""The live database and the copies of it that recoveries have put beside it, and what a run has noted on each.

| name | what it is |
| --- | --- |
| `LIVE_new_TIME` | restored from the backup of that time; never live |
| `LIVE_old_TIME` | live until a recovery replaced it at that time |
| `LIVE_undone_TIME` | live between a recovery and its undo at that time |

TIME is UTC, as 20260131_235959. What was live once is never dropped but by drop_replaced_database. The note, a comment
on the database, says how far a run has come with it.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from psycopg.sql import Literal

from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.database.settings import RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, sql
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, RunbookError
from opslib.runbook.progress import Bytes

TIME = "%Y%m%d_%H%M%S"
LONGEST = 63
"""Bytes of a name in PostgreSQL, as it is usually built."""
OLDEST = "oldest"
REPLACED = ("old", "undone")
"""The kinds of those that were live once."""


@dataclass(frozen=True)
class DatabaseCopy:
    """The live database, or one beside it."""

    name: str
    kind: str  # live, new, old or undone
    size: Bytes
    at: datetime | None
    """The time in its name; the live one has none."""
    oid: int = field(repr=False)
    note: dict[str, str] = field(repr=False)
    """What a run has noted on it; empty if none has."""
    comment: str = field(repr=False)
    """What a person has noted on it."""


def listed(environment: Deployment) -> list[DatabaseCopy]:
    """Give the live database, where there is one, then those beside it, newest first."""
    with admin.connect(environment, admin.MAINTENANCE) as connection:
        return read(connection, admin.database(environment))


def read(connection: Connection, live: str) -> list[DatabaseCopy]:
    """Give what `listed` gives, through a connection that is open."""
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
            kind, (note, comment) = match[1] if match else "live", _parts(row["comment"] or "")
            found.append(DatabaseCopy(row["name"], kind, Bytes(row["size"]), at, row["oid"], note, comment))
    return sorted(found, key=lambda one: (one.kind == "live", one.at.timestamp() if one.at else 0.0), reverse=True)


def live(environment: Deployment) -> DatabaseCopy | None:
    """Give the live database, if there is one."""
    return next((one for one in listed(environment) if one.kind == "live"), None)


def last_replaced(environment: Deployment) -> DatabaseCopy | None:
    """Give the database that the last recovery replaced, if it did replace one."""
    return next((one for one in listed(environment) if one.kind == "old"), None)


def swapped(environment: Deployment) -> dict[str, str]:
    """Give what the run has noted that has swapped and not closed; empty if there is none."""
    found = live(environment)
    return found.note if found and found.note.get("state") == "swapped" else {}


def name(live: str, kind: str, at: datetime | None = None) -> str:
    """Name a database beside the live one, by a time or else by now. Raise RunbookError if that is too long."""
    made = f"{live}_{kind}_{(at or datetime.now(UTC)).astimezone(UTC):{TIME}}"
    if len(made.encode()) > LONGEST:
        raise RunbookError(
            f"{made} has more than {LONGEST} bytes, which PostgreSQL would cut: {live} is too long a name"
        )
    return made


def noted(comment: str, **note: str) -> str:
    """Give the text that notes how far a run has come with a database, with a person's own comment kept inside."""
    return json.dumps({"made by": "recover_database", **note, "comment": comment})


def comment(environment: Deployment, database: str, text: str) -> Act:
    """Make the act that writes the comment on a database; an empty one takes it away."""
    maintenance = partial(admin.connect, environment, admin.MAINTENANCE)
    return sql(maintenance, "COMMENT ON DATABASE {database} IS {text}", database=database, text=Literal(text or None))


# What a recovery replaced, and how long it stays


def choose(environment: Deployment, wanted: str) -> DatabaseCopy:
    """Give what was live once by its name, or the `oldest` of that. Raise BadParameter with what there is."""
    found = [one for one in listed(environment) if one.kind in REPLACED]
    if one := next((one for one in reversed(found) if wanted in (one.name, OLDEST)), None):
        return one
    there = ", ".join(one.name for one in found) or "none"
    raise BadParameter(f"database: none that a recovery replaced is called {wanted[:80]!a}; there is {there}")


def aged(environment: Deployment, one: DatabaseCopy) -> Answer:
    """Whether a database that was replaced has stayed as long as the environment's file says."""
    due = _due(environment, one)
    return Answer(
        datetime.now(UTC) >= due, {"database": one.name, "stays until": due}, "Wait until then: it is the way back."
    )


def due(environment: Deployment) -> list[dict[str, object]]:
    """Give each database that was replaced, when it may be dropped, and what is typed to do so."""
    run = f"runbook run drop_replaced_database -e {environment.name} -p database"
    return [
        {"database": one.name, "may be dropped from": _due(environment, one), "by": f"{run} {one.name}"}
        for one in listed(environment)
        if one.kind in REPLACED
    ]


def _due(environment: Deployment, one: DatabaseCopy) -> datetime:
    assert one.at is not None
    return one.at + timedelta(days=environment.part(RecoveryGoals).keep_days)


def _parts(comment: str) -> tuple[dict[str, str], str]:
    """Take a comment apart: what a run has noted, and what a person has."""
    with suppress(ValueError):
        found: Any = json.loads(comment)
        if isinstance(found, dict) and found.pop("made by", None) == "recover_database":
            own = str(found.pop("comment", ""))
            return {str(key): str(value) for key, value in found.items()}, own
    return {}, comment
