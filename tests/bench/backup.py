"""A backup of a generated database up to stored in S3: the procedure, and `pg_dump > file.sql` with `aws s3 cp`."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psutil

from opslib import propertypulse
from opslib.aws import aws
from opslib.backups import backup, store
from opslib.database import admin, pg_tool
from opslib.runbook.progress import size
from tests import sandbox
from tests.sandbox import postgres
from tests.sandbox.credentials import BUCKET, Credentials

MEGABYTES = 1000
ROUNDS = 2
BYTES_BAR, TIME_BAR, MEMORY_BAR = 0.25, 0.8, 200_000_000
TABLES = ("bench_payments", "bench_events", "bench_messages")
WORDS = (
    "the rent tenant heating window broken please call back morning payment late receipt lease kitchen water leak "
    "Monday Friday thank you again deposit roof key door neighbour noise parking invoice attached regards"
)
# As in such tables: ids of Stripe are random, rows come in the order of time, and times are kept to the millisecond.
_ID = "substr(translate(encode(decode(md5(random()::text), 'hex'), 'base64'), '+/=', 'xyz'), 1, 24)"
_TIME = "timestamptz '2024-01-01' + n * interval '13.7 s' + trunc(random() * 13700) * interval '1 ms'"
_PAYMENTS = f"""
    INSERT INTO bench_payments SELECT n, 1 + (random() * 6000)::int, 1 + (random() * 400)::int,
        90000 + 2500 * (random() * 90)::int,
        (ARRAY['PAID','PAID','PAID','PAID','PENDING','FAILED','REFUNDED'])[1 + (random() * 6)::int],
        ({_TIME})::date, {_TIME} + trunc(random() * 2000) * interval '1 min', 'pi_' || {_ID}, {_TIME}, {_TIME}
    FROM generate_series(1, %s::int) n"""
_EVENTS = f"""
    INSERT INTO bench_events SELECT 'evt_' || {_ID}, 'payment_intent.succeeded', {_TIME},
        jsonb_build_object('id', 'pi_' || {_ID}, 'object', 'payment_intent', 'amount', (random() * 300000)::int,
            'currency', 'usd', 'capture_method', 'automatic', 'confirmation_method', 'automatic', 'livemode', true,
            'created', extract(epoch FROM {_TIME})::int, 'customer', 'cus_' || left({_ID}, 14),
            'latest_charge', 'ch_' || {_ID}, 'metadata', jsonb_build_object('tenant', (random() * 6000)::int),
            'payment_method_types', jsonb_build_array('card', 'us_bank_account'), 'status', 'succeeded',
            'receipt_email', 'tenant.' || (random() * 6000)::int || '@example.com', 'application', null,
            'statement_descriptor', 'PROPERTYPULSE RENT', 'canceled_at', null, 'cancellation_reason', null,
            'amount_capturable', 0, 'client_secret', null, 'description', 'Rent', 'last_payment_error', null)
    FROM generate_series(1, %s::int) n"""
_MESSAGES = f"""
    INSERT INTO bench_messages SELECT n, 1 + (random() * 6000)::int, {_TIME},
        (SELECT string_agg((string_to_array(%s, ' '))[1 + (random() * 33)::int], ' ')
        FROM generate_series(1, 30 + n %% 40))
    FROM generate_series(1, %s::int) n"""


class Measured(NamedTuple):
    """One backup: bytes stored, seconds until they were, peak memory of the client's processes."""

    bytes: int
    seconds: float
    memory: int


