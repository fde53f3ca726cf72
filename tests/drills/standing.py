"""Where the stand-in stands before and after a rotation: its `.env`, what is staged beside it, and its workers."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from opslib import propertypulse
from opslib.api import health, pm2, replacement
from opslib.deployment import env_file
from opslib.deployment.staged_secret import Staged
from opslib.propertypulse import PropertyPulse
from tests.sandbox import pm2 as standin

INSTANCES = 2
Values = Mapping[str, str | None]


def sandbox() -> PropertyPulse:
    """The stand-in as an environment."""
    return propertypulse.load("sandbox")


def put(values: Values, staged: Values) -> None:
    """Set these keys of the `.env` and of the staging file (None removes one), and have every worker read them.

    What a run that died has left beside the `.env` is removed.
    """
    env = sandbox()
    stage(staged)
    for left in env.api.env_file.resolve().parent.glob(".env.*.*"):
        left.unlink()
    if made := env_file.edit(env.api.env_file, values):
        env_file.drop(made)
    before = pm2.workers(env)
    standin.reload()  # by name: by id, PM2 waits for the whole of listen_timeout
    replacement.settled(env, before, settle=0, within=30)


@contextmanager
def stopped() -> Iterator[None]:
    """No worker runs; afterwards they do again."""
    name = sandbox().api.name
    standin.run("-s", "stop", name)
    try:
        yield
    finally:
        if any(worker.status != "online" for worker in workers()):
            standin.run("-s", "start", name)
            replacement.settled(sandbox(), [replace(worker, pid=0) for worker in workers()], settle=0, within=30)


def stage(values: Values) -> None:
    """Write values into the staging file, as a run that died would have left them."""
    file = Staged(sandbox(), "").file
    file.touch(0o600)
    if made := env_file.edit(file, values):
        env_file.drop(made)


def workers() -> list[pm2.Worker]:
    """The API's workers as they are now."""
    return pm2.workers(sandbox())


def nothing(*keys: str) -> dict[str, None]:
    """Give what has to be staged of these keys for no rotation to be under way."""
    return {f"{key}_{what}": None for key in keys for what in ("PENDING", "PREVIOUS", "SINCE")}


def run(procedure: str, **parameters: object) -> None:
    """Carry out a procedure, by which the one that follows on it is prepared."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", procedure, "--apply", "-p", "settle_seconds", "2"]
    command += [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def problems() -> list[str]:
    """Say what is wrong with the API, whatever was rotated; nothing if all is well."""
    env = sandbox()
    file, workers = env.api.env_file, pm2.workers(env)
    pids = {worker.pid for worker in workers}
    wrong = {
        f"the workers are not {INSTANCES} that are online: {workers}": len(workers) == INSTANCES
        and {worker.status for worker in workers} == {"online"},
        f"not all of the workers {pids} answer": health.answering(env.api.health_url, pids).pids == pids,
        "the API does not answer ten times in a row": health.steady(env.api.health_url, 10),
        "a copy of the .env or of the staging file is left": not [*file.resolve().parent.glob(".env.*.*")],
    }
    return [problem for problem, well in wrong.items() if not well]


def soon(question: Callable[[], bool], within: float = 5) -> bool:
    """Whether this becomes true within so many seconds."""
    ends = time.monotonic() + within
    while not (answer := question()) and time.monotonic() < ends:
        time.sleep(0.2)
    return answer
