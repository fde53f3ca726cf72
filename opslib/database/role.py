"""A role of PostgreSQL that logs in, and its twin: the two take turns, and whatever either makes belongs to the first.

The twin is a member of the first and becomes it at each login (`ALTER ROLE … SET role`), so both have the same rights
and own the same tables. Without that, a table that one has made could not be altered by the other ("must be owner").
"""

from dataclasses import dataclass, fields

from psycopg import errors, sql

from opslib.database.postgres import Connection
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError

SUFFIX = "_clone"
DENIED = "DENIED"
LONGEST = 63
"""Bytes of a name in PostgreSQL, as it is usually built."""


@dataclass(frozen=True)
class Role:
    """What PostgreSQL says of a role; `becomes` is the role that its sessions are, if not itself."""

    name: str
    logs_in: bool
    superuser: bool
    creates_roles: bool
    connections: int  # -1 is without limit
    becomes: str
    member_of: tuple[str, ...]


def twin(name: str) -> str:
    """Give the name of the role that takes turns with this one."""
    other = name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else name + SUFFIX
    if len(other.encode()) > LONGEST:
        raise RunbookError(
            f"the twin of {name} would have a name of more than {LONGEST} bytes; use change_database_password"
        )
    return other


def read(connection: Connection, name: str) -> Role | None:
    """Ask for a role; None if there is none of that name."""
    found = connection.execute(
        "SELECT rolname AS name, rolcanlogin AS logs_in, rolsuper AS superuser, rolcreaterole AS creates_roles,"
        " rolconnlimit AS connections,"
        " coalesce((SELECT substr(one, 6) FROM unnest(rolconfig) AS one WHERE one LIKE 'role=%%'), '') AS becomes,"
        " ARRAY(SELECT o.rolname::text FROM pg_auth_members m JOIN pg_roles o ON o.oid = m.roleid"
        " WHERE m.member = r.oid)"
        " AS member_of"
        " FROM pg_roles r WHERE rolname = %s",
        [name],
    ).fetchone()
    return (
        Role(**{f.name: found[f.name] for f in fields(Role)} | {"member_of": tuple(found["member_of"])})
        if found
        else None
    )


def paired(connection: Connection, name: str) -> bool:
    """Whether this role and its twin belong together: the first is there, and the second is its member or not there."""
    first = name.removesuffix(SUFFIX)
    one, two = read(connection, first), read(connection, twin(first))
    return one is not None and (two is None or first in two.member_of)


def may(connection: Connection, *names: str) -> Answer:
    """Whether this connection may change the passwords of these roles, or make those that are not there."""
    found = {name: alters(connection, name) for name in sorted({*names})}
    otherwise = "Name another administrator: a superuser, or one with CREATEROLE and the ADMIN option on the role."
    return Answer(all(found.values()), found, otherwise)


def scram(connection: Connection) -> Answer:
    """Whether PostgreSQL keeps SCRAM verifiers, which are made here."""
    found = connection.execute("SHOW password_encryption").fetchone()
    assert found is not None
    return Answer(found["password_encryption"] == "scram-sha-256", found, "Set password_encryption to scram-sha-256.")


def own(connection: Connection, name: str) -> Answer:
    """Whether a role, or the place of its name, is the API's own: the pair belongs together."""
    otherwise = f"{name} is somebody else's role: rename it, or change_database_password with its short window."
    return Answer(paired(connection, name), read(connection, name) or f"{name}: not there yet", otherwise)


def alters(connection: Connection, name: str) -> bool:
    """Whether this connection may change the password of that role, or make it where there is none.

    A superuser may; from PostgreSQL 16 on another needs CREATEROLE and the ADMIN option on the role.
    """
    found = connection.execute(
        "SELECT rolsuper OR (rolcreaterole AND (current_setting('server_version_num')::int < 160000 OR NOT EXISTS"
        " (SELECT FROM pg_roles WHERE rolname = %(name)s) OR EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles r"
        " ON r.oid = m.roleid WHERE r.rolname = %(name)s AND m.admin_option AND pg_has_role(m.member, 'USAGE'))))"
        " AS may FROM pg_roles WHERE rolname = current_user",
        {"name": name},
    ).fetchone()
    return bool(found and found["may"])


def stored(connection: Connection, name: str) -> str:
    """Give the verifier that PostgreSQL holds; empty if there is none, or only a superuser could read it."""
    try:
        found = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [name]).fetchone()
    except errors.InsufficientPrivilege:
        return ""
    return (found["rolpassword"] or "") if found else ""


def set_password(name: str, verifier: str | sql.Composable) -> sql.Composed:
    """The statement that lets the role in with this verifier's password and no other."""
    return sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), verifier)


def lock(name: str) -> sql.Composed:
    """The statement after which nobody logs in as this role; what it owns and grants stays."""
    return sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(sql.Identifier(name))


def make_twin(connection: Connection, name: str, verifier: str | sql.Composable) -> list[sql.Composed]:
    """The statements that make the twin of a role, or bring it up to date: its rights, its settings, its password.

    They go into one transaction. What the role is and has set is asked now.
    """
    one = read(connection, name)
    if one is None:
        raise RunbookError(f"there is no role {name}; look at DATABASE_URL")
    second = sql.Identifier(twin(name))
    made = sql.SQL("DO $$BEGIN CREATE ROLE {}; EXCEPTION WHEN duplicate_object THEN NULL; END$$").format(second)
    statements = [
        made,
        sql.SQL("GRANT {} TO {}").format(sql.Identifier(name), second),
        sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(second, one.connections),
    ]
    for database, setting, value in _settings(connection, name):
        # A list such as search_path must not become one quoted name: PostgreSQL reads it, then copies it.
        statements.append(sql.SQL("SELECT set_config({}, {}, true)").format(setting, value))
        where = sql.SQL(" IN DATABASE {}").format(sql.Identifier(database)) if database else sql.SQL("")
        parts = (second, where, sql.Identifier(*setting.split(".")))
        statements.append(sql.SQL("ALTER ROLE {}{} SET {} FROM CURRENT").format(*parts))
    becomes = sql.SQL("ALTER ROLE {} SET role TO {}").format(second, one.becomes or name)
    return [*statements, becomes, set_password(twin(name), verifier)]


def works(connection: Connection, table: str, schema: str) -> Answer:
    """Whether the role that is logged in reads and writes as the API does, and may use all tables of the schema."""
    rows = rights(connection, table, schema)
    denied = [row["tried"] for row in rows if row["result"] == DENIED]
    return Answer(not denied, rows, f"Grant the role what it lacks: {'; '.join(denied)}." if denied else "")


def rights(connection: Connection, table: str, schema: str) -> list[dict[str, str]]:
    """Read and write as the role that is logged in, in a transaction that is rolled back; a row for each thing tried.

    A row whose result is DENIED names a table of the schema that the role may not use.
    """
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
        rows += [{"tried": f"use table {one['relname']}", "result": DENIED} for one in denied]
    return rows


def _settings(connection: Connection, name: str) -> list[tuple[str, str, str]]:
    """Give what a role has set but the role it becomes: the database ("" for each), the setting, its value."""
    rows = connection.execute(
        "SELECT coalesce(datname, '') AS database, split_part(one, '=', 1) AS setting,"
        " substr(one, strpos(one, '=') + 1) AS value FROM pg_db_role_setting s LEFT JOIN pg_database d"
        " ON d.oid = s.setdatabase, unnest(setconfig) AS one"
        " WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = %s)",
        [name],
    ).fetchall()
    return [(r["database"], r["setting"], r["value"]) for r in rows if r["setting"] != "role"]
