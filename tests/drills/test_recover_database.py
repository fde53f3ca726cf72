"""Drills of `recover_database`: under traffic, undone, with backups that are no good, killed and run again."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from opslib import propertypulse
from opslib.backups import backup, database_copy, swap
from opslib.backups.backup import Backup
from opslib.backups.store import ARCHIVE, Bucket, Folder, Store, stores
from opslib.database import database_url
from tests import leaks, sandbox
from tests.drills import backups, recovery
from tests.drills.backups import begun
from tests.drills.recovery import TYPED, kill, kinds, live, lose, payments, problems, proven, recover, take_back
from tests.place import elsewhere
from tests.sandbox import pm2 as standin, postgres
from tests.sandbox.credentials import Credentials, write_private
from tests.sandbox.layout import ADMIN, DOTENV, LOGS, PM2_HOME, RELEASES

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

SPECIAL = "%@:/#'\"$ \\ äß漢 ?&=+" + "x" * 160


@pytest.fixture(autouse=True)
def one_database() -> Iterator[None]:
    """Begin and end with the live database only, the payments that it had, and no backup."""
    recovery.clean()
    with recovery.same_payments():
        yield


def outcome(record: dict[str, Any]) -> str:
    return str(record["metadata"]["opslib"]["outcome"])


def admin() -> psycopg.Connection:
    return postgres.connect_admin(Credentials.load(), "postgres")


def everything_of(name: str) -> tuple[Any, ...]:
    """What PostgreSQL knows of a database besides its content."""
    with admin() as connection:
        row = connection.execute(
            "SELECT datdba::regrole::text, datconnlimit, shobj_description(oid, 'pg_database'),"
            " ARRAY(SELECT acl::text FROM unnest(datacl) AS acl ORDER BY 1),"
            " ARRAY(SELECT setrole::regrole || ' ' || setconfig::text FROM pg_db_role_setting"
            " WHERE setdatabase = d.oid ORDER BY 1) FROM pg_database d WHERE datname = %s",
            [name],
        ).fetchone()
        assert row
        return row


def test_what_was_lost_is_back_and_no_more_than_a_moment_is_missed() -> None:
    with admin() as connection:
        for statement in (
            "COMMENT ON DATABASE propertypulse IS 'belongs to {finance}'",
            "ALTER DATABASE propertypulse CONNECTION LIMIT 33",
            'ALTER DATABASE propertypulse SET search_path TO "$user", public, "odd, one"',
            "ALTER ROLE propertypulse IN DATABASE propertypulse SET work_mem TO '5MB'",
            "REVOKE CONNECT ON DATABASE propertypulse FROM PUBLIC",
            "GRANT CONNECT ON DATABASE propertypulse TO propertypulse WITH GRANT OPTION",
        ):
            connection.execute(statement)
    rights = "GRANT SELECT ON payments TO pg_monitor; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor"
    with postgres.connect(Credentials.load()) as connection:
        connection.execute(rights)
    before, had, oid, granted = everything_of("propertypulse"), payments(), live(), acl()
    proven()
    lose(120)
    with sandbox.Traffic(rate=50) as traffic:
        code, record, said = recover("--reason", "drill")
    assert (code, outcome(record)) == (0, "applied"), said
    assert (payments(), kinds()) == (had, ["old"])
    assert live() != oid
    assert (everything_of("propertypulse"), acl()) == (before, granted)
    assert problems() == []
    assert "'since then': '-120'" in str(record)
    print(traffic.result, traffic.result.first_failures, steps(record, "note")[-1])
    assert traffic.result.failed <= 10, traffic.result
    assert away(record) < 2

    code, record, said = take_back()
    assert (code, outcome(record)) == (0, "applied"), said
    assert (payments(), live(), kinds()) == (had - 120, oid, ["undone"])
    assert everything_of("propertypulse") == before
    assert problems() == []


def acl() -> list[Any]:
    """The rights in the live database, on tables and by default."""
    with postgres.connect(Credentials.load()) as connection:
        return connection.execute(
            "SELECT relname, relacl::text FROM pg_class WHERE relacl IS NOT NULL AND relname IN ('payments', 'users')"
            " UNION ALL SELECT 'default', defaclacl::text FROM pg_default_acl ORDER BY 1"
        ).fetchall()


def steps(record: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    outputs = [output for cell in record["cells"] for output in cell.get("outputs", [])]
    found = [output["metadata"].get("opslib", {}) for output in outputs]
    return [one for one in found if one.get("step") == kind]


def away(record: dict[str, Any]) -> float:
    """The seconds that the record says the API was away, at most."""
    asked = next(one for one in steps(record, "note") if one["title"].startswith("How long"))
    return float(asked["evidence"][0]["away"].removesuffix(" s"))


def test_only_what_is_named_is_dropped_and_only_what_is_old_enough() -> None:
    proven()
    assert recover()[0] == 0
    (name,) = [one.name for one in database_copy.listed(propertypulse.load("sandbox")) if one.kind == "old"]
    code, record, said = backups.run("-p", "database", name, name=recovery.DROP)
    assert (code, outcome(record)) == (1, "failed")
    assert "✗ Its days are over" in said
    with admin() as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO propertypulse_old_20260101_000000").format(sql.Identifier(name))
        )
        with postgres.connect(Credentials.load()):
            pass
    proven()
    assert recover()[0] == 0
    assert kinds() == ["old", "old"]
    code, record, said = backups.run(name=recovery.DROP)
    assert (code, outcome(record)) == (1, "failed")
    assert "✗ The name of the database was typed" in said
    code, record, said = backups.run("-p", "database", "propertypulse_old_20260101_000000", name=recovery.DROP)
    assert (code, outcome(record)) == (0, "applied"), said
    assert 'DROP DATABASE "propertypulse_old_20260101_000000"' in said
    assert kinds() == ["old"]
    assert problems() == []


def test_nothing_is_applied_without_the_name_typed() -> None:
    proven()
    code, record, said = backups.run("-p", "confirm", "propertypuls", name=recovery.NAME)
    assert (code, outcome(record)) == (1, "failed")
    assert "✗ The database's name was typed" in said
    assert kinds() == []


def test_somebody_else_is_named_and_only_disconnected_if_that_is_accepted() -> None:
    proven()
    url = Credentials.load().database_url.partition("?")[0]
    with psycopg.connect(url, application_name="nightly-report") as other:
        other.execute("SELECT count(*) FROM payments")  # and stays in the transaction
        code, record, said = recover()
        assert (code, outcome(record)) == (1, "failed")
        assert "✗ Nobody but the API uses the database" in said
        assert "nightly-report" in json.dumps(record)
        assert recover("-p", "accept_others", "True")[0] == 0
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    assert problems() == []


def test_worker_that_does_not_come_up_swaps_back_and_loses_nothing() -> None:
    had, oid = payments(), live()
    proven()
    lose(10)
    sandbox.break_("bad-release")
    try:
        code, record, said = recover()
    finally:
        sandbox.mend("bad-release")
    assert (code, outcome(record)) == (2, "undone"), said
    assert (payments(), live(), kinds()) == (had - 10, oid, ["undone"])
    assert problems() == []


def test_time_means_the_last_proven_before_it() -> None:
    had, first = payments(), proven()
    lose(10)
    proven()
    lose(10)
    code, _, said = recover("-p", "backup", first.taken.isoformat())
    assert code == 0, said
    assert payments() == had
    assert "no zone" in recover("-p", "backup", "2026-01-01T00:00")[2]
    assert "nothing is proven for" in recover("-p", "backup", "2020-01-01T00:00Z")[2]


# Backups that are no good


def everywhere(one: Backup, change: Any) -> None:
    """Change the archive of a backup in each store."""
    for place in stores(propertypulse.load("sandbox"))[0]:
        content = b"".join(place.pieces(one.name + ARCHIVE))
        overwrite(place, one.name + ARCHIVE, change(content))


def overwrite(place: Store, name: str, content: bytes) -> None:
    if isinstance(place, Folder):
        (place.path / name).write_bytes(content)
    elif isinstance(place, Bucket):
        place.client.put_object(Bucket=place.name, Key=place.key(name), Body=content)


def rewritten(one: Backup, **manifest: Any) -> None:
    """Have the manifest say something else."""
    for place in stores(propertypulse.load("sandbox"))[0]:
        backup.write(replace(one, manifest=replace(one.manifest, **manifest)), place)


DAMAGE: dict[str, tuple[Callable[[Backup], None], str]] = {
    "cut short": (lambda one: everywhere(one, lambda content: content[:-9]), "is cut short"),
    "a flipped byte": (
        lambda one: everywhere(one, lambda content: content[:900] + bytes([content[900] ^ 1]) + content[901:]),
        "damaged",
    ),
    "an empty file": (lambda one: everywhere(one, lambda content: b""), "is cut short"),
    "another database's": (
        lambda one: rewritten(one, database="other"),
        "✗ It is proven, and was made of this database",
    ),
    "a later schema": (
        lambda one: rewritten(one, migration="20990101000000_later"),
        "✗ The release knows its last migration",
    ),
    "a missing role": (
        lambda one: rewritten(one, roles=(*one.manifest.roles, "auditor")),
        "✗ It has the roles and extensions",
    ),
    "a newer server": (lambda one: rewritten(one, server="99.1"), "✗ The server is not older"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_backup_that_is_no_good_is_found_with_the_reason_before_anything_is_done(damage: str) -> None:
    oid, one = live(), proven()
    spoil, reason = DAMAGE[damage]
    spoil(one)
    code, record, said = recover()
    assert (code, outcome(record)) == (1, "failed"), said
    assert reason in json.dumps(record, ensure_ascii=False) + said
    assert (live(), kinds()) == (oid, [])
    assert len(backups.existing()) == 1  # not even a safety backup was made
    assert problems() == []


def test_one_copy_that_is_damaged_leaves_the_other() -> None:
    one = proven()
    folder = next(place for place in stores(propertypulse.load("sandbox"))[0] if isinstance(place, Folder))
    overwrite(folder, one.name + ARCHIVE, b"")
    code, record, said = recover()
    assert (code, outcome(record)) == (0, "applied"), said
    assert "is cut short" in json.dumps(record)


def test_manifest_that_does_not_agree_drops_the_copy() -> None:
    oid, one = live(), proven()
    first = one.manifest.tables[1]
    rewritten(one, tables=(one.manifest.tables[0], replace(first, rows=first.rows + 1), *one.manifest.tables[2:]))
    code, record, said = recover()
    assert (code, outcome(record)) == (2, "undone"), said
    assert "✗ The copy holds what the backup's manifest says" in said
    assert (live(), kinds()) == (oid, [])
    assert problems() == []


@pytest.mark.parametrize(("setting", "value"), [("bucket", "nobody-has-this"), ("endpoint", "http://127.0.0.1:9")])
def test_wrong_bucket_is_told_and_the_folder_used_if_it_has_one(tmp_path: Path, setting: str, value: str) -> None:
    proven()
    root = elsewhere(tmp_path / "a", backups={setting: value})
    code, record, said = recover(root=root)
    assert (code, outcome(record)) == (0, "applied"), said
    assert "S3, which cannot be used" in json.dumps(record)
    for file in backups.sandbox_environment().backups.folder.glob("*"):  # type: ignore[union-attr]  # it has them
        file.unlink()
    code, record, said = recover(root=root)
    assert (code, outcome(record)) == (4, "refused"), said
    assert "nothing is proven" in said and "S3 cannot be used" in said
    assert problems() == []


def test_older_schema_is_migrated_before_anybody_uses_it() -> None:
    last = sorted((RELEASES.glob("*/server/prisma/migrations/2*")), key=lambda path: path.name)[-1].name
    with postgres.connect(Credentials.load()) as connection:
        connection.execute("DROP INDEX payments_status_due_date_idx, payments_tenant_id_idx")
        connection.execute("DELETE FROM _prisma_migrations WHERE migration_name = %s", [last])
    proven()
    sandbox_migrates()
    code, record, said = recover()
    assert (code, outcome(record)) == (0, "applied"), said
    assert f"runs {last}" in said
    assert "✓ Migrate the copy" in said
    with postgres.connect(Credentials.load()) as connection:
        assert connection.execute("SELECT to_regclass('payments_tenant_id_idx')").fetchone() != (None,)
    assert problems() == []


def sandbox_migrates() -> None:
    from tests.sandbox import deployment

    deployment.migrate(Credentials.load())


# Things that fail midway


def test_database_that_is_gone_is_recovered() -> None:
    had = payments()
    proven()
    with admin() as connection:
        connection.execute("DROP DATABASE propertypulse WITH (FORCE)")
    code, record, said = recover()
    assert (code, outcome(record)) == (1, "failed")
    assert "✗ The present can be read, and so backed up" in said
    code, record, said = recover("-p", "skip_safety", "True")
    assert (code, outcome(record)) == (0, "applied"), said
    assert (payments(), kinds()) == (had, [])
    assert problems() == []


def test_safety_is_not_skipped_while_the_present_can_be_read() -> None:
    proven()
    assert "✗ Its backup is left out only if it cannot be read" in recover("-p", "skip_safety", "True")[2]


def test_disk_that_is_full_drops_nothing_but_what_is_half(tmp_path: Path) -> None:
    backups.fill(12)
    oid = live()
    proven()
    code, record, said = recover(largest=4 << 20)
    assert (code, outcome(record)) == (2, "undone"), said
    assert "File too large" in said
    assert (live(), kinds()) == (oid, [])
    assert problems() == []


def at_work(process: Any, tool: str = "pg_restore") -> list[int]:
    """Wait until a tool of PostgreSQL's is at work; give the processes of its sessions."""
    with admin() as connection:
        while process.poll() is None:
            query = (
                "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state = 'active'"
                " AND query LIKE 'COPY%%'"
            )
            if rows := connection.execute(query, [tool]).fetchall():
                return [pid for (pid,) in rows]
            time.sleep(0.02)
    return []


