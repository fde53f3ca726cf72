"""The login of the API, changed on the stand-in's PostgreSQL and in its staging file; no worker is reloaded here."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from opslib import propertypulse
from opslib.api import health, pm2
from opslib.database import admin as administrator, database_url, login_rotation, postgres, role, sessions
from opslib.database.login import Login
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment, BadParameter, UndoFailed
from tests.drills.database import Saved
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV

pytestmark = pytest.mark.usefixtures("sandbox", "saved")

BASE, TWIN = cluster.ROLE, role.twin(cluster.ROLE)
AWKWARD = "%@:/#'\"$ `\\ ünïcödé 数据库 🔑 &=+?"
EACH = pytest.mark.parametrize("method", ["alternate", "single"])


@pytest.fixture
def saved() -> Iterator[Saved]:
    one = Saved.now()
    yield one
    one.put_back()


@pytest.fixture
def env() -> PropertyPulse:
    return propertypulse.load("sandbox")


def reference(folder: Path, text: str) -> str:
    """Put a value where only its owner may read it; give the reference."""
    file = folder / "value"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    return f"file:{file}"


def into_force(login: Login) -> None:
    """Do to the `.env` what the rollout does."""
    made = env_file.edit(DOTENV, {"DATABASE_URL": login.new})
    assert made


@pytest.mark.parametrize(
    "password",
    [AWKWARD, AWKWARD * 5 + "x" * (200 - 5 * len(AWKWARD)), "plain-letters-0123456789"],
    ids=["awkward", "200", "plain"],
)
@EACH
def test_any_password_logs_in(env: PropertyPulse, tmp_path: Path, method: str, password: str) -> None:
    login = Login(env, method)
    login_rotation.create(login, reference(tmp_path, password)).do()
    assert database_url.parameters(login.secret.pending)["password"] == password
    assert login.works()
    assert login.secret.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "password", ["short", "non-breaking\u00a0space in it", "ﬁ ligature in this one", "soft\u00adhyphen in this"]
)
def test_password_that_clients_read_differently_is_refused(env: PropertyPulse, tmp_path: Path, password: str) -> None:
    login = Login(env)
    with pytest.raises(BadParameter) as raised:
        login_rotation.create(login, reference(tmp_path, password)).do()
    assert password not in str(raised.value)
    assert not login.secret.pending


def test_what_the_twin_makes_belongs_to_the_first(env: PropertyPulse) -> None:
    with administrator.connect(env) as admin:
        admin.execute(f"ALTER ROLE {BASE} SET search_path TO public, pg_catalog")
        admin.execute(f"ALTER ROLE {BASE} IN DATABASE propertypulse SET statement_timeout TO '41s'")
        admin.execute(f"ALTER ROLE {BASE} CONNECTION LIMIT 30")
    try:
        login = Login(env)
        login_rotation.create(login).do()
        given = database_url.parameters(login.new)
        with psycopg.connect(make_conninfo(**given)) as connection:
            connection.execute("CREATE TABLE made_by_twin (id int)")
            assert connection.execute(
                "SELECT tableowner FROM pg_tables WHERE tablename = 'made_by_twin'"
            ).fetchone() == (BASE,)
            connection.execute("ALTER TABLE payments ADD COLUMN by_twin int")
            assert connection.execute("SHOW search_path").fetchone() == ("public, pg_catalog",)
            assert connection.execute("SHOW statement_timeout").fetchone() == ("41s",)
            connection.rollback()
        with administrator.connect(login.environment) as admin:
            assert role.read(admin, TWIN) == role.Role(TWIN, True, False, False, 30, BASE, (BASE,))
    finally:
        with administrator.connect(env) as admin:
            admin.execute(f"ALTER ROLE {BASE} RESET ALL")
            admin.execute(f"ALTER ROLE {BASE} IN DATABASE propertypulse RESET ALL")
            admin.execute(f"ALTER ROLE {BASE} CONNECTION LIMIT -1")


@EACH
def test_undo_leaves_postgresql_and_env_as_they_were(env: PropertyPulse, method: str) -> None:
    login, before = Login(env, method), DOTENV.read_bytes()
    with administrator.connect(login.environment) as admin:
        held = role.stored(admin, BASE)
        change = login_rotation.create(login)
        change.do()
        url = login.new
        assert postgres.failure(url) is None
        assert (postgres.failure(login.old) is None) == (method == "alternate")
        change.put_back()  # it has one
        assert role.stored(admin, BASE) == held
        assert postgres.failure(url) in postgres.REFUSED
    change.put_back()  # it has one; once more: the password is the old one still
    assert postgres.failure(login.secret.current) is None
    assert not login.secret.pending and not login.secret.previous and not login.verifier.pending
    assert DOTENV.read_bytes() == before


def test_undo_never_takes_back_what_the_env_names(env: PropertyPulse) -> None:
    login = Login(env, "single")
    change = login_rotation.create(login)
    change.do()
    into_force(login)
    with pytest.raises(UndoFailed, match="still names the new login"):
        change.put_back()  # it has one
    assert postgres.failure(login.secret.current) is None


def test_stages_of_a_rotation_and_back(env: PropertyPulse) -> None:
    urls = [Login(env).secret.current]
    for target in (TWIN, BASE, TWIN):
        login = Login(env)
        assert login.target == target
        login_rotation.create(login).do()
        into_force(login)
        login_rotation.keep(login).do()
        assert (bool(login.let_in()), bool(login.refused()), login.half_way) == (True, False, "")
        lock = login_rotation.lock(login)
        lock.do()
        assert login.refused()
        lock.put_back()  # it has one
        assert login.let_in()
        lock.do()
        login_rotation.forget(login).do()
        urls.append(login.secret.current)
        assert [postgres.failure(url) is None for url in urls] == [False] * (len(urls) - 1) + [True]
        assert not env_file.read(login.secret.file)
        assert not env_file.edits(DOTENV)


@pytest.mark.long
@EACH
@pytest.mark.parametrize("then", ["forward", "undo"])
def test_killed_at_every_line_of_the_change_it_converges(env: PropertyPulse, method: str, then: str) -> None:
    first = Login(env).secret.current
    at, survived = 0, 0
    while _killed_at_line(at := at + 7, env, method):
        login = Login(env, method)
        works = [url for url in (login.secret.current, login.secret.pending) if url and postgres.failure(url) is None]
        assert works, f"nobody logs in after a kill at line {at}"
        assert login.half_way in ("", method)
        change = login_rotation.create(login)
        change.do()
        assert login.works()
        if then == "undo":
            change.put_back()  # it has one
            assert postgres.failure(first) is None
            assert not login.secret.pending
        else:
            with administrator.connect(login.environment) as admin:
                admin.execute(
                    role.set_password(BASE, postgres.verifier(admin, BASE, Credentials.load().database_password))
                )
            login.verifier.discard()
            login.secret.discard()
        survived += 1
    print(f"{survived} kills survived")
    assert survived > 5


def _killed_at_line(number: int, env: PropertyPulse, method: str) -> bool:
    """Make the change in a process that ends without a word before that line of opslib; False if it has fewer."""
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
            nonlocal left
            here = os.path.basename(frame.f_code.co_filename)
            if here not in (
                "login.py",
                "login_rotation.py",
                "role.py",
                "staged_secret.py",
                "env_file.py",
            ) or frame.f_code.co_name.startswith("_pars"):
                return None
            left -= event == "line" and frame.f_code.co_name in inside
            if left < 0:
                os._exit(9)
            return trace

        inside = {
            "do",
            "create",
            "_write",
            "edit",
            "_replace",
            "make_twin",
            "keep",
            "_create",
            "discard",
            "_stage",
            "_execute",
        }
        try:
            change = login_rotation.create(Login(env, method))
            sys.settrace(trace)
            change.do()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def test_administrator_without_superuser(env: PropertyPulse, tmp_path: Path) -> None:
    with administrator.connect(env) as admin:
        admin.execute("CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper-of-the-roles'")
        admin.execute("GRANT pg_read_all_stats TO keeper")
    try:
        url = database_url.with_login(Login(env).secret.current, "keeper", "keeper-of-the-roles")
        database = env.database.model_copy(update={"admin": reference(tmp_path, url)})  # type: ignore[union-attr]  # it has one
        weaker = env.model_copy(update={"database": database})
        with administrator.connect(weaker) as keeper, administrator.connect(env) as admin:
            assert not role.alters(keeper, BASE)
            admin.execute(f"GRANT {BASE} TO keeper WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
            assert role.alters(keeper, BASE) and role.alters(keeper, TWIN)
            assert role.stored(keeper, BASE) == ""
        for method in ("alternate", "single"):
            login = Login(weaker, method)
            change = login_rotation.create(login)
            change.do()
            assert login.works()
            change.put_back()  # it has one
            assert postgres.failure(login.secret.current) is None  # a verifier made from the old password
    finally:
        with administrator.connect(env) as admin:
            admin.execute(f"DROP ROLE IF EXISTS {TWIN}")
            admin.execute("DROP OWNED BY keeper")
            admin.execute("DROP ROLE keeper")


def test_somebody_else_s_role_of_that_name_is_seen(env: PropertyPulse) -> None:
    with administrator.connect(env) as admin:
        assert role.paired(admin, BASE)
        admin.execute(f"CREATE ROLE {TWIN} LOGIN")
        assert not role.paired(admin, BASE) and not role.paired(admin, TWIN)
        admin.execute(f"GRANT {BASE} TO {TWIN}")
        assert role.paired(admin, TWIN)
        assert role.read(admin, "nobody") is None


def test_others_are_told_from_the_workers(env: PropertyPulse) -> None:
    login = Login(env)
    workers = pm2.workers(env)
    with psycopg.connect(Credentials.load().database_url.partition("?")[0], application_name="propertypulse-api"):
        others = sessions.none_as(env, BASE, within=1)
        assert not others and [one["application"] for one in others.evidence] == ["propertypulse-api"]
    ends = time.monotonic() + 20  # the workers' pools log in when they are asked, or a moment later
    while not (found := login.moved(workers)) and time.monotonic() < ends:
        health.answering(env.api.health_url, {worker.pid for worker in workers})
        time.sleep(0.5)
    assert found, found


def test_pgbouncer_is_seen(env: PropertyPulse, tmp_path: Path) -> None:
    file = tmp_path / "userlist.txt"
    file.write_text(f'"{BASE}" "SCRAM-SHA-256$4096:…"\n"other" "x"\n;comment\n')
    database = env.database.model_copy(update={"userlist": file})  # type: ignore[union-attr]  # it has one
    behind = Login(env.model_copy(update={"database": database}))
    assert behind.unlisted().evidence == [
        f"{file} holds a password of {BASE}",
        f"{file} does not name {BASE}_clone: it is let in only where it asks PostgreSQL",
    ]
    assert Login(env).unlisted().evidence == []
    env_file.edit(DOTENV, {"DATABASE_URL": Login(env).secret.current + "&pgbouncer=true"})
    assert Login(env).unlisted().evidence == ["DATABASE_URL has pgbouncer=true"]


def test_environment_without_a_database_says_so(env: PropertyPulse) -> None:
    with pytest.raises(BadEnvironment, match="no `database:`"):
        administrator.connect(env.model_copy(update={"database": None}))


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        (("propertypulse", "nobody"), "password"),
        (("/propertypulse?", "/nowhere?"), "no-database"),
        ((":25432", ":25439"), "down"),
    ],
    ids=str,
)
def test_failures_have_a_name(change: tuple[str, str], failure: str) -> None:
    assert postgres.failure(Credentials.load().database_url.replace(*change, 1)) == failure


def test_role_that_may_not_log_in_has_a_name(env: PropertyPulse) -> None:
    with administrator.connect(env) as admin:
        admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(BASE)))
    assert postgres.failure(Login(env).secret.current) == "no-login"
