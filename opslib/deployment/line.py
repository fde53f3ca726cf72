"""A line of an environment's file: its value with where that came from, or what only a person can say."""

from dataclasses import dataclass
from typing import Any

from opslib.deployment.deployment import Deployment


@dataclass(frozen=True)
class Line:
    """A value that was found, as YAML has it. `key` is where it stands, as `stripe.payments.unit`."""

    key: str
    value: Any
    source: str
    """Where it was found, in a few words: `PM2 lists it`, `AWS_REGION of the .env`. Never a secret."""


@dataclass(frozen=True)
class Asked:
    """What was not found, and what a person is to give there. Without an `example` no procedure needs it."""

    key: str
    what: str
    example: str = ""


def private(environment: Deployment, name: str) -> str:
    """Name a file or folder in which this environment may have what nobody else reads, as an example shows it."""
    return f"~/.runbook/{environment.name or 'NAME'}/{name}"
