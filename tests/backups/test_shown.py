"""What a plan of a recovery or a backup shows is what runs: each change is made for real, and what ran is compared."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import Composable

from opslib import propertypulse
from opslib.api import pm2
from opslib.backups import backup_proof, database_copy, restore_point, swap
from opslib.backups.recovery import Recovery
from opslib.backups.store import stores
from opslib.runbook import program
from opslib.runbook.change import Change
from tests.drills import backups, recovery

pytestmark = pytest.mark.usefixtures("sandbox")

ENV = propertypulse.load("sandbox")
READS = re.compile(r"\s*(SELECT (?!pg_terminate|set_config)|SET (?!LOCAL))")
"""What reads, and the settings of a session of its own."""
TIME = re.compile(r"\d{8}_\d{6}|\d{8}T\d{6}Z-[0-9a-f]{8}")


class Ran:
    """The statements and commands that ran, as text, in their order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        execute, run, popen = psycopg.Connection.execute, program.run, subprocess.Popen

        def executed(connection: Any, query: Any, *rest: Any, **more: Any) -> Any:
            text = query.as_string(connection) if isinstance(query, Composable) else query
            text = text.decode() if isinstance(text, bytes) else text
            if not READS.match(text):
                self.lines.append(text)
            return execute(connection, query, *rest, **more)

        def ran(command: Any, **more: Any) -> str:
            self.lines.append(shlex.join(command))
            return run(command, **more)

        def opened(command: Any, **more: Any) -> Any:
            self.lines.append(shlex.join([str(command[0]).rpartition("/")[2], *command[1:]]))
            return popen(command, **more)

        patch.setattr(psycopg.Connection, "execute", executed)
        patch.setattr(program, "run", ran)
        patch.setattr("opslib.backups.restore.subprocess.Popen", opened)


@pytest.fixture
def chosen() -> Iterator[Recovery]:
    """A recovery from a proven backup; the stand-in is as it was afterwards."""
    recovery.clean()
    recovery.proven()
    one = restore_point.choose(ENV, restore_point.LATEST)
    yield Recovery(ENV, one, stores(ENV)[0][-1])
    recovery.clean()


def unexplained(change: Change, ran: list[str]) -> list[str]:
    """Give what ran and no line of the change says, whatever the time in a name is."""
    shown = [_plain(line) for act in (*change.acts, *change.way_back) for line in act.shown.splitlines()]
    return [one for one in ran if not any(_plain(one) in line or _same_but_for_later(one, line) for line in shown)]


def _plain(text: str) -> str:
    return TIME.sub("TIME", text).replace('"', "").partition(" -- ")[0]


def _same_but_for_later(ran: str, shown: str) -> bool:
    pattern = re.sub(r"‹.*?›+", ".*", re.escape(shown).replace("\\‹", "‹").replace("\\›", "›"))
    return re.fullmatch(pattern, _plain(ran)) is not None


def test_each_statement_and_command_of_a_restore_is_shown(chosen: Recovery, monkeypatch: pytest.MonkeyPatch) -> None:
    change = chosen.restore("0123abcd", safety=False)[-1]
    with monkeypatch.context() as patch:
        ran = Ran(patch)
        change.do()
        assert chosen.whole
        done = len(ran.lines)
        change.put_back()
    said = "\n".join(ran.lines)
    assert all(part in said for part in ("CREATE DATABASE", "pg_restore --dbname", "--use-list", "ANALYZE"))
    assert "COMMENT ON DATABASE" in said and done < len(ran.lines)
    assert unexplained(change, ran.lines) == []
    assert len([line for act in change.acts for line in act.shown.splitlines() if line.startswith("CREATE")]) == 1


def test_each_statement_of_a_swap_and_of_its_undo_is_shown(chosen: Recovery, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen.restore("0123abcd", safety=False)[-1].do()
    before = [one.oid for one in database_copy.listed(ENV) if one.kind == "live"]
    change, closing = swap.swap(ENV, [], chosen.copy, aside="old", note=chosen.note), swap.close(ENV, chosen.copy)
    with monkeypatch.context() as patch:
        ran = Ran(patch)
        change.do()
        assert [one.kind for one in database_copy.listed(ENV)] == ["live", "old"]
        change.way_back[0].run()
    renames = [line for line in ran.lines if "RENAME" in line]
    assert len(renames) == 4 and len([line for line in ran.lines if "COMMENT" in line]) == 2
    assert any("LOCK TABLE pg_database" in line for line in ran.lines)
    assert unexplained(change, ran.lines) == []
    assert [one.oid for one in database_copy.listed(ENV) if one.kind == "live"] == before
    assert "COMMENT ON DATABASE" in closing.acts[0].shown
    pm2.quiet(ENV)


def test_each_statement_and_command_of_a_proof_is_shown(chosen: Recovery, monkeypatch: pytest.MonkeyPatch) -> None:
    taking = backup_proof.Taking(ENV, "0123abcd", stores(ENV)[0])
    taking.take().do()
    changes = [taking.restore(), taking.close()]
    for change in changes:
        with monkeypatch.context() as patch:
            ran = Ran(patch)
            change.do()
        assert ran.lines
        assert unexplained(change, ran.lines) == []
    assert taking.newest()
    assert backups.strays() == []
