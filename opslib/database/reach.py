"""Whether PostgreSQL is reached and lets the API in; if not, the cause by name and what mends it."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from opslib.database import database_url, postgres
from opslib.database.database_url import UrlError
from opslib.database.postgres import LoginFailed
from opslib.database.settings import Database
from opslib.deployment.environment import Deployment
from opslib.runbook import program
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError

Cause = Literal[
    "none", "url", "dns", "refused", "timeout", "unreachable", "starting", "tls", "full", "password", "no-login",
    "no-entry", "no-database", "unknown",
]  # fmt: skip

PATIENCE = 60
"""Seconds that a server gets to be up once its command has been given; a long recovery takes more."""

# Words of libpq (18) and psycopg (3.3), where postgres.py knows only that nothing answered.
_UNREACHED: dict[Cause, Sequence[str]] = {
    "dns": ("could not translate", "failed to resolve", "Name or service not known"),
    "refused": ("Connection refused", "No such file"),
    "timeout": ("timeout expired", "timed out"),
    "unreachable": ("No route to host", "Network is unreachable"),
    "tls": ("SSL", "certificate", "TLS"),
}

# As pg_isready(1) says them.
_ANSWERS = {
    pq.Ping.OK: "accepting connections",
    pq.Ping.REJECT: "rejecting connections",
    pq.Ping.NO_RESPONSE: "no response",
    pq.Ping.NO_ATTEMPT: "not asked",
}

REMEDIES: dict[Cause, str] = {
    "none": "Nothing: it lets the API in.",
    "url": "DATABASE_URL is no URL of a database: correct it in the .env, then open restart_api.",
    "dns": "The host of DATABASE_URL has no address: look at the name in the .env and at DNS.",
    "refused": "Nothing listens there: PostgreSQL is down or has another port. Look at its service, its disk (a full "
    "one stops it) and the end of its log; start it, or let this procedure do that (`database.start`).",
    "timeout": "Nothing answers: the machine is down, or a firewall drops the packets. Look at the machine first.",
    "unreachable": "There is no way to that machine: look at its network.",
    "starting": "PostgreSQL is starting, recovering or shutting down: its log says which. Wait; do not restart it.",
    "tls": "The encrypted connection failed: look at the certificate's date and at sslmode in DATABASE_URL.",
    "full": "Every slot is taken: what is below says by whom, and what may be freed.",
    "password": "The .env and PostgreSQL do not agree on the password: open rotate_database_password, which finds a "
    "staged one; or put the right one into the .env and open restart_api.",
    "no-login": "The role may not log in: a rotation may have locked it. Open rotate_database_password.",
    "no-entry": "pg_hba.conf lets this role or address in nowhere: correct it and reload PostgreSQL.",
    "no-database": "The database is not there, or closed to the API: look for its other names with `psql -l`; a "
    "recovery may be half way: open recover_database.",
    "unknown": "Read the message, and PostgreSQL's log at that time.",
}


@dataclass(frozen=True)
class Reach:
    """What a server answered: `answer` is that of pg_isready, `cause` why the API would not get in."""

    where: str
    answer: str
    cause: Cause
    seconds: float
    said: str = ""

    @property
    def down(self) -> bool:
        """Whether there is no server to ask."""
        return self.answer != "accepting connections" and self.cause != "url"

    def mendable(self, environment: Deployment) -> bool:
        """Whether this procedure can go on: the API gets in, lacks a slot only, or the server can be started."""
        database = environment.find(Database)
        starts = database is not None and bool(database.start)
        return self.cause in ("none", "full") or (self.cause == "refused" and starts)

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.cause]

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        row = {"server": self.where, "answer": self.answer, "login": "works" if self.cause == "none" else self.cause}
        return row | {"took": f"{self.seconds:.1f} s"} | ({"message": self.said} if self.said else {})


def ask(url: str, name: str = "DATABASE_URL") -> Reach:
    """Ask the server whether it takes connections, then log in with the URL. Never raises for either."""
    begun = time.monotonic()
    try:
        where = _where(url, name)
    except UrlError as error:
        return Reach("unknown", "not asked", "url", 0, str(error))
    answer, said = _ping(url, name), ""
    cause: Cause = "none"
    try:
        postgres.connect(url, name).close()
    except LoginFailed as error:
        cause, said = _cause(error), str(error).rpartition("failed: ")[2]
    return Reach(where, answer, cause, time.monotonic() - begun, said)


def query(url: str, table: str) -> tuple[bool, dict[str, str]]:
    """Whether the API's own login reads a row of this table; with what came of it."""
    begun = time.monotonic()
    try:
        with postgres.connect(url) as connection:
            statement = sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(table))
            connection.execute(statement)
            shown = statement.as_string(connection)
    except (LoginFailed, psycopg.Error) as error:
        return False, {"answer": str(error).strip()}
    return True, {"query": shown, "took": f"{time.monotonic() - begun:.1f} s"}


def start(environment: Deployment, url: str) -> Change:
    """Make the change that starts the server by the environment's own command, where nothing answers.

    It cannot be taken back: a server that has come up is left up.
    """
    database = environment.find(Database)
    if database is None or not database.start:
        raise RunbookError("no command starts PostgreSQL: `database.start` of the environment is empty")
    words = shlex.split(database.start)

    def do() -> None:
        program.run(words, env=environment.variables, seconds=PATIENCE)
        ends = time.monotonic() + PATIENCE
        while (answer := _ping(url, "DATABASE_URL")) != "accepting connections":
            if time.monotonic() > ends:
                raise RunbookError(f"{PATIENCE} s after its start PostgreSQL answers: {answer}. Its log says why.")
            time.sleep(0.2)

    return Change(
        "Start PostgreSQL",
        [act(program.shown(words), run=do)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: f"{_where(url, 'DATABASE_URL')}, {_ping(url, 'DATABASE_URL')}",
    )


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
