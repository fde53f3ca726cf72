"""PM2: the API's workers, and replacing them without a release that does not start costing a request.

PM2's own commands are what acts; facts about them were measured with 7.0.4 and are in `pm2 --help` where it says so.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from opslib.api import health, log
from opslib.api.log import Position
from opslib.deployment import env_file
from opslib.deployment.environment import Deployment
from opslib.runbook import program
from opslib.runbook.act import Act, act
from opslib.runbook.answer import Answer
from opslib.runbook.change import Change
from opslib.runbook.errors import CommandFailed, RunbookError, TimedOut, UndoFailed
from opslib.runbook.procedure import located

SILENT = 30
"""Seconds after which a worker that is up and does not answer is taken to hang."""
UNDO_SECONDS = 60
SPARE_SECONDS = 120
"""Seconds for which a worker is left where it is because the others do not all answer: a busy machine needs them."""
BROKEN = ("errored", "stopped")
RELOAD_LOCK = 30
"""Seconds for which PM2 refuses a second reload after one that was cut short."""


@dataclass(frozen=True)
class Worker:
    """One process of the API as PM2 and the system tell of it. `release` is the folder that its code was read from."""

    id: int | str  # a text like `_old_0` while it leaves
    pid: int
    status: str
    mode: str
    restarts: int
    up: int = field(compare=False)  # seconds
    memory: int = field(compare=False)  # MiB
    release: Path | None
    ready: bool  # whether PM2 waits for the worker to say that it is ready
    logs: list[Position] = field(repr=False, compare=False)
    """Where its logs for errors and output ended when this was asked."""


def daemon(environment: Deployment) -> dict[str, Any]:
    """Say whether PM2's daemon runs for this home, and as whom; asks its files, as any pm2 command would start one."""
    home = environment.api.pm2_home
    found: dict[str, Any] = {"home": home, "pid": None, "user": None, "runs": False}
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int((home / "pm2.pid").read_text()))
        found |= {"pid": process.pid, "user": process.username()}
        found["runs"] = process.uids().real == os.getuid() and (home / "rpc.sock").exists()
    return found


def ours(environment: Deployment) -> Answer:
    """Whether PM2's daemon for this home runs as this user."""
    found = daemon(environment)
    return Answer(found["runs"], found, "Become the user that runs the API, or start it with `pm2 resurrect`.")


def workers(environment: Deployment) -> list[Worker]:
    """Give the API's workers by id. Of what PM2 tells, only these fields are kept: it holds their whole environment."""
    return sorted(
        (
            Worker(
                id=one["pm_id"],
                pid=one["pid"],
                status=one["pm2_env"]["status"],
                mode=one["pm2_env"]["exec_mode"].removesuffix("_mode"),
                restarts=one["pm2_env"]["restart_time"],
                up=max(0, round(time.time() - one["pm2_env"]["pm_uptime"] / 1000)) if one["pid"] else 0,
                memory=one["monit"]["memory"] >> 20,
                release=_release(one["pid"], Path(one["pm2_env"]["pm_cwd"]), environment.api.release),
                ready=bool(one["pm2_env"].get("wait_ready")),
                logs=log.mark(Path(one["pm2_env"][f"pm_{stream}_log_path"]) for stream in ("err", "out")),
            )
            for one in _list(environment)
        ),
        key=lambda worker: (isinstance(worker.id, str), worker.id),
    )


def quiet(environment: Deployment, *, within: float = 20) -> list[Worker]:
    """Give the workers once no reload is under way, or `within` seconds have passed; those that are down come first.

    A reload outlives the run that began it. Meanwhile PM2 lists the worker that leaves too, with an id like `_old_0`:
    that one is not given.
    """
    ends = time.monotonic() + within
    while True:
        found = workers(environment)
        under_way = [w for w in found if isinstance(w.id, str) or w.status not in ("online", *BROKEN)]
        if not under_way or time.monotonic() > ends:
            return sorted((w for w in found if isinstance(w.id, int)), key=lambda worker: worker.status not in BROKEN)
        time.sleep(0.5)


