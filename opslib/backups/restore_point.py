"""A restore point: the backup that a recovery goes back to, and whether it fits this server and the release."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opslib.backups import restore, swap
from opslib.backups.backup import Backup, check, listed
from opslib.backups.manifest import utc
from opslib.backups.store import ARCHIVE, Store, settings, stores
from opslib.database import admin, prisma
from opslib.database.postgres import Connection
from opslib.database.settings import RecoveryGoals
from opslib.deployment.environment import Deployment
from opslib.runbook import progress
from opslib.runbook.errors import BadParameter, RunbookError
from opslib.runbook.procedure import located

LATEST = "latest proven"


def choose(environment: Deployment, wanted: str) -> Backup:
    """Give the backup that is meant, of all that can be reached. Raise BadParameter, also with why S3 cannot be."""
    places, problem = stores(environment)
    try:
        return pick(listed(environment, places), wanted)
    except BadParameter as error:
        raise BadParameter(f"{error}{f'; S3 cannot be used: {problem}' if problem else ''}") from None


def pick(backups: Sequence[Backup], wanted: str) -> Backup:
    """Give the backup of this name, the last proven one at or before this time, or the `latest proven`.

    `backups` are newest first. Raise BadParameter with what there is where none is meant.
    """
    proven = [one for one in backups if one.proven]
    if named := [one for one in backups if one.name == wanted]:
        return named[0]
    until = None if wanted == LATEST else _time(wanted)
    if found := next((one for one in proven if until is None or one.taken <= until), None):
        return found
    oldest = f"the oldest was taken at {proven[-1].taken:%Y-%m-%dT%H:%M:%SZ}" if proven else "none of them"
    raise BadParameter(f"backup: nothing is proven for {wanted!a}: {len(proven)} of {len(backups)} are, {oldest}")


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadParameter(
            f"backup: there is none named {text[:80]!a}; expected a name, a time, or {LATEST!r}"
        ) from None
    if found.tzinfo is None:
        raise BadParameter(f"backup: {text} says no zone; write {text}Z for UTC, or {text}+02:00")
    return found


def row(backup: Backup) -> dict[str, str]:
    """Give a row of evidence."""
    about = backup.manifest
    return {
        "backup": backup.name,
        "taken": utc(backup.taken),
        "proven": utc(backup.proven) if backup.proven else "never",
        "of": f"{about.database}, PostgreSQL {about.server}",
        "rows": str(about.rows),
        "last migration": about.migration or "none",
    }


def fresh(environment: Deployment, backup: Backup, wanted: str) -> bool:
    """Whether the backup is no older than the RPO; or was chosen otherwise than as the latest."""
    return wanted != LATEST or datetime.now(UTC) - backup.taken <= timedelta(
        hours=environment.part(RecoveryGoals).rpo_hours
    )


def whole(environment: Deployment, backup: Backup) -> tuple[Store | None, list[dict[str, str]]]:
    """Give the nearest store whose copy is, to the last byte, what was written; with a row for each that was read."""
    places, problem = stores(environment)
    rows = [{"copy in": "S3, which cannot be used", "is": problem}] if problem else []
    for place in reversed(places):  # this machine's own folder is the last
        if place.address(backup.name + ARCHIVE) in backup.where:
            try:
                check(backup, place)
            except (OSError, RunbookError) as error:
                rows.append({"copy in": str(place), "is": str(error)})
            else:
                return place, [*rows, {"copy in": str(place), "is": f"whole, {progress.size(backup.size)}"}]
    return None, rows


def missing(superuser: Connection, backup: Backup) -> list[str]:
    """Name the roles and extensions that the backup needs and this server does not have."""
    available = {row["name"] for row in superuser.execute("SELECT name::text FROM pg_available_extensions").fetchall()}
    return [
        *(f"role {name}" for name in restore.missing_roles(superuser, backup.manifest)),
        *(f"extension {one.name}" for one in backup.manifest.extensions if one.name not in available),
    ]


def known(environment: Deployment, backup: Backup) -> bool:
    """Whether the release in force has the migration that the backup was last given."""
    return backup.manifest.migration in ("", *prisma.released(environment))


def pending(environment: Deployment, backup: Backup) -> list[str]:
    """Give the migrations that the release in force has and the backup has not."""
    released, last = prisma.released(environment), backup.manifest.migration
    return released[released.index(last) + 1 :] if last in released else released


def space(environment: Deployment, backup: Backup) -> tuple[bool, list[dict[str, str]]]:
    """Whether there is room for the archive here, and for a second copy on PostgreSQL's disk, where that is seen."""
    size = max([backup.raw, *(one.size for one in swap.siblings(environment) if one.kind == "live")])
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        data = admin.data(superuser)
    needed = [(settings(environment).folder, backup.raw + backup.size), (data, size + size // 4)]
    rows = [
        {
            "place": located(place) if place else "PostgreSQL's disk, on another machine: look there",
            "free": progress.size(_free(place)) if place else "not known",
            "needed": progress.size(wanted),
        }
        for place, wanted in needed
    ]
    return all(place is None or _free(place) >= wanted for place, wanted in needed), rows


def _free(place: Path) -> int:
    there = next(one for one in (place, *place.parents) if one.exists())
    return shutil.disk_usage(there).free
