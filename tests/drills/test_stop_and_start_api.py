"""Drills of `stop_and_start_api` on the stand-in: in an outage, on an API that is well, and with a bad release."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import health
from tests import sandbox
from tests.drills import standing
from tests.drills.standing import workers

pytestmark = pytest.mark.usefixtures("sandbox")


def stop_and_start(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the procedure with --apply; give its exit code, its record, and what the terminal showed."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", "stop_and_start_api", "--apply"]
    done = subprocess.run(
        [*command, "-p", "settle_seconds", "2", *arguments], capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    file = Path(done.stdout.splitlines()[-1])
    return done.returncode, json.loads(file.read_text()), done.stdout


def test_an_api_that_is_away_is_started_and_nothing_has_to_be_accepted() -> None:
    with standing.stopped():
        code, made, shown = stop_and_start()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), shown
        assert standing.problems() == []


def test_an_api_that_is_well_is_only_stopped_where_that_is_accepted() -> None:
    before = {worker.pid for worker in workers()}
    code, _, shown = stop_and_start()
    assert code == 1
    assert "To go on all the same: -p accept_downtime True" in shown
    assert before == {worker.pid for worker in workers()}
    code, made, shown = stop_and_start("-p", "accept_downtime", "True")
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), shown
    assert "Nobody is served any more, so nothing is lost — accepted by the operator" in shown
    assert not before & {worker.pid for worker in workers()}
    assert health.steady(propertypulse.load("sandbox").api.health_url)


def test_release_that_does_not_start_is_undone() -> None:
    good = propertypulse.load("sandbox").api.release.resolve()
    sandbox.break_("bad-release")
    try:
        code, made, _ = stop_and_start("-p", "accept_downtime", "True")
        assert (code, made["metadata"]["opslib"]["outcome"]) == (2, "undone")
        assert {worker.release for worker in workers()} == {good}
        assert standing.problems() == []
    finally:
        sandbox.mend("bad-release")
