"""What an environment's file says of this domain: where backups are kept, how long, and what is expected of each."""

from typing import Annotated, Literal

from pydantic import Field

from opslib.deployment.deployment import Reference, Url
from opslib.runbook.environment import Part, Place

Periods = Annotated[int, Field(ge=0)] | Literal["all"]
"""Of how many days, weeks, months or years one backup each is kept; `all` is for good."""


class Backups(Part):
    """Where backups of the database are kept, for how long, and what is expected of each."""

    folder: Place
    """A folder of this machine, best on another disk than the database: each backup lies there too."""
    bucket: Annotated[str, Field(min_length=3)]
    prefix: Annotated[str, Field(pattern="^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = "database"
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where S3 answers, if not at AWS's own address."""
    credentials: Reference
    """Where the credentials are that may read, write and delete there, as JSON of a `credential_process`."""
    keep_last: Annotated[int, Field(ge=1)] = 7
    """How many proven backups are kept at least, however old; `retention.kept` says the rule of this and the next."""
    keep_daily: Periods = 30
    keep_weekly: Periods = 12
    keep_monthly: Periods = 12
    keep_yearly: Periods = "all"
    due_hour: Annotated[int, Field(ge=0, le=23)] = 6
    """The hour, in UTC, by which there is each day a proven backup of the 24 hours before."""
    longest_minutes: Annotated[float, Field(gt=0)] = 30
    """How long it may take to dump the database and to store that; to prove it takes as long again."""
    size_differs: Annotated[float, Field(gt=0)] = 0.5
    """By what share of the usual size one may be smaller or larger."""
