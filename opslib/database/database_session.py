"""The names by which the procedures of backups still ask what `sessions` answers."""

from collections.abc import Sequence
from typing import Any

from opslib.api.pm2 import Worker
from opslib.database import sessions
from opslib.deployment.environment import Deployment


def others(environment: Deployment, database: str, workers: Sequence[Worker]) -> Any:
    """Give who uses a database and is neither one of these workers nor this project."""
    return sessions.none(environment, database, workers).evidence


def present(environment: Deployment, database: str, workers: Sequence[Worker]) -> tuple[bool, Any]:
    """Whether each of these workers is logged in to a database; with those that are."""
    answer = sessions.logged_in(environment, database, workers)
    return bool(answer), answer.evidence
