"""PostgreSQL: connections from the URLs that Prisma reads, why a login failed, verifiers, and who is logged in."""

import re
import time
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

from opslib import database_url
from opslib.errors import RunbookError

Connection = psycopg.Connection[DictRow]
Failure = Literal["password", "no-login", "no-entry", "no-database", "full", "starting", "down", "unknown"]

NAME = "runbook"
"""The application_name of every connection that is made here."""
TRANSIENT: set[Failure] = {"full", "starting", "down"}
REFUSED: set[Failure] = {"password", "no-login", "no-entry"}

# A failed login carries no SQLSTATE (psycopg 3.3.9, libpq 18): the server's message is all there is. The server says
# "password authentication failed" of a role that does not exist too.
_MESSAGES: dict[Failure, str] = {
    "password": r"password authentication failed|no password supplied",
    "no-login": r"is not permitted to log in|role \".*\" does not exist",
    "no-entry": r"no pg_hba\.conf entry|pg_hba\.conf rejects",
    "no-database": r"database \".*\" does not exist|permission denied for database",
    "full": r"too many clients|too many connections|remaining connection slots",
    "starting": r"is starting up|is shutting down|in recovery mode|terminating connection due to administrator",
    "down": r"Connection refused|timeout expired|timed out|could not translate|server closed the connection|"
    r"No route to host|Network is unreachable|Connection reset|No such file",
}


class LoginFailed(RunbookError):
    """PostgreSQL was not reached, or let nobody in; `failure` is one of the words of Failure."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


def connect(url: str, name: str = "DATABASE_URL", *, within: float = 0) -> Connection:
    """Log in anew, in autocommit mode, with rows as mappings and the schema that Prisma would work in.

    What may pass (no answer, starting up, no free slot) is tried again for `within` seconds. Raise LoginFailed.
    """
    ends = time.monotonic() + within
    given = database_url.parameters(url, name) | {"application_name": NAME, "connect_timeout": "5"}
    while True:
        try:
            connection = psycopg.connect(make_conninfo(**given), autocommit=True, row_factory=dict_row)
            break
        except psycopg.OperationalError as error:
            failure, said = _failure(error), str(error).strip().splitlines()[0]
            if failure not in TRANSIENT or time.monotonic() > ends:
                where = f"{given['user']} at {given['host']}:{given['port']}/{given['dbname']}"
                raise LoginFailed(f"{name}: {where} could not log in: {said}", failure) from None
        time.sleep(0.5)
    # Not as options of the connection: PgBouncer refuses those.
    connection.execute("SET statement_timeout = '30s'")
    connection.execute("SET lock_timeout = '5s'")
    connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(database_url.schema(url))))
    return connection


def failure(url: str, name: str = "DATABASE_URL") -> Failure | None:
    """Say why this URL cannot log in now; None if it can."""
    try:
        connect(url, name).close()
    except LoginFailed as error:
        return error.failure
    return None


def server(connection: Connection) -> tuple[Any, ...]:
    """Give what is the same for two connections to one database of one server, by whatever address they came."""
    query = "SELECT pg_postmaster_start_time() AS started, current_database() AS database, oid FROM pg_database"
    found = connection.execute(f"{query} WHERE datname = current_database()").fetchone()
    assert found is not None
    return tuple(found.values())


def verifier(connection: Connection, role: str, password: str) -> str:
    """Make the SCRAM verifier of a password here: PostgreSQL, its log and its statistics never see the password."""
    return connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def sessions(connection: Connection, *roles: str) -> list[DictRow]:
    """Give the sessions that these roles have open, oldest first, but for those of this module."""
    return connection.execute(
        "SELECT pid, usename AS role, application_name, client_addr::text AS client_addr, client_port, backend_start"
        " FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = ANY(%s) AND application_name <> %s"
        " ORDER BY backend_start",
        [list(roles), NAME],
    ).fetchall()


def _failure(error: psycopg.OperationalError) -> Failure:
    text = str(error)
    return next((kind for kind, pattern in _MESSAGES.items() if re.search(pattern, text)), "unknown")