def variables(environment: Deployment) -> dict[str, str]:
    """Give the variables that PM2 holds for the workers; where they differ, those of the last."""
    return {key: str(value) for one in _list(environment) for key, value in one["pm2_env"]["env"].items()}


def remembered(environment: Deployment) -> list[str]:
    """Give the keys of the `.env` for which PM2 holds another value: a restart would not take the file's.

    dotenv does not override a variable that is already set, and PM2 keeps those of the first start.
    """
    file = env_file.read(environment.api.env_file)
    held = [one["pm2_env"]["env"] for one in _list(environment)]
    return sorted(key for key in file if any(key in env and str(env[key]) != file[key] for env in held))


def graceful(environment: Deployment) -> Answer:
    """Whether the workers can be reloaded one by one without a request being cut; says which condition fails."""
    found = workers(environment)
    missing = [
        *(["there are fewer than two workers"] if len(found) < 2 else []),
        *(f"worker {w.id} runs in {w.mode} mode, not in cluster mode" for w in found if w.mode != "cluster"),
        *(f"PM2 does not wait until worker {w.id} is ready (no `wait_ready`)" for w in found if not w.ready),
    ]
    said = f"REQUESTS WILL FAIL at each reload: {'; '.join(missing)}. To go on all the same: -p accept_downtime True"
    return Answer(not missing, found, said)


def unheld(environment: Deployment, *keys: str) -> Answer:
    """Whether PM2 holds no other value of these keys (of any, if none is named) than the `.env`.

    Workers would keep that one.
    """
    held = [key for key in remembered(environment) if not keys or key in keys]
    return Answer(not held, held, f"`pm2 delete {environment.api.name}`, and start it in a shell without {held}.")


def reloads(environment: Deployment, before: Sequence[Worker]) -> list[str]:
    """Give the commands that replace these workers, as a person would type them."""
    return [_typed(environment, ["pm2", "reload", str(worker.id)]) for worker in before]


def reload(environment: Deployment, worker: Worker, *, settle: float | None = None) -> Act:
    """Make the act that replaces this worker; in fork mode PM2 restarts it instead.

    It leaves only when all the others answer. With `settle` the act ends when the new one has stayed up for so many
    seconds, and fails when it does not.
    """
    words = ["pm2", "reload", str(worker.id)]

    def run() -> None:
        now = [one for one in quiet(environment) if one.id == worker.id]
        _spare(environment, worker)
        _carry_out(environment, now, words)
        if settle is not None:
            settled(environment, now, settle=settle, within=settle + UNDO_SECONDS)

    return act(_typed(environment, words), run=run)


def command(environment: Deployment, verb: str, before: Sequence[Worker]) -> Act:
    """Make an act of one command of PM2's for all of these workers at once, whoever misses them."""
    words = ["pm2", verb, *(str(worker.id) for worker in before)]
    return act(_typed(environment, words), run=lambda: _carry_out(environment, before, words))


def replacement(environment: Deployment, before: Sequence[Worker], title: str, acts: Sequence[Act]) -> Change:
    """Make the change whose acts replace these workers, with its way back."""
    return Change(title, acts, undo=way_back(environment, before), replaces=lambda: describe(environment, before))


def way_back(environment: Deployment, before: Sequence[Worker], *, reread: bool = False) -> list[Act]:
    """Make the acts that `put_back` these workers, which are read when they are undone."""
    release = f"point {environment.api.release.name} at the release that the workers ran, if it points elsewhere"
    order = "each only if it was replaced; first those that do not answer, by `pm2 restart`"
    return [
        act(release, run=lambda: _point_back(environment, before)),
        act(*reloads(environment, before), order, run=lambda: put_back(environment, before, reread=reread)),
    ]


