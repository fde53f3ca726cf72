"""A recovery: a backup restored beside the live database, and what it must stand before it takes that one's place.

How far a run has come is read from PostgreSQL each time: from the databases that are there (opslib/sibling.py) and the
note on them. A run that was killed is run again: it goes on with a whole copy, and drops one that is not whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from opslib import cluster, database_settings, database_url, login, postgres, prisma, restore, sibling, swap
from opslib.backup import Backup, fetched
from opslib.change import Change
from opslib.environment import Environment
from opslib.errors import BadEnvironment, BadParameter, ChangeFailed
from opslib.mask import mask
from opslib.swap import MAINTENANCE

LATEST = "latest proven"


def choose(backups: Sequence[Backup], wanted: str) -> Backup:
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
            f"backup: there is none named {text[:80]!a}; expected a name, a time, or {LATEST!r}. backup_database lists them"
        ) from None
    if found.tzinfo is None:
        raise BadParameter(f"backup: {text} says no zone; write {text}Z for UTC, or {text}+02:00")
    return found


@dataclass(frozen=True)
class Recovery:
    """The way of one backup to the place of the live database."""

    environment: Environment
    backup: Backup

    @property
    def live(self) -> str:
        """The name of the database that the API uses."""
        return cluster.database(self.environment)

    @property
    def copy(self) -> str:
        """The name of the database that the backup is restored into."""
        return sibling.name(self.live, "new", self.backup.taken)

    @property
    def pending(self) -> list[str]:
        """The migrations that the release in force has and the backup has not."""
        last = self.backup.manifest.last_migration or ""
        return [name for name in prisma.released(self.environment) if name > last]

    def url(self, database: str) -> str:
        """Give the API's own URL, of another database."""
        found = database_url.with_database(cluster.api_url(self.environment), database)
        mask.add(cluster.KEY, found)
        return found
