"""A manifest: what a database holds at one moment, so that a copy of it can be compared with that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg import errors, sql

from opslib.backups import catalogue
from opslib.database import prisma
from opslib.database.postgres import Connection
from opslib.runbook.answer import Answer
from opslib.runbook.errors import CheckFailed

_TABLES = """
    SELECT n.nspname AS schema, c.relname AS name,
        ARRAY(SELECT attname::text FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            AND atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype) ORDER BY attnum) AS times
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^(pg_|information_schema$)'
        AND NOT EXISTS (SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
    ORDER BY 1, 2"""
_ROLES = """
    SELECT r.rolname::text AS name FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_authid'::regclass
        AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION SELECT pg_get_userbyid(owner)::text FROM (SELECT oid, relowner FROM pg_class WHERE relkind <> 't'
        UNION ALL SELECT oid, proowner FROM pg_proc) AS one (oid, owner)
    WHERE oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = one.oid AND deptype = 'e')
    ORDER BY 1"""
_EXTENSIONS = """
    SELECT extname::text AS name, extversion AS version, nspname::text AS schema,
        CASE WHEN rolsuper THEN '' ELSE rolname::text END AS owner
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace JOIN pg_roles r ON r.oid = extowner
    WHERE extname <> 'plpgsql' ORDER BY e.oid"""
# As JSON, because what names the locale differs between versions: daticulocale in 15 and 16, datlocale from 17 on.
_DATABASE = """
    SELECT current_database()::text AS name, current_setting('server_version') AS server,
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text AS lsn,
        pg_encoding_to_char(encoding)::text AS encoding, datcollate AS collate, datctype AS ctype,
        to_jsonb(d) ->> 'datlocprovider' AS provider,
        coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale
    FROM pg_database d WHERE datname = current_database()"""


@dataclass(frozen=True)
class Table:
    """A table: its rows, and the newest time in any of them that lies before the snapshot."""

    name: str
    rows: int
    newest: datetime | None


@dataclass(frozen=True)
class Extension:
    """An extension, and the schema that it lies in."""

    name: str
    version: str
    schema: str
    owner: str = ""
    """Who has made it; empty if that is a superuser."""


@dataclass(frozen=True)
class Manifest:
    """What a database holds at one moment, and what a server must have for a copy of it."""

    taken: datetime
    server: str
    """The version of PostgreSQL."""
    database: str
    role: str
    """The role that the API works as, and which is to own a copy."""
    migration: str
    """The last one that Prisma has finished; empty if there is none."""
    lsn: str
    encoding: str
    collate: str
    ctype: str
    provider: str | None
    locale: str | None
    tables: tuple[Table, ...]
    extensions: tuple[Extension, ...]
    roles: tuple[str, ...]
    """The roles that own something in the database, or have rights there."""
    catalogue: Mapping[str, str] | None = None
    """The digest of each object but the rows; None in a manifest of before."""

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.rows for table in self.tables)


def read(
    connection: Connection, role: str, taken: datetime, report: Callable[[str, int], object] = lambda table, rows: None
) -> Manifest:
    """Read the manifest in the transaction that is open. `report` is told each table with its rows."""
    about = described(connection, role, taken)
    return replace(about, catalogue=catalogue.read(connection), tables=tables(connection, taken, report))


def described(connection: Connection, role: str, taken: datetime) -> Manifest:
    """Give the manifest without what is in the tables."""
    about = connection.execute(_DATABASE).fetchone()
    assert about is not None
    database = {key: about[key] for key in ("server", "lsn", "encoding", "collate", "ctype", "provider", "locale")}
    extensions = [Extension(**row) for row in connection.execute(_EXTENSIONS).fetchall()]
    roles = [row["name"] for row in connection.execute(_ROLES).fetchall()]
    return Manifest(
        taken=taken,
        database=about["name"],
        role=role,
        migration=_migration(connection),
        tables=(),
        extensions=tuple(extensions),
        roles=tuple(sorted({*roles, role})),
        **database,
    )


def hold(connection: Connection) -> None:
    """Keep the shape of all tables as it is while the transaction is open, as pg_dump does.

    Raise CheckFailed, within the connection's lock_timeout, if somebody holds a lock against that.
    """
    for one in connection.execute(_TABLES).fetchall():
        table = sql.Identifier(one["schema"], one["name"])
        try:
            connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(table))
        except errors.LockNotAvailable:
            raise CheckFailed(
                f"{one['schema']}.{one['name']} is locked by somebody, so that nobody can read it. See who does with "
                "troubleshoot_database, then run again."
            ) from None


def tables(
    connection: Connection, taken: datetime, report: Callable[[str, int], object] = lambda table, rows: None
) -> tuple[Table, ...]:
    """Count the rows of each table, and find the newest time up to `taken` in it."""
    # A policy must raise an error, not hide rows from whoever is no superuser.
    connection.execute("SET row_security = off")
    found = []
    for one in connection.execute(_TABLES).fetchall():
        newest = [
            sql.SQL("max({0}) FILTER (WHERE {0} BETWEEN '0001-01-01' AND {1})::timestamptz").format(
                sql.Identifier(column), sql.Literal(taken)
            )
            for column in one["times"]
        ]
        query = sql.SQL("SELECT count(*) AS rows, {} AS newest FROM ONLY {}").format(
            sql.SQL("greatest({})").format(sql.SQL(", ").join(newest)) if newest else sql.SQL("NULL"),
            sql.Identifier(one["schema"], one["name"]),
        )
        name = f"{one['schema']}.{one['name']}"
        row = connection.execute(query).fetchone()
        assert row is not None
        found.append(Table(name, row["rows"], row["newest"]))
        report(name, row["rows"])
    return tuple(found)


def differences(manifest: Manifest, connection: Connection) -> Answer:
    """Whether a database has every table of the manifest with its rows, and no other."""
    expected = {table.name: table for table in manifest.tables}
    found = {table.name: table for table in tables(connection, manifest.taken)}
    return Answer(
        expected == found,
        [
            {
                "table": name,
                **_columns(found.get(name), "rows", "newest"),
                **_columns(expected.get(name), "rows in the manifest", "newest in the manifest"),
            }
            for name in sorted(expected | found)
        ],
    )


def _columns(table: Table | None, rows: str, newest: str) -> dict[str, object]:
    return {rows: table.rows, newest: table.newest} if table else {rows: "no such table"}


def utc(time: datetime) -> str:
    """Give a time as people write it, to the second."""
    return time.isoformat(sep="T", timespec="seconds").replace("+00:00", "Z")


def _migration(connection: Connection) -> str:
    if (table := prisma.ledger(connection)) is None:
        return ""
    row = connection.execute(
        sql.SQL(
            "SELECT migration_name FROM {} WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL"
            " ORDER BY finished_at DESC, migration_name DESC LIMIT 1"
        ).format(table)
    ).fetchone()
    return str(row["migration_name"]) if row else ""