def replaced(environment: Deployment, before: Sequence[Worker], *, settle: float) -> Answer:
    """Whether each of these workers is a new process that answers and has stayed up for `settle` seconds.

    Raise RunbookError as soon as one cannot come up any more, with the end of its logs as evidence.
    """
    now = {worker.id: worker for worker in workers(environment)}
    after = [now[worker.id] for worker in before if worker.id in now]
    for old, new in zip(before, after, strict=False):
        again = new.restarts - old.restarts
        if new.status in BROKEN or (again > 1 and new.pid != old.pid and new.up < settle):
            said = log.causes(old.logs)
            why = "its log says why" if log.errors(said) else "its log names no error, and ends so"
            raise RunbookError(f"worker {new.id} does not stay up: {new.status}, {again} restarts; {why}.", said)
    fresh = len(after) == len(before) and all(
        new.pid != old.pid and new.status == "online" and new.restarts <= old.restarts + 1 and new.up >= settle
        for old, new in zip(before, after, strict=True)
    )
    pids = {worker.pid for worker in after}
    answering = health.answering(environment.api.health_url, pids) if fresh else set()
    for old, new in zip(before, after, strict=False):
        if fresh and new.pid not in answering and new.up >= max(SILENT, settle):
            raise RunbookError(
                f"worker {new.id} is online and has not answered for {new.up} s; its log says what it does.",
                log.since(old.logs, limit=6),
            )
    return Answer(fresh and answering == pids, after)


def settled(environment: Deployment, before: Sequence[Worker], *, settle: float, within: float) -> None:
    """Wait until each of these workers is `replaced`. Raise RunbookError when one cannot, or time (seconds) is up."""
    ends = time.monotonic() + within
    while not replaced(environment, before, settle=settle):
        if time.monotonic() > ends:
            ids = ", ".join(str(worker.id) for worker in before)
            raise RunbookError(f"after {within:g} s not every one of the new workers {ids} is online and answers")
        time.sleep(0.5)


def describe(environment: Deployment, before: Sequence[Worker]) -> str:
    """Say which processes these workers are now, and which release is in force: what a replacement replaces."""
    now = {worker.id: worker for worker in workers(environment)}
    named = [f"worker {w.id} (process {now[w.id].pid if w.id in now else 'gone'})" for w in before]
    return f"{', '.join(named)}; release in force {environment.api.release.resolve().name}"


def put_back(environment: Deployment, before: Sequence[Worker], *, reread: bool = False) -> None:
    """Undo a replacement: the old release in force, and these workers up on it, or UndoFailed with what is down.

    `reread` reloads also the new ones that serve, because the `.env` that they have read was put back. One that was
    never replaced is left alone, whether it answers or not; those that do not answer come first, one at a time.
    """
    ran = _point_back(environment, before)
    ids = {worker.id for worker in before}
    # One that PM2 is starting again by itself may come up now; a command in the middle of that would be refused.
    now = [worker for worker in quiet(environment, within=UNDO_SECONDS) if worker.id in ids]
    up = health.answering(environment.api.health_url, {worker.pid for worker in now})
    old = {worker.pid for worker in before}
    new = [worker for worker in now if not worker.pid or worker.pid not in old]
    down = [worker for worker in new if worker.pid not in up or (ran and worker.release != ran) or reread]
    try:
        for worker in sorted(down, key=lambda worker: worker.pid in up):
            _spare(environment, worker)
            # PM2 does not reload what it is still launching.
            _pm2(environment, ["pm2", "reload" if worker.pid in up else "restart", str(worker.id)])
            settled(environment, [_begun(environment, worker)], settle=2, within=UNDO_SECONDS)
    except RunbookError as error:
        raise UndoFailed(f"{_state(environment)} {error}", error.evidence) from None


def _typed(environment: Deployment, words: Sequence[str]) -> str:
    return f"PM2_HOME={shlex.quote(located(environment.api.pm2_home))} {shlex.join(words)}"


def _state(environment: Deployment) -> str:
    """Say which workers serve and which are down."""
    now = workers(environment)
    up = health.answering(environment.api.health_url, {worker.pid for worker in now})
    said = []
    for worker in now:
        release = worker.release.name if worker.release else "unknown"
        does = "answers" if worker.pid in up else "is down"
        said.append(f"worker {worker.id} {does} ({worker.status}, release {release})")
    return f"Now: {', '.join(said)}."


