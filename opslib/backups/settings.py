"""What an environment's file says of this domain: where backups are kept."""

from typing import Annotated

from pydantic import Field

from opslib.deployment.deployment import Reference, Url
from opslib.runbook.environment import Part, Place


class Backups(Part):
    """Where backups of the database are kept, and for how long."""

    folder: Place
    """A folder of this machine, best on another disk than the database: each backup lies there too."""
    bucket: Annotated[str, Field(min_length=3)]
    prefix: Annotated[str, Field(pattern="^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = "database"
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where S3 answers, if not at AWS's own address."""
    credentials: Reference
    """Where the credentials are that may read, write and delete there, as JSON of a `credential_process`."""
    keep_days: Annotated[int, Field(ge=1)] = 14
    keep_proven: Annotated[int, Field(ge=1)] = 7
    """How many proven backups are kept at least, however old."""
