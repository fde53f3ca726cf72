"""Prisma's migrations: what the release in force has, what a database has had, and bringing the one to the other.

`prisma migrate status` ends with 1 when the database is behind, ahead, diverged or holds a failed migration, and with 0
when it is up to date (prisma/prisma, packages/migrate/src/commands/MigrateStatus.ts). The database that it names is the
one in the schema, not the one that a prisma.config.ts connects to. So PostgreSQL is asked, by way of Prisma, which one
that is: by an error, the only thing of a statement that `prisma db execute` shows.
"""

import re
from pathlib import Path

from psycopg import sql

from opslib.database import database_url, postgres, prisma_config
from opslib.database.postgres import Connection
from opslib.database.settings import RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.runbook import program
from opslib.runbook.errors import CommandFailed, RunbookError
from opslib.runbook.mask import mask

STATUS = ["npx", "--no-install", "prisma", "migrate", "status"]
DEPLOY = ["npx", "--no-install", "prisma", "migrate", "deploy"]
EXECUTE = ["npx", "--no-install", "prisma", "db", "execute", "--stdin"]
DEPLOY_SECONDS = 1800
TABLE = "_prisma_migrations"
_WHICH = (
    "SELECT quote_ident(datname) || ' ' || oid || ' ' || extract(epoch FROM pg_postmaster_start_time())"
    " FROM pg_database WHERE datname = current_database()"
)
_ASKED = f"DO $$BEGIN RAISE EXCEPTION 'asked of <<%>>', ({_WHICH}); END$$"


def released(environment: Deployment) -> list[str]:
    """Give the names of the migrations that the release in force has, oldest first."""
    return sorted(file.parent.name for file in (_folder(environment) / "prisma/migrations").glob("*/migration.sql"))


def had(connection: Connection) -> list[str]:
    """Give the names of the migrations that a database has had in full, oldest first."""
    if (table := ledger(connection)) is None:
        return []
    rows = connection.execute(
        sql.SQL(
            "SELECT migration_name FROM {} WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL"
            " ORDER BY migration_name"
        ).format(table)
    ).fetchall()
    return [row["migration_name"] for row in rows]


def ledger(connection: Connection) -> sql.Identifier | None:
    """Give the table in which Prisma notes what it has done: in the connection's schema, or else in the only other."""
    rows = connection.execute(
        "SELECT nspname::text AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relname = %s AND relkind = 'r' ORDER BY nspname = current_schema() DESC, nspname",
        [TABLE],
    ).fetchall()
    return sql.Identifier(rows[0]["schema"], TABLE) if rows else None


def status(environment: Deployment, url: str) -> tuple[bool, str]:
    """Whether the database of this URL has the schema of the release in force; with what Prisma says of it."""
    variables = _led_to(environment, url)
    try:
        said = program.run(STATUS, env=variables, cwd=_folder(environment))
    except CommandFailed as error:
        if error.exit_code != 1:
            raise
        return False, _gist(error.output)
    return True, _gist(said)


def deploy(environment: Deployment, url: str) -> None:
    """Run the migrations that the database has not had. It must be there: Prisma would make an empty one."""
    variables = _led_to(environment, url)
    program.run(DEPLOY, env=variables, cwd=_folder(environment), seconds=DEPLOY_SECONDS)


def shown(environment: Deployment, url: str) -> list[str]:
    """Give the names of the variables by which Prisma is told the database of this URL."""
    return sorted(prisma_config.told(environment, _folder(environment), url))


def _led_to(environment: Deployment, url: str) -> dict[str, str]:
    """Give the variables that lead Prisma to the database of this URL. Raise RunbookError unless they do."""
    told = prisma_config.told(environment, _folder(environment), url)
    for key, value in told.items():
        if "://" in value:
            mask.add(key, value)
    variables, wanted = {**environment.variables, **told}, database_url.parameters(url)["dbname"]
    with postgres.connect(url, within=5) as connection:
        row = connection.execute(f"SELECT ({_WHICH}) AS which".encode()).fetchone()
    found, said = _asked(environment, variables)
    if not row or found != row["which"]:
        leads = f"leads to database {found.rpartition(' ')[0].rpartition(' ')[0]}" if found else f"did not say: {said}"
        raise RunbookError(
            f"Prisma was asked for database {wanted} and {leads}. It was told by {', '.join(sorted(told))}: have its "
            f"schema and prisma.config in {_folder(environment)} take the URL from one of these, and run again"
        )
    return variables


def _asked(environment: Deployment, variables: dict[str, str]) -> tuple[str, str]:
    """Ask by way of Prisma which database it is in; with what it said besides."""
    place, said = prisma_config.schema(_folder(environment)), ""
    # Before version 7 it wants to be told the schema, and from then on takes no such option.
    for options in ([f"--schema={place}"], []) if place else ([],):
        try:
            program.run([*EXECUTE, *options], env=variables, cwd=_folder(environment), given=_ASKED.encode())
        except CommandFailed as error:
            said = said or _gist(error.output)
            if found := re.search(r"asked of <<(.*?)>>", error.output, re.DOTALL):
                return found[1], said
    return "", said


def _folder(environment: Deployment) -> Path:
    return environment.api.release / environment.part(RecoveryGoals).prisma


def _gist(output: str) -> str:
    """Give the last paragraphs: what comes before them is about Prisma itself."""
    paragraphs = [" ".join(part.split()) for part in output.strip().split("\n\n")]
    return "; ".join(paragraphs[-2:]) or "it said nothing"
