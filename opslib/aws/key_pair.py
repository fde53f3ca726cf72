"""A key pair: an access key's id and secret, which belong together, in the `.env` and in the staging file.

Both halves are always written at once, so that a process that dies leaves a whole pair or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from opslib.deployment import env_file, staged_secret
from opslib.deployment.deployment import Deployment
from opslib.runbook.mask import mask
from opslib.runbook.step import now

ID, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


@dataclass(frozen=True)
class Pair:
    """An access key. `token` is empty but for temporary credentials."""

    id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)

    def __str__(self) -> str:
        return short(self.id)


def short(id: str) -> str:
    """Name a key by the end of its id, by which it is found in the AWS console."""
    return f"…{id[-4:]}"


@dataclass(frozen=True)
class Asked:
    """What was noted before a new key was asked for: when, by the service's own clock, and the keys there were."""

    at: datetime
    known: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class StagedPair:
    """The pair in the `.env` and those around it: the one to come and the one before."""

    environment: Deployment

    @property
    def file(self) -> Path:
        """Where they are staged, readable by its owner only."""
        return self.environment.staged

    @property
    def current(self) -> Pair | None:
        """The pair in force: the one in the `.env`."""
        found = env_file.read(self.environment.api.env_file)
        return _pair(found.get(ID, ""), found.get(SECRET, ""))

    @property
    def pending(self) -> Pair | None:
        """The pair that was made and is not known to be in force everywhere yet."""
        return self._staged("PENDING")

    @property
    def previous(self) -> Pair | None:
        """The pair that was in force before and is not deleted."""
        return self._staged("PREVIOUS")

    @property
    def since(self) -> datetime | None:
        """When the pair in force came into force on the last worker, in UTC; None while that is not so."""
        return self._time("SINCE")

    @property
    def inactive(self) -> datetime | None:
        """When the pair before was made inactive, in UTC."""
        return self._time("INACTIVE_SINCE")

    @property
    def asked(self) -> Asked | None:
        """What was noted before the call for a new key whose answer has not been staged."""
        at = self._time("ASKED_SINCE")
        return Asked(at, tuple(staged_secret.read(self.environment).get(f"{ID}_ASKED", "").split())) if at else None

    def ask(self, at: datetime, known: Sequence[str]) -> None:
        """Note that a new key will be asked for now, so that one whose secret gets lost can be told."""
        self._write(ASKED=" ".join(known), ASKED_SINCE=at.isoformat())

    def answered(self) -> None:
        """Note that no answer is outstanding."""
        self._write(ASKED=None, ASKED_SINCE=None)

    def stage(self, pair: Pair) -> None:
        """Write the pair to come, and that the call was answered."""
        _pair(pair.id, pair.secret)
        self._write(pending=pair, ASKED=None, ASKED_SINCE=None, SINCE=None)

    def keep(self) -> None:
        """Keep the pair in force as the one before, because a worker may soon run with the one to come."""
        pending, current = self.pending, self.current
        if pending and current and current.id != pending.id:
            self._write(previous=current, SINCE=None, INACTIVE_SINCE=None)

    def release(self) -> None:
        """Note that no worker runs with the pair to come any more."""
        self._write(previous=None)

    def finish(self) -> None:
        """Note that the pair to come is in force on every worker."""
        if self.pending and self.pending == self.current:
            self._write(pending=None, SINCE=now())

    def discard(self) -> None:
        """Forget the pair to come, and what was kept for its sake."""
        self._write(pending=None, previous=None, SINCE=None)

    def deactivated(self, is_so: bool) -> None:
        """Note that the pair before is inactive from now on, or is not."""
        self._write(INACTIVE_SINCE=(now() if is_so else None))

    def forget(self) -> None:
        """Forget the pair before."""
        self._write(previous=None, SINCE=None, INACTIVE_SINCE=None)

    def _staged(self, what: str) -> Pair | None:
        found = staged_secret.read(self.environment)
        return _pair(found.get(f"{ID}_{what}", ""), found.get(f"{SECRET}_{what}", ""))

    def _time(self, what: str) -> datetime | None:
        text = staged_secret.read(self.environment).get(f"{ID}_{what}")
        return datetime.fromisoformat(text).astimezone(UTC) if text else None

    def _write(self, **values: Pair | str | None) -> None:
        edit: dict[str, str | None] = {}
        for what, value in values.items():
            if what.islower():
                pair = value if isinstance(value, Pair) else None
                edit[f"{ID}_{what.upper()}"] = pair.id if pair else None
                edit[f"{SECRET}_{what.upper()}"] = pair.secret if pair else None
            else:
                edit[f"{ID}_{what}"] = value if isinstance(value, str) else None
        staged_secret.write(self.environment, edit)


def _pair(id: str, secret: str) -> Pair | None:
    if not id or not secret:
        return None
    mask.add(ID, id)
    mask.add(SECRET, secret)
    return Pair(id, secret)
