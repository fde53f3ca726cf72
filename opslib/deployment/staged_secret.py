"""A staged secret: on disk before anything uses it, in force once proven, the one before it kept until it is retired.

The steps are those of a rotation in AWS Secrets Manager (create, set, test, finish), each of which may be done again:
a run that was killed is run again, and finds in the staging file how far it came.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook.mask import mask
from opslib.runbook.step import now


@dataclass(frozen=True)
class Staged:
    """One key of the `.env` with the values around it: the one to come, the one in force, the one before."""

    environment: Deployment
    key: str

    @property
    def file(self) -> Path:
        """Where values are staged, readable by its owner only."""
        return self.environment.staged

    @property
    def current(self) -> str:
        """The value in force; empty if the `.env` has none."""
        return self._known(env_file.read(self.environment.api.env_file).get(self.key, ""))

    @property
    def pending(self) -> str:
        """The value that was made and is not in force yet; empty if there is none."""
        return self._known(self._read("PENDING"))

    @property
    def previous(self) -> str:
        """The value that was in force before and is not retired; empty if there is none."""
        return self._known(self._read("PREVIOUS"))

    @property
    def since(self) -> datetime | None:
        """When the value in force came into force, in UTC; None if this project did not put it there."""
        text = self._read("SINCE")
        return datetime.fromisoformat(text) if text else None

    @property
    def age(self) -> float:
        """Seconds since then; 0 if not known."""
        return (datetime.now(UTC) - self.since).total_seconds() if self.since else 0.0

    def create(self, make: Callable[[], str]) -> str:
        """Give the value to come: the one that is staged, else a new one, on disk before it is given."""
        if pending := self.pending:
            return pending
        value = self._known(make())
        self._write(PENDING=value)
        return value

    def keep(self) -> None:
        """Keep the value in force as the previous one, before it is replaced."""
        if self.pending and self.current != self.pending:
            self._write(PREVIOUS=self.current)

    def finish(self) -> None:
        """Say that the value to come is in force now. Nothing is pending afterwards."""
        if self.pending and self.pending == self.current:
            self._write(PENDING=None, SINCE=now())

    def retire(self) -> None:
        """Forget the previous value."""
        self._write(PREVIOUS=None, SINCE=None)

    def discard(self) -> None:
        """Forget the value to come, and what was kept for its sake: the one in force, not one from before that."""
        if self.pending and self.pending != self.current:
            self._write(PENDING=None, **({"PREVIOUS": None} if self.previous == self.current else {}))

    def row(self) -> dict[str, str]:
        """A row of evidence: fingerprints, by which two people can compare values without seeing them."""
        values = {"in force": self.current, "to come": self.pending, "before": self.previous}
        return {"secret": self.key} | {name: env_file.fingerprint(v) if v else "none" for name, v in values.items()}

    def _known(self, value: str) -> str:
        if value:
            mask.add(self.key, value)
        return value

    def _read(self, what: str) -> str:
        return read(self.environment).get(f"{self.key}_{what}", "")

    def _write(self, **values: str | None) -> None:
        write(self.environment, {f"{self.key}_{what}": value for what, value in values.items()})


def read(environment: Deployment) -> dict[str, str]:
    """Give what is staged, of every secret."""
    return env_file.read(environment.staged) if environment.staged.exists() else {}


def write(environment: Deployment, values: Mapping[str, str | None]) -> None:
    """Stage these values (None removes one), all at once, for the owner only."""
    if not environment.staged.exists():
        os.close(os.open(environment.staged, os.O_CREAT | os.O_WRONLY, 0o600))
    env_file.edit(environment.staged, values, backup=False)
