"""Replacing workers, on the stand-in."""

import contextlib
import os
import shlex
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import urllib3

from opslib import propertypulse
from opslib.api import health, pm2, replacement
from opslib.propertypulse import PropertyPulse
from opslib.runbook import program
from opslib.runbook.errors import RunbookError, UndoFailed
from tests import sandbox as standin

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def env() -> PropertyPulse:
    return propertypulse.load("sandbox")


def test_change_shows_the_very_command_and_its_undo(env: PropertyPulse) -> None:
    first = pm2.workers(env)[0]
    change = replacement.change(env, [first], "Replace the canary", [replacement.replace(env, first)])
    assert change.describe()["does"] == ["PM2_HOME=tests/sandbox/state/pm2 pm2 reload 0"]
    assert str(first.pid) in change.replaces()
    assert change.describe()["undo"][1].endswith("pm2 reload 0")
    stop = replacement.command(env, "stop", pm2.workers(env))
    assert stop.shown == "PM2_HOME=tests/sandbox/state/pm2 pm2 stop 0 1"


@pytest.mark.parametrize("act", ["reload", "command"])
def test_what_is_shown_is_what_runs(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    first, ran = pm2.workers(env)[0], list[str]()
    made = replacement.replace(env, first) if act == "reload" else replacement.command(env, "restart", [first])
    real = program.run

    def record(words: Sequence[str], **options: Any) -> str:
        if "jlist" in words:
            return real(words, **options)
        ran.append(shlex.join(words))
        return ""

    monkeypatch.setattr(program, "run", record)
    made.run()
    assert [f"PM2_HOME=tests/sandbox/state/pm2 {line}" for line in ran] == [made.shown]


@pytest.mark.parametrize("silent", ["stopped", "hangs"])
def test_worker_stays_while_another_does_not_answer(
    env: PropertyPulse, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, other = pm2.workers(env)
    monkeypatch.setattr(replacement, "SPARE_SECONDS", 1)
    try:
        if silent == "stopped":
            program.run(["pm2", "stop", "1"], env=env.variables)
        else:
            os.kill(other.pid, signal.SIGSTOP)
        with pytest.raises(
            RunbookError, match=r"worker 0 was not taken away: of the others worker 1 \((stopped|online)"
        ):
            replacement.replace(env, kept, settle=0).run()
        assert pm2.workers(env)[0].pid == kept.pid
        assert silent == "hangs" or [worker.id for worker in pm2.quiet(env)] == [1, 0]
    finally:
        if silent == "hangs":
            os.kill(other.pid, signal.SIGCONT)
        standin.mend()


def test_worker_that_was_never_replaced_is_not_put_back(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pm2.workers(env)
    monkeypatch.setattr(health, "TIMEOUT", urllib3.Timeout(total=0.0001))  # nobody answers in time
    replacement.put_back(env, before, reread=True)
    assert [worker.pid for worker in pm2.workers(env)] == [worker.pid for worker in before]


def test_worker_that_crashes_again_and_again_is_told_with_its_error(env: PropertyPulse) -> None:
    before = pm2.workers(env)[:1]
    standin.break_("bad-release")
    try:
        with contextlib.suppress(RunbookError):  # PM2 says that it went well, or not, depending on how fast it crashed
            replacement.replace(env, before[0]).run()
        with pytest.raises(RunbookError, match="does not stay up") as raised:
            replacement.settled(env, before, settle=2, within=30)
        assert "Cannot find module" in str(raised.value.evidence)
    finally:
        standin.mend()


def test_an_undo_that_finds_a_worker_missing_does_not_say_that_all_is_back(env: PropertyPulse) -> None:
    before = pm2.workers(env)
    with pytest.raises(UndoFailed, match="PM2 lists 2 of 3 workers"):
        replacement.put_back(env, [*before, replace(before[0], id=7)])