def main(megabytes: int = MEGABYTES) -> None:
    """Print both ways, in turns, and their ratios; then ours on a tenth of the rows, for the memory."""
    sandbox.start()
    try:
        fill(megabytes // 10)
        small = procedure()
        whole = fill(megabytes)
        print(f"A database of {size(whole)}; the bars are {BYTES_BAR} of the bytes, {TIME_BAR} of the time, 200 MB.")
        print(f"{'how':<46} {'stored':>9} {'seconds':>8} {'memory':>8}")
        theirs, ours = [], []
        for _ in range(ROUNDS):
            theirs.append(show("pg_dump > file.sql, then upload as `aws s3 cp`", old_way()))
            ours.append(show("runbook run backup_database, until stored", procedure()))
        best, old = min(ours, key=lambda one: one.seconds), min(theirs, key=lambda one: one.seconds)
        print(f"bytes {best.bytes / old.bytes:.2f}, time {best.seconds / old.seconds:.2f} of the old way, best of each")
        print(
            f"memory: {size(small.memory)} on a tenth of the database, {size(max(one.memory for one in ours))} on all"
        )
    finally:
        with postgres.connect(Credentials.load()) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")


def show(name: str, one: Measured) -> Measured:
    """Print a row."""
    print(f"{name:<46} {size(one.bytes):>9} {one.seconds:>8.1f} {size(one.memory):>8}", flush=True)
    return one


def fill(megabytes: int) -> int:
    """Generate so much of payments, events and messages, with the indexes that such tables have; give its size."""
    with postgres.connect(Credentials.load()) as connection:
        connection.execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")
        connection.execute(
            "CREATE TABLE bench_payments (id bigint, tenant_id int, property_id int, amount int, status text,"
            " due_date date, paid_date timestamptz, provider_intent_id text, created_at timestamptz,"
            " updated_at timestamptz);"
            "CREATE TABLE bench_events (id text, type text, received_at timestamptz, payload jsonb);"
            "CREATE TABLE bench_messages (id bigint, tenant_id int, created_at timestamptz, body text)"
        )
        # A megabyte, indexes included, is about so many rows of the three.
        connection.execute(_PAYMENTS, [megabytes * 1600])
        connection.execute(_EVENTS, [megabytes * 460])
        connection.execute(_MESSAGES, [WORDS, megabytes * 540])
        for table, column in zip(TABLES, ("provider_intent_id", "received_at", "tenant_id"), strict=True):
            connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
            connection.execute(f"CREATE INDEX ON {table} ({column})")
        connection.execute("VACUUM ANALYZE")
        found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert found
        return int(found[0])


def procedure() -> Measured:
    """Run the whole procedure; measure the step that takes the backup and stores it."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", "backup_database", "--apply", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, Peak(process.pid) as peak:
        out, _ = process.communicate()
    steps = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, steps[-1]
    took = next(one for one in steps if one["title"] == "Take the backup" and one.get("state") == "applied")
    env = propertypulse.load("sandbox")
    places, _ = store.stores(env)
    one = backup.listed(env, places)[0]
    backup.remove(one, places)
    seconds = datetime.fromisoformat(took["ended"]) - datetime.fromisoformat(took["at"])
    return Measured(one.size, seconds.total_seconds(), peak.bytes)


def old_way() -> Measured:
    """Dump into a file as SQL, then upload it: s3transfer with its defaults is what `aws s3 cp` runs on."""
    env = propertypulse.load("sandbox")
    variables = pg_tool.variables(env, admin.url(env))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "backup.sql"
        with Peak(os.getpid()) as peak:
            begun = time.monotonic()
            with file.open("wb") as to:
                subprocess.run([pg_tool.program(env, "pg_dump")], env=variables, stdout=to, check=True)
            code = f"from tests.bench import backup; backup.upload({str(file)!r})"
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds = time.monotonic() - begun
        return Measured(file.stat().st_size, seconds, peak.bytes)


def upload(file: str) -> None:
    """Upload a file as the old runbook did, and delete the object again."""
    env = propertypulse.load("sandbox")
    client = aws.client(env, "s3", aws.administrator(env))
    client.upload_file(file, BUCKET, "bench.sql")


class Peak:
    """The most memory that one process below this one, a pg_dump or a Python, had while the block ran, in bytes."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._root = psutil.Process(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.05):
            try:
                for process in self._root.children(recursive=True):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
                    self.bytes = max(self.bytes, int(peak.split()[1]) * 1024)
            except (psutil.Error, OSError):
                continue


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
