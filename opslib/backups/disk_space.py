"""Disk space: what a backup or a recovery needs on which disk, added up where they share one, and what is free."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from opslib.backups import database_copy
from opslib.backups.backup import Backup
from opslib.backups.store import settings
from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.deployment.deployment import Deployment
from opslib.runbook.answer import Answer
from opslib.runbook.progress import Bytes

ARCHIVE = 0.5
"""Of the database's size: what an archive of it takes at most, compressed."""
RAW = 1.0
"""The same: an archive that is expanded to be restored."""
RESTORED = 1.1
"""The same: what a database takes that is restored from it."""
COPY = 1.25
"""The same, where it stays, and is written to."""


@dataclass(frozen=True)
class Need:
    """So many bytes at a place; None where that is on another machine, or may not be known."""

    what: str
    place: Path | None
    bytes: float


@dataclass(frozen=True)
class Space:
    """What one need finds at its place."""

    what: str
    needed: str = field(compare=False)  # this and the next change with every row that is written
    free: str = field(compare=False)


def for_backup(environment: Deployment, connection: Connection) -> Answer:
    """Whether a backup of the database of this connection, and its proof, have room."""
    whole, folder, data = admin.size(connection), settings(environment).folder, admin.data(connection)
    return enough(
        [
            Need("the archive, and for its proof the same uncompressed", folder, whole * (ARCHIVE + RAW)),
            Need("the scratch database", data, whole * RESTORED),
        ]
    )


def for_recovery(environment: Deployment, backup: Backup) -> Answer:
    """Whether a backup can be restored beside the live database, and that be backed up meanwhile."""
    with admin.connect(environment, admin.MAINTENANCE) as superuser:
        data = admin.data(superuser)
    live, folder = database_copy.live(environment), settings(environment).folder
    present = live.size if live else 0
    return enough(
        [
            Need("the archive that is fetched, expanded", folder, backup.raw),
            Need("the backup of the present", folder, present * ARCHIVE),
            Need("the copy beside the live database", data, max(backup.raw, present) * COPY),
        ]
    )


def enough(needs: Sequence[Need]) -> Answer:
    """Whether each disk has what all together need there. A place that is not known says so, and does not count."""
    found, lacking = [], False
    for one in needs:
        free = psutil.disk_usage(str(_existing(one.place))).free if one.place else None
        beside = [other.bytes for other in needs if one.place and other.place and same_disk(one.place, other.place)]
        lacking |= free is not None and free < sum(beside)
        known = "not known" if free is None else str(Bytes(free))
        found.append(Space(one.what, f"about {Bytes(one.bytes)}", known))
    return Answer(not lacking, found, "Delete what is not needed, or name another folder in the environment.")


def beside(environment: Deployment, connection: Connection) -> str:
    """Say whether the folder lies on the disk of the database, as far as that can be known."""
    data = admin.data(connection)
    if data is None:
        return "not known: the server's data lies elsewhere, or its place may not be known"
    return "the same" if same_disk(settings(environment).folder, data) else "another"


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders lie on one file system; of one that is not there yet, where it would be made."""
    return os.stat(_existing(one)).st_dev == os.stat(_existing(other)).st_dev


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