@pytest.mark.parametrize("tool", ["pg_restore", "pg_dump"])
def test_sessions_of_the_restore_or_the_backup_that_are_lost_drop_the_copy(tool: str) -> None:
    backups.fill(200)
    oid = live()
    proven()
    with begun(*TYPED, until="· Restore the backup", name=recovery.NAME) as process:
        pids = at_work(process, tool)
        with admin() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", [pids])
        assert process.stdout
        said = process.stdout.read()
    assert pids and process.returncode == 2, said
    assert (live(), kinds()) == (oid, [])
    assert problems() + backups.strays() == []


def test_postgresql_that_goes_down_midway_is_undone_once_it_is_back() -> None:
    backups.fill(60)
    oid = live()
    proven()
    with begun(*TYPED, until="· Restore the backup", name=recovery.NAME) as process:
        pids = at_work(process)
        sandbox.break_("db-down")
        threading.Timer(1, sandbox.mend, ["db-down"]).start()
        assert process.stdout
        said = process.stdout.read()
    assert pids and process.returncode == 2, said
    until_well()
    assert (live(), kinds()) == (oid, [])
    assert problems() == []


def until_well() -> None:
    ends = time.monotonic() + 60
    while problems() and time.monotonic() < ends:
        time.sleep(1)


# Killed, and run again

