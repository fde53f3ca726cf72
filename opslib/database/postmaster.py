"""PostgreSQL's first process, where it runs on this machine: it is known by the moment at which the server began."""

import psutil

from opslib.database.postgres import Connection

NAMES = ("postgres", "postgres.exe", "postmaster")
SLACK = 10
"""Seconds by which the process may be older than what the server says; the clock may have been set since, too."""


def found(connection: Connection) -> psutil.Process | None:
    """Give the process of the server of this connection; None if it is not here, or cannot be told from another."""
    row = connection.execute("SELECT extract(epoch FROM pg_postmaster_start_time()) AS began").fetchone()
    assert row is not None
    began = float(row["began"])
    first = [one for one in psutil.process_iter(["name", "ppid", "create_time"]) if one.info["name"] in NAMES]
    servers = {one.pid for one in first}
    here = [one for one in first
            if one.info["ppid"] not in servers and abs((one.info["create_time"] or 0) - began) < SLACK]  # fmt: skip
    return here[0] if len(here) == 1 else None
