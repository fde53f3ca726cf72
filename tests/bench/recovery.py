"""A recovery of a generated database under requests: the procedure, and `aws s3 cp` with `psql < latest.sql`.

The old way is given an emptied schema: over live data, as the old runbook had it, every table fails, and psql ends with
0. It keeps nothing of the present, checks no byte of what it fetches, and does not look at the result.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib import propertypulse
from opslib.api import health
from opslib.aws import aws
from opslib.database import admin, pg_tool
from opslib.runbook.progress import size
from tests import sandbox
from tests.bench.backup import MEGABYTES, TABLES, fill
from tests.drills import recovery
from tests.sandbox import postgres
from tests.sandbox.credentials import BACKUP_BUCKET, Credentials
from tests.sandbox.layout import API, url

RATE = 50
AWAY_BAR = 2
KEY = "daily/latest.sql"


def main(megabytes: int = MEGABYTES) -> None:
    """Print a row for each way: seconds until the API serves it, until all is done, failures, the longest silence."""
    sandbox.start()
    recovery.clean()
    try:
        whole = fill(megabytes)
        recovery.proven()
        dump()
        print(
            f"A database of {size(whole)}, {RATE} requests a second; the bars: the old way's time, {AWAY_BAR} s away."
        )
        print(f"{'how':<46} {'served':>8} {'ended':>8} {'asked':>6} {'failed':>6} {'away':>7}")
        ours = row("runbook run recover_database, until it ends", procedure)
        theirs = row("aws s3 cp, then psql < latest.sql", old_way)
        print(f"time until it is served {ours / theirs:.2f} of the old way")
    finally:
        recovery.clean()
        with postgres.connect_admin(Credentials.load()) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def row(name: str, recover: Callable[[], list[dict[str, Any]]]) -> float:
    """Do the damage, recover under requests, print what it took; give the seconds until the whole is served."""
    with postgres.connect(Credentials.load()) as connection:
        connection.execute("DELETE FROM bench_payments WHERE id % 10 = 0")
    lost = rows()
    with sandbox.Traffic(rate=RATE) as traffic, health.Watch(f"{url(API)}/health", every=0.02) as watch:
        begun = datetime.now(UTC)
        steps = recover()
        seconds = (datetime.now(UTC) - begun).total_seconds()
    assert rows() > lost, "nothing came back"
    served = next((datetime.fromisoformat(one["swapped"]) for one in steps if "swapped" in one), None)
    until = (served - begun).total_seconds() if served else seconds
    result = traffic.result
    print(
        f"{name:<46} {until:>8.1f} {seconds:>8.1f} {result.asked:>6} {result.failed:>6} {watch.away:>5.2f} s",
        flush=True,
    )
    for step in steps:
        print(f"  {step['title']:<44} {step['note'].removeprefix('took ').removesuffix(' s'):>8}")
    return until


def rows() -> int:
    """Count what there is."""
    with postgres.connect(Credentials.load()) as connection:
        found = connection.execute("SELECT count(*) FROM bench_payments").fetchone()
        assert found
        return int(found[0])


def procedure() -> list[dict[str, Any]]:
    """Recover as this project does; give the steps that changed something."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", recovery.NAME, "--apply", "--json", *recovery.TYPED]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, steps[-2:]
    swap = next(one for one in steps if one["title"].startswith("Swap") and one.get("state") == "applied")
    # The renames are the first that this change does, in less than half a second; the rest of it is PM2's.
    swap["swapped"] = swap["at"]
    return [one for one in steps if one.get("state") == "applied"]


def dump() -> None:
    """Have last night's dump in the bucket, as the old runbook made it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latest.sql"
        with file.open("wb") as to:
            psql("pg_dump", "--no-owner", "--no-privileges", stdout=to)
        s3().upload_file(str(file), BACKUP_BUCKET, KEY)


def old_way() -> list[dict[str, Any]]:
    """Recover as the old runbook did; s3transfer with its defaults is what `aws s3 cp` runs on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latest.sql"
        s3().download_file(BACKUP_BUCKET, KEY, str(file))
        with postgres.connect(Credentials.load()) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        with file.open("rb") as content:
            psql("psql", "-q", stdin=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return []


def psql(name: str, *arguments: str, **streams: Any) -> None:
    """Run one of PostgreSQL's tools, logged in as the API."""
    env = propertypulse.load("sandbox")
    variables = pg_tool.variables(env, admin.api_url(env))
    subprocess.run([pg_tool.program(env, name), *arguments], env=variables, check=True, **streams)


def s3() -> Any:
    """Give a client of the backups' bucket."""
    env = propertypulse.load("sandbox")
    return aws.client(env, "s3", aws.administrator(env))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
