"""What an environment's file says of this domain: where uploads lie."""

from typing import Annotated, Protocol

from pydantic import Field

from opslib.deployment.deployment import Reference, Url
from opslib.runbook.environment import Part


class Endpoint(Protocol):
    """Where a service of AWS's answers."""

    @property
    def region(self) -> str:
        """The region that requests are signed for."""

    @property
    def endpoint(self) -> str | None:
        """Its address, if not AWS's own."""


class SignIn(Part):
    """How a person is known to the API: what takes their login and gives a token."""

    url: str
    """A path of the API, or a whole URL; `{name}` in it is filled in from the login, as a key of a Firebase project."""
    body: dict[str, str | bool] = Field(default_factory=dict)
    """What is sent besides `email` and `password`."""
    token: str = "accessToken"
    """The field of the answer that has the token; one inside another after a point."""


class Signing(Part):
    """How the API is asked to sign an upload."""

    route: Annotated[str, Field(pattern="^/")]
    body: dict[str, str | int | bool]
    url: str = "url"
    """The field of the answer that has the signed URL; one inside another after a point."""
    key: str = "key"
    """The field that has the name of the object."""
    sign_in: SignIn


class S3(Part):
    """Where the API keeps uploads, and the IAM user whose access keys sign them."""

    user: str = ""
    bucket: Annotated[str, Field(min_length=3)]
    other_bucket: Annotated[str, Field(min_length=3)] | None = None
    """A bucket of the account that the user must not be able to touch."""
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where IAM, STS and S3 answer, if not at AWS's own addresses."""
    administrator: Reference = ""
    """A reference to the credentials of whoever may change the user's keys, as JSON of a `credential_process`."""
    login: Reference | None = None
    """A reference to an account of the API, as JSON with `email` and `password`."""
    signing: Signing | None = None
    """Without it, or without `login`, a key is proven by asking S3 and STS with it, and the API is not asked."""
    endpoint_key: str = "S3_ENDPOINT"
    """The key of the `.env` that names an S3 of another maker than AWS."""
    iam: bool = False
    """Whether IAM and STS answer there too, as no other maker's do."""
    new_pair: Reference | None = None
    """There: a reference to the new pair, as JSON of a `credential_process`."""
    presigned: Annotated[int, Field(ge=0, le=604800)] = 604800
    """The longest life of a URL that the API signs, in seconds; AWS lets an IAM user sign for seven days at most."""
