"""A folder of backups on this machine, and the names of what lies in it, which are the same in a bucket.

| name | is |
| --- | --- |
| `TIME-RUN-OWNER.dump.zst` | the archive: pg_dump's custom format, in frames of zstd |
| `TIME-RUN-OWNER.json` | its manifest. A backup exists from the moment that this is there, and it is written last |
| `TIME-RUN-OWNER.proven` | that the backup was fetched back, restored and compared |
| `fetched-OWNER.dump.part` | an archive that was fetched and expanded, to be restored |

OWNER is who has made it, of all that write to one bucket: nobody clears away what another is still writing.
"""

import hashlib
import os
import re
import shlex
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from opslib.backups.settings import Backups
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, act
from opslib.runbook.procedure import located

ARCHIVE, MANIFEST, PROVEN, PART = ".dump.zst", ".json", ".proven", ".part"
NAME = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{8}(-[0-9a-f]{8})?)(\.dump\.zst|\.json|\.proven)")
"""Nothing else is ever read or deleted."""
PIECE = 4 << 20  # bytes that are read at once


def settings(environment: Deployment) -> Backups:
    """Give the part of the environment that says where backups are kept. Raise BadEnvironment if there is none."""
    return environment.part(Backups)


def owner(environment: Deployment) -> str:
    """Say who this is among all that write to one bucket: this machine, and the lock under which it does so."""
    return hashlib.sha256(f"{socket.gethostname()}:{environment.lock}".encode()).hexdigest()[:8]


class Folder:
    """A folder of this machine. A file is there whole or not at all, and its owner alone reads it."""

    def __init__(self, environment: Deployment) -> None:
        self.path = settings(environment).folder
        self._owner = owner(environment)

    def __str__(self) -> str:
        return located(self.path)

    def address(self, name: str) -> str:
        """Say where this is."""
        return located(self.path / name)

    def names(self) -> list[str]:
        """Give what is there, sorted."""
        return sorted(f.name for f in self.path.glob("*") if NAME.fullmatch(f.name))

    def read(self, name: str) -> bytes:
        """Give the content of a small file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        part = self.part(name)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        self.keep(name)

    def part(self, name: str) -> Path:
        """Give the path of a file that is not whole yet; the folder is there afterwards."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.path / f"{name}{PART}"

    def keep(self, name: str) -> None:
        """Have a whole part there under its name, also after a power cut."""
        part = self.path / f"{name}{PART}"
        for place, mode in ((part, os.O_RDWR), (self.path, os.O_RDONLY)):
            file = os.open(place, mode)
            os.fsync(file)
            os.close(file)
            if place == part:
                part.replace(self.path / name)

    def delete(self, name: str) -> None:
        """Delete a file; well if there is none."""
        (self.path / name).unlink(missing_ok=True)

    def pieces(self, name: str) -> Iterator[bytes]:
        """Give a file piece by piece."""
        with (self.path / name).open("rb") as file:
            while piece := file.read(PIECE):
                yield piece

    @property
    def fetched(self) -> Path:
        """Where an archive lies, expanded, until it is restored."""
        return self.path / f"fetched-{self._owner}.dump{PART}"

    def unfinished(self) -> list[Act]:
        """Give the acts that remove the parts of one's own: whoever has the lock finishes none of them any more."""
        own = re.compile(rf"(fetched|\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}})-{self._owner}\..*{re.escape(PART)}")
        found = sorted(file for file in self.path.glob(f"*{PART}") if own.fullmatch(file.name))
        return [removed(file) for file in found]


def removed(file: Path) -> Act:
    """Make the act that removes a file; well if there is none."""
    return act(f"rm -f {shlex.quote(located(file))}", run=partial(file.unlink, missing_ok=True))
