"""Drills of what replaces and retires the database login: under traffic, undone, killed and run again, and no leak."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from opslib import propertypulse
from opslib.api import pm2
from opslib.database import database_url, postgres
from opslib.database.login import Login
from opslib.runbook import record
from tests import leaks, sandbox
from tests.drills.database import Saved, problems
from tests.place import states
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import DOTENV, LOGS, PM2_HOME

ROTATE, RETIRE, CHANGE = "rotate_database_password", "retire_database_login", "change_database_password"
SETTLE = ("-p", "settle_seconds", "2")
AWKWARD = "%@:/#'\"$ `\\ ünïcödé 数据库 🔑 &=+?"


@pytest.fixture(autouse=True)
def saved(sandbox: None) -> Iterator[Saved]:
    one = Saved.now()
    yield one
    one.put_back()


def command(name: str, *arguments: str) -> list[str]:
    """The words of a run that applies."""
    given = (*(() if name == RETIRE else SETTLE), *arguments)
    return [sys.executable, "-m", "opslib.runbook.cli", "run", name, "--apply", *given]


def rotate(*arguments: str, name: str = ROTATE) -> tuple[int, dict[str, Any], str]:
    """Run it; give its exit code, its record, and what the terminal showed."""
    done = subprocess.run(command(name, *arguments), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(Path(done.stdout.splitlines()[-1]).read_text()), done.stdout


def outcome(made: dict[str, Any]) -> str:
    return str(made["metadata"]["opslib"]["outcome"])


def in_force() -> str:
    return Login(propertypulse.load("sandbox")).secret.current


def leaked(urls: set[str], texts: dict[str, str]) -> list[str]:
    """Say where a password of these URLs stands: in PostgreSQL's log, PM2's home, the API's logs, records or a text."""
    passwords = {f"password {n}": database_url.parameters(url)["password"] for n, url in enumerate(sorted(urls))}
    places = [cluster.HOME.resolve() / "data" / "log", PM2_HOME, LOGS, record.folder()]
    return leaks.found(passwords, places) + leaks.shown(passwords, texts)


@pytest.mark.long
def test_two_roles_in_turn_cost_no_request_leak_nothing_and_lock_nobody_out_unasked(tmp_path: Path) -> None:
    urls = [in_force()]
    chosen = tmp_path / "password"
    chosen.write_text(AWKWARD, encoding="utf-8")
    chosen.chmod(0o600)
    said = {}
    other = psycopg.connect(Credentials.load().database_url.partition("?")[0], application_name="nightly-report")
    with cluster.everything_logged(), leaks.command_lines() as seen, sandbox.Traffic(rate=50, writes=True) as traffic:
        code, made, said["one role"] = rotate(name=CHANGE)
        assert (code, outcome(made)) == (1, "failed")
        assert "✗ Nobody else is logged in with the role" in said["one role"]
        assert "nightly-report" in json.dumps(made)
        code, made, said["switch"] = rotate("-p", "password", f"file:{chosen}", "--reason", "drill")
        assert (code, outcome(made)) == (0, "applied"), said["switch"]
        assert set(states(made)) == {"completed"}
        assert problems() == []
        urls.append(in_force())
        code, _, said["again"] = rotate()
        assert code == 1 and "✗ The login before is retired" in said["again"]
        code, _, said["early"] = rotate(name=RETIRE)
        assert code == 1 and "✗ Nobody else is logged in with the role" in said["early"]
        assert other.execute("SELECT 1").fetchone() == (1,)
        code, made, said["retire"] = rotate("-p", "accept_others", "True", name=RETIRE)
        assert (code, outcome(made)) == (0, "applied"), said["retire"]
    assert "✓ The old login is refused" in said["retire"]
    with other, pytest.raises(psycopg.OperationalError):
        other.execute("SELECT 1")
    assert traffic.result.asked > 300
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert problems(*urls) == []
    assert database_url.parameters(urls[-1])["password"] == AWKWARD
    assert [postgres.failure(url) for url in urls] == ["password", None]
    assert leaked({*urls}, {**said, "/proc": "\n".join(seen)}) == []
    log = "".join(f.read_text() for f in (cluster.HOME.resolve() / "data" / "log").glob("*.log"))
    assert 'ALTER ROLE "propertypulse_clone" LOGIN PASSWORD \'SCRAM-SHA-256$' in log  # so it was logged indeed


