"""An expectation of the newest proven backup: that it is recent, was taken quickly, and has the usual size."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median_low
from typing import Any

from opslib.backups.backup import Backup, listed
from opslib.backups.manifest import Manifest, utc
from opslib.backups.settings import Backups
from opslib.backups.store import Store, settings
from opslib.database import admin
from opslib.database.settings import RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer
from opslib.runbook.finding import Finding, Severity
from opslib.runbook.progress import Bytes

BEFORE = 7
"""How many proven backups before the newest say what is usual: those of a week of nights."""
LONGER, NOISE = 2, 60
"""Times the usual time, and seconds more than it: what takes longer than both takes much longer."""


class Seconds(float):
    """A number of seconds that is shown as a person reads it."""

    def __str__(self) -> str:
        return f"{round(self, 1):g} s" if self < 60 else f"{round(self / 60, 1):g} min"


@dataclass(frozen=True)
class Expectation:
    """What is expected, the answer with what was found and the limits of that, and what is wrong if it is no."""

    what: str
    answer: Answer
    wrong: Finding | None = None

    def row(self) -> dict[str, Any]:
        """Give it as people want to know it."""
        so = "cannot tell" if self.answer.ok is None else self.answer.ok
        return {"expected": self.what, "is it so": so, **self.answer.evidence}


def rows(environment: Deployment, places: Sequence[Store]) -> list[dict[str, Any]]:
    """Give what is expected of the newest proven backup in these stores, and whether it is so."""
    return [one.row() for one in asked(environment, listed(environment, places), datetime.now(UTC))]


def unmet(environment: Deployment, places: Sequence[Store]) -> list[Finding]:
    """Give what is not as expected. What cannot be told, as where there is nothing to compare with, is no finding."""
    found = asked(environment, listed(environment, places), datetime.now(UTC))
    return [one.wrong for one in found if one.wrong and one.answer.ok is False]


def asked(environment: Deployment, found: Sequence[Backup], now: datetime) -> list[Expectation]:
    """Ask it of the newest proven backup of the API's database; `found` is newest first."""
    live, policy = admin.database(environment), settings(environment)
    proven = [one for one in found if one.proven and one.manifest.database == live]
    since = earliest(environment, now)
    if not proven:
        return [_recent(None, since)]
    newest, before = proven[0], proven[1 : 1 + BEFORE]
    return [_recent(newest, since), _quick(newest, before, policy), _alike(newest, before, policy)]


def earliest(environment: Deployment, now: datetime) -> datetime:
    """Give the moment since when there must be a proven backup.

    It may be as old as the RPO; and by the hour at which each day's is due, there must be one of the 24 hours before.
    """
    today = now.astimezone(UTC).replace(hour=settings(environment).due_hour, minute=0, second=0, microsecond=0)
    due = today if today <= now else today - timedelta(days=1)
    return max(now - timedelta(hours=environment.part(RecoveryGoals).rpo_hours), due - timedelta(days=1))


def _recent(newest: Backup | None, since: datetime) -> Expectation:
    taken = newest.taken if newest else None
    seen = f"the newest that is proven was taken at {utc(taken)}" if taken else "none is proven"
    wrong = f"Backups have stopped: {seen}, and there must be one since {utc(since)}"
    return Expectation(
        "It is recent",
        Answer(taken is not None and taken >= since, _figures(taken or "none", "", since)),
        Finding(wrong, "backup_database", severity=Severity.RISK),
    )


def _quick(newest: Backup, before: Sequence[Backup], policy: Backups) -> Expectation:
    times = [Seconds(one.took) for one in before if one.took is not None]
    usual = median_low(times) if times else None
    longest = Seconds(policy.longest_minutes * 60)
    most = longest if usual is None else min(longest, Seconds(max(usual * LONGER, usual + NOISE)))
    took = None if newest.took is None else Seconds(newest.took)
    wrong = f"The newest backup took {took}; at most {most} are expected, and it may take {longest}"
    return Expectation(
        "It was taken quickly",
        Answer(None if took is None else took <= most, _figures(took, usual, None, most)),
        Finding(wrong, "troubleshoot_database", severity=Severity.RISK),
    )


def _alike(newest: Backup, before: Sequence[Backup], policy: Backups) -> Expectation:
    what, size = "It has the usual size", Bytes(newest.size)
    if not before:
        return Expectation(what, Answer(None, _figures(size, None)))
    usual = sorted(before, key=lambda one: one.size)[(len(before) - 1) // 2]
    least, most = (Bytes(usual.size * (1 + sign * policy.size_differs)) for sign in (-1, 1))
    changed = _changed(usual.manifest, newest.manifest)
    wrong = f"The newest backup has {size}, and {Bytes(usual.size)} is usual; {changed}"
    return Expectation(
        what,
        Answer(least < size < most, _figures(size, Bytes(usual.size), least, most)),
        Finding(wrong, "recover_database", {"backup": usual.name}, severity=Severity.RISK),
    )


def _changed(then: Manifest, now: Manifest) -> str:
    """Say which table has the most rows more or less than then."""
    before, after = ({table.name: table.rows for table in one.tables} for one in (then, now))

    def change(name: str) -> int:
        return abs(after.get(name, 0) - before.get(name, 0))

    def said(rows: int | None) -> str:
        return "no such table" if rows is None else f"{rows} rows"

    name = max(before | after, key=change, default="")
    if not name or not change(name):
        return "no table has more rows or less"
    return f"{name}: {said(before.get(name))} then, {said(after.get(name))} now"


def _figures(found: object, usual: object, least: object = None, most: object = None) -> dict[str, object]:
    unknown = "cannot tell"
    return {
        "found": unknown if found is None else found,
        "usual": unknown if usual is None else usual,
        "at least": least,
        "at most": most,
    }
