"""A restore point: the backup that a recovery goes back to, and whether it fits this server and the release."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opslib.backups import restore
from opslib.backups.backup import Backup, check, listed
from opslib.backups.store import ARCHIVE, Store, stores
from opslib.database import admin, prisma
from opslib.database.settings import RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadParameter, RunbookError
from opslib.runbook.progress import Bytes

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
    raise BadParameter(
        f"backup: nothing is proven for {wanted!a}: {len(proven)} of {len(backups)} are, {oldest}. backup_database "
        "makes a proven one of the live database, as long as that can be read."
    )


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


def ours(environment: Deployment, backup: Backup) -> Answer:
    """Whether the backup is proven, and was made of the database that the API uses."""
    live, of = admin.database(environment), backup.manifest.database
    ok = backup.proven is not None and of == live
    advice = "Choose another: only one that was fetched back, restored and compared is good for a recovery."
    return Answer(ok, {"proven": backup.proven or "no", "made of": of, "the API's": live}, advice)


def fresh(environment: Deployment, backup: Backup, wanted: str) -> Answer:
    """Whether the backup is no older than the RPO; or was chosen otherwise than as the latest."""
    goal = timedelta(hours=environment.part(RecoveryGoals).rpo_hours)
    ok = wanted != LATEST or datetime.now(UTC) - backup.taken <= goal
    advice = "Backups have stopped: find out why. To go on, choose this one by its name."
    return Answer(ok, {"taken": backup.taken, "RPO": f"{goal.total_seconds() / 3600:g} hours"}, advice)


def whole(environment: Deployment, backup: Backup) -> tuple[Store | None, Answer]:
    """Give the nearest store whose copy is, to the last byte, what was written, and what was found in each."""
    places, problem = stores(environment)
    rows: list[dict[str, object]] = [{"copy in": "S3, which cannot be used", "is": problem}] if problem else []
    advice = "Choose another backup."
    for place in reversed(places):  # this machine's own folder is the last
        if place.address(backup.name + ARCHIVE) in backup.where:
            try:
                check(backup, place)
            except (OSError, RunbookError) as error:
                rows.append({"copy in": str(place), "is": str(error)})
            else:
                return place, Answer(True, [*rows, {"copy in": str(place), "is": f"whole, {Bytes(backup.size)}"}])
    return None, Answer(False, rows, advice)


def server(environment: Deployment, backup: Backup) -> Answer:
    """Whether the server is no older than the one that the backup was made of."""
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        version = admin.major(superuser)
    needed = int(backup.manifest.server.split(".")[0])
    return Answer(version >= needed, {"server": version, "the backup's": needed}, "Recover on a server of its version.")


def equipped(environment: Deployment, backup: Backup) -> Answer:
    """Whether the server has the roles and extensions that the backup needs."""
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        found = superuser.execute("SELECT name::text FROM pg_available_extensions").fetchall()
        roles = restore.missing_roles(superuser, backup.manifest)
    lacking = {one.name for one in backup.manifest.extensions} - {row["name"] for row in found}
    missing = [*(f"role {name}" for name in roles), *(f"extension {name}" for name in sorted(lacking))]
    return Answer(not missing, missing, "Create them first, as they were.")


def known(environment: Deployment, backup: Backup) -> Answer:
    """Whether the release in force has the migration that the backup was last given; with those that are to come."""
    ok = backup.manifest.migration in ("", *prisma.released(environment))
    to_come = pending(environment, backup) if ok else []
    evidence = {"last": backup.manifest.migration, "to come": to_come or "none"}
    return Answer(ok, evidence, "Deploy the release that has it, then run this again.")


def pending(environment: Deployment, backup: Backup) -> list[str]:
    """Give the migrations that the release in force has and the backup has not."""
    released, last = prisma.released(environment), backup.manifest.migration
    return released[released.index(last) + 1 :] if last in released else released
