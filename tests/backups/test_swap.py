"""Databases beside the live one: their names and notes, what is carried over to a copy, the swap, and who is in one."""

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql

from opslib import propertypulse
from opslib.api import pm2
from opslib.backups import copy_acceptance, database_copy, swap
from opslib.database import admin, carried_settings, prisma, sessions
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, ChangeFailed, RunbookError
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

pytestmark = pytest.mark.usefixtures("sandbox")

ENV = propertypulse.load("sandbox")
LIVE, NEW = "kiosk", "kiosk_new_20260102_030405"


def make(*names: str) -> None:
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        for name in names:
            superuser.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER propertypulse").format(sql.Identifier(name))
            )


@pytest.fixture(autouse=True)
def kiosk(monkeypatch: pytest.MonkeyPatch, sandbox: None) -> Iterator[None]:
    """A live database of another name, with a copy beside it: the API's own is left alone."""
    monkeypatch.setattr(admin, "database", lambda env: LIVE)
    make(LIVE, NEW)
    yield
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        for (name,) in superuser.execute("SELECT datname FROM pg_database WHERE datname LIKE 'kiosk%'").fetchall():
            superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_copies_are_told_by_their_names_newest_first() -> None:
    make("kiosk_old_20250102_030405", "kiosk_undone_20270102_030405", "kiosk_old", "kiosk_new_2026", "kiosks")
    found = database_copy.listed(ENV)
    assert [one.kind for one in found] == ["live", "undone", "new", "old"]
    assert found[2].at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert not database_copy.aged(ENV, found[1])  # of the year 2027
    assert database_copy.aged(ENV, found[3])
    assert all(one.size > 1e6 and one.note == {} for one in found)


def test_name_that_postgresql_would_cut_is_refused() -> None:
    with pytest.raises(RunbookError, match="more than 63 bytes"):
        database_copy.name("a" * 44, "new")


def test_note_keeps_a_comment_and_gives_it_back() -> None:
    with admin.connect(ENV, "postgres") as superuser:
        superuser.execute("COMMENT ON DATABASE kiosk IS 'it''s {ours}'")
        for state in ("whole", "swapped"):
            now = database_copy.read(superuser, LIVE)[0]
            database_copy.comment(ENV, LIVE, database_copy.noted(now.comment, state=state)).run()
        now = database_copy.read(superuser, LIVE)[0]
        assert (now.note, now.comment) == ({"state": "swapped"}, "it's {ours}")
        database_copy.comment(ENV, LIVE, now.comment).run()
        row = superuser.execute(
            "SELECT shobj_description(oid, 'pg_database') AS it FROM pg_database WHERE datname = 'kiosk'"
        )
        assert row.fetchone() == {"it": "it's {ours}"}
        assert database_copy.read(superuser, LIVE)[0].note == {}


def test_settings_rights_limit_and_comment_are_carried_over() -> None:
    with admin.connect(ENV, "postgres") as superuser:
        for statement in (
            'ALTER DATABASE kiosk SET search_path TO "$user", public, "odd, \'one"',
            "ALTER DATABASE kiosk SET datestyle TO 'SQL, DMY'",
            "ALTER DATABASE kiosk SET app.note TO 'a''b = \"c\"'",
            "ALTER ROLE propertypulse IN DATABASE kiosk SET statement_timeout TO '9s'",
            "ALTER DATABASE kiosk CONNECTION LIMIT 7",
            "ALTER DATABASE kiosk OWNER TO postgres",
            "REVOKE ALL ON DATABASE kiosk FROM PUBLIC",
            "GRANT CONNECT, TEMPORARY ON DATABASE kiosk TO propertypulse WITH GRANT OPTION",
            "GRANT CREATE ON DATABASE kiosk TO pg_monitor",
            "COMMENT ON DATABASE kiosk IS 'with ''quotes'' and \\ more'",
        ):
            superuser.execute(statement.encode())
        read = (
            "SELECT datdba, datconnlimit, shobj_description(oid, 'pg_database') AS comment,"
            " ARRAY(SELECT acl::text FROM unnest(datacl) acl ORDER BY 1) AS rights,"
            " ARRAY(SELECT setrole || setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid ORDER BY 1)"
            " AS settings FROM pg_database d WHERE datname = %s"
        )
        for _ in range(2):  # done again, it changes nothing
            for one in carried_settings.statements(superuser, LIVE, NEW):
                superuser.execute(one)
            assert superuser.execute(read, [NEW]).fetchone() == superuser.execute(read, [LIVE]).fetchone()


def test_database_with_nothing_of_its_own_has_an_owner_only() -> None:
    with admin.connect(ENV, "postgres") as superuser:
        (only,) = carried_settings.statements(superuser, LIVE, NEW)
        assert only.as_string(superuser) == f'ALTER DATABASE "{NEW}" OWNER TO "propertypulse"'
        assert carried_settings.statements(superuser, "nobody_has_this", NEW) == []


