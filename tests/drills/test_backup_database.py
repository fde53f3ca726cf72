"""Drills of `backup_database`: under writes, with disk, S3 and PostgreSQL failing, damaged, killed and run again."""

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from psycopg import sql

from opslib.backups import backup, restore, retention, store
from opslib.database import admin
from tests import leaks, sandbox
from tests.aws_front import Front, How
from tests.drills import backups
from tests.drills.backups import begun, existing, older, run, sandbox_environment, strays
from tests.place import elsewhere
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

SPECIAL = "%@:/#'\"$ \\ äß漢 ?&=+" + "x" * 160
MEGABYTES = 40  # of the archive: five parts


@pytest.fixture(autouse=True)
def no_backups() -> Iterator[None]:
    """Begin and end without a backup, and leave the database as it was."""
    backups.forget()
    yield
    backups.empty()
    backups.forget()


@pytest.fixture
def ballast() -> None:
    """Have a database of several parts."""
    backups.fill(MEGABYTES)


def outcome(record: dict[str, Any]) -> object:
    return record["metadata"]["opslib"]["outcome"]


class Writes:
    """500 transactions a second while the block runs, each of which writes as many rows to one table as to another."""

    def __init__(self, rate: int = 500) -> None:
        self.done = 0
        self._rate = rate
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> "Writes":
        with postgres.connect(Credentials.load()) as connection:
            for name in ("debits", "credits"):
                connection.execute(f"CREATE TABLE {name} (id bigint, created_at timestamptz DEFAULT clock_timestamp())")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        with postgres.connect(Credentials.load()) as connection:
            connection.execute("DROP TABLE debits, credits")

    def _write(self) -> None:
        begun = time.monotonic()
        with postgres.connect(Credentials.load()) as connection:
            while not self._stopped.is_set():
                connection.execute(
                    "WITH one AS (INSERT INTO debits (id) VALUES (%(id)s)) INSERT INTO credits (id) VALUES (%(id)s)",
                    {"id": self.done},
                )
                self.done += 1
                time.sleep(max(0.0, begun + self.done / self._rate - time.monotonic()))


@pytest.mark.usefixtures("ballast")
def test_under_500_writes_a_second_it_is_consistent_proven_and_no_request_fails() -> None:
    arguments: set[str] = set()
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.02):
            for process in psutil.process_iter(["cmdline"]):
                arguments.add(" ".join(process.info["cmdline"] or []))

    watching = threading.Thread(target=watch)
    watching.start()
    with sandbox.Traffic(rate=50) as traffic, Writes() as writes:
        code, made, text = run()
        rate = writes.done / traffic_seconds(made)
    stopped.set()
    watching.join()
    assert (code, outcome(made)) == (0, "applied"), text
    assert traffic.result.failed == 0, traffic.result
    (one,) = existing()
    assert one.proven
    rows = {table.name: table for table in one.manifest.tables}
    assert 0 < rows["public.debits"].rows == rows["public.credits"].rows < writes.done
    newest = rows["public.debits"].newest
    assert newest and newest <= one.taken
    assert strays() == []
    # pg_dump was seen at work, and the password in no command line, record or file.
    assert any("--snapshot=" in line for line in arguments)
    secrets = {"administrator": Credentials.load().postgres_password, "api": Credentials.load().database_password}
    assert not [line for line in arguments for secret in secrets.values() if secret in line]
    folder = store.settings(sandbox_environment()).folder
    assert leaks.found(secrets, [*folder.glob("*.json"), *folder.glob("*.proven")]) == []
    assert not [name for name, secret in secrets.items() if secret in text + json.dumps(made)]
    print(f"\n{rate:.0f} writes a second, {rows['public.debits'].rows} in the snapshot of {writes.done}")


def traffic_seconds(made: dict[str, Any]) -> float:
    """Seconds that the run took."""
    about = made["metadata"]["opslib"]
    return (datetime.fromisoformat(about["finished"]) - datetime.fromisoformat(about["started"])).total_seconds()


TAKE, RESTORE, CLOSE = "Take the backup", "Restore it into a scratch database", "Mark it as proven"