KILLS = [
    ("· Restore the backup", 0.2, "runner"),
    ("· Restore the backup", 0.5, "kernel"),
    ("· Restore the backup", 2.0, "runner"),
    ("✓ Restore the backup", 0.0, "both"),
    ("✓ Restore the backup", 0.0, "kernel"),
    ("✓ The copy holds", 0.0, "runner"),
    ("✓ Prisma finds", 0.0, "kernel"),
    ("· Swap the databases", 0.1, "kernel"),
    ("· Swap the databases", 0.3, "both"),
    ("· Swap the databases", 3.0, "kernel"),
    ("· Swap the databases", 6.0, "runner"),
    ("✓ Swap the databases", 0.0, "kernel"),
    ("· Close the swap", 0.0, "both"),
]


@pytest.mark.parametrize(("at", "later", "whom"), KILLS, ids=[f"{k[0][2:10]}-{k[1]:g}-{k[2]}" for k in KILLS])
def test_killed_it_is_run_again(at: str, later: float, whom: str) -> None:
    backups.fill(20)
    had = payments()
    one = proven()
    lose(50)
    kill(whom, at, later, "-p", "backup", one.name)
    print("after the kill:", kinds(), payments())
    code, record, said = recover("-p", "backup", one.name)
    assert (code, outcome(record)) in ((0, "applied"), (2, "undone")), said
    assert code == 0, said
    assert payments() == had
    assert set(kinds()) <= {"old", "undone"}
    assert problems() == []


