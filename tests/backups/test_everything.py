"""A database with all that pg_dump can dump: backed up, restored and compared, with owners, rights and security."""

import uuid
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from opslib import propertypulse
from opslib.backups import catalogue, remainder
from opslib.backups.backup_proof import Taking
from opslib.backups.recovery import Recovery
from opslib.backups.store import Folder
from opslib.database import admin, database_url
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV

NAME = "everything"
ROLES = ("everything_reports", "everything_reader")
SUPERUSERS = """
CREATE EXTENSION cube; CREATE EXTENSION earthdistance; CREATE SCHEMA tools AUTHORIZATION propertypulse;
CREATE EXTENSION hstore SCHEMA tools; CREATE EXTENSION postgres_fdw;
REVOKE EXECUTE ON FUNCTION earth() FROM PUBLIC; GRANT EXECUTE ON FUNCTION earth() TO everything_reader;
CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db2', dbname 'x');
ALTER SERVER other OWNER TO propertypulse; GRANT USAGE ON FOREIGN SERVER other TO everything_reader;
CREATE USER MAPPING FOR propertypulse SERVER other OPTIONS (user 'u', password 'pw-of-another');
CREATE FOREIGN TABLE remote (id int) SERVER other OPTIONS (table_name 'r');
CREATE FUNCTION leaky(text) RETURNS boolean LEAKPROOF IMMUTABLE LANGUAGE sql AS 'SELECT $1 <> ''''';
CREATE FUNCTION native() RETURNS trigger LANGUAGE c AS '$libdir/refint', 'check_primary_key';
CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN NULL; END$$;
CREATE EVENT TRIGGER watched ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION noticed();
CREATE PUBLICATION all_of_it FOR ALL TABLES;
CREATE PUBLICATION some_of_it FOR TABLES IN SCHEMA tools;
CREATE SCHEMA audit; GRANT USAGE ON SCHEMA audit TO propertypulse;
CREATE TABLE audit.notes (id int PRIMARY KEY, what text); INSERT INTO audit.notes VALUES (1, 'kept');
GRANT SELECT, INSERT ON audit.notes TO propertypulse; REVOKE UPDATE ON audit.notes FROM postgres;
CREATE FUNCTION audit.whoami() RETURNS text SECURITY DEFINER LANGUAGE sql SET search_path = '' AS
  'SELECT current_user::text';
CREATE TABLE reports (id int); ALTER TABLE reports OWNER TO everything_reports; INSERT INTO reports VALUES (1), (2);
ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA audit GRANT SELECT ON TABLES TO everything_reader;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() FROM pg_monitor;
CREATE TEXT SEARCH DICTIONARY plain (TEMPLATE = simple); CREATE TEXT SEARCH CONFIGURATION own (COPY = simple);
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);
CREATE CAST (boolean AS date) WITH FUNCTION native_cast(boolean);
"""
OWN = """
CREATE EXTENSION citext;
CREATE COLLATION german (provider = builtin, locale = 'C.UTF-8');
CREATE FUNCTION own_check(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
  $$BEGIN RETURN NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user); END$$;
CREATE DOMAIN email AS text CHECK (VALUE ~ '@') CHECK (own_check(VALUE));
CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = numeric);
CREATE AGGREGATE product(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = '1');
CREATE FUNCTION plain_sum(a int, b int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT a + b; END;
CREATE TABLE payments (id bigint PRIMARY KEY, who email NOT NULL, name citext, note text COLLATE german,
  amount numeric, twice numeric GENERATED ALWAYS AS (amount * 2) STORED, mood mood, p pair,
  CHECK (own_check(name::text)), EXCLUDE (name WITH =));
COMMENT ON TABLE payments IS 'what people pay'; COMMENT ON COLUMN payments.mood IS 'of the payer';
INSERT INTO payments (id, who, name, note, amount, mood, p)
  SELECT n, n || '@x', n, 'n', n, 'happy', (n, 'x')::pair FROM generate_series(1, 50) n;
CREATE INDEX by_note ON payments (lower(note)) WHERE amount > 3;
CREATE STATISTICS both_of_it ON amount, mood FROM payments;
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE parts_new PARTITION OF parts DEFAULT;
INSERT INTO parts VALUES (1, '2025-05-05'), (2, '2026-05-05'); CREATE INDEX ON parts (id);
CREATE TABLE tenants (id int PRIMARY KEY, boss int REFERENCES tenants); ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON tenants FOR SELECT TO everything_reader USING (id > 0);
GRANT SELECT (id) ON tenants TO everything_reader WITH GRANT OPTION;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TRIGGER touched BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE tenants DISABLE TRIGGER touched;
CREATE VIEW rich WITH (security_barrier) AS SELECT * FROM payments WHERE amount > 40;
CREATE MATERIALIZED VIEW sums AS SELECT product(amount) FROM payments WHERE id < 5;
CREATE RULE nothing AS ON DELETE TO rich DO INSTEAD NOTHING;
CREATE SEQUENCE numbers START 7 INCREMENT 3; GRANT USAGE ON SEQUENCE numbers TO everything_reader;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO everything_reader;
CREATE UNLOGGED TABLE cache (k text); INSERT INTO cache VALUES ('x');
CREATE TABLE tools.config (id int GENERATED BY DEFAULT AS IDENTITY, h tools.hstore);
SELECT lo_from_bytea(4711, 'large'); GRANT SELECT ON LARGE OBJECT 4711 TO everything_reader;
"""


