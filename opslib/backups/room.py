"""Room: what a backup and its proof need on which disk, and what is free there."""

import os
from pathlib import Path

import psutil

from opslib.backups.store import settings
from opslib.database import admin
from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.runbook.progress import size

ARCHIVES = 1.5
"""Of the database's size: the archive, and for its proof the same uncompressed."""
SCRATCH = 1.1


def room(environment: Deployment, connection: Connection) -> tuple[bool, list[dict[str, str]]]:
    """Whether each disk has what all together needs there, as far as this machine can tell, and rows of evidence.

    Where the server's data lies elsewhere, or its place may not be known, the row says so, and does not count.
    """
    whole = admin.size(connection)
    folder, data = settings(environment).folder, admin.data(connection)
    needs = [(folder, "the archive, and for its proof the same uncompressed", whole * ARCHIVES)]
    needs += [(data, "the scratch database", whole * SCRATCH)] if data else []
    rows, lacking = [], False
    for place, what, bytes in needs:
        free = psutil.disk_usage(str(_existing(place))).free
        lacking |= free < sum(need for other, _, need in needs if same_disk(place, other))
        rows.append({"for": what, "needed": f"about {size(bytes)}", "free": size(free)})
    if data is None:
        rows.append({"for": "the scratch database", "needed": f"about {size(whole * SCRATCH)}", "free": "not known"})
    return not lacking, rows


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
