"""PM2: the API's workers as it tells of them, what it holds for them, and its commands.

Facts about PM2 were measured with 7.0.4 and are in `pm2 --help` where it says so.
"""

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from opslib.api import log
from opslib.api.log import Position
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.runbook import program
from opslib.runbook.answer import Answer
from opslib.runbook.errors import CommandFailed, RunbookError, TimedOut
from opslib.runbook.procedure import located

BROKEN = ("errored", "stopped")
_ANEW = ("PM2_", "NODE_APP_INSTANCE", "unique_id")
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
            for one in listed(environment)
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


def started_with(entry: Mapping[str, Any]) -> dict[str, str]:
    """Give the variables that one of `listed` was started with, without those that PM2 sets anew at each start."""
    held = entry["pm2_env"]["env"]
    return {key: str(value) for key, value in held.items() if not key.startswith(_ANEW)}


def variables(environment: Deployment) -> dict[str, str]:
    """Give the variables that PM2 holds for the workers; where they differ, those of the last."""
    return held(listed(environment))


def held(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Give the variables that PM2 holds for these of `listed`; where they differ, those of the last."""
    return {key: str(value) for one in entries for key, value in one["pm2_env"].get("env", {}).items()}


def remembered(environment: Deployment) -> list[str]:
    """Give the keys of the `.env` for which PM2 holds another value: a restart would not take the file's.

    dotenv does not override a variable that is already set, and PM2 keeps those of the first start.
    """
    file = env_file.read(environment.api.env_file)
    held = [one["pm2_env"]["env"] for one in listed(environment)]
    return sorted(key for key in file if any(key in env and str(env[key]) != file[key] for env in held))


def unheld(environment: Deployment, *keys: str) -> Answer:
    """Whether PM2 holds no other value of these keys (of any, if none is named) than the `.env`.

    Workers would keep that one.
    """
    held = [key for key in remembered(environment) if not keys or key in keys]
    return Answer(not held, held, f"`pm2 delete {environment.api.name}`, and start it in a shell without {held}.")


def carry_out(environment: Deployment, before: Sequence[Worker], words: Sequence[str]) -> None:
    """Carry out a command of PM2's. Raise RunbookError with what the workers wrote meanwhile, which says why."""
    try:
        run(environment, words)
    except CommandFailed as error:
        written = log.since([position for worker in before for position in worker.logs], limit=6)
        raise RunbookError(str(error), written or error.evidence) from None


def run(environment: Deployment, words: Sequence[str], *, given: Mapping[str, str] | None = None) -> None:
    """Run a command of PM2's, in these variables if they are given.

    One that has not ended in time is judged by what it did, as whoever asks for it does: PM2 may wait for ever for a
    worker that crashed while it was being replaced, though another has come up since.
    """
    ends = time.monotonic() + RELOAD_LOCK + 5
    while True:
        try:
            program.run(words, env=given or environment.variables, seconds=120)
            return
        except TimedOut:
            return
        except CommandFailed as error:
            # PM2 was just starting a worker that had crashed: it takes the command once that is up or down again.
            passes = any(said in error.output for said in ("already in progress", "process already started"))
            if not passes or time.monotonic() > ends:
                raise
            time.sleep(1)


def typed(environment: Deployment, words: Sequence[str]) -> str:
    """Give a command of PM2's as a person would type it."""
    return f"PM2_HOME={shlex.quote(located(environment.api.pm2_home))} {shlex.join(words)}"


def listed(environment: Deployment) -> list[Mapping[str, Any]]:
    """Give all that PM2 tells of the API's workers, their variables and with them secrets too: not to be shown."""
    return [one for one in listed_all(environment) if one["name"] == environment.api.name]


def listed_all(environment: Deployment) -> list[Mapping[str, Any]]:
    """Give the same of every app that PM2 has. Raise RunbookError if its daemon does not run as this user."""
    found = daemon(environment)
    if not found["runs"]:
        raise RunbookError(
            f"PM2's daemon does not run for {found['home']} as this user (found process {found['pid']} of "
            f"{found['user']}). Become the user that runs the API, or start it with `pm2 resurrect`."
        )
    listed: list[Mapping[str, Any]] = json.loads(program.run(["pm2", "-s", "jlist"], env=environment.variables))
    return listed


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
