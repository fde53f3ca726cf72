"""What must be true of the API's database login however a run of `rotate_database_password` ended."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from opslib import database_url, env_file, environment, health, pm2, postgres, role
from opslib.login import Login
from tests.sandbox import pm2 as standin
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV


def agree(retired: Iterable[str] = ()) -> list[str]:
    """Say what is wrong; nothing if the API is well, and `.env`, PostgreSQL and the workers agree on one login.

    `retired` are URLs that were in force once: none may log in but the one in force and, until stage `retire`, the one
    that the staging file keeps. Meant for after a run that was not killed: a killed one may have to be run again.
    """
    env = environment.load("sandbox")
    login, wrong = Login(env), []
    current, previous = login.secret.current, login.secret.previous
    if not health.steady(env.api.health_url, 10)[0]:
        wrong.append("the API is not well")
    if failure := postgres.failure(current):
        wrong.append(f"the login in the .env does not work: {failure}")
    if login.secret.pending or login.verifier.pending:
        wrong.append("the staging file still has what a run was to use")
    if env_file.edits(env.api.env_file):
        wrong.append("a backup of the .env is left")
    in_force = {database_url.user(url) for url in (current, previous) if url}
    with login.admin() as admin:
        pair = {cluster.ROLE, role.twin(cluster.ROLE)}
        found = {name for name in pair if (one := role.read(admin, name)) and one.logs_in}
        if found != in_force:
            wrong.append(f"these roles may log in: {sorted(found)}, expected {sorted(in_force)}")
    if previous and postgres.failure(previous):
        wrong.append("the old login is kept and does not work")
    wrong += ["a retired URL logs in" for url in {*retired} - {current, previous} if postgres.failure(url) is None]
    if not login.moved(pm2.workers(env), None)[0]:
        wrong.append("a worker is not logged in by the login in force")
    return wrong


@dataclass(frozen=True)
class Saved:
    """The login as the stand-in was started with it, to be put back after a test."""

    dotenv: bytes

    @classmethod
    def now(cls) -> "Saved":
        """Keep what the `.env` holds."""
        return cls(DOTENV.read_bytes())

    def put_back(self) -> None:
        """One role, its first password, no twin, nothing staged, and workers that have read this `.env`."""
        changed = DOTENV.read_bytes() != self.dotenv
        DOTENV.write_bytes(self.dotenv)
        for left in DOTENV.parent.glob(".env.*"):
            os.unlink(left)
        credentials, twin = Credentials.load(), role.twin(cluster.ROLE)
        with cluster.connect_admin(credentials) as admin:
            connection = postgres.connect(credentials.postgres_url)
            made = postgres.verifier(connection, cluster.ROLE, credentials.database_password)
            admin.execute(role.set_password(cluster.ROLE, made))
            connection.close()
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [twin])
            admin.execute(f"DROP ROLE IF EXISTS {twin}")
        env = environment.load("sandbox")
        if changed or not Login(env).moved(pm2.workers(env), None)[0]:
            standin.run("-s", "reload", standin.APPLICATION)
