"""Drills of `build_index`: a seeded slow query made fast, builds that fail, are killed or do not help."""

import os
import re
import signal
import subprocess
import threading
import time
from typing import Any

import psycopg
import pytest

from opslib.database import admin, index, index_build, index_proposal, statement
from tests.drills import backups, slow_query
from tests.drills.slow_query import INDEX, said, seeded
from tests.drills.standing import sandbox
from tests.sandbox import postgres
from tests.sandbox.credentials import Credentials

WRITES = "UPDATE visits SET note = '' WHERE id = 1"

pytestmark = pytest.mark.usefixtures("sandbox")


def command(name: str = INDEX) -> list[str]:
    """The words of a run that applies."""
    return backups.command("-p", "name", name, name="build_index")


def create(name: str = INDEX) -> tuple[int, dict[str, Any], str]:
    """Let it build the index; give its exit code, its record, and what the terminal showed."""
    return backups.run("-p", "name", name, name="build_index")


def state(name: str = INDEX) -> str:
    """How the index is."""
    return index_build.state(sandbox(), "public", name)


def test_proposed_index_makes_the_statement_twenty_times_faster() -> None:
    with seeded() as connection:
        slow_query.ask(connection)
        code, made, _ = create()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), made["metadata"]["opslib"]["why"]
        times = re.search(r'"faster": "(\d+) times"', said(made, "Its statement is"))
        assert times and int(times[1]) >= 20, said(made, "Its statement is")
        assert state() == "valid"
        code, made, shown = create()  # again: it is there, and nothing is to be done
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert "· Its statement is at least twice as fast — not asked" in shown


def test_build_that_waits_for_an_older_transaction_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded(20_000) as connection, postgres.connect(Credentials.load()) as older:
        slow_query.ask(connection)
        older.execute("BEGIN")
        older.execute(WRITES)
        monkeypatch.setattr(index_build, "LOCK_TIMEOUT", 1)
        change = _change()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            change.do()
        assert state() == "invalid"
        older.execute("ROLLBACK")
        change.put_back()
        assert state() == "not there"


def _change() -> Any:
    with admin.connect(sandbox()) as connection:
        ranked = statement.ranked(statement.snapshot(connection).statements.values())
        found = index_proposal.proposals(connection, ranked, index.read(connection), schema="public")
    return index_build.create(sandbox(), next(one for one in found if one.name == INDEX), seconds=60)


@pytest.mark.long
def test_killed_while_it_builds_it_is_run_again() -> None:
    with seeded() as connection, postgres.connect(Credentials.load()) as older:
        slow_query.ask(connection)
        older.execute("BEGIN")
        older.execute(WRITES)  # the build waits for it
        with subprocess.Popen(command(), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
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
        with admin.connect(sandbox()) as found:
            assert [one.name for one in index.read(found) if not one.valid] == []


@pytest.mark.long
def test_stopped_while_it_builds_it_leaves_no_index() -> None:
    with seeded() as connection, postgres.connect(Credentials.load()) as older:
        slow_query.ask(connection)
        older.execute("BEGIN")
        older.execute(WRITES)
        with subprocess.Popen(command(), stdout=subprocess.PIPE, text=True) as process:
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
        code, made, _ = create("visits_tenant_id_idx")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (2, "undone"), made["metadata"]["opslib"]["why"]
        assert state("visits_tenant_id_idx") == "not there"


def test_name_that_is_not_proposed_is_refused() -> None:
    code, made, shown = create('x"; DROP TABLE payments; --')
    assert (code, made["metadata"]["opslib"]["outcome"]) == (1, "failed")
    assert "Take a name from the findings" in shown


def until(true: Any, within: float = 60) -> None:
    ends = time.monotonic() + within
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)
