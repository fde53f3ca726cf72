"""What the drills of `backup_database` need: a database that takes a while, the run of it, and what may not be left."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from opslib import propertypulse
from opslib.backups import backup, retention, store
from opslib.backups.backup import Backup
from opslib.database import admin
from opslib.propertypulse import PropertyPulse
from opslib.runbook import procedure
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

ROOT = procedure.root()
TABLE = "ballast"


def sandbox_environment() -> PropertyPulse:
    """The stand-in's environment."""
    return propertypulse.load("sandbox")


def fill(megabytes: int) -> None:
    """Have a table of bytes that do not compress, so that an archive has this size."""
    with postgres.connect(Credentials.load()) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        connection.execute(f"CREATE TABLE {TABLE} (id serial PRIMARY KEY, created_at timestamptz, content bytea)")
        connection.execute(f"ALTER TABLE {TABLE} ALTER content SET STORAGE EXTERNAL")
        # 32 bytes a digest, 128 of them a row: PostgreSQL has no other source of many random bytes at once.
        connection.execute(
            f"INSERT INTO {TABLE} (created_at, content) SELECT now(), (SELECT string_agg(sha256((n || '-' || m ||"
            " random())::bytea), '') FROM generate_series(1, 128) m) FROM generate_series(1, %s) n",
            [megabytes << 8],
        )


def empty() -> None:
    """Remove that table again."""
    with postgres.connect(Credentials.load()) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")


def existing() -> list[Backup]:
    """Give the backups that there are."""
    return backup.listed(sandbox_environment())


def forget() -> None:
    """Remove every backup, and what else is left."""
    env = sandbox_environment()
    places, _ = store.stores(env)
    for one in backup.listed(env, places):
        backup.remove(one, backup.holding(one, places))
    for act in retention.left(env, places):
        act.run()


def older(one: Backup, age: timedelta, **said: Any) -> Backup:
    """Have a backup once more in each store, as if it had been taken, and proven, so long before."""
    taken = one.taken - age
    made = replace(one, name=f"{taken:%Y%m%dT%H%M%SZ}{one.name[16:]}", taken=taken, **said)
    for place in store.stores(sandbox_environment())[0]:
        place.write(made.name + store.ARCHIVE, place.read(one.name + store.ARCHIVE))
        backup.write(made, place)
        backup.prove(made, place, taken + timedelta(minutes=1))
    return made


def strays() -> list[str]:
    """Say what no run may leave that has ended by itself: halves, uploads, databases, sessions, processes."""
    env = sandbox_environment()
    left = [act.shown for act in retention.left(env, store.stores(env)[0])]
    with admin.connect(env) as superuser:
        sessions = superuser.execute(
            "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND (application_name IN ('pg_dump', 'pg_restore') OR (application_name = 'runbook'"
            " AND pid <> pg_backend_pid()))"
        ).fetchall()
        rows = superuser.execute("SELECT datname FROM pg_database WHERE datname LIKE '%\\_scratch\\_%'").fetchall()
        assert not rows or left
    left += [f"a session of {row['application_name']}" for row in sessions]
    folder = store.settings(env).folder
    known = {one.name for one in existing()}
    left += [str(file) for file in folder.glob("*") if not any(file.name.startswith(name) for name in known)]
    return left


def command(*arguments: str, name: str = "backup_database") -> list[str]:
    """Give the command that applies a procedure."""
    return [sys.executable, "-m", "opslib.runbook.cli", "run", name, "--apply", *arguments]


def run(
    *arguments: str,
    name: str = "backup_database",
    root: Path = ROOT,
    largest: int = 0,
    variables: Mapping[str, str] = MappingProxyType({}),
    apply: bool = True,
) -> tuple[int, dict[str, Any], str]:
    """Run it; give its exit code, its record, and what the terminal showed.

    With `largest` no process of it can write a file beyond so many bytes, as if the disk were full.
    """

    def limit() -> None:
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    done = subprocess.run(
        [word for word in command(*arguments, name=name) if apply or word != "--apply"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "RUNBOOK_ROOT": str(root), **variables},
        preexec_fn=limit,
    )
    assert "Traceback" not in done.stderr, done.stderr
    record = Path(done.stdout.splitlines()[-1])
    return done.returncode, json.loads(record.read_text()), done.stdout + done.stderr


@contextlib.contextmanager
def begun(
    *arguments: str, until: str, name: str = "backup_database", root: Path = ROOT
) -> Iterator["subprocess.Popen[str]"]:
    """Begin a run, and go on when it has shown this line; whatever it says after that is read at the end."""
    env = {**os.environ, "RUNBOOK_ROOT": str(root)}
    with subprocess.Popen(command(*arguments, name=name), stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        assert any(until in line for line in iter(process.stdout.readline, "")), until
        yield process


def kill(whom: str, until: str, later: float, *arguments: str, name: str = "backup_database") -> None:
    """Begin a run, and kill its runner, its kernel or both so many seconds after it has shown this line."""
    with begun(*arguments, until=until, name=name) as process:
        kernels = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "ipykernel_launcher" in " ".join(child.cmdline())
        ]
        time.sleep(later)
        if whom in ("runner", "both"):
            process.send_signal(signal.SIGKILL)
        if whom in ("kernel", "both"):
            for kernel in kernels:
                with contextlib.suppress(psutil.Error):
                    kernel.kill()
        assert process.stdout
        process.stdout.read()
        psutil.wait_procs(kernels, timeout=20)
