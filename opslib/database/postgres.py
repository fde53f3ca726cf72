"""PostgreSQL: connections from the URLs that Prisma reads, why a login failed, what is tried again, and verifiers."""

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

from opslib.database import database_url
from opslib.runbook.errors import RunbookError

T = TypeVar("T")
Connection = psycopg.Connection[DictRow]
Failure = Literal["password", "no-login", "no-entry", "no-database", "full", "starting", "down", "unknown"]

PAUSE = 0.5
"""Seconds between two tries."""
NAME = "runbook"
"""The application_name of every connection that is made here."""
_ALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}
"""So that a network which has gone silent is noticed within half a minute, not after two hours."""
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
    given = database_url.parameters(url, name) | {"application_name": NAME, "connect_timeout": "5"} | _ALIVE
    while True:
        try:
            return _connect(given, database_url.schema(url))
        except psycopg.OperationalError as error:
            failure = _failure(error)
            if failure not in TRANSIENT or time.monotonic() > ends:
                where = f"{given['user']} at {given['host']}:{given['port']}/{given['dbname']}"
                raise LoginFailed(f"{name}: {where} could not log in: {_first_line(error)}", failure) from None
        time.sleep(PAUSE)


def carry_out(url: str, name: str, act: Callable[[Connection], T], *, within: float) -> T:
    """Log in and act; give what `act` gives.

    What may pass (the connection is lost, a lock or a statement takes too long, the server restarts) is tried again,
    with a new login, for `within` seconds, so `act` must come to the same when it is done twice. Raise RunbookError.
    """
    ends = time.monotonic() + within
    while True:
        try:
            with contextlib.closing(connect(url, name, within=max(0, ends - time.monotonic()))) as connection:
                return act(connection)
        except psycopg.Error as error:
            passes = isinstance(error, psycopg.OperationalError) or "concurrently updated" in str(error)
            if not passes or time.monotonic() > ends:
                raise RunbookError(
                    f"{name}: PostgreSQL did not carry out a statement"
                    f"{f', tried for {within:g} s' if passes else ''}: {_first_line(error)}. "
                    "Put that right, or wait until PostgreSQL is well; then run again."
                ) from None
        time.sleep(PAUSE)


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


def _connect(given: dict[str, str], schema: str) -> Connection:
    connection = psycopg.connect(make_conninfo(**given), autocommit=True, row_factory=dict_row)
    try:
        # Not as options of the connection: PgBouncer refuses those.
        connection.execute("SET statement_timeout = '30s'")
        connection.execute("SET lock_timeout = '5s'")
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
    except BaseException:
        connection.close()
        raise
    return connection


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip() or "no reason given").splitlines()[0]


def _failure(error: psycopg.OperationalError) -> Failure:
    if error.sqlstate:  # so it was let in, and its first statements failed
        return "down"
    text = str(error)
    return next((kind for kind, pattern in _MESSAGES.items() if re.search(pattern, text)), "unknown")
