"""Through PgBouncer in transaction mode: nothing of ours is left in the sessions that the API is lent next."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from opslib import propertypulse
from opslib.backups import copy_acceptance
from opslib.database import admin, api_login, database_url, postgres, role
from opslib.database.login import Login
from opslib.database.postgres import Lent, LoginFailed
from opslib.database.statement_plan import plan, prepared
from opslib.deployment import env_file
from opslib.payments import payment
from opslib.runbook.errors import RunbookError
from tests.database.pooler import Pooler, needed, pooler, sessions
from tests.drills.slow_query import slow
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV, POSTGRES

pytestmark = [pytest.mark.usefixtures("sandbox"), needed]

ENV = propertypulse.load("sandbox")
HINTS = "&pgbouncer=true&connection_limit=5&pool_timeout=10"


@pytest.fixture(params=[True, False], ids=["refuses options", "drops options"])
def between(request: pytest.FixtureRequest) -> Iterator[Pooler]:
    """A pooler that knows the API's login and the administrator's."""
    held = Credentials.load()
    with pooler(held.database_url, held.postgres_url, refuses=request.param) as one:
        yield one


@pytest.fixture
def url(between: Pooler) -> str:
    """The API's URL by way of the pooler, with what Prisma is told there."""
    return between.url(Credentials.load().database_url) + HINTS


def test_each_thing_that_is_done_by_the_urls_login_leaves_its_sessions_as_they_were(url: str) -> None:
    before = sessions(url)
    for _ in range(3):  # whichever session each of them is lent
        assert postgres.failure(url) is None
        assert api_login.ask(url).cause == "none"
        assert postgres.carry_out(url, "URL", lambda c: role.works(c, "payments", "public"), within=0)
        with postgres.connect(url.replace("schema=public", "schema=odd%20%22name")) as connection:
            assert isinstance(connection, Lent)
            for _ in range(7):  # psycopg would have prepared it by then
                row = connection.execute("SHOW search_path").fetchone()
            assert row == {"search_path": '"odd ""name"'}
            with connection.transaction(), connection.transaction():
                assert connection.execute("SHOW lock_timeout").fetchone() == {"lock_timeout": "5s"}
            assert plan(connection, "SELECT * FROM public.payments WHERE id = $1", "public") is not None
            assert plan(connection, "SELECT * FROM no_such_table WHERE id = $1", "public") is None
            with pytest.raises(psycopg.errors.DivisionByZero):
                with prepared(connection, "SELECT 1 / $1::int", "public") as (name, _types):
                    connection.execute(psycopg.sql.SQL("EXECUTE {} (0)").format(name))
            for statement in ("SET timezone = 'UTC'", psycopg.sql.SQL("SET ROLE {}").format("x"), b" set x TO 1"):
                with pytest.raises(RunbookError, match="through a pooler"):
                    connection.execute(statement)
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT FROM no_such_table")
    assert sessions(url) == before
    assert {one["prepared"] for one in before} == {"0"}


def test_plan_runs_leave_the_pools_sessions_as_they_were() -> None:
    given = Credentials.load().database_url
    with pooler(given, refuses=False) as between, slow():
        url = between.url(given) + HINTS
        made = env_file.edit(DOTENV, {"DATABASE_URL": url})
        assert made
        try:
            before = sessions(url)
            for name in ("backup_database", "troubleshoot_database", "tune_queries", "rotate_database_password"):
                command = [sys.executable, "-m", "opslib.runbook.cli", "run", name]
                done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
                record = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
                assert "Traceback" not in done.stderr
                assert record["metadata"]["opslib"]["outcome"] in ("planned", "failed"), done.stdout
            assert sessions(url) == before
        finally:
            env_file.restore(made)
            env_file.drop(made)


def test_what_the_pooler_says_of_a_login_is_understood(between: Pooler, url: str) -> None:
    password = Credentials.load().database_url.split(":")[2].split("@")[0]
    assert postgres.failure(url.replace(password, "wrong")) == "password"
    assert postgres.failure(url.replace("//propertypulse:", "//nobody:")) == "password"
    assert postgres.failure(url.replace("/propertypulse?", "/nowhere?")) == "no-database"


def test_an_administrator_who_comes_through_a_pooler_is_refused_in_words(
    between: Pooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = between.url(Credentials.load().postgres_url)
    before = sessions(there)
    monkeypatch.setattr(admin, "resolve", lambda *_: there)
    for connect in (admin.connect, payment.connect):
        with pytest.raises(LoginFailed, match="leads through a pooler; name PostgreSQL itself"):
            connect(ENV)
    assert sessions(there) == before


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_a_certificate_that_only_some_clients_check_is_told() -> None:
    given = Credentials.load().database_url
    with pooler(given, tls=True) as between:
        url = between.url(given)
        assert "certificate" in api_login.ask(f"{url}&sslmode=require").unchecked
        for query in ("", "&sslmode=no-verify", "&sslmode=disable", "&sslmode=require&uselibpqcompat=true"):
            assert (api_login.ask(url + query).cause, api_login.ask(url + query).unchecked) == ("none", "")


def test_a_copy_that_the_pooler_does_not_know_is_reached_past_it(url: str) -> None:
    made = env_file.edit(DOTENV, {"DATABASE_URL": url})
    assert made
    try:
        past = copy_acceptance.url(ENV, "propertypulse_new_20260101_000000")
        assert f":{POSTGRES}/propertypulse_new_20260101_000000" in past
        assert (database_url.user(past), database_url.schema(past)) == ("propertypulse", "public")
        assert copy_acceptance.url(ENV, "propertypulse") == url
    finally:
        env_file.restore(made)
        env_file.drop(made)


def test_a_rotation_knows_the_poolers_list(between: Pooler, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = env_file.edit(DOTENV, {"DATABASE_URL": url.replace("&pgbouncer=true", "")})
    assert made and ENV.database
    try:
        env = ENV.model_copy(update={"database": ENV.database.model_copy(update={"userlist": between.users})})
        answer = Login(env).unlisted()
    finally:
        env_file.restore(made)
        env_file.drop(made)
    assert not answer
    assert isinstance(answer.evidence, list)
    said = " / ".join(map(str, answer.evidence))
    assert "leads through a pooler" in said and "holds a password of propertypulse" in said
    assert "does not name propertypulse_clone" in said
