"""The PostgreSQL cluster as its administrator sees it: a database of it, its size, and the disk that it lies on."""

import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import psutil

from opslib.database import database_url, postgres
from opslib.database.database_url import UrlError
from opslib.database.postgres import Connection, Lent, LoginFailed
from opslib.database.settings import Database
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.secret_reference import resolve
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment

T = TypeVar("T")

ADMINISTRATOR = "the administrator's URL"
KEY = "DATABASE_URL"
MAINTENANCE = "postgres"
"""The database to log in to while others are made, renamed or dropped: it is there where the API's may be gone."""
_LIMITS = {
    "statement_timeout": 0,
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 14,
    "transaction_timeout": 17,
}
"""Limits of a server that a long statement, or a snapshot that is kept, must not run into; since which version."""


def database(environment: Deployment) -> str:
    """Give the name of the database that the API uses."""
    file = environment.api.env_file
    return _database(file, file.stat().st_mtime_ns)


def api_url(environment: Deployment) -> str:
    """Give the URL in the API's `.env`. Raise BadEnvironment if it has none."""
    return _url(environment.api.env_file)


def url(environment: Deployment, name: str = "") -> str:
    """Give the administrator's URL, of this database or else of the API's."""
    given = resolve(environment.part(Database).admin, ADMINISTRATOR)
    return database_url.with_database(given, name or database(environment))


def connect(environment: Deployment, name: str = "", *, within: float = 10) -> Connection:
    """Log in as the administrator, in autocommit mode, for statements that may take long, in the API's schema and UTC.

    Raise LoginFailed, also if that leads through a pooler: what is set here would stay in its sessions.
    """
    schema = database_url.schema(api_url(environment))  # where _prisma_migrations lies, whatever `database.admin` says
    connection = postgres.connect(url(environment, name), ADMINISTRATOR, within=within, schema=schema)
    if isinstance(connection, Lent):
        connection.close()
        raise LoginFailed(
            f"{ADMINISTRATOR} leads through a pooler; name PostgreSQL itself in `database.admin`", "unknown"
        )
    limits = [limit for limit, since in _LIMITS.items() if major(connection) >= since]
    for setting in (*(f"{limit} = 0" for limit in limits), "timezone = 'UTC'"):
        connection.execute(f"SET {setting}".encode())
    return connection


def carry_out(environment: Deployment, act: Callable[[Connection], T], *, within: float = 10) -> T:
    """Act as the administrator, again where PostgreSQL fails in a way that may pass: see `postgres.carry_out`."""
    return postgres.carry_out(url(environment), ADMINISTRATOR, act, within=within)


def good(environment: Deployment, *urls: str) -> Answer:
    """Whether the administrator logs in, and to the very database that these URLs lead to."""
    correct = f"Correct `database.admin` of parameters/{environment.name}.yaml."
    try:
        with connect(environment, within=3) as connection:
            told = {"administrator": connection.info.user, "database": connection.info.dbname}
            ours = postgres.server(connection)
    except (postgres.LoginFailed, UrlError) as error:
        return Answer(False, str(error), correct)
    try:
        theirs = {_server(one) for one in urls}
    except postgres.LoginFailed as error:
        return Answer(None, str(error), "The API's own login fails: open troubleshoot_database.")
    return Answer(theirs <= {ours}, told, f"It leads to another server or database than the API's URL. {correct}")


def major(connection: Connection) -> int:
    """Give the server's major version."""
    return connection.info.server_version // 10_000


def size(connection: Connection) -> int:
    """Give the bytes that the database takes on disk, indexes included."""
    found = connection.execute("SELECT pg_database_size(current_database()) AS size").fetchone()
    assert found is not None
    return int(found["size"])


def exists(connection: Connection, name: str) -> bool:
    """Whether the cluster has a database of this name."""
    return connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is not None


def data(connection: Connection) -> Path | None:
    """Give the folder of the data if it lies on this machine and its place may be known, else None."""
    found = connection.execute("SELECT current_setting('data_directory', true) AS place").fetchone()
    place = Path(found["place"]) if found and found["place"] else None
    return place if place and here(connection) and os.path.exists(place) else None


def here(connection: Connection) -> bool:
    """Whether the address that a connection leads to is one of this machine."""
    own = {one.address.split("%")[0] for card in psutil.net_if_addrs().values() for one in card
           if one.family in (socket.AF_INET, socket.AF_INET6)}  # fmt: skip
    return connection.info.hostaddr in {"127.0.0.1", "::1", "", *own}


@cache
def _database(file: Path, changed: int) -> str:
    """Read the name of the API's database from a `.env`, once for as long as nobody has changed that."""
    return database_url.parameters(_url(file))["dbname"]


def _url(file: Path) -> str:
    found = env_file.read(file).get(KEY, "")
    if not found:
        raise BadEnvironment(f"{file} has no {KEY}; put it there and run again")
    return found


def _server(url: str) -> tuple[object, ...]:
    with postgres.connect(url) as connection:
        return postgres.server(connection)
