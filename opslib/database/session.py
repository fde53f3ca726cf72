"""A session of PostgreSQL: who has it open, what it does, for how long, who keeps it waiting, and what it ran last.

Facts are those of pg_stat_activity and pg_blocking_pids(): postgresql.org/docs/current/monitoring-stats.html.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg import sql

from opslib.database import database_url, postgres, role, statement
from opslib.database.postgres import Connection

IDLE = ("idle in transaction", "idle in transaction (aborted)")
MIGRATION = 72707369
"""The advisory lock that `prisma migrate` holds while it works; it gives itself no application name."""
PREPARED = 0
"""What pg_blocking_pids() gives for a prepared transaction, which no session has any more."""

KEPT = re.compile(
    r"^pg_(dump|dumpall|restore|basebackup|receivewal|rewind|recvlogical)|prisma|migrat|schema-engine|barman|wal-?g"
    rf"|pgbackrest|patroni|repmgr|^{postgres.NAME}$",
    re.IGNORECASE,
)
"""Application names whose work is lost or half done when it is cut off: backups, migrations, replication, runbooks."""


_READ: LiteralString = """
SELECT pid, backend_type AS kind, coalesce(usename, '') AS role, coalesce(datname, '') AS database,
  application_name AS application, coalesce(host(client_addr), '') AS address, coalesce(client_port, -1) AS port,
  coalesce(state, '') AS state, coalesce(query, '') AS query, backend_start, state_change, query_start,
  coalesce(wait_event_type || ': ' || wait_event, '') AS waits_for,
  greatest(0, coalesce(extract(epoch FROM now() - CASE WHEN state = 'active' THEN query_start ELSE state_change END),
    0))::float8 AS age,
  pid IN (SELECT l.pid FROM pg_locks l WHERE l.pid > 0 AND granted AND locktype = 'advisory' AND objid = {})
    AS migrates,
  CASE WHEN wait_event_type = 'Lock' THEN pg_blocking_pids(pid) ELSE '{{}}' END AS blocked_by
FROM pg_stat_activity a WHERE pid <> pg_backend_pid() ORDER BY backend_start, pid"""


@dataclass(frozen=True)
class Session:
    """One process of the server. Together `pid` and `backend_start` name it for good; a pid alone is used again."""

    pid: int
    kind: str  # backend_type; `client backend` is somebody's session
    role: str
    database: str
    application: str
    address: str
    port: int
    state: str
    query: str  # the statement that it runs or ran last, as PostgreSQL has it: shown only through `said`
    backend_start: datetime | None
    state_change: datetime | None
    query_start: datetime | None
    waits_for: str
    migrates: bool  # holds the lock of `prisma migrate`
    age: float  # seconds in this state or, if active, in this statement
    blocked_by: tuple[int, ...]

    @property
    def said(self) -> str:
        """The statement, fit to be shown."""
        return statement.shown(self.query)

    @property
    def name(self) -> str:
        """Whose it is, by the name that the program has given itself."""
        return f"{self.application or 'no name'} as {self.role or self.kind}"

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        return {
            "pid": str(self.pid),
            "application": self.application or "—",
            "role": self.role or self.kind,
            "database": self.database,
            "client": self.address or "local",
            "state": self.state,
            "for": f"{self.age:.0f} s",
            "last statement": self.said,
        }


def read(connection: Connection) -> list[Session]:
    """Give every process of the server but this connection's, oldest first."""
    return [
        Session(**row | {"blocked_by": tuple(dict.fromkeys(row["blocked_by"]))})
        for row in connection.execute(sql.SQL(_READ).format(MIGRATION)).fetchall()
    ]


def of(connection: Connection, *roles: str) -> list[Session]:
    """Give the sessions that these roles have open, oldest first, but for those of this package."""
    found = (one for one in read(connection) if one.kind == "client backend" and one.role in roles)
    return [one for one in found if one.application != postgres.NAME]


def end(connection: Connection, *roles: str) -> None:
    """End the sessions of these roles."""
    pids = [one.pid for one in of(connection, *roles)]
    connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])


def roles(connection: Connection, url: str) -> tuple[str, ...]:
    """Give the roles that the API logs in with: that of its URL and, where there is one, its twin."""
    user = database_url.user(url)
    first = user.removesuffix(role.SUFFIX)
    if len(first + role.SUFFIX) > role.LONGEST or not role.paired(connection, user):
        return (user,)
    return first, role.twin(first)


def kept(one: Session, *, database: str, roles: Collection[str]) -> str:
    """Say why a session must not be ended from here; empty if it may be."""
    if one.kind != "client backend":
        return f"the server's own {one.kind}"
    if one.database != database:
        return f"works in database {one.database}"
    if one.role not in roles:
        return f"belongs to role {one.role}"
    if one.migrates:
        return "runs a migration of Prisma"
    if KEPT.search(one.application):
        return f"{one.application} must not be cut off"
    return ""


def same(one: Session) -> sql.Composed:
    """The condition under which a row of pg_stat_activity is this session, in this state, since the same moment."""
    began, since = ("query_start", one.query_start) if one.state == "active" else ("state_change", one.state_change)
    return sql.SQL("pid = {} AND backend_start = {} AND state = {} AND {} = {}").format(
        one.pid, one.backend_start, one.state, sql.SQL(began), since
    )


def groups(sessions: Sequence[Session]) -> list[dict[str, str]]:
    """Count the sessions by who has them and what they do, the most first; a row for each."""
    counted: dict[tuple[str, ...], list[Session]] = {}
    for one in sessions:
        if one.kind == "client backend":
            key = (one.role, one.database, one.application or "—", one.address or "local", one.state)
            counted.setdefault(key, []).append(one)
    names = ("role", "database", "application", "client", "state")
    return [
        dict(zip(names, key, strict=True))
        | {"sessions": str(len(found)), "longest so": f"{max(one.age for one in found):.0f} s"}
        for key, found in sorted(counted.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
