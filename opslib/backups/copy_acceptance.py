"""The acceptance of a copy: what one that was restored must stand before it takes the live database's place."""

from collections.abc import Sequence

from psycopg import errors

from opslib.backups import restore
from opslib.database import admin, database_url, login, postgres, prisma, role
from opslib.database.postgres import Connection
from opslib.database.settings import Database
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer
from opslib.runbook.mask import mask


def url(environment: Deployment, database: str) -> str:
    """Give the API's own URL, of this database; past a pooler, which need not know a copy of the live one."""
    known = admin.api_url(environment)
    found = database_url.with_database(known, database)
    if database != admin.database(environment) and login.lent(known):
        found = restore.beside(environment, database)
    mask.add(admin.KEY, found)
    return found


def sound(environment: Deployment, database: str) -> Answer:
    """Whether every index is valid, and every constraint is validated that the live database has so."""
    with admin.connect(environment, database) as connection:
        found = _unsound(connection)
    try:
        with admin.connect(environment) as connection:
            known = _unsound(connection)
    except postgres.LoginFailed:
        known = []  # it is gone: there is nothing to compare with
    wrong = [one for one in found if one not in known]
    return Answer(not wrong, wrong)


def usable(environment: Deployment, database: str) -> Answer:
    """Whether the API's own login reads and writes there as the API does, in a transaction that is rolled back."""
    address = url(environment, database)
    table = environment.part(Database).table
    try:
        with postgres.connect(address, admin.KEY, within=5) as connection:
            rows = role.rights(connection, table, database_url.schema(address))
    except errors.InsufficientPrivilege as error:
        return Answer(False, [{"tried": f"read and write {table}", "result": str(error)}])
    return Answer(all(row["result"] != "DENIED" for row in rows), rows)


def current(environment: Deployment, database: str, pending: Sequence[str] = ()) -> Answer:
    """Whether Prisma finds the schema to be that of the release in force, or behind it by just what is pending."""
    up_to_date, said = prisma.status(environment, url(environment, database))
    with admin.connect(environment, database) as connection:
        behind = sorted({*prisma.released(environment)} - {*prisma.had(connection)})
    as_expected = up_to_date is not bool(behind) and behind in ([], [*pending])
    return Answer(as_expected, {"Prisma": said, "lacks": behind or "none"})


def _unsound(connection: Connection) -> list[str]:
    rows = connection.execute(
        "SELECT 'index ' || indexrelid::regclass || ' is invalid' AS what FROM pg_index"
        " WHERE NOT (indisvalid AND indisready)"
        " UNION ALL SELECT 'constraint ' || conname || ' of ' || conrelid::regclass || ' is not validated'"
        " FROM pg_constraint WHERE NOT convalidated AND contype IN ('f', 'c') ORDER BY 1"
    ).fetchall()
    return [row["what"] for row in rows]
