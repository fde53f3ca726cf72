"""What a database carries to its copy besides what is in it: owner, rights, settings, limit, comment.

A dump without `--create` holds none of that, so that a database restored from one would let in and behave otherwise.
"""

from collections.abc import Iterator

from psycopg import sql

from opslib.database.postgres import Connection

LISTS = {"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"}
"""Settings whose value is a list of names, each quoted by itself."""


def statements(connection: Connection, source: str, target: str) -> list[sql.Composed]:
    """Give the statements by which one database gets what another has, if there is that other.

    Each may be run by itself; done again, they change nothing.
    """
    read = (_owner, _limit, _rights, _set, _comment)
    return [statement for part in read for statement in part(connection, source, target)]


def _owner(connection: Connection, source: str, target: str) -> Iterator[sql.Composed]:
    for row in connection.execute(
        "SELECT rolname AS owner FROM pg_database d JOIN pg_roles r ON r.oid = datdba WHERE datname = %s", [source]
    ):
        yield sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(target), sql.Identifier(row["owner"]))


def _limit(connection: Connection, source: str, target: str) -> Iterator[sql.Composed]:
    for row in connection.execute(
        "SELECT datconnlimit AS most FROM pg_database WHERE datname = %s AND datconnlimit <> -1", [source]
    ):
        yield sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(sql.Identifier(target), sql.Literal(row["most"]))


def _rights(connection: Connection, source: str, target: str) -> Iterator[sql.Composed]:
    rows = connection.execute(
        "SELECT rolname AS role, privilege_type AS privilege, is_grantable AS grantable FROM pg_database,"
        " aclexplode(datacl) AS acl LEFT JOIN pg_roles r ON r.oid = acl.grantee WHERE datname = %s"
        " ORDER BY role, privilege",
        [source],
    ).fetchall()
    if rows:  # none at all are PostgreSQL's own, which the target has too
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(target))
    for row in rows:
        yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
            sql.SQL(row["privilege"]),
            sql.Identifier(target),
            sql.Identifier(row["role"]) if row["role"] else sql.SQL("PUBLIC"),
            sql.SQL(" WITH GRANT OPTION" if row["grantable"] else ""),
        )


def _set(connection: Connection, source: str, target: str) -> Iterator[sql.Composed]:
    rows = connection.execute(
        "SELECT rolname AS role, split_part(one, '=', 1) AS setting, substr(one, strpos(one, '=') + 1) AS value"
        " FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON"
        " r.oid = s.setrole, unnest(setconfig) WITH ORDINALITY AS listed (one, place) WHERE datname = %s"
        " ORDER BY role, place",
        [source],
    ).fetchall()
    database = sql.Identifier(target)
    for row in rows:
        if row["role"]:
            whose = sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(row["role"]), database)
        else:
            whose = sql.SQL("ALTER DATABASE {}").format(database)
        setting = sql.Identifier(*row["setting"].split("."))
        if row["setting"] in LISTS:  # as one text it would become one name; PostgreSQL reads it, then copies it
            read = sql.SQL("SELECT set_config({}, {}, true)").format(
                sql.Literal(row["setting"]), sql.Literal(row["value"])
            )
            yield sql.SQL("{}; {} SET {} FROM CURRENT").format(read, whose, setting)  # in one transaction
        else:
            yield sql.SQL("{} SET {} TO {}").format(whose, setting, sql.Literal(row["value"]))


def _comment(connection: Connection, source: str, target: str) -> Iterator[sql.Composed]:
    for row in connection.execute(
        "SELECT shobj_description(oid, 'pg_database') AS text FROM pg_database WHERE datname = %s", [source]
    ):
        if row["text"]:
            yield sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(target), sql.Literal(row["text"]))
