"""Drills of `tune_queries`: a seeded slow query made fast, builds that fail or are killed, advice, no extension."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opslib import propertypulse
from opslib.database import index, index_build, index_proposal, statement
from opslib.database.login import Login
from tests import sandbox
from tests.drills import slow_query
from tests.drills.slow_query import INDEX, seeded
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

WRITES = "UPDATE visits SET note = '' WHERE id = 1"

pytestmark = pytest.mark.usefixtures("sandbox")


def command(*arguments: str) -> list[str]:
    """The words of a run that counts for a second."""
    return [sys.executable, "-m", "opslib.runbook.cli", "run", "tune_queries", "-p", "seconds", "1", *arguments]


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run it; give its exit code, its record, and what the terminal showed."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    made: dict[str, Any] = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return done.returncode, made, done.stdout


def create(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Let it create the index."""
    return run("--apply", "-p", "create_index", INDEX, *arguments)


def said(made: dict[str, Any], title: str) -> str:
    """The evidence of the last step whose title begins so."""
    outputs = [out for cell in made["cells"] for out in cell.get("outputs", [])]
    steps = [step for out in outputs if (step := out.get("metadata", {}).get("opslib"))]
    return json.dumps([s.get("evidence", []) for s in steps if s["title"].startswith(title)][-1], ensure_ascii=False)


def state(name: str = INDEX) -> str:
    """How the index is."""
    return index_build.state(Login(propertypulse.load("sandbox")).admin, "public", name)


def test_proposed_index_makes_the_statement_twenty_times_faster() -> None:
    with seeded() as connection:
        slow_query.ask(connection)
        slow_query.ask(connection, "SELECT id FROM visits WHERE email = 'person7@visitors.example'", ())
        code, made, _ = run()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "planned")
        assert "SELECT * FROM visits" in said(made, "Statements since")
        assert INDEX in said(made, "Indexes that would help")
        assert "visits" in said(made, "Big tables")
        code, made, _ = create()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), made["metadata"]["opslib"]["why"]
        times = re.search(r'"faster": "(\d+) times"', said(made, "A new index makes"))
        assert times and int(times[1]) >= 20, said(made, "A new index makes")
        assert state() == "valid"
        assert "person7" not in json.dumps(made)
        code, made, _ = create()  # again: it is there, and nothing is to be done
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")


def test_build_that_waits_for_an_older_transaction_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded(20_000) as connection, postgres.connect(Credentials.load()) as older:
        slow_query.ask(connection)
        older.execute("BEGIN")
        older.execute(WRITES)
        change = _change(connection)
        monkeypatch.setattr(index_build, "LOCK_TIMEOUT", 1)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            change.do()
        assert state() == "invalid"
        older.execute("ROLLBACK")
        change.put_back()
        assert state() == "not there"


def _change(connection: psycopg.Connection) -> Any:
    admin = Login(propertypulse.load("sandbox")).admin()
    with admin:
        found = index_proposal.proposals(
            admin, statement.ranked(statement.snapshot(admin).statements.values()), index.read(admin), schema="public"
        )
    return index_build.create(
        Login(propertypulse.load("sandbox")).admin, next(p for p in found if p.name == INDEX), seconds=60
    )


@pytest.mark.long
def test_killed_while_it_builds_it_is_run_again() -> None:
    with seeded() as connection, postgres.connect(Credentials.load()) as older:
        slow_query.ask(connection)
        older.execute("BEGIN")
        older.execute(WRITES)  # the build waits for it
        with subprocess.Popen(
            command("--apply", "-p", "create_index", INDEX), stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout
            assert any("under way" in line for line in iter(process.stdout.readline, ""))
            until(lambda: state() == "being built")
            os.killpg(process.pid, signal.SIGKILL)
        assert state() in ("being built", "invalid")
        release = threading.Timer(12, older.execute, ["ROLLBACK"])
        release.start()
        code, made, _ = create()
        release.join()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), made["metadata"]["opslib"]["why"]
        assert state() == "valid"
        with Login(propertypulse.load("sandbox")).admin() as admin:
            assert [one.name for one in index.read(admin) if not one.valid] == []


