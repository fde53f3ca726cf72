"""A recovery: a backup restored beside the live database, and what it must stand before it takes that one's place.

How far a run has come is read from PostgreSQL each time: from the databases that are there (sibling.py) and the note on
them. A run that was killed is run again: it goes on with a whole copy, and drops one that is not whole.
"""

import shlex
from contextlib import nullcontext
from dataclasses import dataclass

from opslib.backups import dump, restore, restore_point, retention, sibling, swap, trial
from opslib.backups.backup import Backup, fetched
from opslib.backups.store import ARCHIVE, Store, settings, stores
from opslib.database import admin, database_settings, prisma
from opslib.database.postgres import Connection
from opslib.database.settings import RecoveryGoals
from opslib.deployment.environment import Deployment
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept


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
        return sibling.name(self.live, "new", self.backup.taken)

    @property
    def whole(self) -> bool:
        """Whether the copy is there and whole: restored to its end, and not in the middle of its migrations."""
        found = {one.name: one.note for one in swap.siblings(self.environment)}.get(self.copy, {})
        return (found.get("state"), found.get("sha256")) == ("whole", self.backup.sha256)

    @property
    def swapped(self) -> bool:
        """Whether a run that was killed has put this backup into the live one's place already."""
        return swap.swapped(self.environment).get("sha256") == self.backup.sha256

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
        places = stores(self.environment)[0]
        first = [*retention.clear(self.environment, places), self.beside(run, places if safety else [])]
        return first, [self.migrate()] if restore_point.pending(self.environment, self.backup) else []

    def beside(self, run: str, saves: list[Store]) -> Change:
        """Make the change that restores the backup into a database of its own; it is whole once its note says so.

        One that a killed run has left is used if it is whole and of this backup, and else dropped. Meanwhile the
        present is backed up into the stores `saves`, if any, as `backup_database` does but for the proof.
        """

        def do() -> None:
            with dump.meanwhile(self.environment, run, saves) if saves else nullcontext():
                keep = self.whole
                self._drop(*({self.copy} if keep else ()))
                if not keep:
                    self._restore()

        def replaces() -> str:
            left = [one.name for one in swap.siblings(self.environment) if one.kind == "new"]
            if self.whole:
                return f"{self.copy}, which a run that was killed has restored"
            return f"nothing named {self.copy}" + (f"; {', '.join(left)} of a killed run is dropped" if left else "")

        with self._admin() as superuser:
            carried = [
                one.as_string(superuser) for one in database_settings.statements(superuser, self.live, self.copy)
            ]
        arguments = restore.arguments(self.backup.manifest, self.copy, self.environment.part(RecoveryGoals).jobs)
        saving = [shlex.join(dump.DUMP), f"meanwhile, of {self.live}, into {' and '.join(map(str, saves))}"]
        return Change(
            "Restore the backup beside the live database" + (", and back that up meanwhile" if saves else ""),
            [
                act(
                    *(saving if saves else ()),
                    f"fetch {self.place.address(self.backup.name + ARCHIVE)} and check it to the last byte",
                    f"CREATE DATABASE {self.copy} OWNER {self.backup.manifest.role} TEMPLATE template0",
                    shlex.join(arguments),
                    "pg_restore of the rights (ACL) that each role had",
                    "ANALYZE",
                    *carried,
                    run=do,
                )
            ],
            undo=[
                act(
                    f"DROP DATABASE {self.copy}, which has never been live",
                    *(["a backup of the present stays, and is never `latest proven`"] if saves else ()),
                    run=self._drop,
                )
            ],
            replaces=replaces,
        )

    def migrate(self) -> Change:
        """Make the change that brings the copy to the schema of the release in force, before anybody uses it."""

        def do() -> None:
            with self._admin() as superuser:
                self._note(superuser, "migrating")
                prisma.deploy(self.environment, trial.url(self.environment, self.copy))
                self._note(superuser, "whole")

        return Change(
            "Migrate the copy to the schema of the release",
            [
                act(
                    shlex.join(prisma.DEPLOY),
                    *(f"runs {name}" for name in restore_point.pending(self.environment, self.backup)),
                    run=do,
                )
            ],
            undo=Kept("the copy is dropped with its restore; once it is live, the swap is undone", matters=False),
            replaces=lambda: f"{self.copy}, which was last migrated by {self.backup.manifest.migration or 'nothing'}",
        )

    def _restore(self) -> None:
        about, jobs = self.backup.manifest, self.environment.part(RecoveryGoals).jobs
        with fetched(self.environment, self.backup, settings(self.environment).folder, [self.place]) as archive:
            restore.restore(self.environment, archive, about, self.copy, jobs=jobs)
            restore.grant(self.environment, archive, self.copy)
        with admin.connect(self.environment, self.copy) as connection:
            connection.execute("ANALYZE")
            database_settings.copy(connection, self.live, self.copy)
            self._note(connection, "whole")

    def _admin(self) -> Connection:
        return admin.connect(self.environment, admin.MAINTENANCE)

    def _note(self, connection: Connection, state: str) -> None:
        sibling.note(connection, self.copy, {**self.note, "state": state})

    def _drop(self, *kept: str) -> None:
        """Drop what was restored and has never been live."""
        for one in swap.siblings(self.environment):
            if one.kind == "new" and one.name not in kept:
                restore.drop(self.environment, one.name)
