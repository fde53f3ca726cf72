"""A rollout: what its plan names, what it reads only when it is applied, and how it is taken back. PM2 is played."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import pm2, replacement
from opslib.api.pm2 import Worker
from opslib.api.rollout import rollout, tidy
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.act import Act, Later, act
from opslib.runbook.errors import RunbookError
from tests.place import Place


class Played:
    """Two workers, each of which has read the `.env` at some time; `breaks` is the id of one that does not come up."""

    def __init__(self, file: Path) -> None:
        self.file, self.pids, self.breaks = file, 100, -1
        self.read: dict[int, bytes] = {}
        self.workers = [Worker(id, 0, "online", "cluster", 0, 9, 50, file.parent, True, []) for id in (0, 1)]
        self.put_back(None, self.workers, reread=True)

    def quiet(self, environment: Any, **_: Any) -> list[Worker]:
        return list(self.workers)

    def reload(self, environment: Any, worker: Worker, *, settle: float) -> Act:
        def run() -> None:
            self.put_back(environment, [replace(worker, pid=0)], reread=True)
            if worker.id == self.breaks:
                raise RunbookError(f"worker {worker.id} does not stay up")

        return act(f"pm2 reload {worker.id}", run=run)

    def put_back(self, environment: Any, before: list[Worker], *, reread: bool) -> None:
        for worker in before:
            now = self.workers[int(worker.id)]
            if now.pid != worker.pid or not now.pid:
                self.pids += 1
                self.workers[int(worker.id)] = replace(now, pid=self.pids)
                self.read[int(worker.id)] = self.file.read_bytes()


@pytest.fixture(name="env", params=["", "folder: ours\n"], ids=["beside the .env", "in a folder"])
def _env(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    with (place.folder / "parameters/test.yaml").open("a") as described:
        described.write(request.param)
    env = propertypulse.load("test")
    env.prepare()
    return env


@pytest.fixture
def played(env: PropertyPulse, monkeypatch: pytest.MonkeyPatch) -> Played:
    one = Played(env.api.env_file)
    monkeypatch.setattr(pm2, "workers", one.quiet)
    monkeypatch.setattr(pm2, "quiet", one.quiet)
    monkeypatch.setattr(replacement, "replace", one.reload)
    monkeypatch.setattr(replacement, "put_back", one.put_back)
    return one


def test_two_of_one_plan_follow_each_other(env: PropertyPulse, played: Played) -> None:
    before = env.api.env_file.read_bytes()
    staged: list[str] = []
    first = rollout(env, "Offer", {"OFFERED": Later("the staged one", lambda: staged[0])})
    values: dict[str, str | Later] = {"JWT_SECRET": Later("the staged one", lambda: staged[0]), "OFFERED": "old"}
    second = rollout(env, "Sign", values, replaces=["JWT_SECRET"])
    shown = first.describe()["does"]
    assert shown[0] == "set OFFERED in app/.env to the staged one"
    assert shown[1:] == ["pm2 reload 0", "pm2 reload 1"]
    assert len(first.acts) == 3
    planned = second.replaces()
    assert planned.startswith("JWT_SECRET fingerprint ") and "worker 0, worker 1; the code in app, of no" in planned
    staged.append("new")
    first.do()
    assert second.replaces() == planned  # though the processes are others
    second.do()
    found = env_file.read(env.api.env_file)
    assert (found["JWT_SECRET"], found["OFFERED"]) == ("new", "old")
    assert set(played.read.values()) == {env.api.env_file.read_bytes()}
    assert second.undo and first.undo
    second.put_back()
    assert env_file.read(env.api.env_file)["OFFERED"] == "new"
    first.put_back()
    assert env.api.env_file.read_bytes() == before
    assert set(played.read.values()) == {before}
    assert env_file.edits(env.api.env_file, env.place) == []


@pytest.mark.parametrize("who", ["value", "worker", "release"])
def test_plan_that_somebody_else_has_overtaken_names_something_else(
    env: PropertyPulse, played: Played, who: str
) -> None:
    change = rollout(env, "Sign", {"JWT_SECRET": "new"})
    planned = change.replaces()
    if who == "value":
        env_file.edit(env.api.env_file, {"JWT_SECRET": "theirs"})
    elif who == "worker":
        played.workers.append(replace(played.workers[0], id=2))
    else:
        (other := env.api.release.with_name("other")).mkdir()
        env = env.model_copy(update={"api": env.api.model_copy(update={"release": other})})
        change = rollout(env, "Sign", {"JWT_SECRET": "new"})
    assert change.replaces() != planned


def test_worker_that_does_not_come_up_brings_the_old_values_back(env: PropertyPulse, played: Played) -> None:
    before = env.api.env_file.read_bytes()
    change = rollout(env, "Sign", {"JWT_SECRET": "new", "PORT": None})
    played.breaks = 0
    untouched = played.workers[1].pid
    with pytest.raises(RunbookError, match="worker 0 does not stay up"):
        change.do()
    change.put_back()
    assert env.api.env_file.read_bytes() == before
    assert set(played.read.values()) == {before}
    assert played.workers[1].pid == untouched


@pytest.mark.parametrize("reached", [[], [0], [0, 1]], ids=str)
def test_what_a_killed_run_has_left_is_finished_or_taken_back(
    env: PropertyPulse, played: Played, reached: list[int]
) -> None:
    before = env.api.env_file.read_bytes()
    env_file.edit(env.api.env_file, {"JWT_SECRET": "new"}, folder=env.place)
    played.put_back(env, [replace(played.workers[id], pid=0) for id in reached], reread=True)
    change = rollout(env, "Sign", {"JWT_SECRET": "new"})
    change.do()
    assert set(played.read.values()) == {env.api.env_file.read_bytes()}
    change.put_back()
    assert env.api.env_file.read_bytes() == before
    assert set(played.read.values()) == {before}


def test_edit_that_is_refused_changes_nothing(env: PropertyPulse, played: Played) -> None:
    before, pids = env.api.env_file.read_bytes(), [worker.pid for worker in played.workers]
    env.api.env_file.chmod(0o400)
    change = rollout(env, "Sign", {"JWT_SECRET": "new"})
    with pytest.raises(env_file.EnvFileError, match="is read-only"):
        change.do()
    change.put_back()
    assert env.api.env_file.read_bytes() == before
    assert [worker.pid for worker in played.workers] == pids
    tidy(env).run()