def test_exchange_gives_the_name_and_takes_it_back() -> None:
    first, second = (one.oid for one in database_copy.listed(ENV))
    taking = swap.swap(ENV, [], NEW, aside="old", note={})
    taking.do()
    found = database_copy.listed(ENV)
    assert [(one.kind, one.oid) for one in found] == [("live", second), ("old", first)]
    assert database_copy.swapped(ENV) == {"incoming": NEW, "before": str(first), "state": "swapped"}
    taking.way_back[0].run()
    assert [(one.kind, one.oid) for one in database_copy.listed(ENV)] == [("live", first), ("undone", second)]
    assert database_copy.swapped(ENV) == {}
    assert all(one.note == {} for one in database_copy.listed(ENV))


def test_whoever_is_logged_in_is_disconnected_and_finds_the_new_one() -> None:
    url = Credentials.load().postgres_url.replace("/propertypulse", "/kiosk")
    with psycopg.connect(url, autocommit=True) as idle, psycopg.connect(url) as working:
        working.execute("CREATE TABLE half (id int)")
        swap.exchange(ENV, NEW, "old").run()
        for one in (idle, working):
            with pytest.raises(psycopg.OperationalError):
                one.execute("SELECT 1")
    with psycopg.connect(url) as again:
        row = again.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row == (database_copy.listed(ENV)[0].oid,)


def test_one_who_cannot_be_disconnected_is_named_and_nothing_is_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "TRIES", 2)
    monkeypatch.setattr(swap, "DRAIN", 99)  # in the middle of something, and left there
    before = [(one.name, one.oid) for one in database_copy.listed(ENV)]
    url = Credentials.load().postgres_url.replace("/propertypulse", "/kiosk")
    with psycopg.connect(url, application_name="month-end") as other:
        other.execute("SELECT 1")
        with pytest.raises(ChangeFailed, match="2 tries") as failed:
            swap.exchange(ENV, NEW, "old").run()
        assert failed.value.evidence[0]["application"] == "month-end"
        assert other.execute("SELECT 1").fetchone() == (1,)
    assert [(one.name, one.oid) for one in database_copy.listed(ENV)] == before


def test_long_reader_of_the_catalog_does_not_make_logins_wait() -> None:
    with postgres.connect_admin(Credentials.load(), "postgres") as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM pg_database")  # the lock of which it keeps
        swap.exchange(ENV, NEW, "old").run()
    assert [one.kind for one in database_copy.listed(ENV)] == ["live", "old"]


def test_administrator_who_is_no_superuser_may_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = Credentials.load()
    connect = admin.connect

    def lesser(env: object, name: str = "", **options: object) -> object:
        connection = connect(ENV, name)
        connection.execute("SET ROLE clerk")
        return connection

    with postgres.connect_admin(credentials, "postgres") as superuser:
        superuser.execute("CREATE ROLE clerk CREATEDB IN ROLE propertypulse, pg_signal_backend")
        try:
            monkeypatch.setattr(admin, "connect", lesser)
            url = credentials.database_url.partition("?")[0].replace("25432/propertypulse", "25432/kiosk")
            with psycopg.connect(url, autocommit=True):
                swap.exchange(ENV, NEW, "old").run()
            assert [one.kind for one in database_copy.listed(ENV)] == ["live", "old"]
        finally:
            monkeypatch.undo()
            superuser.execute("DROP ROLE clerk")


def test_only_what_was_live_once_can_be_chosen() -> None:
    make("kiosk_old_20250102_030405", "kiosk_undone_20270102_030405")
    assert database_copy.choose(ENV, "oldest").name == "kiosk_old_20250102_030405"
    assert database_copy.choose(ENV, "kiosk_undone_20270102_030405").kind == "undone"
    for name in (LIVE, NEW, "kiosk_old", ""):
        with pytest.raises(BadParameter, match="there is kiosk_undone_20270102_030405, kiosk_old_20250102_030405"):
            database_copy.choose(ENV, name)


def test_others_are_told_from_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = pm2.quiet(ENV)
    url = Credentials.load().database_url.partition("?")[0]
    with psycopg.connect(url, application_name="month-end"):
        found = sessions.none(ENV, "propertypulse", workers)
    assert not found
    assert [one["application"] for one in found.evidence] == ["month-end"]
    assert not sessions.logged_in(ENV, "kiosk", workers)


def test_copy_is_tried_as_the_api_would_use_it() -> None:
    with psycopg.connect(Credentials.load().postgres_url.replace("/propertypulse", f"/{NEW}"), autocommit=True) as copy:
        copy.execute("CREATE TABLE payments (id int, amount int CHECK (amount > 0))")
        copy.execute("INSERT INTO payments VALUES (1, 1)")
        assert not copy_acceptance.usable(ENV, NEW)
        copy.execute("ALTER TABLE payments OWNER TO propertypulse")
        assert copy_acceptance.usable(ENV, NEW)
        assert copy_acceptance.sound(ENV, NEW) == Answer(True, [])
        copy.execute("ALTER TABLE payments ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
        assert copy_acceptance.sound(ENV, NEW) == Answer(False, ["constraint positive of payments is not validated"])


def test_schema_is_judged_by_prisma_itself() -> None:
    released = prisma.released(ENV)
    assert released[0].endswith("_init")
    assert copy_acceptance.current(ENV, "propertypulse")
    assert copy_acceptance.current(ENV, NEW, released)  # empty: every migration is to come
    assert not copy_acceptance.current(ENV, NEW, released[1:])
    prisma.deploy(ENV, copy_acceptance.url(ENV, NEW))
    assert copy_acceptance.current(ENV, NEW)
