"""An administrator's login: whether one suffices for what procedures do, and which way in needs no password."""

import configparser
import contextlib
import getpass
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from opslib.database import postgres, role
from opslib.database.postgres import Connection

NEEDS = (
    "a superuser, or a role with CREATEROLE, CREATEDB, the ADMIN option on the API's role, pg_read_all_data, "
    "pg_read_all_stats and pg_signal_backend"
)
SOCKETS = ("/var/run/postgresql", "/tmp")
"""Where PostgreSQL's sockets lie unless it was told otherwise."""
SERVICES = "~/.pg_service.conf"

_MAY = """SELECT rolsuper OR rolcreatedb AS "CREATEDB",
  pg_has_role('pg_read_all_data', 'USAGE') AS pg_read_all_data,
  pg_has_role('pg_read_all_stats', 'USAGE') AS pg_read_all_stats,
  pg_has_role('pg_signal_backend', 'USAGE') AS pg_signal_backend
FROM pg_roles WHERE rolname = current_user"""


@dataclass(frozen=True)
class Way:
    """A way in that needs nothing of a person: what libpq is told, and what to put into a file to go it."""

    given: str
    put: str


def lacks(connection: Connection, api: Connection) -> list[str]:
    """Give what a login lacks of what procedures need of an administrator of the API's database."""
    may, login = connection.execute(_MAY).fetchone(), api.execute("SELECT session_user::text AS name").fetchone()
    assert may is not None
    assert login is not None
    alters = role.alters(connection, login["name"])
    missing = [] if alters else ["CREATEROLE with the ADMIN option on the API's role"]
    return missing + [name for name, has in may.items() if not has]


def without_secret(api: Connection) -> str:
    """Say what to put into the file of the URL where this machine lets an administrator in by itself; else nothing."""
    for way in _ways(api):
        try:
            with psycopg.connect(way.given, autocommit=True, row_factory=dict_row) as tried:
                if postgres.server(tried) == postgres.server(api) and not lacks(tried, api):
                    return way.put
        except psycopg.Error:
            continue
    return ""


def _ways(api: Connection) -> Iterator[Way]:
    row = api.execute("SELECT current_database()::text AS name, inet_server_port() AS port").fetchone()
    assert row is not None
    database, port = str(row["name"]), str(row["port"] or 5432)
    for folder in SOCKETS:
        for user in dict.fromkeys((getpass.getuser(), "postgres")):
            if Path(folder, f".s.PGSQL.{port}").exists():
                given = {"host": folder, "port": port, "user": user, "dbname": database, "connect_timeout": "2"}
                url = f"postgresql://{user}:none@localhost:{port}/{database}?host={folder}"
                yield Way(
                    make_conninfo(**given), f"The socket in {folder} asks {user} for no password: put `{url}` there."
                )
    file = Path(os.environ.get("PGSERVICEFILE") or SERVICES).expanduser()
    services = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    with contextlib.suppress(OSError, ValueError, configparser.Error):
        services.read(file)
    for name in services.sections():
        put = f"The service {name} of {file} suffices: put its login there, as a URL."
        yield Way(make_conninfo(service=name, dbname=database, connect_timeout="2"), put)
