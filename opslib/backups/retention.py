"""Retention: which backups may go, and what runs that were killed have left; both are shown by name before they go."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from opslib.backups import backup, backup_proof, restore
from opslib.backups.backup import Backup
from opslib.backups.settings import Backups, Periods
from opslib.backups.store import MANIFEST, Store, owner, settings
from opslib.database import admin
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, act
from opslib.runbook.change import Change, Kept

YOUNG = timedelta(days=14)
"""How long another machine may still be proving what it has taken."""


def kept(proven: Sequence[Backup], policy: Backups) -> set[str]:
    """Give the names of the proven backups that stay; all others may go.

    One stays that any rule keeps, and each rule judges for itself: `keep_last` keeps the newest so many, `keep_daily`
    the newest of each of the last so many days, and so do `keep_weekly`, `keep_monthly` and `keep_yearly` with weeks,
    months and years. Only days, weeks, months and years that have a backup count, so none goes because no newer ones
    come. What counts is when a backup was taken, by days of UTC and weeks of ISO 8601, from Monday to Sunday. The
    backups of another machine or another database are judged by themselves.
    """
    stays: set[str] = set()
    of_whom: dict[tuple[str, str], list[Backup]] = {}
    for one in sorted(proven, key=lambda one: (one.taken, one.name), reverse=True):
        of_whom.setdefault((one.name.partition("-")[2].partition("-")[2], one.manifest.database), []).append(one)
    for backups in of_whom.values():
        stays |= {one.name for one in backups[: policy.keep_last]}
        for period, count in _periods(policy).items():
            newest: dict[str, str] = {}
            for one in backups:
                newest.setdefault(one.taken.astimezone(UTC).strftime(period), one.name)
            stays |= {*islice(newest.values(), None if count == "all" else count)}
    return stays


def _periods(policy: Backups) -> dict[str, Periods]:
    """Give of how many days, weeks, months and years one is kept, by what tells one of them from the next."""
    return {
        "%Y-%m-%d": policy.keep_daily,
        "%G-W%V": policy.keep_weekly,
        "%Y-%m": policy.keep_monthly,
        "%Y": policy.keep_yearly,
    }


def expired(found: Sequence[Backup], policy: Backups, now: datetime, owner: str) -> list[Backup]:
    """Give the backups of one store that may go once a newer one is proven.

    Of the proven ones that is what `kept` does not keep. An unproven one of one's own may go, however young: it is no
    backup. The young ones of others stay, who may be proving them.
    """
    stays = kept([one for one in found if one.proven], policy)
    others = [one for one in found if not one.proven and not one.name.endswith(f"-{owner}")]
    stays |= {one.name for one in others if one.taken > now - YOUNG}
    return [one for one in found if one.name not in stays]


def expire(environment: Deployment, places: Sequence[Store], run: str) -> list[Change]:
    """Make the change that deletes what may go, but for what this run has taken; none if nothing may.

    Each store is judged by itself: a backup that lies in one only does not count in the other.
    """
    policy, now, mine = settings(environment), datetime.now(UTC), owner(environment)

    def found(place: Store) -> list[Backup]:
        return [one for one in backup.listed(environment, [place]) if f"-{run}-" not in one.name]

    going = [(place, one) for place in places for one in expired(found(place), policy, now, mine)]

    def there() -> int:
        names = {(str(place), one.name) for place in places for one in found(place)}
        return sum((str(place), one.name) in names for place, one in going)

    return [
        Change(
            "Delete what the policy does not keep",
            [
                act(
                    f"delete {one.where[0]}, {'proven' if one.proven else 'never proven'}",
                    run=partial(backup.remove, one, [place]),
                )
                for place, one in going
            ],
            undo=Kept("this cannot be taken back"),
            replaces=lambda: f"{there()} copies of backups",
        )
    ][: len(going)]


def left(environment: Deployment, places: Sequence[Store]) -> list[Act]:
    """Give the acts that remove what killed runs of one's own have left: halves of backups, uploads, a database.

    Whole backups are not among it.
    """
    acts = [one for place in places for one in (*place.unfinished(), *_halves(environment, place))]
    scratch = backup_proof.scratch(environment)
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        return [*acts, *([restore.drop(environment, scratch)] if admin.exists(superuser, scratch) else [])]


def clear(environment: Deployment, places: Sequence[Store]) -> list[Change]:
    """Make the change that removes what is left; none if nothing is. No other run is at work: this one has the lock."""
    acts = left(environment, places)
    return [
        Change(
            "Clear away what killed runs have left",
            acts,
            undo=Kept("no backup is among them", matters=False),
            replaces=lambda: f"{len(left(environment, places))} leftovers",
        )
    ][: len(acts)]


def _halves(environment: Deployment, place: Store) -> list[Act]:
    """Give the acts that delete the archives and proofs that have no manifest."""
    names, own = place.names(), f"-{owner(environment)}."
    whole = {name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST)}
    halves = [name for name in names if own in name and name.partition(".")[0] not in whole]
    return [act(f"delete {place.address(name)}", run=partial(place.delete, name)) for name in halves]
