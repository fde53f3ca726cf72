"""Drills in a checkout in place: what git says of it is the same before, while and after a run changes its `.env`."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from opslib import propertypulse
from opslib.api import handover
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.procedure import root
from tests.place import Place
from tests.sandbox import process
from tests.sandbox.plain import deployment, pm2
from tests.sandbox.plain.layout import CHECKOUT, DOTENV

ROLL_OUT = """\
from opslib.api.rollout import rollout, tidy
from opslib.deployment import env_file
env, file = run.environment, run.environment.api.env_file
value = env_file.read(file).get("NOTE", "")
change = rollout(env, "Set NOTE", {"NOTE": note}, settle=1)
close = Change("Close", [tidy(env)], undo=Kept("it is proven"), replaces=lambda: "")
run.plan(change, close)"""
CARRY_OUT = ("run.apply(change)", "run.verify('It is set', lambda: env_file.read(file)['NOTE'] == note)")


@pytest.fixture(autouse=True)
def plain(sandbox: None) -> Iterator[None]:
    """The plain stand-in in fork mode, new."""
    deployment.stop()
    deployment.start()
    yield
    deployment.stop()


@pytest.fixture(name="there")
def _there(tmp_path: Path) -> Place:
    """A place with a procedure of its own that works on the plain stand-in as parameters/plain.yaml describes it."""
    there = Place(tmp_path / "there")
    described = (root() / "parameters/plain.yaml").read_text()
    (there.folder / "parameters/test.yaml").write_text(described.replace(" tests/", f" {root()}/tests/"))
    there.write(
        "set_note", ROLL_OUT, *CARRY_OUT, "run.apply(close)", "run.finish()", parameters='note: str = "x"  # what'
    )
    return there


@pytest.fixture(name="env")
def _env(there: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    with monkeypatch.context() as patch:
        patch.setenv("RUNBOOK_ROOT", str(there.folder))
        return propertypulse.load("test")


def seen_by_git() -> str:
    """Give what git sees of the checkout, also what it ignores."""
    command = ["git", "status", "--porcelain", "--ignored", "--untracked-files=all"]
    said = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    return "".join(line for line in said.splitlines(keepends=True) if "/node_modules" not in line)


def test_git_sees_nothing_of_a_plan_nor_of_what_it_becomes(there: Place, env: PropertyPulse) -> None:
    before = seen_by_git()
    assert "!! server/.env\n" in before
    code, _ = there.run("set_note")
    assert (code, seen_by_git(), env.place.exists()) == (0, before, False)
    code, record = there.run("set_note", "--apply")
    assert code == 0, record["metadata"]["opslib"]
    assert seen_by_git() == before
    assert env_file.read(DOTENV)["NOTE"] == "x" and pm2.problem() is None
    assert os.listdir(env.place) == [".runbook.lock"] and env.place.stat().st_mode & 0o777 == 0o700


@pytest.mark.long
@pytest.mark.parametrize("waits", [False, True], ids=["after the edit", "while the next process boots"])
def test_killed_it_leaves_nothing_there_and_the_next_run_finds_it(
    there: Place, env: PropertyPulse, waits: bool
) -> None:
    before = seen_by_git()
    run = there.start("run", "set_note", "--apply")
    left = handover._file(env)
    process.wait(lambda: bool(env_file.edits(DOTENV, env.place)) and (left.exists() or not waits), "the run's edit")
    for one in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        if "opslib" in " ".join(one.cmdline()) or "ipykernel" in " ".join(one.cmdline()):
            one.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    assert seen_by_git() == before
    assert [one.stat().st_mode & 0o777 for one in env.place.iterdir() if one.suffix == ".bak"] == [0o600]
    code, record = there.run("set_note", "--apply")
    assert code == 0, record["metadata"]["opslib"]
    assert (seen_by_git(), os.listdir(env.place)) == (before, [".runbook.lock"])
    assert env_file.read(DOTENV)["NOTE"] == "x" and pm2.problem() is None and not handover.waiting(env)
