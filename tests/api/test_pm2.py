"""What PM2 is asked, on the stand-in."""

import json

import pytest

from opslib import propertypulse
from opslib.api import pm2
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


def test_dump_of_pm2_s_environment_reaches_nobody(env: PropertyPulse) -> None:
    listed = json.loads(program.run(["pm2", "-s", "jlist"], env=env.variables))
    assert listed[0]["pm2_env"]["env"], "this test needs a variable to look for"
    assert "PM2_USAGE" not in repr(pm2.workers(env))
