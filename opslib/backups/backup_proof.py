"""The proof of a backup: fetched back, restored beside the live database and compared, it is marked as proven."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from opslib.backups import backup, dump, manifest, restore, source_database
from opslib.backups.backup import Backup, Damaged
from opslib.backups.store import ARCHIVE, PROVEN, Bucket, Folder, Store, owner
from opslib.database import admin
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError, UndoFailed

_NAME = 40  # bytes of the database's name that stand in the scratch database's: PostgreSQL takes 63 in all


def scratch(environment: Deployment) -> str:
    """Name the scratch database: nobody else gives one that name, and who has the lock uses no other."""
    stem = admin.database(environment).encode()[:_NAME].decode("utf-8", "ignore")
    return f"{stem}_scratch_{owner(environment)}"


class Taking:
    """The backup that a run takes and proves. Its name has the run's id, by which it is found again."""

    def __init__(self, environment: Deployment, run: str, places: list[Store]) -> None:
        self.environment = environment
        self.problem = ""
        """Why the backup is not in S3; empty if it is."""
        self._run = run
        self._places = places
        self._damaged: list[Store] = []
        self._scratch = scratch(environment)
        self._folder = next(place for place in places if isinstance(place, Folder))

    @property
    def backup(self) -> Backup:
        """The backup. Raise RunbookError if it is not taken yet."""
        for one in self._made():
            return one
        raise RunbookError("this run has no backup yet; run the cell that takes it")

    def take(self) -> Change:
        """Make the change that takes the backup."""
        return Change(
            "Take the backup",
            [act(*dump.lines(self._places), run=self._take)],
            undo=[act("remove a copy that is damaged; one that is whole is kept, though not proven", run=self._untake)],
            replaces=lambda: f"database {admin.database(self.environment)}",
        )

    def restore(self) -> Change:
        """Make the change that fetches the backup back and restores it beside the live database."""
        with admin.connect(self.environment) as connection:
            about = manifest.described(connection, source_database.api_role(self.environment), datetime.now(UTC))
        archive = self._folder.fetched
        first, *others = self._places
        return Change(
            "Restore it into a scratch database",
            [
                act(
                    f"fetch {first.address(f'‹TIME-RUN-OWNER›{ARCHIVE}')} and check it to its last byte",
                    run=self._fetch,
                ),
                *restore.acts(self.environment, archive, about, self._scratch),
                *restore.cleared(archive),
                *(
                    act(f"check the copy in {place} to its last byte", run=partial(self._check, place))
                    for place in others
                ),
            ],
            undo=[*restore.cleared(archive), restore.drop(self.environment, self._scratch)],
            # What a killed run has left there is dropped by the change before, or by this one.
            replaces=lambda: f"{admin.database(self.environment)}, beside it: {self._scratch}, this host's own",
        )

    def close(self) -> Change:
        """Make the change that drops the scratch database and marks the backup as proven."""
        return Change(
            "Mark it as proven",
            [
                restore.drop(self.environment, self._scratch),
                *(
                    act(f"write {place.address(f'‹TIME-RUN-OWNER›{PROVEN}')}", run=partial(self._prove, place))
                    for place in self._places
                ),
            ],
            undo=Kept("what was proven stays proven", matters=False),
            replaces=lambda: f"the newest proven backup: {_newest(backup.listed(self.environment, self._places))}",
        )

    def same(self) -> Answer:
        """Whether the scratch database holds what the manifest says."""
        return restore.compare(self.environment, self.backup.manifest, self._scratch)

    def newest(self) -> Answer:
        """Whether the newest backup that there is is this one, and proven."""
        found = backup.listed(self.environment, self._places)
        return Answer(bool(found and found[0].proven and found[0] in self._made()), backup.rows(found[:5]))

    def stored(self) -> Answer:
        """Whether the backup lies in S3 as well as here."""
        made = self.backup
        there = any(isinstance(place, Bucket) for place in backup.holding(made, self._places))
        return Answer(there, [{"copy": where} for where in (*made.where, *([] if there else [self.problem]))])

    def _take(self) -> None:
        _, self.problem = dump.take(self.environment, self._run, self._places)

    def _fetch(self) -> None:
        place = backup.holding(self.backup, self._places)[0]
        with self._judging(place):
            backup.fetch(self.backup, place, self._folder.fetched)

    def _check(self, place: Store) -> None:
        made = self.backup
        if place in backup.holding(made, self._places)[1:]:
            with self._judging(place):
                backup.check(made, place)

    @contextmanager
    def _judging(self, place: Store) -> Iterator[None]:
        """Remember where a damaged copy lies: that one no undo may keep."""
        try:
            yield
        except Damaged:
            self._damaged.append(place)
            raise

    def _prove(self, place: Store) -> None:
        made = self.backup
        if place in backup.holding(made, self._places):
            backup.prove(made, place, datetime.now(UTC))

    def _untake(self) -> None:
        for one in self._made():
            backup.remove(one, self._damaged)
        for one in self._made():
            proven = "proven" if one.proven else "not proven: a run that proves another removes it"
            raise UndoFailed(
                f"A backup is never thrown away in an undo. {', '.join(one.where)} is whole, and {proven}."
            )

    def _made(self) -> list[Backup]:
        return [one for one in backup.listed(self.environment, self._places) if f"-{self._run}-" in one.name]


def _newest(found: list[Backup]) -> str:
    proven = [one for one in found if one.proven]
    return f"{proven[0].name}, of {proven[0].taken:%Y-%m-%dT%H:%M:%SZ}" if proven else "none"
