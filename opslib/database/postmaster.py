"""PostgreSQL's first process, where it runs on this machine: the parent of the one that serves a connection."""

import psutil

from opslib.database.postgres import Connection

NAMES = ("postgres", "postgres.exe", "postmaster")
SLACK = 10
"""Seconds by which a process may differ from what the server says: the clock may have been set since."""


def found(connection: Connection) -> psutil.Process | None:
    """Give the process of the server of this connection; None where it is not here, or not seen under its number."""
    row = connection.execute(
        "SELECT pid, extract(epoch FROM backend_start)::float8 AS began,"
        " extract(epoch FROM pg_postmaster_start_time())::float8 AS server_began"
        " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    ).fetchone()
    try:
        backend = psutil.Process(row["pid"]) if row else None
        server = backend.parent() if backend else None
        # The server may be another machine's, where that number is of another process.
        if row and backend and server and _began(backend, row["began"]) and _began(server, row["server_began"]):
            return server
    except psutil.Error:
        pass
    return None


def _began(process: psutil.Process, when: float) -> bool:
    return process.name() in NAMES and abs(process.create_time() - when) < SLACK
