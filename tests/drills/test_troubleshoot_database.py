"""Drills of the database's troubles: down, saturated, locked; found, then mended; bystanders, caps, kills, odd URLs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from opslib import propertypulse
from opslib.api import health
from opslib.database import admin as administrator, connection_freeing, connection_slots, postgres, sessions
from tests import sandbox
from tests.place import elsewhere
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import Credentials
from tests.sandbox.layout import HOST, POSTGRES

pytestmark = pytest.mark.usefixtures("sandbox")

LOCK = "LOCK TABLE payments IN ACCESS EXCLUSIVE MODE"


def command(*arguments: str) -> list[str]:
    """The words of a run that frees, and takes what has stood in the way for a second."""
    return words("free_database_connections", "--apply", "-p", "older_than_seconds", "1", *arguments)


def words(*arguments: str) -> list[str]:
    """The words of a run."""
    return [sys.executable, "-m", "opslib.runbook.cli", "run", *arguments]


def free(*arguments: str, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Free what stands in the way; give its exit code, its record, and what the terminal showed."""
    return run(command(*arguments), **variables)


def look(**variables: str) -> tuple[int, dict[str, Any], str]:
    """Look for what is wrong; give the same."""
    return run(words("troubleshoot_database", "-p", "older_than_seconds", "1"), **variables)


def run(words: list[str], **variables: str) -> tuple[int, dict[str, Any], str]:
    """Run it."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, **variables})
    assert "Traceback" not in done.stderr, done.stderr
    made: dict[str, Any] = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    return done.returncode, made, done.stdout


def client(name: str, **other: str) -> psycopg.Connection:
    """A session of the API's role, or another login, under this application name."""
    credentials = Credentials.load()
    login = {"user": cluster.ROLE, "password": credentials.database_password, "dbname": cluster.DATABASE} | other
    return psycopg.connect(make_conninfo(host=HOST, port=POSTGRES, application_name=name, **login), autocommit=True)


def superuser() -> dict[str, str]:
    credentials = Credentials.load()
    return {"user": credentials.postgres_user, "password": credentials.postgres_password}


def alive(connection: psycopg.Connection) -> bool:
    with suppress(psycopg.Error):
        connection.execute("SELECT 1")
        return True
    return False


@contextmanager
def holding(name: str, statement: str = LOCK, **other: str) -> Iterator[psycopg.Connection]:
    """A client that has locked the payments and idles, with the API's role waiting for it."""
    with ExitStack() as open_:
        holder = open_.enter_context(client(name, **other))
        holder.execute("BEGIN")
        holder.execute(statement)
        waiter = open_.enter_context(client("waiter"))
        waiting = threading.Thread(target=_wait, args=(waiter,), daemon=True)
        waiting.start()
        time.sleep(1.2)
        yield holder
        holder.close()
        waiting.join(30)


def _wait(waiter: psycopg.Connection) -> None:
    with suppress(psycopg.Error):
        waiter.execute("SELECT count(*) FROM payments")


@contextmanager
def leaking(most: int = 60) -> Iterator[list[psycopg.Connection]]:
    """A client that has taken every slot that it could get, and does not come back for more."""
    held: list[psycopg.Connection] = []
    with suppress(psycopg.OperationalError):
        while len(held) < most:
            held.append(client("leaky-import"))
    time.sleep(1.2)
    try:
        yield held
    finally:
        for one in held:
            one.close()
        _well(60)


def _well(within: float = 30) -> bool:
    ends = time.monotonic() + within
    url = propertypulse.load("sandbox").api.health_url
    while not (well := bool(health.steady(url, 5))) and time.monotonic() < ends:
        time.sleep(0.5)
    return well


def said(made: dict[str, Any], title: str) -> str:
    """The evidence of the last step of this title."""
    steps = [step for step in _steps(made) if step["title"] == title]
    return json.dumps(steps[-1].get("evidence", []), ensure_ascii=False)


def _steps(made: dict[str, Any]) -> list[dict[str, Any]]:
    outputs = [out for cell in made["cells"] for out in cell.get("outputs", [])]
    return [step for out in outputs if (step := out.get("metadata", {}).get("opslib"))]


def test_a_queue_has_its_living_root_and_fits_on_a_page() -> None:
    with ExitStack() as open_, holding("forgetful") as holder:
        for _ in range(20):
            one = open_.enter_context(client("queued"))
            threading.Thread(target=_wait, args=(one,), daemon=True).start()
        ends = time.monotonic() + 20
        while True:
            told = connection_freeing.unblocked(propertypulse.load("sandbox"), {cluster.ROLE}, longer_than=0)
            if "more" in str(told.evidence) or time.monotonic() > ends:
                break
            time.sleep(0.2)
        assert told.ok is False
        root, *queue = told.evidence
        assert root["session"] == f"{holder.info.backend_pid} forgetful as {cluster.ROLE}"
        assert root["does"].startswith("idle in transaction")
        assert len(queue) == 9 and queue[-1]["session"].startswith("└─ … and 1")
        code, made, _ = look()
        rows = said(made, "Who blocks whom")
        assert code == 5 and "forgetful" in rows and "… and 1" in rows and "gone" not in rows
        holder.execute("ROLLBACK")