@pytest.fixture(scope="module")
def env(sandbox: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PropertyPulse]:
    """The stand-in with a database of its own that holds everything, and a folder of its own for backups."""
    held, found = Credentials.load(), propertypulse.load("sandbox")
    url = database_url.with_database(held.database_url, NAME)
    place = tmp_path_factory.mktemp("everything")
    file = place / ".env"
    file.write_bytes(DOTENV.read_bytes())
    env_file.edit(file, {"DATABASE_URL": url}, backup=False)
    forget()
    with postgres.connect_admin(held, "postgres") as superuser:
        for name in ROLES:
            superuser.execute(f"CREATE ROLE {name}")
        superuser.execute(f"CREATE DATABASE {NAME} OWNER propertypulse TEMPLATE template0")
    with postgres.connect_admin(held, NAME) as superuser:
        superuser.execute("GRANT CREATE ON DATABASE everything TO propertypulse")
        superuser.execute("CREATE FUNCTION native_cast(boolean) RETURNS date LANGUAGE sql AS 'SELECT ''1-1-1''::date'")
        superuser.execute(SUPERUSERS)
    with psycopg.connect(url.partition("?")[0], autocommit=True) as api:
        api.execute(OWN)
    assert found.backups
    yield found.model_copy(
        update={
            "api": found.api.model_copy(update={"env_file": file}),
            "backups": found.backups.model_copy(update={"folder": place / "backups"}),
        }
    )
    forget()


def forget() -> None:
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        rows = superuser.execute("SELECT datname FROM pg_database WHERE datname LIKE 'everything%'").fetchall()
        for (name,) in rows:
            superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        for name in ROLES:
            with suppress(psycopg.errors.UndefinedObject):
                superuser.execute(f"DROP ROLE {name}")


def taken(env: PropertyPulse) -> Taking:
    one = Taking(env, uuid.uuid4().hex[:8], [Folder(env)])
    one.take().do()
    return one