@pytest.mark.usefixtures("ballast")
@pytest.mark.parametrize(
    ("whom", "until", "later"),
    [
        ("kernel", f"· {TAKE} — under way", 0.0),
        ("both", f"· {TAKE} — under way", 0.5),
        ("runner", f"· {TAKE} — under way", 1.0),
        ("both", f"· {TAKE} — under way", 1.5),
        ("kernel", f"✓ {TAKE}", 0.0),
        ("both", f"· {RESTORE} — under way", 0.3),
        ("runner", f"· {RESTORE} — under way", 0.8),
        ("both", f"· {RESTORE} — under way", 1.5),
        ("kernel", f"✓ {RESTORE}", 0.0),
        ("both", f"· {CLOSE} — under way", 0.0),
        ("runner", f"· {CLOSE} — under way", 0.2),
        ("both", f"✓ {CLOSE}", 0.0),
    ],
)
def test_killed_and_run_again_it_leaves_one_proven_backup_and_nothing_else(whom: str, until: str, later: float) -> None:
    backups.kill(whom, until, later)
    half = [one for one in existing() if not one.proven]
    for one in half:  # whatever is listed is whole: a half does not look like a backup
        for place in backup.holding(one, store.stores(sandbox_environment())[0]):
            backup.check(one, place)
    before = {one.name for one in existing() if one.proven}
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    assert strays() == []
    found = existing()
    assert {one.name for one in found} >= before
    assert len(found) == 1 + len(before)
    assert all(one.proven and len(one.where) == 2 for one in found)


@pytest.mark.usefixtures("ballast")
@pytest.mark.parametrize(
    ("largest", "ends", "kept"), [(MEGABYTES << 19, (2, "undone"), 0), (MEGABYTES * 3 << 19, (3, "needs-person"), 1)]
)
def test_full_disk_leaves_no_half(largest: int, ends: tuple[int, str], kept: int) -> None:
    # The first limit is reached by the archive, the second by what it is uncompressed, when it is proven.
    code, made, text = run(largest=largest)
    assert (code, outcome(made)) == ends, text
    assert "File too large" in text
    assert len(existing()) == kept
    assert strays() == []
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    assert [bool(one.proven) for one in existing()] == [True]


@pytest.mark.usefixtures("ballast")
def test_s3_that_fails_midway_leaves_a_proven_backup_here_and_says_so(tmp_path: Path) -> None:
    with Front() as front:
        front.fail("PUT propertypulse-backups partNumber", "500", 99, after=2)
        code, made, text = run(root=elsewhere(tmp_path / "a", backups={"endpoint": front.url}))
        assert front.calls["PUT propertypulse-backups partNumber"] > 3
    assert (code, outcome(made)) == (3, "needs-person"), text
    assert "on this machine only" in text
    assert "S3 UploadPart" in json.dumps(made)
    (one,) = existing()
    assert one.proven
    assert [where for where in one.where if where.startswith("s3:")] == []
    assert strays() == []
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    assert [len(one.where) for one in existing()] == [2, 1]


@pytest.mark.usefixtures("ballast")
@pytest.mark.parametrize(
    ("call", "how", "times"),
    [
        ("PUT propertypulse-backups partNumber", "drop", 2),
        ("PUT propertypulse-backups partNumber", "lost", 2),
        ("POST propertypulse-backups uploadId", "late 500", 1),
        ("POST propertypulse-backups uploadId", "lost", 1),
        ("POST propertypulse-backups uploads", "500", 2),
        ("PUT propertypulse-backups", "drop", 1),
        ("GET propertypulse-backups range", "drop", 2),
    ],
)
def test_s3_that_fails_in_passing_costs_nothing(tmp_path: Path, call: str, how: How, times: int) -> None:
    with Front() as front:
        front.fail(call, how, times)
        code, made, text = run(root=elsewhere(tmp_path / "a", backups={"endpoint": front.url}))
        assert front.calls[call] > times
    assert (code, outcome(made)) == (0, "applied"), text
    assert [len(one.where) for one in existing()] == [2]
    assert strays() == []


@pytest.mark.usefixtures("ballast")
def test_upload_that_cannot_be_aborted_is_aborted_by_the_next_run(tmp_path: Path) -> None:
    with Front() as front:
        front.fail("PUT propertypulse-backups partNumber", "denied", 99, after=1)
        front.fail("DELETE propertypulse-backups uploadId", "500", 99)
        code, made, text = run(root=elsewhere(tmp_path / "a", backups={"endpoint": front.url}))
    assert (code, outcome(made)) == (3, "needs-person"), text
    (left,) = strays()
    assert "abort_multipart_upload" in left
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    assert left in text
    assert strays() == []


def test_without_s3_it_changes_nothing_unless_that_is_accepted(tmp_path: Path) -> None:
    root = elsewhere(tmp_path / "a", backups={"endpoint": "http://127.0.0.1:9"})
    code, made, text = run(root=root)
    assert (code, outcome(made)) == (1, "failed"), text
    assert existing() == []
    code, made, text = run("-p", "local_only", "True", root=root)
    assert (code, outcome(made)) == (0, "applied"), text
    (one,) = existing()
    assert one.proven and len(one.where) == 1
    assert strays() == []


