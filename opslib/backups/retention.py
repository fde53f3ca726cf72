"""Retention: which backups may go, and what runs that were killed have left; both are shown by name before they go."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opslib.backups import backup, proof
from opslib.backups.backup import Backup
from opslib.backups.settings import Backups
from opslib.backups.store import ARCHIVE, MANIFEST, PROVEN, Store, settings
from opslib.database import admin
from opslib.deployment.environment import Deployment
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept


def expired(found: Sequence[Backup], policy: Backups, now: datetime) -> list[Backup]:
    """Give the backups of one store that may go once a newer one is proven; both lists are newest first.

    An unproven one may, however young: it is no backup. Of the proven ones the newest `keep_proven` stay, however old,
    and all that are younger than `keep_days`.
    """
    proven = [one for one in found if one.proven]
    young = now - timedelta(days=policy.keep_days)
    kept = {one.name for one in proven[: policy.keep_proven]} | {one.name for one in proven if one.taken > young}
    return [one for one in found if one.name not in kept]


def expire(environment: Deployment, places: Sequence[Store], run: str) -> list[Change]:
    """Make the change that deletes what may go, but for what this run has taken; none if nothing may.

    Each store is judged by itself: a backup that lies in one only does not count in the other.
    """
    policy, now = settings(environment), datetime.now(UTC)

    def found(place: Store) -> list[Backup]:
        return [one for one in backup.listed(environment, [place]) if not one.name.endswith(f"-{run}")]

    going = [(place, one) for place in places for one in expired(found(place), policy, now)]

    def do() -> None:
        for place, one in going:
            backup.remove(one, [place])

    def there() -> int:
        names = {(str(place), one.name) for place in places for one in found(place)}
        return sum((str(place), one.name) in names for place, one in going)

    return [
        Change(
            "Delete what the policy does not keep",
            [
                act(
                    *[f"delete {one.where[0]}, {'proven' if one.proven else 'never proven'}" for _, one in going],
                    run=do,
                )
            ],
            undo=Kept("this cannot be taken back"),
            replaces=lambda: f"{there()} copies of backups",
        )
    ][: len(going)]


def left(environment: Deployment, places: Sequence[Store]) -> list[str]:
    """Give what killed runs have left: halves of backups, unfinished uploads, scratch databases. Not whole backups."""
    found = [address for place in places for address in (*place.unfinished(), *map(place.address, _halves(place)))]
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        return found + [f"database {name}" for name in proof.stray(superuser, admin.database(environment))]


def clear(environment: Deployment, places: Sequence[Store]) -> list[Change]:
    """Make the change that removes what is left; none if nothing is. No other run is at work: this one has the lock."""
    found = left(environment, places)

    def do() -> None:
        for place in places:
            place.abort()
            for name in _halves(place):
                place.delete(name)
        with admin.connect(environment, admin.MAINTENANCE) as superuser:
            for name in proof.stray(superuser, admin.database(environment)):
                admin.drop(superuser, name)

    return [
        Change(
            "Clear away what killed runs have left",
            [act(*[f"remove {one}" for one in found], run=do)],
            undo=Kept("no backup is among them", matters=False),
            replaces=lambda: f"{len(left(environment, places))} leftovers",
        )
    ][: len(found)]


def _halves(place: Store) -> list[str]:
    """Give the archives and proofs that have no manifest."""
    names = place.names()
    stems = {name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST)}
    return [
        name
        for name in names
        if not name.endswith(MANIFEST) and name.removesuffix(ARCHIVE).removesuffix(PROVEN) not in stems
    ]
