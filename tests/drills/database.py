"""The API's database login on the stand-in: the states that its rotation starts from, and what must hold at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opslib.database import admin as administrator, database_url, postgres, role
from opslib.database.login import KEY, Login
from tests.drills import standing
from tests.drills.standing import nothing, sandbox, soon
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV

NOTHING = nothing(KEY, "DATABASE_VERIFIER")


def one() -> None:
    """One role logs in, and no login waits to be retired."""
    login = Login(sandbox())
    if login.secret.previous:
        with administrator.connect(login.environment) as admin:
            admin.execute(role.lock(database_url.user(login.secret.previous)))
        standing.stage(NOTHING)
    if problems():
        first()


def two() -> None:
    """Two roles log in: one is in force, the other one was before and waits to be retired."""
    if not Login(sandbox()).secret.previous or problems():
        one()
        standing.run("rotate_database_password")


@contextmanager
def rotated() -> Iterator[None]:
    """Two roles log in; afterwards, as the stand-in was started."""
    two()
    try:
        yield
    finally:
        first()


def first() -> None:
    """The login that the stand-in was started with: its first password, and no second role."""
    credentials = Credentials.load()
    _first_role(credentials)
    standing.put({KEY: credentials.database_url}, NOTHING)


def problems(*retired: str) -> list[str]:
    """Say what is wrong; nothing if the API is well, and `.env`, PostgreSQL and the workers agree on one login.

    `retired` are URLs that were in force once: none may log in but the one in force and, until it is retired, the one
    that the staging file keeps. Meant for after a run that was not killed: a killed one may have to be run again.
    """
    login, wrong = Login(sandbox()), standing.problems()
    current, previous = login.secret.current, login.secret.previous
    if failure := postgres.failure(current):
        wrong.append(f"the login in the .env does not work: {failure}")
    if login.secret.pending or login.verifier.pending:
        wrong.append("the staging file still has what a run was to use")
    in_force = {database_url.user(url) for url in (current, previous) if url}
    with administrator.connect(login.environment) as admin:
        pair = {cluster.ROLE, role.twin(cluster.ROLE)}
        found = {name for name in pair if (known := role.read(admin, name)) and known.logs_in}
        if found != in_force:
            wrong.append(f"these roles may log in: {sorted(found)}, expected {sorted(in_force)}")
    if previous and postgres.failure(previous):
        wrong.append("the old login is kept and does not work")
    wrong += ["a retired URL logs in" for url in {*retired} - {current, previous} if postgres.failure(url) is None]
    if not soon(lambda: bool(login.moved(standing.workers()))):
        wrong.append("a worker is not logged in by the login in force")
    return wrong


@dataclass(frozen=True)
class Saved:
    """The `.env` of the login that the stand-in was started with, to be put back byte for byte after a test."""

    dotenv: bytes

    @classmethod
    def now(cls) -> "Saved":
        """Keep what the `.env` holds."""
        return cls(DOTENV.read_bytes())

    def put_back(self) -> None:
        """One role, its first password, no twin, nothing staged, and workers that have read this `.env`."""
        changed = DOTENV.read_bytes() != self.dotenv
        _first_role(Credentials.load())
        DOTENV.write_bytes(self.dotenv)
        if changed or problems():
            standing.put({}, NOTHING)


def _first_role(credentials: Credentials) -> None:
    """Give the first role its first password, and remove its twin."""
    twin = role.twin(cluster.ROLE)
    with cluster.connect_admin(credentials) as admin, postgres.connect(credentials.postgres_url) as connection:
        made = postgres.verifier(connection, cluster.ROLE, credentials.database_password)
        admin.execute(role.set_password(cluster.ROLE, made))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [twin])
        admin.execute(f"DROP ROLE IF EXISTS {twin}")
