"""What an environment's file says of this domain: what a token of the API's looks like."""

from typing import Annotated, Literal

from pydantic import Field

from opslib.runbook.environment import Part


class Tokens(Part):
    """The tokens (JWT) that the API signs, and a read-only route that asks for one."""

    route: Annotated[str, Field(pattern="^/")]
    claims: dict[str, str | int | bool]
    """What a token must hold for that route to accept it."""
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    longest: Annotated[float, Field(gt=0)]
    """How long the longest-lived token is valid, clocks that differ included; seconds."""