def test_all_of_it_is_proven_and_recovered_with_the_same_catalogue(env: PropertyPulse) -> None:
    # A row is refused where own_check() runs as a superuser: the API's code never has.
    with admin.connect(env) as superuser:
        assert remainder.none(superuser)
        before = catalogue.read(superuser)
    taking = taken(env)
    taking.restore().do()
    same = taking.same()
    assert same, same.evidence
    restored = Recovery(env, taking.backup, Folder(env))
    for act in restored._acts(Folder(env).fetched):
        act.run()
    assert restored.same()
    with admin.connect(env, restored.copy) as superuser:
        assert catalogue.differences(before, catalogue.read(superuser)) == []
        row = superuser.execute("SELECT audit.whoami() AS runs_as, lo_get(4711) AS large").fetchone()
    assert row == {"runs_as": "postgres", "large": b"large"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE audit.notes OWNER TO propertypulse", "table audit.notes"),
        ("GRANT DELETE ON audit.notes TO propertypulse", "table audit.notes"),
        ("GRANT UPDATE (what) ON audit.notes TO propertypulse", "table audit.notes"),
        ("ALTER TABLE tenants DISABLE ROW LEVEL SECURITY", "table public.tenants"),
        ("ALTER TABLE tenants ENABLE TRIGGER touched", "trigger touched on public.tenants"),
        ("DROP POLICY mine ON tenants", "policy mine on public.tenants"),
        ("ALTER FUNCTION audit.whoami() SECURITY INVOKER", "function audit.whoami()"),
        ("ALTER FUNCTION leaky(text) NOT LEAKPROOF", "function public.leaky(pg_catalog.text)"),
        ("GRANT EXECUTE ON FUNCTION earth() TO PUBLIC", "function public.earth()"),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE propertypulse REVOKE SELECT ON TABLES FROM everything_reader",
            "default acl",
        ),
        ("ALTER EVENT TRIGGER watched DISABLE", "event trigger watched"),
        ("DROP PUBLICATION all_of_it", "publication all_of_it"),
        ("ALTER SERVER other OPTIONS (SET host 'db3')", "server other"),
        ("ALTER LARGE OBJECT 4711 OWNER TO postgres", "large objects of propertypulse"),
        ("COMMENT ON TABLE payments IS 'other'", "table public.payments"),
        ("ALTER DOMAIN email DROP CONSTRAINT email_check", "domain constraint email_check"),
        ("DROP INDEX by_note", "index public.by_note"),
        ("ALTER VIEW rich SET (security_barrier = false)", "view public.rich"),
        ("GRANT CREATE ON SCHEMA audit TO everything_reader", "schema audit"),
        ("ALTER COLLATION german OWNER TO postgres", "collation public.german"),
    ],
)
def test_a_copy_that_is_not_as_it_was_is_told(env: PropertyPulse, change: str, named: str) -> None:
    with admin.connect(env) as superuser:
        before = catalogue.read(superuser)
        with superuser.transaction(force_rollback=True):
            superuser.execute(change.encode())
            rows = catalogue.differences(before, catalogue.read(superuser))
    assert any(row["object"].startswith(named) for row in rows), rows
    assert len(rows) <= 3, rows


def test_what_does_not_come_back_is_named_before(env: PropertyPulse) -> None:
    with postgres.connect_admin(Credentials.load(), NAME) as superuser:
        superuser.execute("CREATE SUBSCRIPTION fetches CONNECTION 'host=h' PUBLICATION p WITH (connect = false)")
        superuser.execute("SET ROLE propertypulse; CREATE EXTENSION ltree SCHEMA tools; RESET ROLE")
    try:
        with admin.connect(env) as administrator:
            answer = remainder.none(administrator)
        assert not answer
        assert isinstance(answer.evidence, list)
        assert [row["what"] for row in answer.evidence] == ["subscription fetches", "extension ltree of propertypulse"]
    finally:
        with postgres.connect_admin(Credentials.load(), NAME) as superuser:
            superuser.execute("ALTER SUBSCRIPTION fetches SET (slot_name = NONE)")
            superuser.execute("DROP SUBSCRIPTION fetches")


def test_an_administrator_who_is_no_superuser_is_told_what_they_cannot_put_back(env: PropertyPulse) -> None:
    with admin.connect(env) as administrator, administrator.transaction(force_rollback=True):
        administrator.execute("CREATE ROLE everything_admin CREATEDB; GRANT propertypulse TO everything_admin")
        administrator.execute("SET LOCAL ROLE everything_admin")
        answer = remainder.none(administrator)
    assert not answer
    assert isinstance(answer.evidence, list)
    named = {row["what"] for row in answer.evidence}
    assert {"event trigger watched", "publication all_of_it", "function leaky(text)", "function native()"} <= named
    assert {"what everything_reports owns", "extension postgres_fdw"} <= named
    assert not {"what propertypulse owns", "extension citext", "extension cube"} & named


def test_whose_code_runs_as_the_administrator_is_named(env: PropertyPulse) -> None:
    with admin.connect(env) as administrator, administrator.transaction(force_rollback=True):
        assert remainder.code(administrator, "propertypulse") == []
        administrator.execute("ALTER TABLE audit.notes ADD CHECK (public.own_check(what)) NOT VALID")
        administrator.execute("CREATE TABLE audit.mails (who public.email)")
        rows = remainder.code(administrator, "propertypulse")
    assert [row["runs"] for row in rows] == [
        "constraint notes_what_check of audit.notes",
        "domain of column who of audit.mails",
    ]
    assert {row["of"] for row in rows} == {"propertypulse"}
