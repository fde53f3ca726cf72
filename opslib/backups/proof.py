"""A proof: a backup is fetched back, restored beside the live database and compared, and only then marked as one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from opslib.backups import backup, dump, restore
from opslib.backups.backup import Backup, Damaged
from opslib.backups.manifest import utc
from opslib.backups.store import Bucket, Folder, Store
from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError, UndoFailed

_NAME = 40  # bytes of the database's name that stand in the scratch database's: PostgreSQL takes 63 in all


def scratch(database: str, run: str) -> str:
    """Name the scratch database of a run."""
    return f"{_stem(database)}_scratch_{run}"


def stray(connection: Connection, database: str) -> list[str]:
    """Give the scratch databases that runs have left which were killed. Nobody else gives a database such a name."""
    name = re.compile(rf"{re.escape(_stem(database))}_scratch_[0-9a-f]{{8}}")
    found = connection.execute("SELECT datname::text AS name FROM pg_database ORDER BY 1").fetchall()
    return [row["name"] for row in found if name.fullmatch(row["name"])]


class Taking:
    """The backup that a run takes and proves. Its name ends with the run's id, by which it is found again."""

    def __init__(self, environment: Deployment, run: str, places: list[Store]) -> None:
        self.environment = environment
        self.problem = ""
        """Why the backup is not in S3; empty if it is."""
        self._run = run
        self._places = places
        self._damaged: list[Store] = []
        self._scratch = scratch(admin.database(environment), run)

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
            [
                act(
                    f"{' '.join(dump.DUMP)} --snapshot=…, the manifest in the same snapshot",
                    f"compress with zstd -{dump.LEVEL} into TIME-RUN.dump.zst",
                    f"in {' and '.join(map(str, self._places))}",
                    "write TIME-RUN.json, the manifest: from then on it is a backup",
                    run=self._take,
                )
            ],
            undo=[act("remove a copy that is damaged; one that is whole is kept, though not proven", run=self._untake)],
            replaces=lambda: f"database {admin.database(self.environment)}",
        )

    def restore(self) -> Change:
        """Make the change that fetches the backup back and restores it beside the live database."""
        name = f"{_stem(admin.database(self.environment))}_scratch_RUN"
        return Change(
            "Restore it into a scratch database",
            [
                act(
                    f"fetch it from {self._places[0]}, check its SHA-256; check each other copy too",
                    f"CREATE DATABASE {name} TEMPLATE template0",
                    f"pg_restore --jobs={restore.JOBS} --no-owner --no-privileges --exit-on-error",
                    run=self._restore,
                )
            ],
            undo=[
                act(
                    f"DROP DATABASE IF EXISTS {name} WITH (FORCE)",
                    run=lambda: restore.drop(self.environment, self._scratch),
                )
            ],
            replaces=self._beside,
        )

    def close(self) -> Change:
        """Make the change that drops the scratch database and marks the backup as proven."""
        return Change(
            "Mark it as proven",
            [act("DROP DATABASE of the scratch database", "write TIME-RUN.proven beside the archive", run=self._close)],
            undo=Kept("what was proven stays proven", matters=False),
            replaces=lambda: f"the newest proven backup: {_newest(backup.listed(self.environment, self._places))}",
        )

    def same(self) -> tuple[bool, list[dict[str, str]]]:
        """Whether the scratch database holds what the manifest says."""
        return restore.compare(self.environment, self.backup.manifest, self._scratch)

    def newest(self) -> tuple[bool, list[dict[str, object]]]:
        """Whether the newest backup that there is is this one, and proven."""
        found = backup.listed(self.environment, self._places)
        return bool(found and found[0].proven and found[0] in self._made()), backup.rows(found[:5])

    def stored(self, *, accepted: bool) -> tuple[bool, list[dict[str, str]]]:
        """Whether the backup lies in S3 as well as here, or its absence there is accepted."""
        made = self.backup
        there = [place for place in backup.holding(made, self._places) if isinstance(place, Bucket)]
        return bool(there) or accepted, [{"copy": where} for where in made.where] + (
            [] if there else [{"copy": self.problem}]
        )

    def _beside(self) -> str:
        with admin.connect(self.environment) as superuser:
            return (
                f"{admin.database(self.environment)}, beside it: {admin.exists(superuser, self._scratch) or 'nothing'}"
            )

    def _take(self) -> None:
        _, self.problem = dump.take(self.environment, self._run, self._places)

    def _restore(self) -> None:
        made = self.backup
        first, *others = backup.holding(made, self._places)
        with self._judging(first), backup.fetched(self.environment, made, self._folder.path, [first]) as archive:
            restore.restore(self.environment, archive, made.manifest, self._scratch)
        for place in others:
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

    def _close(self) -> None:
        made = self.backup
        restore.drop(self.environment, self._scratch)
        for place in backup.holding(made, self._places):
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
        return [one for one in backup.listed(self.environment, self._places) if one.name.endswith(f"-{self._run}")]

    @property
    def _folder(self) -> Folder:
        return next(place for place in self._places if isinstance(place, Folder))


def _newest(found: list[Backup]) -> str:
    proven = [one for one in found if one.proven]
    return f"{proven[0].name}, of {utc(proven[0].taken)}" if proven else "none"


def _stem(database: str) -> str:
    return database.encode()[:_NAME].decode("utf-8", "ignore")
