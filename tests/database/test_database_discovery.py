"""What is found of PostgreSQL by its login, by this machine, through a pooler, and where nobody is let in."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opslib import propertypulse
from opslib.database import database_url, discovery, pooler as pgbouncer, postmaster, schema
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from tests.database.pooler import needed, pooler
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials, write_private
from tests.sandbox.layout import DOTENV, POSTGRES

pytestmark = pytest.mark.usefixtures("sandbox")

ADMIN = "file:tests/sandbox/state/admin/database"
Found = Mapping[str, Line | Asked]
Discover = Callable[..., Found]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The stand-in before anybody has asked PostgreSQL, with an `.env` and a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSERVICEFILE", raising=False)
    known: Deployment = propertypulse.load("sandbox")
    (tmp_path / ".env").write_bytes(DOTENV.read_bytes())
    api = known.api.model_copy(update={"env_file": tmp_path / ".env"})
    return known.model_copy(update={"database": None, "api": api, "tools": tmp_path / "tools"})


def found(env: Deployment, url: str = "", **given: Any) -> Found:
    if url:
        env_file.edit(env.api.env_file, {"DATABASE_URL": url}, backup=False)
    said = list(discovery.discover(env, {f"database.{key}": value for key, value in given.items()}))
    passwords = (Credentials.load().database_password, Credentials.load().postgres_password)
    assert not [one for one in said if any(password in str(one) for password in passwords)]
    return {one.key.removeprefix("database."): one for one in said}


def asked(one: Line | Asked) -> str:
    assert isinstance(one, Asked), one
    return one.what


def source(one: Line | Asked) -> str:
    assert isinstance(one, Line), one
    return one.source


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (f":{POSTGRES}/", ":9/", "Connection refused"),
        ("propertypulse:", "propertypulse:x", "password authentication failed"),
        ("/propertypulse?", "/nowhere?", 'database "nowhere" does not exist'),
        ("postgresql://", "mysql://", "DATABASE_URL is no URL of one PostgreSQL database"),
    ],
)
def test_where_nobody_is_let_in_it_says_why(env: Deployment, old: str, new: str, says: str) -> None:
    said = found(env, Credentials.load().database_url.replace(old, new), admin=ADMIN)
    assert {*said} == {"table", "admin", "start"}
    assert says in asked(said["table"]) and "could not be tried" in asked(said["admin"])
    assert [one.example for one in said.values() if isinstance(one, Asked)].count("") == 1


def test_an_env_that_is_not_there_is_said(env: Deployment) -> None:
    env.api.env_file.unlink()
    assert ".env" in asked(found(env)["table"])


def test_an_administrator_is_judged_by_logging_in(env: Deployment, tmp_path: Path) -> None:
    known = Credentials.load()
    assert "as postgres to the API's database, and may do what" in source(found(env, admin=ADMIN)["admin"])
    write_private(tmp_path / "admin", known.database_url)
    weak = source(found(env, admin=f"file:{tmp_path / 'admin'}")["admin"])
    assert "but lacks CREATEROLE with the ADMIN option on the API's role, CREATEDB, pg_read_all_data" in weak
    write_private(tmp_path / "admin", known.postgres_url.replace("postgres:", "postgres:x", 1))
    assert "password authentication failed" in asked(found(env, admin=f"file:{tmp_path / 'admin'}")["admin"])
    (tmp_path / "admin").chmod(0o644)
    assert "expected 0600" in asked(found(env, admin=f"file:{tmp_path / 'admin'}")["admin"])
    assert "nobody.txt cannot be read" in asked(found(env, admin=f"file:{tmp_path / 'nobody.txt'}")["admin"])


def test_a_login_that_was_put_where_it_was_asked_for_is_found(env: Deployment, tmp_path: Path) -> None:
    missing = found(env)["admin"]
    assert isinstance(missing, Asked) and missing.example == "file:~/.runbook/sandbox/database-url"
    assert "a superuser, or a role with CREATEROLE" in missing.what
    place = tmp_path / ".runbook/sandbox/database-url"
    place.parent.mkdir(parents=True)
    write_private(place, Credentials.load().postgres_url)
    there = found(env)["admin"]
    assert isinstance(there, Line) and there.value == missing.example


def test_a_service_of_libpq_that_suffices_is_named_and_no_other(
    env: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Credentials.load()
    services = tmp_path / "services"
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    for user, password, named in (
        ("postgres", known.postgres_password, True),
        ("propertypulse", known.database_password, False),
    ):
        services.write_text(f"[own]\nhost=127.0.0.1\nport={POSTGRES}\nuser={user}\npassword={password}\n")
        assert (f"The service own of {services} suffices" in asked(found(env)["admin"])) == named


def test_the_server_of_a_connection_is_the_process_that_it_wrote_down(env: Deployment) -> None:
    with schema.reading(env) as connection:
        server = postmaster.found(connection)
    assert server and server.pid == int((postgres.HOME / "data/postmaster.pid").read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("who", "listed", "starts"),
    [
        ("root", "", "systemctl start postgresql@18-main.service"),
        ("sudo", "(ALL : ALL) NOPASSWD: ALL", "sudo -n systemctl start postgresql@18-main.service"),
        (
            "sudo",
            "(root) /usr/bin/ls, NOPASSWD: /usr/sbin/nginx, /usr/bin/systemctl start postgresql@18-main",
            "sudo -n systemctl start postgresql@18-main",
        ),
        ("sudo", "(ALL : ALL) ALL", ""),  # with a password
        ("sudo", "(ALL) NOPASSWD: ALL\n    (ALL) PASSWD: ALL", ""),
        ("sudo", "(root) NOPASSWD: /usr/bin/systemctl start postgresql@17-main", ""),
        ("sudo", "(postgres) NOPASSWD: ALL", ""),
        ("users", "(ALL) NOPASSWD: ALL", ""),  # sudo is not asked
    ],
)
def test_a_unit_of_systemd_is_started_by_who_may(
    env: Deployment, monkeypatch: pytest.MonkeyPatch, who: str, listed: str, starts: str
) -> None:
    pid = (postgres.HOME / "data/postmaster.pid").read_text().splitlines()[0]
    tools = {
        "systemctl": f"Id=x.service\nMainPID=0\n\nMainPID={pid}\nId=postgresql@18-main.service",
        "sudo": f"User deploy may run the following commands on api:\n    {listed}",
        "id": f"deploy {who}",
    }
    assert env.tools
    env.tools.mkdir()
    for name, says in tools.items():
        (env.tools / name).write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
        (env.tools / name).chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: 0 if who == "root" else 1000)
    said = found(env)["start"]
    if starts:
        assert isinstance(said, Line) and said.value == starts
    else:
        assert "Here the server is systemd's postgresql@18-main.service" in asked(said)


@needed
def test_the_poolers_list_is_read_off_its_own_settings(
    env: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Credentials.load()
    assert "userlist" not in found(env)
    with pooler(known.database_url, refuses=False) as between:
        url = between.url(known.database_url)
        monkeypatch.setattr(pgbouncer, "SETTINGS", tmp_path / "nowhere")
        missing = found(env, url)
        assert "leads through a pooler" in asked(missing["userlist"]) and isinstance(missing["table"], Line)
        monkeypatch.setattr(pgbouncer, "SETTINGS", between.users.parent / "ini")
        there = found(env, url)["userlist"]
        assert isinstance(there, Line) and there.value == str(between.users)
        other = tmp_path / "other.ini"
        other.write_text((between.users.parent / "ini").read_text().replace(str(between.port), "1"))
        monkeypatch.setattr(pgbouncer, "SETTINGS", other)
        assert isinstance(found(env, url)["userlist"], Asked)


def test_reading_writes_nothing(env: Deployment) -> None:
    assert database_url.user(Credentials.load().database_url) == "propertypulse"
    with schema.reading(env) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("UPDATE payments SET amount = 1")