def test_half_way_it_is_finished_or_taken_back_and_nothing_else() -> None:
    had, oid, first = payments(), live(), proven()
    lose(10)
    second = proven()
    kill("both", "✓ Swap the databases", 0.0, "-p", "backup", first.name)
    assert (payments(), kinds()) == (had, ["old"])
    code, record, said = recover("-p", "backup", second.name)
    assert (code, outcome(record)) == (1, "failed")
    assert "✗ No other recovery is half way" in said
    kill("both", "· Swap the databases", 3.0, name=recovery.BACK)
    assert (live(), kinds()) == (oid, ["undone"])
    assert "✗ No other recovery is half way" in recover("-p", "backup", first.name)[2]
    code, record, said = take_back()
    assert (code, outcome(record)) == (0, "applied"), said
    assert (payments(), live(), kinds()) == (had - 10, oid, ["undone"])
    assert problems() == []


def test_swap_that_is_killed_stands_or_does_not() -> None:
    env, moments = propertypulse.load("sandbox"), [0.02 * n for n in range(1, 16)]
    ends = []
    for number, moment in enumerate(moments):
        name = f"propertypulse_new_20260101_{number:06}"
        create_copy(name)
        oid = live()
        killed_swap(name, moment)
        time.sleep(1.5)
        found = {one.name: one for one in database_copy.listed(env)}
        assert found["propertypulse"].oid == oid or found["propertypulse"].note["incoming"] == name
        assert (name in found) == (found["propertypulse"].oid == oid)
        ends.append(found["propertypulse"].oid != oid)
        swap.close(env, name).do()
    print("swapped:", ends)


