"""A recovery: a backup restored beside the live database, before that one's place is taken.

How far a run has come is read from PostgreSQL each time: from the databases that are there (database_copy.py) and the
note on them. A run that was killed is run again: it goes on with a whole copy, and drops one that is not whole.
"""

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opslib.backups import (
    backup as backups,
    copy_acceptance,
    database_copy,
    dump,
    restore,
    restore_point,
    retention,
    swap,
)
from opslib.backups.backup import Backup
from opslib.backups.store import ARCHIVE, Folder, Store, stores
from opslib.database import admin, carried_settings, prisma
from opslib.database.settings import RecoveryGoals
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, act, sql
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import ChangeFailed


@dataclass(frozen=True)
class Recovery:
    """The way of one backup to the place of the live database."""

    environment: Deployment
    backup: Backup
    place: Store
    """Where the copy of the backup lies that is restored."""

    @property
    def live(self) -> str:
        """The name of the database that the API uses."""
        return admin.database(self.environment)

    @property
    def copy(self) -> str:
        """The name of the database that the backup is restored into."""
        return database_copy.name(self.live, "new", self.backup.taken)

    @property
    def whole(self) -> bool:
        """Whether the copy is there and whole: restored to its end, and not in the middle of its migrations."""
        found = {one.name: one.note for one in database_copy.listed(self.environment)}.get(self.copy, {})
        return (found.get("state"), found.get("sha256")) == ("whole", self.backup.sha256)

    @property
    def swapped(self) -> bool:
        """Whether a run that was killed has put this backup into the live one's place already."""
        return database_copy.swapped(self.environment).get("sha256") == self.backup.sha256

    @property
    def note(self) -> dict[str, str]:
        """What is noted on a database about where it comes from."""
        return {"backup": self.backup.name, "sha256": self.backup.sha256}

    def alone(self) -> Answer:
        """Whether no other recovery is half way, from another backup or back to what was."""
        return Answer(True) if self.swapped else swap.idle(self.environment)

    # What the copy must stand before it is live

    def same(self) -> Answer:
        """Whether it holds what the manifest says."""
        return restore.compare(self.environment, self.backup.manifest, self.copy)

    def sound(self) -> Answer:
        """Whether its indexes and constraints are as the live ones."""
        return copy_acceptance.sound(self.environment, self.copy)

    def usable(self) -> Answer:
        """Whether the API's login reads and writes in it."""
        return copy_acceptance.usable(self.environment, self.copy)

    def expected(self) -> Answer:
        """Whether Prisma finds the schema of the release, or no more to come than what the backup has not."""
        pending = restore_point.pending(self.environment, self.backup)
        return copy_acceptance.current(self.environment, self.copy, pending)

    def current(self) -> Answer:
        """Whether Prisma finds nothing to come any more."""
        return copy_acceptance.current(self.environment, self.copy)

    # The changes, of which there are none where a run that was killed has swapped already

    def restore(self, run: str, *, safety: bool) -> list[Change]:
        """Make the changes that restore the backup into a database of its own; it is whole once its note says so.

        One that a killed run has left is used if it is whole and of this backup, and else dropped. Meanwhile the
        present is backed up, if it is to be made `safety`, as `backup_database` does but for the proof.
        """
        if self.swapped:
            return []
        places = stores(self.environment)[0]
        saving = dump.Meanwhile(self.environment, run, places)
        copies, whole = database_copy.listed(self.environment), self.whole
        left = [one.name for one in copies if one.kind == "new" and not (whole and one.name == self.copy)]
        archive = next(place for place in places if isinstance(place, Folder)).fetched
        whole_act = act(f"use {self.copy}, which a run that was killed has restored", run=self._expect_whole)
        change = Change(
            "Restore the backup beside the live database" + (", and back that up meanwhile" if safety else ""),
            [
                *([saving.begin()] if safety else []),
                *(restore.drop(self.environment, name) for name in left),
                *([whole_act] if whole else self._acts(archive)),
                *([saving.wait()] if safety else []),
            ],
            undo=[
                *([saving.end()] if safety else []),
                *restore.cleared(archive),
                restore.drop(self.environment, self.copy),
            ],
            replaces=self._there,
        )
        return [*retention.clear(self.environment, places), change]

    def migrate(self) -> list[Change]:
        """Make the change that brings the copy to the schema of the release in force, before anybody uses it."""
        pending = restore_point.pending(self.environment, self.backup)
        if self.swapped or not pending:
            return []
        url = copy_acceptance.url(self.environment, self.copy)
        deploy, told = partial(prisma.deploy, self.environment, url), prisma.shown(self.environment, url)
        change = Change(
            "Migrate the copy to the schema of the release",
            [
                self._noted("migrating"),
                act(
                    f"{' '.join(f'{name}=‹{self.copy}›' for name in told)} {shlex.join(prisma.DEPLOY)}",
                    *(f"runs {name}" for name in pending),
                    run=deploy,
                ),
                self._noted("whole"),
            ],
            undo=Kept("the copy is dropped with its restore; once it is live, the swap is undone", matters=False),
            replaces=lambda: f"{self.copy}, which was last migrated by {self.backup.manifest.migration or 'nothing'}",
        )
        return [change]

    def _acts(self, archive: Path) -> list[Act]:
        about, jobs = self.backup.manifest, self.environment.part(RecoveryGoals).jobs
        within = partial(admin.connect, self.environment, self.copy)
        with admin.connect(self.environment, admin.MAINTENANCE) as superuser:
            carried = carried_settings.statements(superuser, self.live, self.copy)
        return [
            act(
                f"fetch {self.place.address(self.backup.name + ARCHIVE)} and check it to its last byte",
                run=partial(backups.fetch, self.backup, self.place, archive),
            ),
            *restore.acts(self.environment, archive, about, self.copy, jobs=jobs),
            *restore.cleared(archive),
            sql(within, "ANALYZE"),
            *(sql(within, "{carried}", carried=statement) for statement in carried),
            self._noted("whole"),
        ]

    def _noted(self, state: str) -> Act:
        one = database_copy.live(self.environment)
        text = database_copy.noted(one.comment if one else "", **self.note, state=state)
        return database_copy.comment(self.environment, self.copy, text)

    def _expect_whole(self) -> None:
        if not self.whole:
            raise ChangeFailed(f"{self.copy} is not whole any more. Run this again: it restores the backup anew.")

    def _there(self) -> str:
        left = [one.name for one in database_copy.listed(self.environment) if one.kind == "new"]
        if self.whole:
            return f"{self.copy}, which a run that was killed has restored"
        return f"nothing named {self.copy}" + (f"; {', '.join(left)} of a killed run is dropped" if left else "")
