"""What an environment's file says of this domain: where uploads lie."""

from typing import Annotated, Protocol

from pydantic import Field

from opslib.deployment.deployment import Url
from opslib.runbook.environment import Part


class Endpoint(Protocol):
    """Where a service of AWS's answers."""

    @property
    def region(self) -> str:
        """The region that requests are signed for."""

    @property
    def endpoint(self) -> str | None:
        """Its address, if not AWS's own."""


class S3(Part):
    """Where the API keeps uploads, and the IAM user whose access keys sign them."""

    user: Annotated[str, Field(min_length=1)]
    bucket: Annotated[str, Field(min_length=3)]
    other_bucket: Annotated[str, Field(min_length=3)]
    """A bucket of the account that the user must not be able to touch."""
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where IAM, STS and S3 answer, if not at AWS's own addresses."""
    administrator: str
    """A reference to the credentials of whoever may change the user's keys, as JSON of a `credential_process`."""
    login: str
    """A reference to an account of the API, as JSON with `email` and `password`."""
    presigned: Annotated[int, Field(ge=0, le=604800)] = 604800
    """The longest life of a URL that the API signs, in seconds; AWS lets an IAM user sign for seven days at most."""