def test_one_role_has_a_window_and_leaves_one_password() -> None:
    urls = [in_force()]
    with cluster.everything_logged(), sandbox.Traffic(rate=50, writes=True) as traffic:
        code, made, said = rotate(name=CHANGE)
    assert (code, outcome(made)) == (0, "applied"), said
    assert "✓ The old login is refused" in said
    urls.append(in_force())
    assert problems(*urls) == []
    assert traffic.result.failed <= traffic.result.asked // 100, traffic.result  # the window that the procedure states
    assert traffic.result.lossless, traffic.result
    assert {database_url.user(url) for url in urls} == {cluster.ROLE}
    assert leaked({*urls}, {"terminal": said}) == []


def test_login_that_pg_hba_refuses_is_undone_before_anything_uses_it() -> None:
    before, workers = DOTENV.read_bytes(), pm2.workers(propertypulse.load("sandbox"))
    rules = cluster.HOME.resolve() / "data" / "pg_hba.conf"
    kept = rules.read_text()
    try:
        rules.write_text(f"host all propertypulse_clone all reject\n{kept}")
        reload_configuration()
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, said = rotate()
    finally:
        rules.write_text(kept)
        reload_configuration()
    assert (code, outcome(made)) == (2, "undone"), said
    assert "pg_hba.conf" in json.dumps(made)
    assert DOTENV.read_bytes() == before
    assert {w.pid for w in pm2.workers(propertypulse.load("sandbox"))} == {w.pid for w in workers}
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert problems() == []


def reload_configuration() -> None:
    with cluster.connect_admin(Credentials.load()) as admin:
        admin.execute("SELECT pg_reload_conf()")


@pytest.mark.long
def test_database_that_goes_down_is_undone_once_it_is_back() -> None:
    before = DOTENV.read_bytes()
    # Only PostgreSQL, as a service of the system comes back: mending the fault would also start PM2 anew, with the
    # workers that this run is about to put back.
    mending, said = threading.Timer(8, cluster.part().start), ""
    with subprocess.Popen(command(CHANGE), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in iter(process.stdout.readline, ""):
            said += line
            if "✓ Give the role propertypulse a new password" in line:
                sandbox.break_("db-down")
                mending.start()
    mending.join()
    sandbox.mend("db-down")
    assert process.returncode == 2, said
    assert "✓ Undo: Give the role" in said
    assert DOTENV.read_bytes() == before
    until_mended()
    assert problems() == []


def until_mended() -> None:
    ends = time.monotonic() + 60
    while problems() and time.monotonic() < ends:
        time.sleep(1)


@pytest.mark.long
def test_killed_in_either_procedure_it_is_run_again() -> None:
    urls = [in_force()]
    kill("· Let the workers", 4.0, "runner")
    code, made, said = rotate()
    assert (code, outcome(made)) == (0, "applied"), said
    assert problems() == []
    urls.append(in_force())
    kill("✓ Lock the role", 0.0, "kernel", RETIRE)
    code, made, said = rotate(name=RETIRE)
    assert (code, outcome(made)) == (0, "applied"), said
    assert problems(*urls) == []


def kill(at: str, after: float, whom: str, name: str = ROTATE) -> None:
    """Start a run and kill its runner or its kernel some seconds after it has shown a line that begins so."""
    process = subprocess.Popen(command(name), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert any(line.startswith(at) for line in iter(process.stdout.readline, ""))
    time.sleep(after)
    kernel = next(c for c in psutil.Process(process.pid).children() if "ipykernel_launcher" in " ".join(c.cmdline()))
    os.kill(process.pid if whom == "runner" else kernel.pid, signal.SIGKILL)
    with process:
        process.stdout.read()
    psutil.wait_procs([kernel], timeout=30)


@pytest.mark.long
def test_killed_run_that_then_fails_is_undone_to_the_beginning() -> None:
    before, old = DOTENV.read_bytes(), verifier()
    kill("· Let the workers", 4.0, "runner", CHANGE)
    assert DOTENV.read_bytes() != before and verifier() != old
    sandbox.break_("bad-release")
    try:
        code, made, said = rotate(name=CHANGE)
    finally:
        sandbox.mend("bad-release")
    assert (code, outcome(made)) == (2, "undone"), said
    assert DOTENV.read_bytes() == before and verifier() == old
    assert problems() == []


def verifier() -> str:
    """What PostgreSQL keeps of the role's password."""
    with cluster.connect_admin(Credentials.load()) as admin:
        row = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [cluster.ROLE]).fetchone()
    assert row
    return str(row[0])
