"""What a recovery costs: the procedure, and `psql < latest.sql` as the old runbook had it, from the same bucket.

The old way is given an emptied schema, as over live data it fails at every row and says nothing of it (exit code 0). It
neither keeps the present, nor checks a byte of what it fetches, nor looks at the result.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import boto3

from opslib import cluster, environment, health, pg_tool
from tests import sandbox
from tests.drills import recovery
from tests.sandbox import postgres
from tests.sandbox.credentials import BACKUP_BUCKET, Credentials
from tests.sandbox.layout import AWS, url

MEGABYTES = int(os.environ.get("BENCH_MEGABYTES", "1000"))
RATE = 50
ROW = 400
"""Bytes of a row with its share of three indexes, about."""
FILL = """
    CREATE TABLE ledger (id bigserial PRIMARY KEY, payment_id integer NOT NULL REFERENCES payments, kind text NOT NULL,
        amount integer NOT NULL, note text NOT NULL, reference text NOT NULL, created_at timestamptz NOT NULL);
    INSERT INTO ledger (payment_id, kind, amount, note, reference, created_at)
    SELECT 1 + n % 300, (ARRAY['charge', 'refund', 'fee', 'payout'])[1 + n % 4], n % 320000,
        'Rent of ' || to_char(now() - n * interval '1 minute', 'Month YYYY') || ', unit ' || n % 977 || ', tenant '
        || md5((n % 5000)::text), md5(n::text) || md5((n * 7)::text), now() - n * interval '7 seconds'
    FROM generate_series(1, {rows}) n;
    CREATE INDEX ledger_payment_id_idx ON ledger (payment_id, created_at);
    CREATE UNIQUE INDEX ledger_reference_key ON ledger (reference);
"""


def main() -> None:
    """Print a row for each way: wall time, failed requests, and how long the API was away."""
    sandbox.start()
    recovery.clean()
    with postgres.connect(Credentials.load()) as connection:
        connection.execute(FILL.format(rows=MEGABYTES * 1_000_000 // ROW))
        connection.execute("ANALYZE")
    with cluster.connect(environment.load("sandbox")) as admin:
        size = cluster.size(admin)
    recovery.proven()
    store()
    print(f"A database of {size / 1e6:.0f} MB, at {RATE} requests a second.")
    print("The bars: wall time no longer than the old way; away for at most 2 s.")
    print(f"{'how':<42} {'wall':>8} {'asked':>6} {'failed':>7} {'away':>8}")
    row("runbook run recover_database --apply", procedure)
    row("aws s3 cp, psql < latest.sql", old)
    recovery.clean()
    with postgres.connect(Credentials.load()) as connection:
        connection.execute("DROP TABLE ledger")
        connection.execute("VACUUM")


def row(name: str, recover: Callable[[], None]) -> None:
    """Do the damage, recover under traffic, and print what it took."""
    with postgres.connect(Credentials.load()) as connection:
        connection.execute("DELETE FROM ledger WHERE id % 10 = 0")
    lost = rows()
    with sandbox.Traffic(rate=RATE) as traffic, health.Watch(f"{url(5000)}/health", every=0.05) as watch:
        begun = time.monotonic()
        recover()
        wall = time.monotonic() - begun
    assert rows() > lost, "nothing was recovered"
    print(
        f"{name:<42} {wall:>6.1f} s {traffic.result.asked:>6} {traffic.result.failed:>7} {watch.away:>6.2f} s",
        flush=True,
    )


def rows() -> int:
    """Count what there is."""
    with postgres.connect(Credentials.load()) as connection:
        found = connection.execute("SELECT count(*) FROM ledger").fetchone()
        assert found
        return int(found[0])


def procedure() -> None:
    """Recover as this project does."""
    command = [sys.executable, "-m", "opslib.cli", "run", "recover_database", "--apply", *recovery.TYPED]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def store() -> None:
    """Have the dump of last night in the bucket, as the old runbook made it."""
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "latest.sql").open("wb") as file:
            subprocess.run([tool("pg_dump"), "--no-owner", "--no-privileges"], env=login(), stdout=file, check=True)
        s3().upload_file(f"{folder}/latest.sql", BACKUP_BUCKET, "daily/latest.sql")


def old() -> None:
    """Recover as the old runbook did: `aws s3 cp`, which is boto3's transfer, then psql."""
    with tempfile.TemporaryDirectory() as folder:
        s3().download_file(BACKUP_BUCKET, "daily/latest.sql", f"{folder}/latest.sql")
        empty = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        subprocess.run([tool("psql"), "-qc", empty], env=login(), check=True, capture_output=True)
        with (Path(folder) / "latest.sql").open("rb") as file:
            subprocess.run([tool("psql"), "-q"], env=login(), stdin=file, check=True, capture_output=True)


def s3() -> "boto3.client":
    """Give a client of the backups' bucket."""
    credentials = Credentials.load()
    key = {
        "aws_access_key_id": credentials.aws_admin_access_key_id,
        "aws_secret_access_key": credentials.aws_admin_secret_access_key,
    }
    return boto3.client("s3", endpoint_url=url(AWS), region_name="us-east-1", **key)


def login() -> dict[str, str]:
    """Give the environment variables of the API's login."""
    env = environment.load("sandbox")
    return pg_tool.variables(env, cluster.url(env))


def tool(name: str) -> str:
    """Give the path of one of PostgreSQL's tools."""
    return pg_tool.program(environment.load("sandbox"), name)


if __name__ == "__main__":
    main()
