"""The login that the API has at PostgreSQL: the one in force, the one to come, the one before, and what each may do.

All three are read from the `.env` and from the staging file each time: a run that was killed is run again, and carries
on from what it finds there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from opslib.api import health, pm2
from opslib.api.pm2 import Worker
from opslib.database import admin, database_url, postgres, role, sessions
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
        """Whether the new login reads and writes as the API does, in a transaction that is rolled back."""
        table, schema = self.database.table, database_url.schema(self.new)
        return postgres.carry_out(self.new, KEY, lambda connection: role.works(connection, table, schema), within=5)

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
        if file := self.database.userlist:
            named = {line.split('"')[1] for line in file.read_text().splitlines() if line.startswith('"')}
            found += [f"{located(file)} holds a password of {name}" for name in sorted(named & self._pair())]
        return Answer(not found, found, "Change its list too, then go on with -p accept_others True")

    def _pair(self) -> set[str]:
        return {database_url.user(url) for url in (self.new, self.old) if url} | {self.target}
