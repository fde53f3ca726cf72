"""Sessions of a login at PostgreSQL: which are the API's workers', which somebody else's, and how they are ended."""

import time
from collections.abc import Sequence

from psycopg.rows import DictRow

from opslib import client, pm2
from opslib.environment import Environment
from opslib.pm2 import Worker
from opslib.postgres import NAME, Connection


def of(connection: Connection, *roles: str) -> list[DictRow]:
    """Give the sessions that these roles have open, oldest first, but for those of this package."""
    return connection.execute(
        "SELECT pid, usename AS role, application_name, client_addr::text AS client_addr, client_port, backend_start"
        " FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = ANY(%s) AND application_name <> %s"
        " ORDER BY backend_start",
        [list(roles), NAME],
    ).fetchall()


def by_worker(workers: Sequence[Worker], sessions: Sequence[DictRow]) -> list[tuple[int | str, DictRow]]:
    """Give those of the sessions that belong to these workers, each with the worker's id."""
    own = client.of_workers(workers)
    return [(own[end], one) for one in sessions if (end := _end(one)) in own]


def others(environment: Environment, connection: Connection, role: str, *, within: float = 5) -> list[DictRow]:
    """Give the sessions of a role that are not those of the API's workers on this machine.

    Workers come and go and their sessions with them: only who is seen for `within` seconds is somebody else.
    """
    ends, seen = time.monotonic() + within, None
    while True:
        found = of(connection, role)
        own = client.of_workers(pm2.workers(environment))
        now = {one["pid"]: one for one in found if _end(one) not in own}
        seen = now if seen is None else {pid: one for pid, one in seen.items() if pid in now}
        if not seen or time.monotonic() > ends:
            return list(seen.values())
        time.sleep(0.5)


def end(connection: Connection, *roles: str) -> None:
    """End the sessions of these roles."""
    pids = [one["pid"] for one in of(connection, *roles)]
    connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])


def _end(session: DictRow) -> tuple[str, int]:
    return (session["client_addr"] or "").split("/")[0], session["client_port"] or -1
