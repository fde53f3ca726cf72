"""What an environment's file says of this domain: who administers PostgreSQL, and what a recovery is held to."""

from typing import Annotated

from pydantic import Field

from opslib.deployment.deployment import Reference
from opslib.runbook.environment import Part, Place


class Database(Part):
    """PostgreSQL: who administers it, and by what a login is tried."""

    admin: Reference
    """Where the URL of an administrator is, who may change roles."""
    table: Annotated[str, Field(min_length=1)] = "payments"
    """A table that the API reads and writes: a new login is tried on it, and what it writes is rolled back."""
    userlist: Place | None = None
    """PgBouncer's file of passwords, where it has one (auth_file)."""
    start: str = ""
    """The command that starts the server where it is down; empty where that is nothing for a procedure."""


class RecoveryGoals(Part):
    """What a recovery of the database is held to, and where a release keeps its migrations."""

    rpo_hours: Annotated[float, Field(gt=0)] = 24
    """How old the newest proven backup may be."""
    keep_days: Annotated[float, Field(ge=0)] = 7
    """How long a database that was replaced stays before drop_replaced_database may drop it."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Sessions that restore at the same time; each takes up to 256 MB for its indexes."""
    prisma: Annotated[str, Field(pattern="^[^/]")] = "server"
    """The folder of a release that `prisma migrate` runs in."""