@pytest.mark.long
def test_stopped_while_it_builds_it_leaves_no_index() -> None:
    with seeded() as connection, postgres.connect(Credentials.load()) as older:
        slow_query.ask(connection)
        older.execute("BEGIN")
        older.execute(WRITES)
        with subprocess.Popen(
            command("--apply", "-p", "create_index", INDEX), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert any("under way" in line for line in iter(process.stdout.readline, ""))
            until(lambda: state() == "being built")
            release = threading.Timer(3, older.execute, ["ROLLBACK"])  # dropping waits for it too
            release.start()
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=120)
        release.join()
        assert process.returncode == 143, out
        assert f"Undo: Create the index {INDEX}" in out
        assert state() == "not there"


@pytest.mark.long
def test_index_that_does_not_help_is_dropped() -> None:
    with seeded() as connection:
        # The statistics are of before: PostgreSQL takes the index, and reads the whole table by it.
        connection.execute("ALTER TABLE visits SET (autovacuum_enabled = false)")
        connection.execute("UPDATE visits SET tenant_id = 77")
        slow_query.ask(connection, "SELECT count(note) FROM visits WHERE tenant_id = %s", (77,))
        code, made, _ = run("--apply", "-p", "create_index", "visits_tenant_id_idx")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (2, "undone"), made["metadata"]["opslib"]["why"]
        assert state("visits_tenant_id_idx") == "not there"


def test_name_that_is_not_proposed_is_refused() -> None:
    code, made, shown = run("--apply", "-p", "create_index", 'x"; DROP TABLE payments; --')
    assert (code, made["metadata"]["opslib"]["outcome"]) == (1, "failed")
    assert "Take a name from the list above" in shown


def test_useless_indexes_are_listed_with_the_statement_that_drops_them() -> None:
    with seeded(200_000) as connection:
        connection.execute('CREATE INDEX "Odd; name" ON visits (kind, id)')
        connection.execute("CREATE INDEX twin_a ON visits (tenant_id, at)")
        connection.execute("CREATE INDEX twin_b ON visits (tenant_id, at)")
        connection.execute("CREATE INDEX prefix ON visits (tenant_id)")
        connection.execute("CREATE INDEX other_order ON visits (tenant_id DESC)")
        connection.execute("CREATE INDEX partial ON visits (tenant_id) WHERE kind = 'web'")
        connection.execute("CREATE UNIQUE INDEX needed ON visits (at, id)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON visits (kind)")
        with Login(propertypulse.load("sandbox")).admin() as admin:
            found = {row["index"]: row for row in index.useless(admin, index.read(admin)) if row["table"] == "visits"}
    assert found["broken"]["why"].startswith("invalid")
    assert found["twin_b"]["why"] == "covered by twin_a"
    assert found["prefix"]["why"] in ("covered by twin_a", "covered by twin_b")
    assert found["Odd; name"]["advice"] == 'DROP INDEX CONCURRENTLY IF EXISTS "public"."Odd; name";'
    assert found["other_order"]["why"].startswith("used 0 times")
    assert found["twin_a"]["why"].startswith("used 0 times")
    assert not {"needed", "visits_pkey"} & found.keys()


def test_without_the_extension_it_says_what_is_missing_and_goes_on() -> None:
    with postgres.connect_admin(Credentials.load()) as admin:
        admin.execute("DROP EXTENSION pg_stat_statements")
        try:
            code, made, _ = run()
            assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "planned")
            assert "CREATE EXTENSION pg_stat_statements" in said(made, "What is missing")
            assert "none was counted" in said(made, "Statements of the last")
        finally:
            admin.execute("CREATE EXTENSION pg_stat_statements")


def until(true: Any, within: float = 60) -> None:
    ends = time.monotonic() + within
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.mark.long
def test_without_the_library_it_says_that_a_restart_is_needed() -> None:
    settings = postgres.HOME.resolve() / "data/postgresql.conf"
    before = settings.read_text()
    settings.write_text(f"{before}shared_preload_libraries = ''\n")
    try:
        _restart()
        code, made, _ = run()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "planned")
        assert "then restart PostgreSQL" in said(made, "What is missing")
    finally:
        settings.write_text(before)
        _restart()
    with Login(propertypulse.load("sandbox")).admin() as admin:
        assert statement.missing(admin) == []


def _restart() -> None:
    sandbox.break_("db-down")
    sandbox.mend("db-down")