@pytest.mark.parametrize(("setting", "value"), [("bucket", "no-such-bucket"), ("credentials", "file:/nowhere.json")])
def test_wrong_bucket_and_wrong_credentials_change_nothing(tmp_path: Path, setting: str, value: str) -> None:
    code, made, text = run(root=elsewhere(tmp_path / "a", backups={setting: value}))
    assert code in (1, 4), text
    assert "404" in json.dumps(made) or "cannot be read" in text
    assert existing() == []
    assert strays() == []


@pytest.mark.usefixtures("ballast")
@pytest.mark.parametrize(("how", "said"), [("flip", "is damaged"), ("cut", "is damaged")])
def test_damage_on_the_way_is_found_when_it_is_proven(tmp_path: Path, how: How, said: str) -> None:
    with Front() as front:
        front.fail("GET propertypulse-backups range", how, 1, after=2)
        code, made, text = run(root=elsewhere(tmp_path / "a", backups={"endpoint": front.url}))
    assert (code, outcome(made)) == (3, "needs-person"), text
    assert said in text
    (one,) = existing()
    assert one.proven is None
    assert [where for where in one.where if where.startswith("s3:")] == []  # the copy that is good is kept
    assert strays() == []


@pytest.mark.usefixtures("ballast")
@pytest.mark.parametrize(
    ("until", "name", "ends", "kept"),
    [
        (f"· {TAKE} — under way", "pg_dump", (2, "undone"), 0),
        (f"· {TAKE} — under way", "runbook", (2, "undone"), 0),
        (f"· {RESTORE} — under way", "pg_restore", (3, "needs-person"), 1),
    ],
)
def test_lost_connection_leaves_no_half(until: str, name: str, ends: tuple[int, str], kept: int) -> None:
    with begun(until=until) as process:
        ended = end_session(name)
        assert process.stdout
        text = process.stdout.read()
    assert ended
    assert process.returncode == ends[0], text
    assert len(existing()) == kept
    assert strays() == []
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    assert [bool(one.proven) for one in existing()] == [True]


def end_session(name: str) -> int:
    """End a session of this name as soon as there is one that works; give how many were ended."""
    query = (
        "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity WHERE application_name = %s"
        " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        " AND (query ~* '^(COPY|SELECT count)' OR state LIKE 'idle in%%')"
    )
    with postgres.connect_admin(Credentials.load()) as connection:
        for _ in range(2000):
            found = connection.execute(query, [name]).fetchone()
            if found and found[0]:
                return int(found[0])
            time.sleep(0.005)
    return 0


def test_locked_table_is_named_and_nothing_is_left() -> None:
    with postgres.connect(Credentials.load()) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()
        code, made, text = run()
        took = time.monotonic() - begun
        holder.execute("ROLLBACK")
    assert (code, outcome(made)) == (2, "undone"), text
    assert "public.payments is locked by somebody" in text
    assert took < 60
    assert existing() == []
    assert strays() == []


def test_every_special_character_and_prisma_parameters(tmp_path: Path) -> None:
    credentials = Credentials.load()
    name = sql.Identifier('nächt\'licher "wächter"')
    with postgres.connect_admin(credentials) as superuser:
        verifier = superuser.pgconn.encrypt_password(SPECIAL.encode(), b"x", b"scram-sha-256").decode()
        superuser.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(name, sql.Literal(verifier)))
    try:
        user, password = quote('nächt\'licher "wächter"', safe=""), quote(SPECIAL, safe="")
        url = credentials.postgres_url.partition("@")[2]
        reference = tmp_path / "database"
        query = "schema=public&connection_limit=5&pool_timeout=10&pgbouncer=true&sslmode=prefer"
        reference.write_text(f"postgresql://{user}:{password}@{url}?{query}")
        reference.chmod(0o600)
        code, made, text = run(root=elsewhere(tmp_path / "a", database={"admin": f"file:{reference}"}))
    finally:
        with postgres.connect_admin(credentials) as superuser:
            superuser.execute(sql.SQL("DROP ROLE {}").format(name))
    assert (code, outcome(made)) == (0, "applied"), text
    assert leaks.found({"password": SPECIAL}, [tmp_path / "a"]) == []
    assert existing()[0].proven


