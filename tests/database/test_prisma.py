"""Prisma is led to the database that is meant, whichever variables its configuration reads, or is not believed."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.backups import copy_acceptance
from opslib.database import admin, prisma, prisma_config
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import RunbookError
from tests.place import Place
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV

ENV = propertypulse.load("sandbox")
URL = "postgresql://app:pw@db:5432/pp?schema=tenant&connection_limit=5"
COPY = URL.replace("/pp?", "/pp_new?")
READS = "new URL(process.env.DATABASE_URL)"


@pytest.fixture
def env(place: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    """A place whose release has no configuration of Prisma's yet."""
    (place.folder / "app/server/prisma").mkdir(parents=True)
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    return propertypulse.load("test")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("url: process.env.DIRECT_URL ?? process.env.DATABASE_URL", "DIRECT_URL"),
        ("url: process.env['DIRECT_URL']!", "DIRECT_URL"),
        ("const { DATABASE_URL, DIRECT_URL: direct } = process.env", "DIRECT_URL"),
        ("datasource: { url: env('DIRECT_URL') }", "DIRECT_URL"),
        ("url: env<Env>('DIRECT_URL'), shadowDatabaseUrl: env('SHADOW')", "SHADOW"),
        ("url: Deno.env.get('DIRECT_URL')", "DIRECT_URL"),
        ("url: import.meta.env.ELSEWHERE", "ELSEWHERE"),
    ],
)
def test_every_variable_that_a_configuration_reads_leads_there(env: PropertyPulse, config: str, name: str) -> None:
    folder = env.api.release / "server"
    (folder / "prisma.config.ts").write_text(config)
    names = {"DIRECT_URL": "/pp?", "SHADOW": "/pp_shadow?", "ELSEWHERE": "/other?", "ANALYTICS": "/analytics?"}
    values = {key: URL.replace("/pp?", path).replace("pw@db", "direct@db2") for key, path in names.items()}
    env_file.edit(env.api.env_file, {"DATABASE_URL": URL, **values})
    told = prisma_config.told(env, folder, COPY)
    assert told["DATABASE_URL"] == COPY
    assert told[name] == COPY.replace("pw@db", "direct@db2")
    assert "ANALYTICS" not in told


def test_what_a_schema_names_leads_there_also_where_it_is_not_set(env: PropertyPulse) -> None:
    folder = env.api.release / "server"
    (folder / "prisma/schema.prisma").write_text(
        'datasource db {\n url = env("DATABASE_URL")\n directUrl = env("DIRECT_URL")\n'
        ' shadowDatabaseUrl = env("SHADOW_DATABASE_URL")\n}'
    )
    (folder / "prisma.config.ts").write_text("const name = process.env.DB_NAME, mode = process.env.NODE_ENV")
    values = {"DB_NAME": "pp", "NODE_ENV": "production", "SHADOW_DATABASE_URL": "${DATABASE_URL}_shadow"}
    env_file.edit(env.api.env_file, {"DATABASE_URL": URL, **values})
    told = prisma_config.told(env, folder, COPY)
    assert told == {"DATABASE_URL": COPY, "DIRECT_URL": COPY, "DB_NAME": "pp_new"}
    assert prisma_config.schema(folder) == "prisma/schema.prisma"


@pytest.fixture
def copy(sandbox: None) -> Iterator[str]:
    """An empty database of the API's role, beside the live one."""
    name = f"propertypulse_{uuid.uuid4().hex[:8]}"
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        superuser.execute(f'CREATE DATABASE "{name}" OWNER propertypulse TEMPLATE template0')
    yield name
    with postgres.connect_admin(Credentials.load(), "postgres") as superuser:
        superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def release(sandbox: None) -> Iterator[Path]:
    """The release in force, with a URL of its own for Prisma and one more migration; as it was afterwards."""
    folder = ENV.api.release.resolve() / "server"
    config, made = folder / "prisma.config.mjs", folder / "prisma/migrations/29990101000000_late"
    before = config.read_text()
    made.mkdir()
    (made / "migration.sql").write_text('CREATE TABLE "late" ("id" INTEGER NOT NULL PRIMARY KEY);')
    edited = env_file.edit(DOTENV, {"DIRECT_URL": Credentials.load().database_url})
    assert edited and READS in before
    yield config
    env_file.restore(edited)
    env_file.drop(edited)
    config.write_text(before)
    (made / "migration.sql").unlink()
    made.rmdir()


def migrated(name: str) -> list[str]:
    with admin.connect(ENV, name) as connection:
        return prisma.had(connection)


def test_the_copy_is_migrated_and_judged_and_nothing_else(copy: str, release: Path) -> None:
    release.write_text(
        release.read_text().replace(READS, "new URL(process.env.DIRECT_URL ?? process.env.DATABASE_URL)")
    )
    live, released = migrated("propertypulse"), prisma.released(ENV)
    assert copy_acceptance.current(ENV, copy, released)
    prisma.deploy(ENV, copy_acceptance.url(ENV, copy))
    assert copy_acceptance.current(ENV, copy)
    assert not copy_acceptance.current(ENV, "propertypulse")
    assert (migrated(copy), migrated("propertypulse")) == (released, live)


def test_prisma_that_cannot_be_led_there_is_refused_and_changes_nothing(copy: str, release: Path) -> None:
    release.write_text(release.read_text().replace(READS, f"new URL('{Credentials.load().database_url}')"))
    live = migrated("propertypulse")
    with pytest.raises(RunbookError, match=rf"for database {copy} and leads to database propertypulse.*DATABASE_URL"):
        prisma.deploy(ENV, copy_acceptance.url(ENV, copy))
    with pytest.raises(RunbookError, match="leads to database propertypulse"):
        copy_acceptance.current(ENV, copy)
    assert (migrated(copy), migrated("propertypulse")) == ([], live)


def test_the_urls_schema_says_where_the_migrations_lie(copy: str) -> None:
    with admin.connect(ENV, copy) as connection:
        for schema in ("public", "tenant"):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
            connection.execute(
                f"CREATE TABLE {schema}._prisma_migrations AS SELECT 'of {schema}' AS migration_name,"
                " now() AS finished_at, NULL::timestamptz AS rolled_back_at".encode()
            )
    made = env_file.edit(DOTENV, {"DATABASE_URL": Credentials.load().database_url.replace("=public", "=tenant")})
    assert made
    try:
        assert migrated(copy) == ["of tenant"]
    finally:
        env_file.restore(made)
        env_file.drop(made)
