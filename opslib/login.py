"""The login that the API has at PostgreSQL: made anew, taken into force, and the one before it locked out.

What is in force, what is to come and what was before are read from the `.env` and from the staging file each time:
a run that was killed is run again, and carries on from what it finds there.
"""

import secrets
import stringprep
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psutil
from psycopg import sql
from psycopg.rows import DictRow

from opslib import database_url, env_file, pm2, postgres, reference, role
from opslib.change import Change
from opslib.environment import Database, Environment
from opslib.errors import BadEnvironment, BadParameter, UndoFailed
from opslib.mask import mask
from opslib.pm2 import Worker
from opslib.postgres import Connection
from opslib.procedure import located
from opslib.rollout import rollout, tidy
from opslib.secret import Staged

KEY = "DATABASE_URL"
SHORTEST = 16
PATIENCE = 60
"""Seconds for which an undo goes on trying to reach PostgreSQL."""


@dataclass(frozen=True)
class Login:
    """The role and password that the API logs in with; `method` is how they are replaced: alternate or single."""

    environment: Environment
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
        if self.environment.database is None:
            raise BadEnvironment(
                f"parameters/{self.environment.name}.yaml has no `database:`; "
                "parameters/production.example.yaml explains it"
            )
        return self.environment.database

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
        name = "the administrator's URL"
        return postgres.connect(reference.resolve(self.database.admin, name), name, within=within)

    def create(self, password: str = "") -> Change:
        """Make the change that gives the target role a new password, which only the staging file has yet.

        `password` is a reference; empty makes 43 random characters. Order: the new URL on disk, then the old one and
        the old verifier, then PostgreSQL. Undone by the old verifier (single) or by locking the new role (alternate).
        """
        target, before, resumed = self.target, self.old, bool(self.secret.pending)
        alternates = target != database_url.user(before)
        first = min(target, database_url.user(before), key=len)
        begun: list[str] = []

        def do() -> None:
            given = _chosen(password) if password else ""
            if not self.secret.pending:
                self.verifier.discard()  # of a run that was killed when it had nothing to undo any more
            url = self.secret.create(lambda: self._url(target, given or secrets.token_urlsafe(32)))
            staged = database_url.parameters(url)["password"]
            if given and given != staged:
                raise BadParameter(f"password: a killed run has staged another in {self.secret.file}; run without it")
            self.secret.keep()
            begun.append(url)
            with self.admin() as connection:
                made = postgres.verifier(connection, target, staged)
                if not alternates and (held := role.stored(connection, target)):
                    self.verifier.create(lambda: held)
                if target == first:
                    connection.execute(role.set_password(target, made))
                else:
                    role.make_twin(connection, first, made)

        def undo() -> None:
            if self.secret.pending and self.secret.current == self.secret.pending:
                raise UndoFailed("the .env still names the new login, so it was left in force; put the old one there")
            if (begun or resumed) and not alternates:
                self._restore(before)
            elif begun or resumed:
                with self._patient() as connection:
                    if role.read(connection, target):
                        connection.execute(role.lock(target))
            self.verifier.discard()
            self.secret.discard()
            self.secret.retire()

        statement = f"ALTER ROLE {target} LOGIN PASSWORD '…' (a SCRAM verifier)"
        return Change(
            f"Give the role {target} a new password",
            shows=[
                f"stage the new {KEY} in {located(self.secret.file)}",
                *([statement] if target == first else role.shows(first)),
            ],
            do=do,
            replaces=lambda: f"role {target}{'' if alternates else ', which the API logs in with'}",
            undo=undo,
            undo_shows=[f"ALTER ROLE {target} NOLOGIN PASSWORD NULL" if alternates else _restores(target)],
        )

    def switch(self, workers: Sequence[Worker], *, settle: float) -> Change:
        """Make the change that puts the new URL into the `.env` and lets the workers log in anew, one by one.

        By method single PostgreSQL gets its old verifier back before the workers are reloaded with the old `.env`.
        """
        before, file = self.old, self.environment.api.env_file
        rolled = rollout(
            self.environment, workers, "Let the workers log in anew", {KEY: lambda: self.new}, settle=settle
        )
        if self.target != database_url.user(before):
            return rolled

        def undo() -> None:
            if self.secret.current == self.new and self.new != before and not env_file.latest(file):
                raise UndoFailed(
                    f"{located(file)} was changed meanwhile, so its login was left in force; mend it by hand"
                )
            self._restore(before)
            if rolled.undo:
                rolled.undo()

        return replace(rolled, undo=undo, undo_shows=[_restores(self.target), *rolled.undo_shows])

    def keep(self) -> Change:
        """Make the change that closes a switch on disk: by method single the old URL is of no use any more."""

        def do() -> None:
            over = database_url.user(self.old) == database_url.user(self.new)
            self.secret.finish()
            if over:
                self.secret.retire()
            self.verifier.discard()
            tidy(self.environment)

        kept = "forget the old URL" if self.method == "single" else "keep the old URL until stage retire"
        return Change(
            "Close the rotation",
            shows=[kept, f"remove the backups of {located(self.environment.api.env_file)}"],
            do=do,
            replaces=lambda: located(self.secret.file),
            undo=lambda: None,
            undo_shows=["nothing that is in force depends on it"],
        )

    def lock(self) -> Change:
        """Make the change after which the old login is refused, and whoever still has it is disconnected.

        The verifier is on disk first; undone by putting it back. A role that is in force is never locked.
        """
        before = self.old
        old = database_url.user(before)
        replaced = old == database_url.user(self.secret.current)  # by method single, which was killed at its very end

        def do() -> None:
            if replaced:
                return
            with self.admin() as connection:
                if held := role.stored(connection, old):
                    self.verifier.discard()
                    self.verifier.create(lambda: held)
                connection.execute(role.lock(old))
                role.end(connection, [one["pid"] for one in postgres.sessions(connection, old)])

        def undo() -> None:
            if not replaced:
                self._restore(before)
            self.verifier.discard()

        return Change(
            f"Lock the role {old} out",
            shows=["nothing: its password was replaced at the switch"]
            if replaced
            else [f"ALTER ROLE {old} NOLOGIN PASSWORD NULL", f"pg_terminate_backend of the sessions of {old}"],
            do=do,
            replaces=lambda: f"role {old}, which was in force before",
            undo=undo,
            undo_shows=[_restores(old)],
        )

    def forget(self) -> Change:
        """Make the change that removes the old URL from the disk, once it opens nothing any more."""

        def do() -> None:
            self.secret.retire()
            self.verifier.discard()
            tidy(self.environment)

        return Change(
            "Forget the old URL",
            shows=[f"remove it from {located(self.secret.file)}"],
            do=do,
            replaces=lambda: located(self.secret.file),
            undo=lambda: None,
            undo_shows=["it opens nothing any more"],
        )

    def works(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether the new login reads and writes as the API does, in a transaction that is rolled back."""
        with postgres.connect(self.new, KEY, within=5) as connection:
            rows = tried(connection, self.database.table, database_url.schema(self.new))
        return all(row["result"] != "DENIED" for row in rows), rows

    def refused(self) -> tuple[bool, str]:
        """Whether PostgreSQL refuses the old login; any other trouble is no refusal."""
        failure = postgres.failure(self.old, "the old URL") if self.old else "password"
        return failure in postgres.REFUSED, failure or "it logs in"

    def let_in(self) -> tuple[bool, str]:
        """Whether the old login still works."""
        failure = postgres.failure(self.old, "the old URL")
        return failure is None, failure or "it logs in"

    def others(self, connection: Connection, name: str, *, within: float = 5) -> list[DictRow]:
        """Give the sessions of a role that are not those of the API's workers on this machine.

        Workers come and go and their sessions with them: only who is seen for `within` seconds is somebody else.
        """
        ends, seen = time.monotonic() + within, None
        while True:
            found = postgres.sessions(connection, name)
            own = _sockets(pm2.workers(self.environment))
            now = {one["pid"]: one for one in found if _end(one) not in own}
            seen = now if seen is None else {pid: one for pid, one in seen.items() if pid in now}
            if not seen or time.monotonic() > ends:
                return list(seen.values())
            time.sleep(0.5)

    def moved(self, workers: Sequence[Worker], since: datetime | None) -> tuple[bool, list[dict[str, str]]]:
        """Whether each worker has a session, every one of the new login and begun after `since` (server time)."""
        own, wanted = _sockets(workers), database_url.user(self.new)
        with self.admin() as connection:
            mine = [
                s
                for s in postgres.sessions(connection, wanted, database_url.user(self.old or self.new))
                if _end(s) in own
            ]
        rows = [
            {"worker": str(own[_end(s)]), "role": s["role"], "session began": f"{s['backend_start']:%H:%M:%S} UTC"}
            for s in mine
        ]
        fresh = all(s["role"] == wanted and (since is None or s["backend_start"] > since) for s in mine)
        return fresh and {own[_end(s)] for s in mine} == {worker.id for worker in workers}, rows

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

    def _url(self, target: str, password: str) -> str:
        mask.add("the new password", password)
        return database_url.with_login(self.secret.current, target, password)

    def _restore(self, url: str) -> None:
        """Give a role the verifier that it had; where that could not be read, one made from the old password."""
        found = database_url.parameters(url)
        with self._patient() as connection:
            had = self.verifier.pending or postgres.verifier(connection, found["user"], found["password"])
            connection.execute(role.set_password(found["user"], had))

    def _patient(self) -> Connection:
        try:
            return self.admin(within=PATIENCE)
        except postgres.LoginFailed as error:
            raise UndoFailed(f"{error} Run this procedure again once PostgreSQL answers: it carries on.") from None


def _chosen(where: str) -> str:
    """Give the password that a reference names. Raise BadParameter if clients could read it in different ways."""
    value = reference.resolve(where, "password")
    if len(value) < SHORTEST:
        raise BadParameter(f"password: expected {SHORTEST} characters or more; leave it empty to have one made")
    # libpq normalizes a password (SASLprep, RFC 4013) and node-postgres does not: with these the two would not agree.
    if unicodedata.normalize("NFKC", value) != value or any(map(_ambiguous, value)):
        raise BadParameter("password: it has characters that clients read in different ways; choose another")
    return value


def _restores(name: str) -> str:
    return f"ALTER ROLE {name} LOGIN PASSWORD '…' (the old verifier)"


def _ambiguous(character: str) -> bool:
    return (
        stringprep.in_table_b1(character)
        or stringprep.in_table_c12(character)
        or stringprep.in_table_c21_c22(character)
    )


def tried(connection: Connection, table: str, schema: str) -> list[dict[str, str]]:
    """Read, write and, where the role may, create in a transaction that is rolled back; a row for each."""
    identity = connection.execute("SELECT session_user AS login, current_user AS acts_as").fetchone()
    assert identity is not None
    rows = [{"tried": f"log in as {identity['login']}", "result": f"acts as {identity['acts_as']}"}]
    column = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum LIMIT 1",
        [sql.Identifier(table).as_string(connection)],
    ).fetchone()
    assert column is not None
    names = {"table": sql.Identifier(table), "column": sql.Identifier(column["attname"])}
    write = (
        "UPDATE {table} SET {column} = {column} WHERE ctid = (SELECT ctid FROM {table} LIMIT 1 FOR UPDATE SKIP LOCKED)"
    )
    with connection.transaction(force_rollback=True):
        read = connection.execute(sql.SQL("SELECT {column} FROM {table} LIMIT 1").format(**names)).rowcount
        wrote = connection.execute(sql.SQL(write).format(**names)).rowcount
        rows.append({"tried": f"read from {table}", "result": f"{read} row"})
        rows.append({"tried": f"write to {table}, rolled back", "result": f"{wrote} row"})
        denied = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')"
            " AND NOT has_table_privilege(oid, 'SELECT, INSERT, UPDATE, DELETE') AND relname NOT LIKE '\\_%%'",
            [sql.Identifier(schema).as_string(connection)],
        ).fetchall()
        rows += [{"tried": f"use table {one['relname']}", "result": "DENIED"} for one in denied]
    return rows


def _sockets(workers: Sequence[Worker]) -> dict[tuple[str, int], int | str]:
    """Give the near ends of the workers' connections, by which PostgreSQL knows them, with the worker's id."""
    found = {}
    for worker in workers:
        try:
            for one in psutil.Process(worker.pid).net_connections(kind="tcp"):
                found[one.laddr.ip.removeprefix("::ffff:"), one.laddr.port] = worker.id
        except psutil.Error:
            continue  # it has ended, and its sessions with it
    return found


def _end(session: DictRow) -> tuple[str, int]:
    return (session["client_addr"] or "").split("/")[0], session["client_port"] or -1