def test_database_that_is_down_is_named_and_started() -> None:
    sandbox.break_("db-down")
    try:
        code, made, shown = look()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (5, "planned")
        assert "✗ PostgreSQL is down — runbook run start_database -e sandbox" in shown
        code, made, _ = run(words("start_database", "--apply"))
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert _well()
        code, made, _ = run(words("start_database", "--apply"))  # again: it is up
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
    finally:
        sandbox.mend("db-down")


@pytest.mark.long
def test_without_a_command_to_start_it_says_what_to_look_at(tmp_path: Path) -> None:
    root = elsewhere(tmp_path, database={"start": ""})
    sandbox.break_("db-down")
    try:
        code, _, shown = look(RUNBOOK_ROOT=str(root))
        assert code == 5
        assert "✗ PostgreSQL is down (refused) — Nothing listens there" in shown
        assert "its disk" in shown
    finally:
        sandbox.mend("db-down")


def test_idle_transaction_that_blocks_is_named_and_ended() -> None:
    sandbox.break_("idle-in-transaction")
    time.sleep(1.2)
    try:
        code, made, shown = look()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (5, "planned")
        assert "reporting-export as propertypulse keeps 1 waiting: idle in transaction" in shown
        assert "runbook run free_database_connections -e sandbox -p older_than_seconds 1" in shown
        drawings = [
            out["data"] for c in made["cells"] for out in c.get("outputs", []) if "image/svg+xml" in out.get("data", {})
        ]
        assert "idle in transaction" in "".join(drawings[0]["image/svg+xml"])
        assert "└─ " in drawings[0]["text/plain"]
        assert "'PENDING'" not in json.dumps(made)  # literals may be people's data
        code, made, shown = free()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert "UPDATE payments" in said(made, "What became of each session")
        assert "terminated" in said(made, "What became of each session")
        assert "pg_cancel_backend" not in shown
        assert "'PENDING'" not in json.dumps(made)
        assert look()[0] == 0
    finally:
        sandbox.mend("idle-in-transaction")


@pytest.mark.long
def test_client_that_takes_what_is_freed_is_named_and_stopped() -> None:
    sandbox.break_("db-saturated")
    time.sleep(1.2)
    try:
        _, made, found = look()
        assert "PostgreSQL is saturated" in found
        rows = json.loads(said(made, "Who has the sessions"))
        held = {row["application"]: int(row["sessions"]) for row in rows}
        assert sum(held.values()) == 37  # the API may have kept a session or two
        assert f"{held['reporting-export']} of them by reporting-export as propertypulse" in found
        code, made, _ = free()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (3, "needs-person")
        assert "-p stop_client" in made["metadata"]["opslib"]["why"]
        code, made, _ = free("-p", "stop_client", "reporting-export")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert _well()
    finally:
        sandbox.mend("db-saturated")


@pytest.mark.long
def test_leak_is_freed_oldest_first_and_within_the_cap() -> None:
    with leaking() as held:
        code, made, _ = free("-p", "most", "3")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert [alive(one) for one in held] == [False] * 3 + [True] * (len(held) - 3)
        assert "over the cap: most is 3" in said(made, "What stands in the way")
        assert _well()


@pytest.mark.long
def test_statement_that_runs_is_cancelled_and_its_session_lives() -> None:
    with client("slow-report") as root, client("waiter") as waiter:
        root.execute("BEGIN")
        root.execute(LOCK)
        failed: list[str | None] = []

        def sleep() -> None:
            try:
                root.execute("SELECT pg_sleep(120)")
            except psycopg.Error as error:
                failed.append(error.sqlstate)

        threads = [threading.Thread(target=sleep), threading.Thread(target=_wait, args=(waiter,))]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        code, made, _ = free()
        for thread in threads:
            thread.join(10)
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert "freed by cancel" in said(made, "What became of each session")
        assert failed == ["57014"]
        root.execute("ROLLBACK")
        assert alive(root) and alive(waiter)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("pg_dump", {}, "pg_dump must not be cut off"),
        ("", {"migrates": "yes"}, "runs a migration of Prisma"),
        ("psql", {"superuser": "yes"}, "belongs to role postgres"),
    ],
    ids=["a backup", "a migration", "another role"],
)
def test_root_that_must_not_be_ended_is_left(name: str, other: dict[str, str], reason: str) -> None:
    statement = f"SELECT pg_advisory_lock({sessions.MIGRATION}); {LOCK}" if "migrates" in other else LOCK
    with holding(name, statement, **(superuser() if "superuser" in other else {})) as holder:
        code, made, shown = free()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (1, "failed")
        assert reason in said(made, "What stands in the way")
        assert "✗ No session of the API waits for a lock for long" in shown
        assert alive(holder)


