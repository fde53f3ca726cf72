"""Drills of `restart_api` on an API that nobody has prepared, with commits that do not start, and killed on its way.

It runs in fork mode, with and without a handover, and in cluster mode without `wait_ready`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from opslib import propertypulse
from opslib.api import handover, pm2 as workers
from opslib.deployment.deployment import Deployment
from tests.place import elsewhere
from tests.sandbox import process
from tests.sandbox.plain import deployment, fault, pm2
from tests.sandbox.plain.layout import STATE
from tests.sandbox.plain.traffic import PlainTraffic

pytestmark = pytest.mark.usefixtures("mended")

LEFT = STATE / "runbook/runbook.handover"
ACCEPTED = ("-p", "settle_seconds", "2", "-p", "accept_downtime", "True")


@pytest.fixture
def without_handover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root of its own, whose environment `plain` allows no handover."""
    monkeypatch.setenv("RUNBOOK_ROOT", str(elsewhere(tmp_path, "plain", api={"handover": False})))


def command(*arguments: str) -> list[str]:
    words = ["-m", "opslib.runbook.cli", "run", "restart_api", "-e", "plain", "--apply"]
    return [sys.executable, *words, *ACCEPTED, *arguments]


def restart() -> tuple[int, dict[str, Any], str]:
    """Run the procedure with --apply; give its exit code, its record, and what the terminal showed."""
    done = subprocess.run(command(), capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(Path(done.stdout.splitlines()[-1]).read_text()), done.stdout


def outcome(record: dict[str, Any]) -> str:
    return str(record["metadata"]["opslib"]["outcome"])


def clean() -> bool:
    """Whether PM2 has one process of the API, which serves, and nothing is left of a handover."""
    env = propertypulse.load("plain")
    return len(pm2.processes()) == 2 and not handover.waiting(env) and not LEFT.exists() and pm2.problem() is None


def test_the_next_process_takes_the_port_and_a_restart_by_hand_is_as_it_was() -> None:
    [before] = pm2.workers()
    with PlainTraffic(rate=50) as traffic:
        code, record, said = restart()
    [after] = pm2.workers()
    assert (code, outcome(record)) == (0, "applied"), said
    assert after["pid"] != before["pid"] and clean()
    # A boot takes over a second: `pm2 restart` would have lost more than fifty.
    assert traffic.result.asked > 200 and traffic.result.failed <= 5, traffic.result
    pm2.restart()
    [by_hand] = pm2.workers()
    assert by_hand["pid"] != after["pid"] and by_hand["pm2_env"]["restart_time"] == 1
    process.wait(lambda: pm2.problem() is None, "the API to be healthy")
    code, _, said = restart()
    assert code == 0 and clean(), said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bad-release", "Cannot find module"),
        pytest.param("hanging-release", "Waiting for feature flags", marks=pytest.mark.long),
    ],
)
def test_a_commit_that_does_not_start_costs_no_request(name: str, said: str) -> None:
    tried_in_vain(name, said)


@pytest.mark.long
def test_nor_does_it_without_a_handover(without_handover: None) -> None:
    tried_in_vain("bad-release", "Cannot find module")


def tried_in_vain(name: str, said: str) -> None:
    """Restart with this fault, which must end before anything is taken away, and say what is wrong."""
    fault.break_(name)
    [before] = pm2.workers()
    with PlainTraffic(rate=50) as traffic:
        code, record, shown = restart()
    assert (code, outcome(record)) == (2, "undone"), shown
    assert said in json.dumps(record, ensure_ascii=False) and "Nothing was taken away" in shown
    assert traffic.result.failed == 0, traffic.result
    assert [one["pid"] for one in pm2.workers()] == [before["pid"]] and clean()


@pytest.mark.long
def test_a_variable_that_is_gone_costs_no_request_and_is_named() -> None:
    fault.break_("env-missing")
    with PlainTraffic(rate=50) as traffic:
        code, record, said = restart()
        again = subprocess.run(command("-p", "accept_missing_secrets", "True"), capture_output=True, text=True)
    assert (code, outcome(record)) == (1, "failed") and "FIREBASE_PRIVATE_KEY" in said, said
    assert again.returncode == 2 and "Nothing was taken away" in again.stdout, again.stdout
    assert traffic.result.failed == 0, traffic.result


@pytest.mark.long
def test_without_a_handover_there_is_one_outage(without_handover: None) -> None:
    with PlainTraffic(rate=50) as traffic:
        code, record, said = restart()
    assert (code, outcome(record)) == (0, "applied"), said
    [worker] = pm2.workers()
    assert worker["pm2_env"]["restart_time"] == 1 and clean()
    assert traffic.result.failed > 5, "that is what a handover saves"


@pytest.mark.long
@pytest.mark.parametrize("at", ["begun", "waiting", "deleted"])
def test_killed_on_its_way_it_is_run_again(at: str) -> None:
    [before] = pm2.workers()
    run = subprocess.Popen(command(), stdout=subprocess.PIPE, text=True)
    assert run.stdout
    assert any("Replace the canary — under way" in line for line in iter(run.stdout.readline, ""))
    reached: dict[str, Callable[[], bool]] = {
        "begun": lambda: len(pm2.workers()) == 2,
        "waiting": lambda: LEFT.exists() and LEFT.read_text() != "",
        "deleted": lambda: before["pm_id"] not in [one["pm_id"] for one in pm2.workers()],
    }
    while not reached[at]():
        assert run.poll() is None
        time.sleep(0.01)
    for one in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    run.communicate()
    code, record, said = restart()
    assert (code, outcome(record)) == (0, "applied"), said
    [after] = pm2.workers()
    assert after["pid"] != before["pid"] and clean(), said


def test_cut_short_while_the_old_process_goes_the_next_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    env, real = propertypulse.load("plain"), workers.run
    before, begun = workers.workers(env), list[subprocess.Popen[bytes]]()
    env.prepare()

    def cut_short(environment: Deployment, words: Sequence[str], **more: Any) -> None:
        if "delete" not in words or begun:
            real(environment, words, **more)
            return
        begun.append(subprocess.Popen(words, env=environment.variables, stdout=subprocess.DEVNULL))
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "run", cut_short)
    with pytest.raises(KeyboardInterrupt):
        handover.carry_out(env, before)
    begun[0].wait()
    process.wait(lambda: pm2.problem() is None, "the next process to serve")
    assert [one["pid"] for one in pm2.workers()] != [before[0].pid]
    handover.clear(env)
    assert clean()


@pytest.mark.long
def test_several_workers_without_wait_ready_are_reloaded_one_by_one() -> None:
    deployment.stop()
    deployment.start(instances=2)
    try:
        before = {one["pid"] for one in pm2.workers()}
        with PlainTraffic(rate=50) as traffic:
            code, record, said = restart()
        assert (code, outcome(record)) == (0, "applied"), said
        assert "Requests in flight may be cut" in said or "accepted by the operator" in said
        assert len({one["pid"] for one in pm2.workers()} - before) == 2
        assert traffic.result.failed <= 4, traffic.result
        fault.break_("bad-release")
        with PlainTraffic(rate=50) as traffic:
            code, record, said = restart()
        assert (code, outcome(record)) == (2, "undone") and "Nothing was taken away" in said, said
        assert traffic.result.failed == 0, traffic.result
    finally:
        deployment.stop()
        deployment.start()
