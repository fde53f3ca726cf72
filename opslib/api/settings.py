"""What an environment's file says of this domain: what a token of the API's looks like, and what its logs say."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from opslib.runbook.environment import Part, Place

Meaning = Literal[
    "mail sent", "mail failed", "payment paid", "payment unknown", "signature refused", "webhook failed",
    "not authenticated", "slow request", "job",
]  # fmt: skip
_LINES: dict[Meaning, re.Pattern[str]] = {
    "mail sent": re.compile(r"Email sent successfully(?: to:? *(?P<to>\S+))?"),
    "mail failed": re.compile(r"(?s)Email send failed:?(?P<error>.*)"),
    "payment paid": re.compile(r"Payment marked as paid:? *(?P<payment>\S*)"),
    "payment unknown": re.compile(r"Payment not found for intent:? *(?P<intent>\S*)"),
    "signature refused": re.compile(r"(?s)Webhook signature verification failed:?(?P<error>.*)"),
    "webhook failed": re.compile(r"(?s)Stripe webhook error:?(?P<error>.*)"),
    "not authenticated": re.compile(r"Authentication error|No token provided"),
    "slow request": re.compile(r"Slow request: (?P<request>\S+ \S+) - (?P<milliseconds>\d+) ?ms"),
    "job": re.compile(r"Processing due reminders"),
}


class Tokens(Part):
    """The tokens (JWT) that the API signs, and a read-only route that asks for one."""

    route: Annotated[str, Field(pattern="^/")]
    claims: dict[str, str | int | bool]
    """What a token must hold for that route to accept it."""
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    longest: Annotated[float, Field(gt=0)]
    """How long the longest-lived token is valid, clocks that differ included; seconds."""


class Log(Part):
    """What the API logs, where it differs from what is expected, and where besides PM2's files."""

    lines: Annotated[Mapping[Meaning, re.Pattern[str]], AfterValidator(lambda given: {**_LINES, **given})] = _LINES
    """By what an event means, the regular expression that finds its message; a named group keeps what varies."""
    files: tuple[Place, ...] = ()
    """Logs that the API writes itself."""
