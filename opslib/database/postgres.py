"""PostgreSQL: connections from the URLs that Prisma reads, why a login failed, what is tried again, and verifiers.

A URL may lead through a pooler, such as PgBouncer, which lends a session of PostgreSQL to one client after another.
What is set there for a session is what the API finds in its own next, so nothing is: see `Lent`.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import Transaction, pq, sql
from psycopg.abc import Params
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row

from opslib.database import database_url
from opslib.runbook.errors import RunbookError, first_line

T = TypeVar("T")
C = TypeVar("C", bound="psycopg.Connection[DictRow]")
Connection = psycopg.Connection[DictRow]
Failure = Literal["password", "no-login", "no-entry", "no-database", "full", "starting", "down", "unknown"]

PAUSE = 0.5
"""Seconds between two tries."""
NAME = "runbook"
"""The application_name of every connection that is made here, but for one that a pooler lends."""
_ALIVE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "tcp_user_timeout": "20000"}
"""So that a network which has gone silent is noticed within half a minute, not after two hours."""
_LIMITS = {"statement_timeout": "30s", "lock_timeout": "5s"}
_FOR_THE_SESSION = re.compile(rb"\s*SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)\S+", re.IGNORECASE)
TRANSIENT: set[Failure] = {"full", "starting", "down"}
REFUSED: set[Failure] = {"password", "no-login", "no-entry"}

# A failed login carries no SQLSTATE (psycopg 3.3.9, libpq 18): the server's message is all there is. The server says
# "password authentication failed" of a role that does not exist too.
_MESSAGES: dict[Failure, str] = {
    "password": r"password authentication failed|no password supplied|SASL authentication failed|no such user",
    "no-login": r"is not permitted to log in|role \".*\" does not exist",
    "no-entry": r"no pg_hba\.conf entry|pg_hba\.conf rejects",
    "no-database": r"database \".*\" does not exist|permission denied for database|no such database",
    "full": r"too many clients|too many connections|remaining connection slots|no more connections allowed|"
    r"query_wait_timeout",
    "starting": r"is starting up|is shutting down|in recovery mode|terminating connection due to administrator",
    "down": r"Connection refused|timeout expired|timed out|could not translate|server closed the connection|"
    r"No route to host|Network is unreachable|Connection reset|No such file",
}


class Lent(psycopg.Connection[DictRow]):
    """A session that a pooler lends: what is set holds in a transaction, and each statement has one.

    A prepared statement would stay in that session too: none is made.
    """

    settings: tuple[sql.Composed, ...] = ()

    def execute(
        self, query: Any, params: Params | None = None, *, prepare: bool | None = None, binary: bool = False
    ) -> psycopg.Cursor[DictRow]:
        """Execute a statement, in a transaction of its own where none is open. Raise RunbookError for a bare SET."""
        text = query.as_bytes(self) if isinstance(query, sql.Composable) else query
        if kept := _FOR_THE_SESSION.match(text if isinstance(text, bytes) else str(text).encode()):
            raise RunbookError(
                f"`{kept[0].decode()}` was to be carried out through a pooler, where it would stay for whoever is lent "
                "the session next; name PostgreSQL itself in the URL"
            )
        if self.info.transaction_status != pq.TransactionStatus.IDLE:
            return super().execute(query, params, prepare=prepare, binary=binary)
        with self.transaction():
            return super().execute(query, params, prepare=prepare, binary=binary)

    @contextlib.contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[Transaction]:
        """Begin a transaction, or a part of the one that is open, in which the settings hold."""
        outermost = self.info.transaction_status == pq.TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            for setting in self.settings if outermost else ():
                super().execute(setting)
            yield transaction


class LoginFailed(RunbookError):
    """PostgreSQL was not reached, or let nobody in; `failure` is one of the words of Failure."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


def connect(url: str, name: str = "DATABASE_URL", *, within: float = 0, schema: str = "") -> Connection:
    """Log in anew, in autocommit mode, with rows as mappings and this schema, or else the one that Prisma works in.

    Through a pooler it is a Lent. What may pass (no answer, starting up, no free slot) is tried again for `within`
    seconds. Raise LoginFailed.
    """
    ends = time.monotonic() + within
    given = database_url.parameters(url, name) | {"connect_timeout": "5"} | _ALIVE
    while True:
        try:
            return _connect(given, schema or database_url.schema(url))
        except psycopg.OperationalError as error:
            failure = _failure(error)
            if failure not in TRANSIENT or time.monotonic() > ends:
                where = f"{given['user']} at {given['host']}:{given['port']}/{given['dbname']}"
                raise LoginFailed(f"{name}: {where} could not log in: {first_line(error)}", failure) from None
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
                    f"{f', tried for {within:g} s' if passes else ''}: {first_line(error)}. "
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
    settings = _LIMITS | {"search_path": sql.Identifier(schema).as_string()}
    connection = _log_in(given, psycopg.Connection)
    try:
        if _set(connection, settings | {"application_name": NAME}):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    lent = _log_in(given, Lent)
    lent.settings = tuple(sql.SQL("SELECT set_config({}, {}, true)").format(*one) for one in settings.items())
    return lent


def _log_in(given: dict[str, str], kind: type[C]) -> C:
    return kind.connect(make_conninfo(**given), autocommit=True, row_factory=dict_row, prepare_threshold=None)


def _set(connection: Connection, settings: dict[str, str]) -> bool:
    """Set these for the session, unless it is lent: a pooler names a process of its own at login.

    Not as options of the connection, which a pooler refuses, nor the application's name with the login: there it stays
    with the next client that gives none.
    """
    each = [sql.SQL("set_config({}, {}, false)").format(*one) for one in settings.items()]
    row = connection.execute(
        sql.SQL("SELECT CASE WHEN pg_backend_pid() = {} THEN ARRAY[{}] END AS done").format(
            connection.info.backend_pid, sql.SQL(", ").join(each)
        )
    ).fetchone()
    return row is not None and row["done"] is not None


def _failure(error: psycopg.OperationalError) -> Failure:
    text = str(error)
    found = next((kind for kind, pattern in _MESSAGES.items() if re.search(pattern, text)), None)
    # With an SQLSTATE it was let in, and its first statement failed.
    return found or ("down" if error.sqlstate else "unknown")
