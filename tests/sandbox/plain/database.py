"""The database of the plain stand-in, in the PostgreSQL server of the first: with a role of its own, made by hand."""

import hashlib
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from .. import postgres
from ..credentials import Credentials as Shared, write_private
from ..layout import HOST, POSTGRES
from .credentials import DATABASE, ROLE, Credentials
from .layout import ADMIN, BY_HAND, SOURCE

MIGRATIONS = SOURCE / "server" / "prisma" / "migrations"
UNAPPLICABLE = "20240520101500_ticket_photos"
"""The migration that alters a table which none has made."""

# As Prisma makes it.
NOTES = """
CREATE TABLE _prisma_migrations (
    id VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    finished_at TIMESTAMPTZ,
    migration_name VARCHAR(255) NOT NULL,
    logs TEXT,
    rolled_back_at TIMESTAMPTZ,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
)
"""


def create(shared: Shared, credentials: Credentials) -> None:
    """Create the role and its database, and in it what its owner has: migrations, and what none of them makes."""
    with postgres.connect_admin(shared, "postgres") as connection:
        _drop(connection)
        verifier = connection.pgconn.encrypt_password(
            credentials.database_password.encode(), ROLE.encode(), b"scram-sha-256"
        )
        role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(verifier.decode())))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    with postgres.connect_admin(shared, DATABASE) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
    write_private(ADMIN / "database", shared.postgres_url.rpartition("/")[0] + f"/{DATABASE}")
    with connect(credentials) as connection:
        _make(connection)


def _make(connection: psycopg.Connection) -> None:
    """Bring the database to the schema, and note each migration as `prisma migrate resolve --applied` does."""
    connection.execute(NOTES.encode())
    for migration in sorted(path for path in MIGRATIONS.iterdir() if path.is_dir()):
        if migration.name == UNAPPLICABLE:
            connection.execute(BY_HAND.read_bytes())
        script = migration / "migration.sql"
        connection.execute(script.read_bytes())
        connection.execute(
            "INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name, started_at)"
            " VALUES (%s, %s, now(), %s, now())",
            (str(uuid4()), _checksum(script), migration.name),
        )


def _checksum(script: Path) -> str:
    return hashlib.sha256(script.read_bytes()).hexdigest()


def drop(shared: Shared) -> None:
    """Drop the role and all databases that are its own, also those that a recovery has made."""
    with postgres.connect_admin(shared, "postgres") as connection:
        _drop(connection)


def _drop(connection: psycopg.Connection) -> None:
    roles = [name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname ~ %s", (f"^{ROLE}",))]
    owned = "SELECT datname FROM pg_database WHERE datname ~ %s OR pg_get_userbyid(datdba) = ANY(%s)"
    for (name,) in connection.execute(owned, (f"^{DATABASE}", roles)).fetchall():
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    for name in roles:
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def connect(credentials: Credentials) -> psycopg.Connection:
    """Connect as the API does."""
    return psycopg.connect(
        host=HOST,
        port=POSTGRES,
        dbname=DATABASE,
        user=ROLE,
        password=credentials.database_password,
        application_name="sandbox",
        connect_timeout=2,
        autocommit=True,
    )


def connect_admin() -> psycopg.Connection:
    """Connect as the superuser."""
    return postgres.connect_admin(Shared.load(), DATABASE)


def problem() -> str | None:
    """Say why the API could not open a connection now; None if it could."""
    try:
        connect(Credentials.load()).close()
    except (psycopg.Error, OSError) as error:
        return str(error).strip().splitlines()[-1]
    return None
