"""What an environment's file says of this domain: SendGrid."""

from typing import Annotated

from pydantic import Field

from opslib.deployment.deployment import Reference, Url
from opslib.runbook.environment import Part


class Mail(Part):
    """SendGrid: where it answers, with which key, and what the API needs of it."""

    url: Url = "https://api.sendgrid.com"
    key: Annotated[str, Field(min_length=1)] = "SENDGRID_API_KEY"
    """The name of the key in the API's `.env`."""
    sender: Annotated[str, Field(pattern="^[^@ ]+@[^@ ]+$")]
    """The address that the API sends from, which SendGrid must know as verified."""
    webhook: Annotated[str, Field(pattern="^(/.*)?$")] = ""
    """The path of the API's that gets SendGrid's events; empty if it takes none."""
    reader: Reference = ""
    """Reference to a key that may read suppressions and webhooks, and delete; empty: the API's own key may."""
    needs: frozenset[str] = frozenset({"mail.send"})
    """The scopes that the key must have."""