@pytest.mark.long
def test_two_troubles_at_once_and_bystanders_untouched() -> None:
    with ExitStack() as open_:
        bystanders = [
            open_.enter_context(client("pg_dump")),
            open_.enter_context(client("psql", **superuser())),
            open_.enter_context(client("other", **superuser() | {"dbname": "postgres"})),
        ]
        open_.enter_context(holding("reporting-export"))
        held = open_.enter_context(leaking())
        _, _, found = look()
        assert "PostgreSQL is saturated" in found
        assert "reporting-export as propertypulse keeps" in found
        code, made, _ = free("-p", "most", "4")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), made["metadata"]["opslib"]["why"]
        assert [alive(one) for one in held].count(False) == 3  # and the root is the fourth
        assert all(map(alive, bystanders))


@pytest.mark.long
def test_killed_in_the_middle_of_freeing_it_is_run_again() -> None:
    with leaking() as held:
        with subprocess.Popen(command("-p", "most", "6"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            done = (line for line in process.stdout if line.startswith("✓ Free session"))
            next(done), next(done)
            process.send_signal(signal.SIGKILL)
        freed = [alive(one) for one in held].count(False)
        assert 2 <= freed < 6
        code, made, _ = free("-p", "most", "6")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
        assert freed < [alive(one) for one in held].count(False) <= freed + 6


def test_session_that_is_another_by_now_is_left_alone() -> None:
    env = propertypulse.load("sandbox")
    admin = administrator.connect(env)
    with client("somebody-new") as bystander:
        found = next(one for one in sessions.read(admin) if one.pid == bystander.info.backend_pid)
        old = replace(found, backend_start=found.backend_start and found.backend_start.replace(year=2020))
        moved = replace(found, state_change=found.state_change and found.state_change.replace(year=2020))
        for one in (old, moved):
            plan = connection_freeing.Freeing(admin, [connection_freeing.Candidate(one, 0, "")])
            plan.changes()[0].do()
            assert plan.became[bystander.info.backend_pid]["became"].startswith("left alone")
        assert alive(bystander)
    admin.close()


ODD = "p@ss:w/o?r#d%&+'\"\\ü $(id)"


@pytest.mark.long
def test_url_of_prisma_with_every_special_character(tmp_path: Path) -> None:
    role = 'odd "role"'
    name = sql.Identifier(role)
    with cluster.connect_admin(Credentials.load()) as admin:
        connection = postgres.connect(Credentials.load().postgres_url)
        made_verifier = postgres.verifier(connection, role, ODD)
        connection.close()
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE propertypulse PASSWORD {}").format(name, made_verifier))
        try:
            login = f"{quote(role, safe='')}:{quote(ODD, safe='')}@{HOST}:{POSTGRES}/{cluster.DATABASE}"
            url = (
                f"postgresql://{login}?schema=public&connection_limit=5&pool_timeout=10&pgbouncer=false&sslmode=prefer"
            )
            (tmp_path / ".env").write_text(f'DATABASE_URL="{url}"\n')
            root = elsewhere(tmp_path, api={"env_file": ".env"})
            with holding("odd-client", user=role, password=ODD) as holder:
                code, made, _ = free(RUNBOOK_ROOT=str(root))
                assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), made["metadata"]["opslib"][
                    "why"
                ]
                assert not alive(holder)
            written = "".join(file.read_text() for file in (root / "records").rglob("*.ipynb"))
            assert ODD not in written and quote(ODD, safe="") not in written and json.dumps(ODD)[1:-1] not in written
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(name))


def test_limits_of_the_database_and_the_role_count_too() -> None:
    env = propertypulse.load("sandbox")
    with cluster.connect_admin(Credentials.load()) as admin:
        admin.execute("ALTER ROLE propertypulse CONNECTION LIMIT 30")
        try:
            connection = administrator.connect(env)
            found = connection_slots.limits(connection, sessions.read(connection), ("propertypulse",))
            connection.close()
            assert [(limit.of, limit.slots) for limit in found] == [
                ("the server, for ordinary roles", 37),
                ("role propertypulse", 30),
            ]
        finally:
            admin.execute("ALTER ROLE propertypulse CONNECTION LIMIT -1")
