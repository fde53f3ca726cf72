"""The login that the API has at PostgreSQL: the one in force, the one to come, the one before, and what each may do.

All three are read from the `.env` and from the staging file each time: a run that was killed is run again, and carries
on from what it finds there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from opslib.api import health, pm2
from opslib.api.pm2 import Worker
from opslib.database import admin, companion, database_url, postgres, role, sessions
from opslib.database.companion import Companion
from opslib.database.postgres import Lent, LoginFailed
from opslib.database.settings import Database
from opslib.deployment.deployment import Deployment
from opslib.deployment.staged_secret import Staged
from opslib.runbook.answer import Answer
from opslib.runbook.procedure import located

KEY = admin.KEY
PROCEDURES = {"alternate": "rotate_database_password", "single": "change_database_password"}
"""What replaces the login, by its method: two roles in turn, or one that gets another password."""


@dataclass(frozen=True)
class LoggedIn:
    """Which role one of the API's workers is logged in with, and the oldest session of that."""

    worker: str
    role: str
    since: datetime | None = field(compare=False)  # a pool begins sessions and ends them as it likes


@dataclass(frozen=True)
class Login:
    """The role and password that the API logs in with; `method` is how they are replaced: alternate or single."""

    environment: Deployment
    method: str = "alternate"

    @property
    def secret(self) -> Staged:
        """The URL, staged."""
        return Staged(self.environment, KEY)

    @property
    def verifier(self) -> Staged:
        """What PostgreSQL held for a role before a run changed it, on disk while that run lasts."""
        return Staged(self.environment, "DATABASE_VERIFIER")

    @property
    def database(self) -> Database:
        """The environment's settings. Raise BadEnvironment if it has none."""
        return self.environment.part(Database)

    @property
    def new(self) -> str:
        """The URL to come or, if none is staged, the one in force."""
        return self.secret.pending or self.secret.current

    @property
    def old(self) -> str:
        """The URL that is to be replaced or, until it is retired, the one that was."""
        current = self.secret.current
        return self.secret.previous if current == self.secret.pending or self.secret.previous else current

    @property
    def before(self) -> str:
        """The role that is to be replaced, or was."""
        return database_url.user(self.old)

    @property
    def target(self) -> str:
        """The role whose password a switch sets."""
        if pending := self.secret.pending:
            return database_url.user(pending)
        now = database_url.user(self.secret.current)
        return role.twin(now) if self.method == "alternate" else now

    @property
    def half_way(self) -> str:
        """The method by which a killed run had begun to replace the login; empty if none had."""
        if not self.secret.pending:
            return ""
        return "single" if database_url.user(self.old) == self.target else "alternate"

    @property
    def companions(self) -> list[Companion]:
        """The other variables of the `.env` that have this login, or one of the role whose password is to change."""
        known = (self.secret.current, self.secret.pending, self.secret.previous)
        return companion.found(self.environment, known, role=self.target)

    def along(self) -> Answer:
        """Whether each other variable of the `.env` that has this login can be changed along; with how."""
        found = self.companions
        rows = [
            {"variable": one.variable, "logs in as": one.role, "is": one.stands or f"changed with {KEY}"}
            for one in found
        ]
        names = ", ".join(one.variable for one in found if one.stands)
        otherwise = f"Give {names} a role of its own, or change it by hand afterwards: -p accept_others True"
        return Answer(not names, rows, otherwise)

    def abandoned(self) -> Answer:
        """Whether no variable of the `.env` still logs in with the role that is to be locked out."""
        found = companion.found(self.environment, [self.old], role=self.before)
        rows = [{"variable": one.variable, "logs in as": one.role} for one in found]
        names = ", ".join(one.variable for one in found)
        otherwise = f"It would be locked out: put the login in force into {names}, or go on with -p accept_others True"
        return Answer(not found, rows, otherwise)

    def working(self) -> list[str]:
        """Give those of the three URLs that log in: after a run that was killed not every one of them does."""
        known = (self.secret.current, self.secret.pending, self.secret.previous)
        return [url for url in known if url and postgres.failure(url) is None]

    def free(self) -> Answer:
        """Whether no other procedure was killed while it was replacing the login."""
        unfinished = self.half_way
        told = {"half way": PROCEDURES[unfinished] if unfinished else "none"}
        otherwise = f"Finish it first: run {told['half way']} again, it carries on."
        return Answer(unfinished in ("", self.method), told, otherwise)

    def retired(self) -> Answer:
        """Whether the login before is retired, or a run to replace it was killed half way."""
        well = bool(self.half_way) or not self.secret.previous
        return Answer(well, self.secret.row(), "Lock it out first, with retire_database_login.")

    def retirable(self) -> Answer:
        """Whether there is a login before, and none to come."""
        otherwise = "rotate_database_password leaves one; where it was killed, run that again first."
        return Answer(bool(self.secret.previous) and not self.half_way, self.secret.row(), otherwise)

    def works(self) -> Answer:
        """Whether the new login reads and writes as the API does, in a transaction that is rolled back.

        And whether it logs in by way of each URL that is changed along, which may lead by another address.
        """
        table, schema = self.database.table, database_url.schema(self.new)
        works = postgres.carry_out(self.new, KEY, lambda connection: role.works(connection, table, schema), within=5)
        for one in self.companions:
            if works and not one.stands:
                url = companion.with_login(self.environment, one.variable, self.new)
                if failure := postgres.failure(url, one.variable):
                    return Answer(False, {one.variable: failure}, f"Its address does not let {self.target} in.")
        return works

    def refused(self) -> Answer:
        """Whether PostgreSQL refuses the old login; any other trouble is no refusal."""
        failure = postgres.failure(self.old, "the old URL") if self.old else "password"
        return Answer(failure in postgres.REFUSED, failure or "it logs in")

    def let_in(self) -> Answer:
        """Whether the old login still works."""
        failure = postgres.failure(self.old, "the old URL")
        return Answer(failure is None, failure or "it logs in")

    def moved(self, workers: Sequence[Worker], since: datetime | None = None) -> Answer:
        """Whether each worker has a session, every one of the new login and begun after `since` (server time)."""
        wanted, before = database_url.user(self.new), database_url.user(self.old or self.new)
        found = admin.carry_out(self.environment, lambda connection: sessions.of(connection, wanted, before))
        if lent(self.new):
            anew = [s for s in found if s.role == wanted and s.backend_start and (not since or s.backend_start > since)]
            otherwise = (
                "A pooler lends its sessions, and whose they are cannot be seen: see that the API reads and writes."
            )
            return Answer(True if anew else None, [one.row() for one in found], otherwise)
        mine = sessions.by_worker(workers, found)
        begun: dict[tuple[str, str], datetime | None] = {}
        for id, one in sorted(mine, key=lambda each: str(each[1].backend_start)):
            begun.setdefault((str(id), one.role), one.backend_start)
        rows = [LoggedIn(*of, since=oldest) for of, oldest in sorted(begun.items())]
        fresh = all(s.role == wanted and (not since or (s.backend_start and s.backend_start > since)) for _, s in mine)
        everyone = {id for id, _ in mine} == {worker.id for worker in workers}
        return Answer(fresh and everyone, rows, "A worker with an old session has not read the new .env.")

    def anew(self, since: datetime) -> Answer:
        """Whether each worker, having answered, has logged in anew."""
        steady = health.steady(self.environment.api.health_url, 4)
        return self.moved(pm2.workers(self.environment), since) if steady else steady

    def answering(self) -> Answer:
        """Whether each worker, asked, has a session, and every one is of the login in force."""
        workers = pm2.quiet(self.environment)
        health.answering(self.environment.api.health_url, {worker.pid for worker in workers})
        return self.moved(workers)

    def unlisted(self) -> Answer:
        """Whether no PgBouncer comes into it: it holds passwords of its own, which no procedure here changes."""
        found = []
        if "pgbouncer=true" in self.secret.current:
            found.append(f"{KEY} has pgbouncer=true")
        elif any(lent(url) for url in (self.new, self.old)):
            found.append(f"{KEY} leads through a pooler")
        if file := self.database.userlist:
            named = {line.split('"')[1] for line in file.read_text().splitlines() if line.startswith('"')}
            found += [f"{located(file)} holds a password of {name}" for name in sorted(named & self._pair())]
            if found and self.target not in named:
                found.append(f"{located(file)} does not name {self.target}: it is let in only where it asks PostgreSQL")
        return Answer(not found, found, "Change its list too, then go on with -p accept_others True")

    def _pair(self) -> set[str]:
        return {database_url.user(url) for url in (self.new, self.old) if url} | {self.target}


def lent(url: str) -> bool:
    """Whether a URL leads through a pooler; not where nobody gets in by it."""
    try:
        with postgres.connect(url) as connection:
            return isinstance(connection, Lent)
    except LoginFailed:
        return False
