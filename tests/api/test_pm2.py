"""What PM2 is asked, on the stand-in."""

import contextlib
import json
import os
import shlex
import signal
from collections.abc import Sequence
from typing import Any

import pytest
import urllib3

from opslib import propertypulse
from opslib.api import health, pm2
from opslib.propertypulse import PropertyPulse
from opslib.runbook import program
from opslib.runbook.errors import CommandFailed, RunbookError
from tests import sandbox as standin

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def env() -> PropertyPulse:
    return propertypulse.load("sandbox")


def test_workers_are_those_of_the_api_with_their_release(env: PropertyPulse) -> None:
    found = pm2.workers(env)
    assert [worker.id for worker in found] == [0, 1]
    assert {(w.status, w.mode, w.ready) for w in found} == {("online", "cluster", True)}
    assert {worker.release for worker in found} == {env.api.release.resolve()}
    assert pm2.daemon(env)["runs"]


def test_another_home_has_no_daemon_and_gets_none(env: PropertyPulse) -> None:
    home = env.api.pm2_home / "elsewhere"
    other = env.model_copy(update={"api": env.api.model_copy(update={"pm2_home": home})})
    assert not pm2.daemon(other)["runs"]
    with pytest.raises(RunbookError, match="daemon does not run"):
        pm2.workers(other)
    assert not home.exists()


def test_a_variable_that_pm2_remembers_is_found(env: PropertyPulse) -> None:
    assert pm2.unheld(env)
    variables = {**env.variables, "JWT_SECRET": "stale"}
    try:
        program.run(["pm2", "restart", "0", "--update-env"], env=variables)
        assert pm2.remembered(env) == ["JWT_SECRET"]
        assert not pm2.unheld(env) and not pm2.unheld(env, "JWT_SECRET") and pm2.unheld(env, "DATABASE_URL")
    finally:
        program.run(["pm2", "delete", "propertypulse-api"], env=env.variables)
        standin.mend()
    assert pm2.remembered(env) == []


def test_unknown_worker_is_an_error_with_what_pm2_said(env: PropertyPulse) -> None:
    with pytest.raises(CommandFailed, match="exit code 1") as raised:
        program.run(["pm2", "reload", "77"], env=env.variables)
    assert "\x1b" not in str(raised.value)


def test_change_shows_the_very_command_and_its_undo(env: PropertyPulse) -> None:
    first = pm2.workers(env)[0]
    change = pm2.replacement(env, [first], "Replace the canary", [pm2.reload(env, first)])
    assert change.describe()["does"] == ["PM2_HOME=tests/sandbox/state/pm2 pm2 reload 0"]
    assert str(first.pid) in change.replaces()
    assert change.describe()["undo"][1].endswith("pm2 reload 0")
    stop = pm2.command(env, "stop", pm2.workers(env))
    assert stop.shown == "PM2_HOME=tests/sandbox/state/pm2 pm2 stop 0 1"


@pytest.mark.parametrize("act", ["reload", "command"])
def test_what_is_shown_is_what_runs(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    first, ran = pm2.workers(env)[0], list[str]()
    made = pm2.reload(env, first) if act == "reload" else pm2.command(env, "restart", [first])
    real = program.run

    def record(words: Sequence[str], **options: Any) -> str:
        if "jlist" in words:
            return real(words, **options)
        ran.append(shlex.join(words))
        return ""

    monkeypatch.setattr(program, "run", record)
    made.run()
    assert [f"PM2_HOME=tests/sandbox/state/pm2 {line}" for line in ran] == [made.shown]


def test_dump_of_pm2_s_environment_reaches_nobody(env: PropertyPulse) -> None:
    listed = json.loads(program.run(["pm2", "-s", "jlist"], env=env.variables))
    assert listed[0]["pm2_env"]["env"], "this test needs a variable to look for"
    assert "PM2_USAGE" not in repr(pm2.workers(env))


@pytest.mark.parametrize("silent", ["stopped", "hangs"])
def test_worker_stays_while_another_does_not_answer(
    env: PropertyPulse, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, other = pm2.workers(env)
    monkeypatch.setattr(pm2, "SPARE_SECONDS", 1)
    try:
        if silent == "stopped":
            program.run(["pm2", "stop", "1"], env=env.variables)
        else:
            os.kill(other.pid, signal.SIGSTOP)
        with pytest.raises(
            RunbookError, match=r"worker 0 was not taken away: of the others worker 1 \((stopped|online)"
        ):
            pm2.reload(env, kept, settle=0).run()
        assert pm2.workers(env)[0].pid == kept.pid
        assert silent == "hangs" or [worker.id for worker in pm2.quiet(env)] == [1, 0]
    finally:
        if silent == "hangs":
            os.kill(other.pid, signal.SIGCONT)
        standin.mend()


def test_worker_that_was_never_replaced_is_not_put_back(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pm2.workers(env)
    monkeypatch.setattr(health, "TIMEOUT", urllib3.Timeout(total=0.0001))  # nobody answers in time
    pm2.put_back(env, before, reread=True)
    assert [worker.pid for worker in pm2.workers(env)] == [worker.pid for worker in before]


def test_worker_that_crashes_again_and_again_is_told_with_its_error(env: PropertyPulse) -> None:
    before = pm2.workers(env)[:1]
    standin.break_("bad-release")
    try:
        with contextlib.suppress(RunbookError):  # PM2 says that it went well, or not, depending on how fast it crashed
            pm2.reload(env, before[0]).run()
        with pytest.raises(RunbookError, match="does not stay up") as raised:
            pm2.settled(env, before, settle=2, within=30)
        assert "Cannot find module" in str(raised.value.evidence)
    finally:
        standin.mend()
