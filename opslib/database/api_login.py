"""The API's login at PostgreSQL: whether it works; if not, the cause by name and what mends it."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from opslib.database import admin, database_url, postgres
from opslib.database.database_url import UrlError
from opslib.database.postgres import LoginFailed
from opslib.database.settings import Database
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer
from opslib.runbook.errors import first_line

Cause = Literal[
    "none", "url", "dns", "refused", "timeout", "unreachable", "starting", "tls", "full", "password", "no-login",
    "no-entry", "no-database", "unknown",
]  # fmt: skip

# Words of libpq (18) and psycopg (3.3), where postgres.py knows only that nothing answered.
_UNREACHED: dict[Cause, Sequence[str]] = {
    "dns": ("could not translate", "failed to resolve", "Name or service not known"),
    "refused": ("Connection refused", "No such file"),
    "timeout": ("timeout expired", "timed out"),
    "unreachable": ("No route to host", "Network is unreachable"),
    "tls": ("SSL", "certificate", "TLS"),
}

ACCEPTS, DOWN = "accepting connections", "no response"
# As pg_isready(1) says them.
_ANSWERS = {
    pq.Ping.OK: ACCEPTS,
    pq.Ping.REJECT: "rejecting connections",
    pq.Ping.NO_RESPONSE: DOWN,
    pq.Ping.NO_ATTEMPT: "not asked",
}

REMEDIES: dict[Cause, str] = {
    "none": "Nothing: it lets the API in.",
    "url": "DATABASE_URL is no URL of a database: correct it in the .env, then open restart_api.",
    "dns": "The host of DATABASE_URL has no address: look at the name in the .env and at DNS.",
    "refused": "Nothing listens there: PostgreSQL is down or has another port. Look at its service, its disk (a full "
    "one stops it) and the end of its log; then start it.",
    "timeout": "Nothing answers: the machine is down, or a firewall drops the packets. Look at the machine first.",
    "unreachable": "There is no way to that machine: look at its network.",
    "starting": "PostgreSQL is starting, recovering or shutting down: its log says which. Wait; do not restart it.",
    "tls": "The encrypted connection failed: look at the certificate's date and at sslmode in DATABASE_URL.",
    "full": "Every slot is taken: free some with free_database_connections.",
    "password": "The .env and PostgreSQL do not agree on the password: run rotate_database_password again, or "
    "change_database_password, whichever was cut short; or put the right one into the .env and open restart_api.",
    "no-login": "The role may not log in: retire_database_login locks the one before. Open rotate_database_password.",
    "no-entry": "pg_hba.conf lets this role or address in nowhere: correct it and reload PostgreSQL.",
    "no-database": "The database is not there, or closed to the API: look for its other names with `psql -l`; a "
    "recovery may be half way: open recover_database.",
    "unknown": "Read the message, and PostgreSQL's log at that time.",
}


@dataclass(frozen=True)
class ApiLogin:
    """What a server answered the API's login: `answer` is that of pg_isready, `cause` why the API would not get in."""

    server: str
    answer: str
    cause: Cause
    said: str = ""
    unchecked: str = field(default="", repr=False)
    """Why node-postgres would refuse the server's certificate, where libpq does not look at it."""

    @property
    def down(self) -> bool:
        """Whether there is no server to ask."""
        return self.answer != ACCEPTS and self.cause != "url"

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.cause]


def ask(url: str, name: str = "DATABASE_URL") -> ApiLogin:
    """Ask the server whether it takes connections, then log in with the URL. Never raises for either."""
    try:
        where = _where(url, name)
    except UrlError as error:
        return ApiLogin("unknown", "not asked", "url", str(error))
    answer, said = _ping(url, name), ""
    cause: Cause = "none"
    try:
        postgres.connect(url, name).close()
    except LoginFailed as error:
        cause, said = _cause(error), str(error).rpartition("failed: ")[2]
    return ApiLogin(where, answer, cause, said, _unchecked(url, name) if cause == "none" else "")


def accepts(environment: Deployment) -> Answer:
    """Whether the server accepts connections, which needs no password."""
    url = admin.api_url(environment)
    answer = _ping(url, admin.KEY)
    told = {"server": _where(url, admin.KEY), "answer": answer}
    return Answer(answer == ACCEPTS, told, "Look at PostgreSQL's log; troubleshoot_database says more.")


def startable(environment: Deployment) -> Answer:
    """Whether the server is down, or up: one that is starting, recovering or stopping is to be left alone."""
    found = accepts(environment)
    return Answer(found.evidence["answer"] in (ACCEPTS, DOWN), found.evidence, "Wait: its log says what it does.")


def reads(environment: Deployment) -> Answer:
    """Whether the API's own login reads a row of the table that it is tried on."""
    statement = sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(environment.part(Database).table))
    try:
        with postgres.connect(admin.api_url(environment)) as connection:
            connection.execute(statement)
    except (LoginFailed, psycopg.Error) as error:
        return Answer(False, {"answer": str(error).strip()})
    return Answer(True, {"query": statement.as_string(None)})


def _unchecked(url: str, name: str) -> str:
    """Say why the server's certificate is not one that node-postgres takes; empty if it is, or is not asked for."""
    given = database_url.parameters(url, name)
    known = given.get("sslrootcert") or ssl.get_default_verify_paths().cafile
    if not known or not database_url.checked(url):
        return ""
    strict = given | {"sslmode": "verify-full", "sslrootcert": known, "connect_timeout": "5"}
    try:
        psycopg.connect(make_conninfo(**strict)).close()
    except psycopg.OperationalError as error:
        return first_line(error).rpartition("failed: ")[2]
    return ""


def _where(url: str, name: str) -> str:
    given = database_url.parameters(url, name)
    return f"{given['host']}:{given['port']}/{given['dbname']}"


def _ping(url: str, name: str) -> str:
    given = database_url.parameters(url, name) | {"connect_timeout": "5"}
    return _ANSWERS[pq.Ping(pq.PGconn.ping(make_conninfo(**given).encode()))]


def _cause(error: LoginFailed) -> Cause:
    if error.failure != "down" and error.failure != "unknown":
        return error.failure
    said = str(error)
    return next((cause for cause, words in _UNREACHED.items() if any(word in said for word in words)), "unknown")
