"""A dump: one snapshot of the database, read by pg_dump and by the manifest, compressed here, and on its way to S3.

What is written, in this order: the file in the folder, part by part the upload to S3 behind it, the object, the file
under its name, the manifest in S3, the manifest in the folder. A backup exists in a store once its manifest does.
"""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import psycopg
import zstandard

from opslib.backups import backup, manifest
from opslib.backups.backup import Backup
from opslib.backups.multipart import Upload
from opslib.backups.store import ARCHIVE, Bucket, Folder, Store
from opslib.database import admin, pg_tool, postgres
from opslib.database.postgres import Connection
from opslib.deployment.environment import Deployment
from opslib.runbook import progress
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


@dataclass(frozen=True)
class Snapshot:
    """What several sessions see as one: its id for pg_dump, when it was taken, and the transaction that keeps it."""

    id: str
    taken: datetime
    connection: Connection


@contextlib.contextmanager
def snapshot(environment: Deployment) -> Iterator[Snapshot]:
    """Keep a snapshot of the database open; it ends with the connection, however this process ends."""
    with admin.connect(environment) as connection:
        connection.execute(f"SET lock_timeout = '{LOCK_WAIT}s'".encode())
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot() AS id, clock_timestamp() AS taken").fetchone()
        assert row is not None
        manifest.hold(connection)
        yield Snapshot(row["id"], row["taken"], connection)


def api_role(environment: Deployment) -> str:
    """Give the role that the API works as, which need not be the one that it logs in as."""
    with postgres.connect(admin.api_url(environment), within=10) as connection:
        row = connection.execute("SELECT current_user::text AS name").fetchone()
        assert row is not None
        return str(row["name"])


def take(
    environment: Deployment, run: str, places: list[Store], ended: threading.Event | None = None
) -> tuple[Backup, str]:
    """Take a backup into these stores. Give it, and why it is not in S3, if so: that alone is no reason to stop.

    Raise RunbookError or CommandFailed, with nothing left behind, if there is no backup, or once `ended` is set.
    """
    folder = next(place for place in places if isinstance(place, Folder))
    bucket = next((place for place in places if isinstance(place, Bucket)), None)
    role = api_role(environment)
    with snapshot(environment) as seen, ThreadPoolExecutor(1) as beside:
        name = f"{seen.taken:%Y%m%dT%H%M%SZ}-{run}"
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


@contextlib.contextmanager
def meanwhile(environment: Deployment, run: str, places: list[Store]) -> Iterator[None]:
    """Take a backup while the block runs, and wait for it at the end. If the block fails, one that is half is removed.

    Raise as `take` does.
    """
    ended = threading.Event()
    with ThreadPoolExecutor(1) as beside:
        taking = beside.submit(take, environment, run, places, ended)
        try:
            yield
            while not taking.done():
                progress.report("the backup of the present is not there yet")
                wait([taking], timeout=0.5)
        finally:
            ended.set()
        taking.result()


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