def test_extension_in_a_schema_of_its_own_and_odd_names_are_restored() -> None:
    with postgres.connect_admin(Credentials.load()) as superuser:
        superuser.execute("CREATE SCHEMA tools; CREATE EXTENSION IF NOT EXISTS pageinspect SCHEMA tools")
        superuser.execute('CREATE SCHEMA "Odd ""schema"; CREATE TABLE "Odd ""schema"."Tab le; --" ("a\'t" timestamp)')
        superuser.execute('INSERT INTO "Odd ""schema"."Tab le; --" VALUES (\'-infinity\'), (\'infinity\'), (NULL)')
    try:
        code, made, text = run()
    finally:
        with postgres.connect_admin(Credentials.load()) as superuser:
            superuser.execute('DROP SCHEMA "Odd ""schema" CASCADE; DROP SCHEMA tools CASCADE')
    assert (code, outcome(made)) == (0, "applied"), text
    assert any("Tab le; --" in table.name and table.rows == 3 for table in existing()[0].manifest.tables)


def test_policy_deletes_by_name_what_no_rule_keeps_and_never_the_last_proven_one(tmp_path: Path) -> None:
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    (one,) = existing()
    for night in range(1, 50):
        older(one, timedelta(days=night))
        older(one, timedelta(days=night, minutes=5))
    rules = {"keep_last": 2, "keep_daily": 5, "keep_weekly": 3, "keep_monthly": 2, "keep_yearly": 1}
    root = elsewhere(tmp_path / "a", backups=rules)
    policy = store.settings(sandbox_environment()).model_copy(update=rules)
    for many in (True, False):
        before = existing()
        stays = retention.kept(before, policy)
        assert {one.name for one in before[:2]} <= stays
        assert (len(before) - len(stays) > 80) == many
        code, made, text = run(root=root)
        assert (code, outcome(made)) == (0, "applied"), text
        new, *left = existing()
        assert {one.name for one in left} == stays
        assert new.proven and all(one.proven and len(one.where) == 2 for one in left)
        for one in before:
            for where in one.where:
                said = f"delete {where.replace(f'{backups.ROOT}/', '')}, proven"
                assert (said in text.replace(f"{backups.ROOT}/", "")) == (one.name not in stays), said
    assert strays() == []


def test_a_backup_that_is_missing_in_the_morning_is_found_by_a_plan() -> None:
    code, made, text = run(apply=False)
    assert (code, outcome(made)) == (5, "planned"), text
    assert "Backups have stopped: none is proven" in text
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    (one,) = existing()
    old = older(one, timedelta(hours=25))
    places = store.stores(sandbox_environment())[0]
    backup.remove(one, places)
    code, made, text = run(apply=False)
    assert (code, outcome(made)) == (5, "planned"), text
    assert f"the newest that is proven was taken at {old.taken:%Y-%m-%dT%H:%M:%SZ}" in text
    assert "runbook run backup_database -e sandbox" in text
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    assert "Nothing was found wrong" in text


def test_a_backup_that_took_long_and_has_another_size_is_found_and_what_to_do_works(tmp_path: Path) -> None:
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    (one,) = existing()
    assert one.took is not None
    assert 0 < one.took < traffic_seconds(made)
    usual = [older(one, timedelta(days=night), took=None) for night in range(1, 4)]  # as older versions left them
    code, made, text = run()
    assert (code, outcome(made)) == (0, "applied"), text
    backups.fill(2)
    code, made, text = run(root=elsewhere(tmp_path / "a", backups={"longest_minutes": 0.001}))
    assert (code, outcome(made)) == (5, "applied"), text
    new = existing()[0]
    assert new.proven and new.took and new.took > 0.06
    assert "The newest backup took" in text
    assert "runbook run troubleshoot_database -e sandbox" in text
    assert "public.ballast: no such table then, 512 rows now" in text
    named = re.search(r"runbook run recover_database -e sandbox -p backup (\S+)", text)
    assert named
    assert named[1] in {other.name for other in (one, *usual, *existing()[1:])}
    code, made, text = run("-p", "backup", named[1], name="recover_database", apply=False)
    assert (code, outcome(made)) == (0, "planned"), text
    assert "public.ballast" in json.dumps(made)


def test_another_roles_tables_need_that_role() -> None:
    with postgres.connect_admin(Credentials.load()) as superuser:
        superuser.execute(
            "CREATE ROLE reporting; CREATE TABLE reports (id int); ALTER TABLE reports OWNER TO reporting"
        )
    try:
        code, made, text = run()
        assert (code, outcome(made)) == (0, "applied"), text
        (one,) = existing()
        assert "reporting" in one.manifest.roles
    finally:
        with postgres.connect_admin(Credentials.load()) as superuser:
            superuser.execute("DROP TABLE reports; DROP ROLE reporting")
    with admin.connect(sandbox_environment()) as superuser:
        assert restore.missing_roles(superuser, one.manifest) == ["reporting"]
