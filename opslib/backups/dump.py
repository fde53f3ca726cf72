"""A dump: one snapshot of the database, read by pg_dump and by the manifest, compressed here, and on its way to S3.

What is written, in this order: the file in the folder, part by part the upload to S3 behind it, the object, the file
under its name, the manifest in S3, the manifest in the folder. A backup exists in a store once its manifest does.
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import zstandard

from opslib.backups import backup, manifest, source_database
from opslib.backups.backup import Backup
from opslib.backups.multipart import Upload
from opslib.backups.store import ARCHIVE, MANIFEST, Bucket, Folder, Store, owner
from opslib.database import admin, pg_tool
from opslib.deployment.deployment import Deployment
from opslib.runbook import progress
from opslib.runbook.act import Act, act
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import located

LEVEL = 3
"""Of zstd: it keeps step with pg_dump on one core, and leaves the others to the API."""
THREADS = 2
PIECE = 1 << 20
LOCK_WAIT = 10
"""Seconds for which pg_dump waits for a table that somebody has locked."""
DUMP = (
    *("pg_dump", "--format=custom", "--compress=0", "--no-password"),
    f"--lock-wait-timeout={LOCK_WAIT * 1000}",
)


def lines(places: Sequence[Store]) -> list[str]:
    """Say what `take` runs and writes; TIME is that of the snapshot, RUN the run."""
    archive = f"‹TIME-RUN-OWNER›{ARCHIVE}"
    return [
        f"{shlex.join(DUMP)} --snapshot=‹snapshot›",
        f"| zstd -{LEVEL}, while the rows of each table are counted in that snapshot",
        *(f"write {place.address(archive)}" for place in places),
        *(f"write {place.address(archive.removesuffix(ARCHIVE) + MANIFEST)}" for place in places),
    ]


def take(
    environment: Deployment, run: str, places: Sequence[Store], ended: threading.Event | None = None
) -> tuple[Backup, str]:
    """Take a backup into these stores. Give it, and why it is not in S3, if so: that alone is no reason to stop.

    Raise RunbookError or CommandFailed, with nothing left behind, if there is no backup, or once `ended` is set.
    """
    folder = next(place for place in places if isinstance(place, Folder))
    bucket = next((place for place in places if isinstance(place, Bucket)), None)
    role = source_database.api_role(environment)
    begun = time.monotonic()
    with source_database.snapshot(environment, LOCK_WAIT) as seen, ThreadPoolExecutor(1) as beside:
        name = f"{seen.taken:%Y%m%dT%H%M%SZ}-{run}-{owner(environment)}"
        part = folder.part(name + ARCHIVE)
        upload = Upload(bucket, name + ARCHIVE, part, admin.size(seen.connection)) if bucket else None
        counted: dict[str, int] = {}
        stored = False
        try:
            counting = beside.submit(manifest.read, seen.connection, role, seen.taken, counted.__setitem__)
            size, digest, raw = _write(environment, seen.id, part, upload, counted, ended or threading.Event())
            made = Backup(name, seen.taken, size, digest, raw, counting.result())
            stored = upload is not None and upload.complete(size)
            folder.keep(name + ARCHIVE)
            made = replace(made, took=time.monotonic() - begun)
        except BaseException:
            with contextlib.suppress(psycopg.Error):  # it may be the connection that was lost
                seen.connection.cancel_safe()
            if upload:
                upload.abort()
            if bucket and stored:
                with contextlib.suppress(RunbookError):  # without a manifest it is none, and the next run removes it
                    bucket.delete(name + ARCHIVE)
            part.unlink(missing_ok=True)
            raise
    problem = upload.problem if upload else "it could not be reached"
    if bucket and stored:
        try:
            backup.write(made, bucket)
        except RunbookError as error:
            problem = str(error)
    backup.write(made, folder)
    where = [place.address(name + ARCHIVE) for place in places if isinstance(place, Folder) or not problem]
    return replace(made, where=tuple(where)), problem


class Meanwhile:
    """A backup of the present that is taken while other acts run. One that is half done when it is ended is removed."""

    def __init__(self, environment: Deployment, run: str, places: Sequence[Store]) -> None:
        self._ended = threading.Event()
        self._take = partial(take, environment, run, places, self._ended)
        self._places = places
        self._taking: Future[tuple[Backup, str]] | None = None
        self._of = admin.database(environment)

    def begin(self) -> Act:
        """Make the act that begins it."""
        return act(f"meanwhile, a backup of {self._of}:", *lines(self._places), run=self._begin)

    def wait(self) -> Act:
        """Make the act that waits until it is whole. It raises as `take` does."""
        return act(f"wait until the backup of {self._of} is whole", run=self._wait)

    def end(self) -> Act:
        """Make the act that ends it where it is not whole yet."""
        return act(
            f"end the backup of {self._of} if it is half done; one that is whole stays, not proven", run=self._end
        )

    def _begin(self) -> None:
        pool = ThreadPoolExecutor(1)
        self._taking = pool.submit(self._take)
        pool.shutdown(wait=False)

    def _wait(self) -> None:
        assert self._taking is not None
        while not self._taking.done():
            progress.report("the backup of the present is not there yet")
            wait([self._taking], timeout=0.5)
        self._taking.result()

    def _end(self) -> None:
        self._ended.set()
        if self._taking is not None:
            wait([self._taking])


def _write(
    environment: Deployment,
    seen: str,
    part: Path,
    upload: Upload | None,
    counted: Mapping[str, int],
    ended: threading.Event,
) -> tuple[int, str, int]:
    """Have pg_dump's output compressed in this file; give its size, its SHA-256, and the size before."""
    env = pg_tool.variables(environment, admin.url(environment))
    command = [pg_tool.program(environment, DUMP[0]), *DUMP[1:], f"--snapshot={seen}"]
    squeeze = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS, write_checksum=True).compressobj()
    digest, size, raw = hashlib.sha256(), 0, 0
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with tempfile.TemporaryFile() as said, open(file, "wb") as to:

        def write(content: bytes) -> None:
            nonlocal size
            to.write(content)
            to.flush()  # what sends the parts reads them from the file
            digest.update(content)
            size += len(content)

        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        try:
            for piece in _pieces(process):
                if ended.is_set():
                    raise RunbookError("the backup was not needed any more")
                raw += len(piece)
                write(squeeze.compress(piece))
                if upload:
                    upload.grown(size)
                sent = f", {progress.size(upload.sent)} of that in S3" if upload and not upload.problem else ""
                progress.report(
                    f"dumped {progress.size(raw)}, {progress.size(size)} compressed{sent}; "
                    f"counted {sum(list(counted.values())):,} rows of {len(counted)} tables"
                )
            pg_tool.judge(DUMP[0], process.wait(), said)
            write(squeeze.flush())
        except OSError as error:
            raise RunbookError(
                f"{located(part)}: {error.strerror} after {progress.size(size)}. Make room there, then run again."
            ) from None
        finally:
            process.kill()
            process.wait()
    return size, digest.hexdigest(), raw


def _pieces(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    assert process.stdout is not None
    with process.stdout as out:
        fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, PIECE)
        while piece := os.read(out.fileno(), PIECE):
            yield piece
