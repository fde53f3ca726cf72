"""A backup of the database: an archive with its manifest, proven once it has been fetched back and restored."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, cast

import zstandard
from pydantic import TypeAdapter, ValidationError

from opslib.backups.manifest import Manifest
from opslib.backups.store import ARCHIVE, MANIFEST, PROVEN, Store, stores
from opslib.deployment.deployment import Deployment
from opslib.runbook import progress
from opslib.runbook.errors import CheckFailed, RunbookError
from opslib.runbook.procedure import located
from opslib.runbook.progress import Bytes

_WRITE = 1 << 20  # bytes


class Damaged(CheckFailed):
    """An archive is not, to the last byte, what its manifest says."""


@dataclass(frozen=True)
class Backup:
    """A backup that is whole. `where` are its archives, those in S3 first; `proven` is None if it never was."""

    name: str
    taken: datetime
    size: int
    """Bytes of the archive as it is stored."""
    sha256: str
    """Of the same."""
    raw: int
    """Bytes of pg_dump's custom format, uncompressed."""
    manifest: Manifest
    proven: datetime | None = None
    where: tuple[str, ...] = ()
    took: float | None = None
    """Seconds that it took to dump and to store it, where the manifest says so."""


@dataclass(frozen=True)
class Proof:
    """That the archive with this digest was restored and compared."""

    proven: datetime
    sha256: str


_backup = TypeAdapter(Backup)
_proof = TypeAdapter(Proof)


def listed(environment: Deployment, places: Sequence[Store] = ()) -> list[Backup]:
    """Give the backups that there are, newest first, from these stores or else from all that can be reached."""
    return read(places or stores(environment)[0])[0]


def read(places: Sequence[Store]) -> tuple[list[Backup], list[str]]:
    """Give the backups in these stores, newest first, and the addresses of manifests that cannot be read."""
    found: dict[str, Backup] = {}
    unreadable = []
    for place in places:
        names = set(place.names())
        whole = [name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST)]
        with ThreadPoolExecutor(8) as pool:
            for one, backup in zip(whole, pool.map(lambda n: _read(place, n, names), whole), strict=True):  # noqa: B023
                if backup is None:
                    unreadable.append(place.address(one + MANIFEST))
                elif known := found.get(one):
                    proven = known.proven or backup.proven
                    found[one] = replace(known, proven=proven, where=(*known.where, *backup.where))
                else:
                    found[one] = backup
    return sorted(found.values(), key=lambda one: one.taken, reverse=True), sorted(unreadable)


def _read(place: Store, name: str, names: set[str]) -> Backup | None:
    try:
        backup = _backup.validate_json(place.read(name + MANIFEST))
        proof = _proof.validate_json(place.read(name + PROVEN)) if name + PROVEN in names else None
    except ValidationError:
        return None
    proven = proof.proven if proof and proof.sha256 == backup.sha256 else None
    return replace(backup, proven=proven, where=(place.address(name + ARCHIVE),))


def write(backup: Backup, place: Store) -> None:
    """Have a backup exist in this store, which has its archive already."""
    place.write(backup.name + MANIFEST, _backup.dump_json(backup, indent=1, exclude={"proven", "where"}))


def prove(backup: Backup, place: Store, at: datetime) -> None:
    """Say in this store that the backup is proven."""
    place.write(backup.name + PROVEN, _proof.dump_json(Proof(at, backup.sha256)))


def remove(backup: Backup, places: Sequence[Store]) -> None:
    """Remove a backup from these stores, its manifest first: from then on it is none."""
    for place in places:
        for part in (MANIFEST, PROVEN, ARCHIVE):
            place.delete(backup.name + part)


def holding(backup: Backup, places: Sequence[Store]) -> list[Store]:
    """Give those of the stores that hold a backup, in their order. Raise RunbookError if none does."""
    found = [place for place in places if place.address(backup.name + ARCHIVE) in backup.where]
    if not found:
        raise RunbookError(f"backup {backup.name} lies in {', '.join(backup.where)}: none of that can be reached now")
    return found


def rows(found: Sequence[Backup]) -> list[dict[str, object]]:
    """Give what people want to know of backups."""
    return [
        {
            "backup": one.name,
            "taken": one.taken,
            "proven": one.proven or "no",
            "size": Bytes(one.size),
            "rows": one.manifest.rows,
            "copies in": one.where,
        }
        for one in found
    ]


def fetch(backup: Backup, place: Store, path: Path) -> None:
    """Fetch an archive as pg_dump's custom format. Raise Damaged, with nothing left, if a byte is not as it was."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            check(backup, place, into=file.write)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            needed = progress.size(backup.raw)
            raise RunbookError(f"{located(path)}: {error.strerror}; {needed} are needed there") from None
        raise


class _Sink:
    """What the decompressor writes to: it counts, and passes on."""

    def __init__(self, into: Callable[[bytes], object]) -> None:
        self.count = 0
        self._into = into

    def write(self, content: bytes) -> int:
        self.count += len(content)
        self._into(content)
        return len(content)


def check(backup: Backup, place: Store, *, into: Callable[[bytes], object] = lambda content: None) -> None:
    """Read an archive to its last byte, and give its content to `into`. Raise Damaged."""
    name = backup.name + ARCHIVE
    digest, size, sink = hashlib.sha256(), 0, _Sink(into)
    expand = zstandard.ZstdDecompressor().stream_writer(cast(IO[bytes], sink), write_size=_WRITE)
    try:
        for piece in place.pieces(name):
            digest.update(piece)
            size += len(piece)
            expand.write(piece)  # in bounded pieces: a few bytes of an archive may be gigabytes of zeros
            progress.report(f"read {progress.size(size)} of {progress.size(backup.size)} from {place}")
    except zstandard.ZstdError as error:
        raise Damaged(
            f"{place.address(name)} is damaged near byte {size}: {error}. Use another backup; this one is no good."
        ) from None
    if (size, digest.hexdigest(), sink.count) != (backup.size, backup.sha256, backup.raw):
        what = "is cut short" if size < backup.size else "has another content than was written"
        raise Damaged(
            f"{place.address(name)} {what}: found {size} bytes with SHA-256 {digest.hexdigest()[:16]}…, expected "
            f"{backup.size} with {backup.sha256[:16]}…. Use another backup; this one is no good."
        )
