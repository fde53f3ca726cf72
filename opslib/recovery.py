"""A recovery: a backup restored beside the live database, and what it must stand before it takes that one's place.

How far a run has come is read from PostgreSQL each time: from the databases that are there (opslib/sibling.py) and the
note on them. A run that was killed is run again: it goes on with a whole copy, and drops one that is not whole.
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opslib import cluster, database_settings, dump, prisma, progress, restore, sibling, swap, trial
from opslib.backup import Backup, fetched
from opslib.change import Change
from opslib.environment import Environment
from opslib.errors import BadParameter, RunbookError
from opslib.manifest import utc
from opslib.postgres import Connection
from opslib.procedure import located
from opslib.store import ARCHIVE, settings, stores

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
            f"backup: there is none named {text[:80]!a}; expected a name, a time, or {LATEST!r}"
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
    def known(self) -> bool:
        """Whether the release in force has the migration that the backup was last given."""
        return self.backup.manifest.migration in ("", *prisma.released(self.environment))

    @property
    def pending(self) -> list[str]:
        """The migrations that the release in force has and the backup has not."""
        released, last = prisma.released(self.environment), self.backup.manifest.migration
        return released[released.index(last) + 1 :] if last in released else released

    @property
    def fresh(self) -> bool:
        """Whether the backup is no older than the RPO."""
        return datetime.now(UTC) - self.backup.taken <= timedelta(hours=self.environment.recovery.rpo_hours)

    @property
    def whole(self) -> bool:
        """Whether the copy is there and whole: restored to its end, and not in the middle of its migrations."""
        found = {one.name: one.note for one in swap.siblings(self.environment)}.get(self.copy, {})
        return (found.get("state"), found.get("sha256")) == ("whole", self.backup.sha256)

    @property
    def swapped(self) -> bool:
        """Whether a run that was killed has put this backup into the live one's place already."""
        return swap.swapped(self.environment).get("sha256") == self.backup.sha256

    # Before

    def stored(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether an archive is where it should be, in its full length; with a row for each. Its bytes come later."""
        rows = []
        for place in stores(self.environment)[0]:
            if (address := place.address(self.backup.name + ARCHIVE)) in self.backup.where:
                try:
                    rows.append({"archive": address, "bytes": str(place.size(self.backup.name + ARCHIVE))})
                except (OSError, RunbookError) as error:
                    rows.append({"archive": address, "bytes": str(error)})
        whole = str(self.backup.size)
        return any(row["bytes"] == whole for row in rows), [{**row, "expected": whole} for row in rows]

    def missing(self, admin: Connection) -> list[str]:
        """Name the roles and extensions that the backup needs and this server does not have."""
        available = {row["name"] for row in admin.execute("SELECT name::text FROM pg_available_extensions").fetchall()}
        wanted = [one.name for one in self.backup.manifest.extensions]
        return [
            *(f"role {name}" for name in restore.missing_roles(admin, self.backup.manifest)),
            *(f"extension {name}" for name in wanted if name not in available),
        ]

    def space(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether there is room for the archive here, and for a second copy on PostgreSQL's disk, if that is seen."""
        size = max([self.backup.raw, *(one.size for one in swap.siblings(self.environment) if one.kind == "live")])
        with self._admin() as admin:
            data = cluster.data(admin)
        needed = [(settings(self.environment).folder, self.backup.raw + self.backup.size), (data, size + size // 4)]
        rows = [
            {"place": located(place), "free": progress.size(_free(place)), "needed": progress.size(bytes_)}
            if place
            else {"place": "PostgreSQL's disk, on another machine", "free": "look", "needed": progress.size(bytes_)}
            for place, bytes_ in needed
        ]
        return all(place is None or _free(place) >= bytes_ for place, bytes_ in needed), rows

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        about, proven = self.backup.manifest, self.backup.proven
        return {
            "backup": self.backup.name,
            "taken": utc(self.backup.taken),
            "proven": utc(proven) if proven else "never",
            "of": f"{about.database}, PostgreSQL {about.server}",
            "rows": str(about.rows),
            "last migration": about.migration or "none",
        }

    @property
    def note(self) -> dict[str, str]:
        """What is noted on a database about where it comes from."""
        return {"backup": self.backup.name, "sha256": self.backup.sha256}

    # The changes

    def changes(self, run: str, *, safety: bool) -> tuple[list[Change], list[Change]]:
        """Make the changes that come before the swap: those before the copy is tried, and those after.

        There are none where a run that was killed has swapped already.
        """
        if self.swapped:
            return [], []
        first = [self.safety(run), self.beside()] if safety else [self.beside()]
        return first, [self.migrate()] if self.pending else []

    def safety(self, run: str) -> Change:
        """Make the change that backs the present up, as `backup_database` does but for the proof."""
        return Change(
            "Back up the present",
            shows=[shlex.join(dump.DUMP), *(f"store it in {place}" for place in stores(self.environment)[0])],
            do=lambda: dump.take(self.environment, run, stores(self.environment)[0]),
            replaces=lambda: f"{self.live}, which is only read",
            undo=lambda: None,
            undo_shows=["none needed: the backup stays, and is never `latest proven`"],
        )

    def beside(self) -> Change:
        """Make the change that restores the backup into a database of its own; it is whole once its note says so.

        A copy that is not whole, which a killed run has left, is dropped first; a whole one of this backup is kept.
        """

        def do() -> None:
            keep = self.whole
            self._drop(*({self.copy} if keep else ()))
            if keep:
                return
            about = self.backup.manifest
            with fetched(self.environment, self.backup, settings(self.environment).folder) as archive:
                restore.restore(self.environment, archive, about, self.copy, jobs=self.environment.recovery.jobs)
            with cluster.connect(self.environment, self.copy) as connection:
                connection.execute("ANALYZE")
                database_settings.copy(connection, self.live, self.copy)
                self._note(connection, "whole")

        def replaces() -> str:
            left = [one.name for one in swap.siblings(self.environment) if one.kind == "new"]
            if self.whole:
                return f"{self.copy}, which a run that was killed has restored"
            return f"nothing named {self.copy}" + (f"; {', '.join(left)} of a killed run is dropped" if left else "")

        with self._admin() as admin:
            carried = [one.as_string(admin) for one in database_settings.statements(admin, self.live, self.copy)]
        arguments = restore.arguments(self.backup.manifest, self.copy, self.environment.recovery.jobs)
        return Change(
            "Restore the backup beside the live database",
            shows=[
                f"fetch {self.backup.where[0]} and check it to the last byte",
                f"CREATE DATABASE {self.copy} OWNER {self.backup.manifest.role} TEMPLATE template0",
                shlex.join(arguments),
                "ANALYZE",
                *carried,
            ],
            do=do,
            replaces=replaces,
            undo=self._drop,
            undo_shows=[f"DROP DATABASE {self.copy}, which has never been live"],
        )

    def migrate(self) -> Change:
        """Make the change that brings the copy to the schema of the release in force, before anybody uses it."""

        def do() -> None:
            with self._admin() as admin:
                self._note(admin, "migrating")
                prisma.deploy(self.environment, trial.url(self.environment, self.copy))
                self._note(admin, "whole")

        return Change(
            "Migrate the copy to the schema of the release",
            shows=[shlex.join(prisma.DEPLOY), *(f"runs {name}" for name in self.pending)],
            do=do,
            replaces=lambda: f"{self.copy}, which was last migrated by {self.backup.manifest.migration or 'nothing'}",
            undo=lambda: None,
            undo_shows=["the copy is dropped with its restore; once it is live, the swap is undone"],
        )

    def _admin(self) -> Connection:
        return cluster.connect(self.environment, cluster.MAINTENANCE)

    def _note(self, connection: Connection, state: str) -> None:
        sibling.note(connection, self.copy, {**self.note, "state": state})

    def _drop(self, *kept: str) -> None:
        """Drop what was restored and has never been live."""
        for one in swap.siblings(self.environment):
            if one.kind == "new" and one.name not in kept:
                restore.drop(self.environment, one.name)


def _free(place: Path) -> int:
    there = next(one for one in (place, *place.parents) if one.exists())
    return shutil.disk_usage(there).free