def create_copy(name: str) -> None:
    with admin() as connection:
        for _ in range(100):
            connection.execute(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = 'propertypulse'"
            )
            try:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE propertypulse OWNER propertypulse")
                return
            except psycopg.errors.ObjectInUse:
                continue
    raise AssertionError("somebody was always there")


def killed_swap(name: str, moment: float) -> None:
    import signal
    import subprocess
    import sys

    code = (
        "from opslib import propertypulse\nfrom opslib.backups import database_copy, swap\n"
        "env = propertypulse.load('sandbox')\n"
        f"note = database_copy.noted('', incoming={name!r}, before='', state='swapped')\n"
        f"act = swap.exchange(env, {name!r}, 'old', after=note)\n"
        f"print('now', flush=True)\nact.run()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=backups.ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)


# Secrets


def test_passwords_with_every_character_work_and_leak_nowhere() -> None:
    credentials, dotenv, file = Credentials.load(), DOTENV.read_text(), ADMIN / "database"
    url = database_url.with_login(credentials.database_url, "propertypulse", SPECIAL)
    url += "&pool_timeout=10&pgbouncer=false"
    admins = database_url.with_login(credentials.postgres_url, "postgres", SPECIAL[::-1])
    given = file.read_text()
    with admin() as connection:
        try:
            for role, password in (("propertypulse", SPECIAL), ("postgres", SPECIAL[::-1])):
                made = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
                connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(made)))
            write_private(DOTENV, dotenv.replace(f"DATABASE_URL={credentials.database_url}", f"DATABASE_URL='{url}'"))
            write_private(file, admins)
            standin.reload()
            proven()
            code, record, said = recover()
            places = [Path(record_folder()), cluster_logs(), PM2_HOME / "logs", LOGS]
            found = leaks.found({"login": SPECIAL, "administrator": SPECIAL[::-1]}, places)
        finally:
            for role, password in (
                ("propertypulse", credentials.database_password),
                ("postgres", credentials.postgres_password),
            ):
                made = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
                connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(made)))
            write_private(DOTENV, dotenv)
            write_private(file, given)
            standin.reload()
    assert (code, outcome(record)) == (0, "applied"), said
    assert found == []
    assert quote(SPECIAL, safe="") not in said


def record_folder() -> str:
    from opslib.runbook import record

    return str(record.folder())


def cluster_logs() -> Path:
    return postgres.HOME.resolve() / "data" / "log"
