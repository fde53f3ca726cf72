"""The login that the API has at PostgreSQL: the one in force, the one to come, the one before, and what each may do.

All three are read from the `.env` and from the staging file each time: a run that was killed is run again, and carries
on from what it finds there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from opslib.api.pm2 import Worker
from opslib.database import database_url, postgres, role, sessions
from opslib.database.postgres import Connection
from opslib.database.settings import Database
from opslib.deployment import reference
from opslib.deployment.environment import Deployment
from opslib.deployment.staged import Staged
from opslib.runbook.procedure import located

T = TypeVar("T")

KEY = "DATABASE_URL"
ADMINISTRATOR = "the administrator's URL"


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

    def admin(self, *, within: float = 10) -> Connection:
        """Log in as the administrator that the environment names."""
        return postgres.connect(self._admin_url, ADMINISTRATOR, within=within)

    def administer(self, act: Callable[[Connection], T], *, within: float = 10) -> T:
        """Act as the administrator, again where PostgreSQL fails in a way that may pass: see `postgres.carry_out`."""
        return postgres.carry_out(self._admin_url, ADMINISTRATOR, act, within=within)

    def works(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether the new login reads and writes as the API does, in a transaction that is rolled back."""
        table, schema = self.database.table, database_url.schema(self.new)
        rows = postgres.carry_out(self.new, KEY, lambda connection: role.rights(connection, table, schema), within=5)
        return all(row["result"] != "DENIED" for row in rows), rows

    def refused(self) -> tuple[bool, str]:
        """Whether PostgreSQL refuses the old login; any other trouble is no refusal."""
        failure = postgres.failure(self.old, "the old URL") if self.old else "password"
        return failure in postgres.REFUSED, failure or "it logs in"

    def let_in(self) -> tuple[bool, str]:
        """Whether the old login still works."""
        failure = postgres.failure(self.old, "the old URL")
        return failure is None, failure or "it logs in"

    def moved(self, workers: Sequence[Worker], since: datetime | None) -> tuple[bool, list[dict[str, str]]]:
        """Whether each worker has a session, every one of the new login and begun after `since` (server time)."""
        wanted, before = database_url.user(self.new), database_url.user(self.old or self.new)
        found = self.administer(lambda connection: sessions.of(connection, wanted, before))
        mine = sessions.by_worker(workers, found)
        rows = [
            {"worker": str(id), "role": s.role, "session began": f"{s.backend_start:%H:%M:%S} UTC"} for id, s in mine
        ]
        fresh = all(s.role == wanted and (not since or (s.backend_start and s.backend_start > since)) for _, s in mine)
        return fresh and {id for id, _ in mine} == {worker.id for worker in workers}, rows

    def listed(self) -> list[str]:
        """Say where PgBouncer comes into it: it holds passwords of its own, which this procedure does not change."""
        found = []
        if "pgbouncer=true" in self.secret.current:
            found.append(f"{KEY} has pgbouncer=true")
        if file := self.database.userlist:
            named = {line.split('"')[1] for line in file.read_text().splitlines() if line.startswith('"')}
            found += [f"{located(file)} holds a password of {name}" for name in sorted(named & self._pair())]
        return found

    def _pair(self) -> set[str]:
        return {database_url.user(url) for url in (self.new, self.old) if url} | {self.target}

    @property
    def _admin_url(self) -> str:
        return reference.resolve(self.database.admin, ADMINISTRATOR)
