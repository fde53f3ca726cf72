"""Drills of `restart_api` on the stand-in: under traffic, with releases that do not start, and killed half way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import pm2, replacement
from opslib.deployment import env_file
from opslib.runbook import listing, procedure
from tests import sandbox
from tests.place import states
from tests.sandbox import pm2 as standin

pytestmark = pytest.mark.usefixtures("sandbox")

SETTLE = ("-p", "settle_seconds", "2")


def restart(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the procedure with --apply; give its exit code, its record, and what the terminal showed."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    file = Path(done.stdout.splitlines()[-1])
    return done.returncode, json.loads(file.read_text()), done.stdout


def command(*arguments: str) -> list[str]:
    """The words of that command."""
    return [sys.executable, "-m", "opslib.runbook.cli", "run", "restart_api", "--apply", *SETTLE, *arguments]


def in_the_middle() -> "subprocess.Popen[str]":
    """A run that is replacing the canary."""
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert any("under way" in line for line in iter(process.stdout.readline, ""))
    time.sleep(1)
    return process


def workers() -> list[pm2.Worker]:
    """The workers as PM2 has them now."""
    return pm2.workers(propertypulse.load("sandbox"))


def test_graceful_restart_costs_no_request() -> None:
    before = {worker.pid for worker in workers()}
    with sandbox.Traffic(rate=50) as traffic:
        code, made, _ = restart("--reason", "drill")
    after = {worker.pid for worker in workers()}
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
    assert set(states(made)) == {"completed"}
    assert traffic.result.asked > 300
    assert traffic.result.failed == 0, traffic.result
    assert not before & after


@pytest.mark.parametrize(
    ("fault", "said"), [("bad-release", "Cannot find module"), ("hanging-release", "feature flag")], ids=str
)
def test_release_that_does_not_start_is_undone(fault: str, said: str) -> None:
    good = propertypulse.load("sandbox").api.release.resolve()
    sandbox.break_(fault)
    try:
        with sandbox.Traffic(rate=50) as traffic:
            code, made, shown = restart()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (2, "undone")
        assert traffic.result.failed == 0, traffic.result
        assert propertypulse.load("sandbox").api.release.resolve() == good
        assert {worker.release for worker in workers()} == {good}
        assert said in json.dumps(made)
        assert "✓ Undo: Replace the canary" in shown
        assert "pending" in states(made)
    finally:
        sandbox.mend(fault)


@pytest.mark.long
def test_slow_release_goes_first_where_nobody_answers() -> None:
    sandbox.break_("slow-release")
    try:
        standin.run("-s", "stop", "1")
        with sandbox.Traffic(rate=50) as traffic:
            code, _, shown = restart()
        assert (code, traffic.result.failed) == (0, 0), (shown, traffic.result)
        assert shown.index("pm2 reload 1") < shown.index("pm2 reload 0")
        assert {worker.status for worker in workers()} == {"online"}
    finally:
        sandbox.mend("slow-release")


@pytest.mark.long
def test_undo_of_a_slow_release_leaves_somebody_to_answer() -> None:
    sandbox.break_("slow-release")
    try:
        env = propertypulse.load("sandbox")
        killed = [replace(worker, pid=0) for worker in workers()]
        with sandbox.Traffic(rate=50) as traffic:
            replacement.put_back(env, killed, reread=True)
        assert traffic.result.failed == 0, traffic.result
        assert len(traffic.result.workers) == 4, traffic.result
    finally:
        sandbox.mend("slow-release")


def test_release_broken_in_place_needs_a_person() -> None:
    sandbox.break_("bad-release-in-place")
    try:
        with sandbox.Traffic(rate=50) as traffic:
            code, made, _ = restart()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (3, "needs-person")
        assert traffic.result.failed == 0, traffic.result
        why = made["metadata"]["opslib"]["why"]
        assert "worker 0 is down" in why
        assert "worker 1 answers" in why
        assert "Cannot find module" in json.dumps(made)
    finally:
        sandbox.mend("bad-release-in-place")


def test_fork_mode_says_that_requests_will_fail() -> None:
    sandbox.break_("fork-mode")
    try:
        code, made, shown = restart()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (1, "failed")
        assert "REQUESTS WILL FAIL" in shown
        code, made, _ = restart("-p", "accept_downtime", "True")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")
    finally:
        sandbox.mend("fork-mode")


def test_secret_that_is_gone_from_the_env_file_is_named_before_a_worker_is_taken_away() -> None:
    before, file = {worker.pid for worker in workers()}, propertypulse.load("sandbox").api.env_file
    edit = env_file.edit(file, {"JWT_SECRET": None})
    assert edit
    try:
        code, made, shown = restart()
    finally:
        env_file.restore(edit)
        env_file.drop(edit)
    assert (code, made["metadata"]["opslib"]["outcome"]) == (1, "failed")
    assert "✗ Every secret that the code names has a value — Put JWT_SECRET into the .env" in shown
    assert before == {worker.pid for worker in workers()}


def test_killed_half_way_it_is_run_again() -> None:
    with in_the_middle() as process:
        process.send_signal(signal.SIGKILL)
    newest = next(listing.records(procedure="restart_api"))
    assert newest.outcome == "interrupted"
    code, made, _ = restart()
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied")


def test_interrupted_it_leaves_the_workers_answering() -> None:
    with in_the_middle() as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 143, out
    assert "Undo: Replace the canary" in out
    assert all(worker.status == "online" for worker in workers())


def test_wrong_user_s_pm2_is_not_started(tmp_path: Path) -> None:
    os.symlink(procedure.root() / "notebooks", tmp_path / "notebooks")
    (tmp_path / "parameters").mkdir()
    text = (procedure.root() / "parameters/sandbox.yaml").read_text()
    here = str(procedure.root() / "tests")
    text = text.replace("pm2_home: tests/sandbox/state/pm2", "pm2_home: nobody/.pm2").replace(" tests/", f" {here}/")
    (tmp_path / "parameters/sandbox.yaml").write_text(text)
    variables = {**os.environ, "RUNBOOK_ROOT": str(tmp_path)}
    done = subprocess.run(command(), capture_output=True, text=True, env=variables, timeout=60)
    assert done.returncode == 1
    assert "✗ PM2's daemon runs as this user" in done.stdout
    assert not (tmp_path / "nobody").exists()