def _point_back(environment: Deployment, before: Sequence[Worker]) -> Path | None:
    """Put the release that these workers ran in force, and give it; None if it is not known."""
    ran = next((worker.release for worker in before if worker.release), None)
    link = environment.api.release
    if ran and ran != link.resolve() and ran.is_dir() and link.is_symlink():
        beside = link.with_name(f".{link.name}.undo")
        beside.unlink(missing_ok=True)
        beside.symlink_to(os.path.relpath(ran, link.parent))
        os.replace(beside, link)
    return ran


def _spare(environment: Deployment, worker: Worker) -> None:
    """Wait until nobody misses this worker: all the others answer, or it is down itself, or the whole API is.

    PM2 takes the old worker away after `listen_timeout`, ready or not the new one, and calls that one online. Raise
    RunbookError after SPARE_SECONDS: answers that do not come in time are no proof that there is nothing to lose.
    """
    ends = time.monotonic() + SPARE_SECONDS
    while True:
        now = workers(environment)
        if all(one.status in BROKEN for one in now if one.id == worker.id):
            return
        others = [one for one in now if one.id != worker.id]
        up = health.answering(environment.api.health_url, {one.pid for one in others if one.status not in BROKEN})
        silent = [one for one in others if one.pid not in up]
        if not silent or (not up and health.away(environment.api.health_url)):
            return
        if time.monotonic() > ends or all(one.status in BROKEN for one in silent):
            named = ", ".join(f"worker {one.id} ({one.status})" for one in silent)
            raise RunbookError(
                f"worker {worker.id} was not taken away: of the others {named} gives no answer, and without it nobody "
                "might. See why, and replace that one first, with restart_api."
            )
        time.sleep(0.5)


def _begun(environment: Deployment, worker: Worker) -> Worker:
    """Give this worker with the restarts up to the one just made: those before are no sign that it does not stay up."""
    made = [one.restarts for one in workers(environment) if one.id == worker.id]
    return dataclasses.replace(worker, restarts=max([worker.restarts, *(count - 1 for count in made)]))


def _carry_out(environment: Deployment, before: Sequence[Worker], words: Sequence[str]) -> None:
    """Carry out a command of PM2's. Raise RunbookError with what the workers wrote meanwhile, which says why."""
    try:
        _pm2(environment, words)
    except CommandFailed as error:
        written = log.since([position for worker in before for position in worker.logs], limit=6)
        raise RunbookError(str(error), written or error.evidence) from None


def _pm2(environment: Deployment, words: Sequence[str]) -> None:
    """Run a command of PM2's. One that has not ended in time is judged by what it did, as whoever asks for it does.

    PM2 may wait for ever for a worker that crashed while it was being replaced, though another has come up since.
    """
    ends = time.monotonic() + RELOAD_LOCK + 5
    while True:
        try:
            program.run(words, env=environment.variables, seconds=120)
            return
        except TimedOut:
            return
        except CommandFailed as error:
            # PM2 was just starting a worker that had crashed: it takes the command once that is up or down again.
            passes = any(said in error.output for said in ("already in progress", "process already started"))
            if not passes or time.monotonic() > ends:
                raise
            time.sleep(1)


def _list(environment: Deployment) -> list[Mapping[str, Any]]:
    found = daemon(environment)
    if not found["runs"]:
        raise RunbookError(
            f"PM2's daemon does not run for {found['home']} as this user (found process {found['pid']} of "
            f"{found['user']}). Become the user that runs the API, or start it with `pm2 resurrect`."
        )
    listed = json.loads(program.run(["pm2", "-s", "jlist"], env=environment.variables))
    return [one for one in listed if one["name"] == environment.api.name]


def _release(pid: int, cwd: Path, link: Path) -> Path | None:
    """Give the release folder of a process: its working folder, less the part that lies inside a release."""
    try:
        real = Path(psutil.Process(pid).cwd())
        inside = cwd.relative_to(link)
    except (psutil.Error, ValueError):
        return None
    if real.parts[len(real.parts) - len(inside.parts) :] != inside.parts:
        return None
    return real.parents[len(inside.parts) - 1] if inside.parts else real
