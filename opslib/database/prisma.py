"""Prisma's migrations: what the release in force has, what a database has had, and bringing the one to the other.

`prisma migrate status` ends with 1 when the database is behind, ahead, diverged or holds a failed migration, and with 0
when it is up to date (prisma/prisma, packages/migrate/src/commands/MigrateStatus.ts).
"""

from pathlib import Path

from psycopg import errors

from opslib.database.postgres import Connection
from opslib.database.settings import RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.runbook import program
from opslib.runbook.errors import CommandFailed
from opslib.runbook.mask import mask

STATUS = ["npx", "--no-install", "prisma", "migrate", "status"]
DEPLOY = ["npx", "--no-install", "prisma", "migrate", "deploy"]
DEPLOY_SECONDS = 1800


def released(environment: Deployment) -> list[str]:
    """Give the names of the migrations that the release in force has, oldest first."""
    return sorted(file.parent.name for file in (_folder(environment) / "prisma/migrations").glob("*/migration.sql"))


def had(connection: Connection) -> list[str]:
    """Give the names of the migrations that a database has had in full, oldest first."""
    try:
        rows = connection.execute(
            "SELECT migration_name FROM _prisma_migrations WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL"
            " ORDER BY migration_name"
        ).fetchall()
    except errors.UndefinedTable:
        return []
    return [row["migration_name"] for row in rows]


def status(environment: Deployment, url: str) -> tuple[bool, str]:
    """Whether the database of this URL has the schema of the release in force; with what Prisma says of it."""
    try:
        said = program.run(STATUS, env=_variables(environment, url), cwd=_folder(environment))
    except CommandFailed as error:
        if error.exit_code != 1:
            raise
        return False, _gist(error.output)
    return True, _gist(said)


def deploy(environment: Deployment, url: str) -> None:
    """Run the migrations that the database has not had. It must be there: Prisma would make an empty one."""
    program.run(DEPLOY, env=_variables(environment, url), cwd=_folder(environment), seconds=DEPLOY_SECONDS)


def _folder(environment: Deployment) -> Path:
    return environment.api.release / environment.part(RecoveryGoals).prisma


def _variables(environment: Deployment, url: str) -> dict[str, str]:
    mask.add("DATABASE_URL", url)
    return {**environment.variables, "DATABASE_URL": url}


def _gist(output: str) -> str:
    """Give the last paragraphs: what comes before them is about Prisma itself."""
    paragraphs = [" ".join(part.split()) for part in output.strip().split("\n\n")]
    return "; ".join(paragraphs[-2:]) or "it said nothing"
