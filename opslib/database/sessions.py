"""The sessions of PostgreSQL: who has each open, what it does, for how long, what it waits for, and whose it is here.

Facts are those of pg_stat_activity and pg_blocking_pids(): postgresql.org/docs/current/monitoring-stats.html.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psutil
from psycopg import sql

from opslib.api import pm2
from opslib.api.pm2 import Worker
from opslib.database import admin, database_url, postgres, role, statement
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer

IDLE = ("idle in transaction", "idle in transaction (aborted)")
MIGRATION = 72707369
"""The advisory lock that `prisma migrate` holds while it works; it gives itself no application name."""
PREPARED = 0
"""What pg_blocking_pids() gives for a prepared transaction, which no session has any more."""

Ends = Mapping[tuple[str, int], int]
"""By address and port of the near end of a connection, the process that has it open."""

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


def roles(connection: Connection, url: str) -> tuple[str, ...]:
    """Give the roles that the API logs in with: that of its URL and, where there is one, its twin."""
    user = database_url.user(url)
    first = user.removesuffix(role.SUFFIX)
    if len(first + role.SUFFIX) > role.LONGEST or not role.paired(connection, user):
        return (user,)
    return first, role.twin(first)


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


def ends() -> dict[tuple[str, int], int]:
    """Give the near ends of this machine's connections, by which PostgreSQL knows its clients."""
    found = {}
    for one in psutil.net_connections(kind="tcp"):
        if one.pid and one.laddr and one.raddr:
            found[one.laddr.ip.removeprefix("::ffff:"), one.laddr.port] = one.pid
    return found


def by_worker(workers: Sequence[Worker], sessions: Sequence[Session]) -> list[tuple[int | str, Session]]:
    """Give those of the sessions that belong to these workers, each with the worker's id."""
    ids, found = {worker.pid: worker.id for worker in workers}, ends()
    own = ((ids.get(found.get((one.address, one.port), 0)), one) for one in sessions)
    return [(id, one) for id, one in own if id is not None]


def own(sessions: Sequence[Session], ends: Ends, pids: Collection[int]) -> set[int]:
    """Give the pids of the sessions that these processes have open, as the API's workers do."""
    return {one.pid for one in sessions if ends.get((one.address, one.port)) in pids}


def none_as(environment: Deployment, role: str, *, within: float = 5) -> Answer:
    """Whether nobody but the API's workers on this machine is logged in as this role; with who is.

    Workers come and go and their sessions with them: only who is seen for `within` seconds is somebody else.
    """
    until, seen = time.monotonic() + within, None
    with admin.connect(environment) as connection:
        while True:
            found = of(connection, role)
            mine = {one.pid for _, one in by_worker(pm2.workers(environment), found)}
            now = {one.pid: one for one in found if one.pid not in mine}
            seen = now if seen is None else {pid: one for pid, one in seen.items() if pid in now}
            if not seen or time.monotonic() > until:
                break
            time.sleep(0.5)
    otherwise = f"{len(seen)} sessions of {role} are not the API's. To go on all the same: -p accept_others True"
    return Answer(not seen, [one.row() for one in seen.values()], otherwise)


def none(environment: Deployment, database: str, workers: Sequence[Worker]) -> Answer:
    """Whether nobody but these workers and this project uses a database; with who does.

    Prepared transactions, subscriptions and logical replication slots of it count too: they stay with the database that
    is renamed.
    """
    with admin.connect(environment, admin.MAINTENANCE) as connection:
        found = [one for one in _in(connection, database) if one.application != postgres.NAME]
        rest: list[dict[str, Any]] = connection.execute(
            "SELECT owner AS role, 'prepared transaction ' || gid AS application"
            " FROM pg_prepared_xacts WHERE database = %(database)s"
            " UNION ALL SELECT NULL, 'replication slot ' || slot_name FROM pg_replication_slots"
            " WHERE database = %(database)s"
            " UNION ALL SELECT NULL, 'subscription ' || subname FROM pg_subscription s"
            " JOIN pg_database d ON d.oid = s.subdbid WHERE datname = %(database)s",
            {"database": database},
        ).fetchall()
    mine = [one for _, one in by_worker(workers, found)]
    others = [one.row() for one in found if one not in mine] + rest
    return Answer(not others, others, f"{len(others)} others use {database}: stop them; they would be disconnected.")


def logged_in(environment: Deployment, database: str, workers: Sequence[Worker]) -> Answer:
    """Whether each of these workers is logged in to a database; with those that are."""
    with admin.connect(environment, admin.MAINTENANCE) as connection:
        found = {id for id, _ in by_worker(workers, _in(connection, database))}
    evidence = [{"worker": id, "logged in to": database} for id in sorted(found, key=str)]
    return Answer(found == {one.id for one in workers}, evidence, "A worker logs in when it is asked for something.")


def _in(connection: Connection, database: str) -> list[Session]:
    kinds = ("client backend", "walsender")
    return [one for one in read(connection) if one.database == database and one.kind in kinds]
