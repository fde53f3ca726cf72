"""A trial: the code on disk is started once on a free port beside what runs, asked how it is, and ended.

Where no other worker serves meanwhile, a release that crashes, hangs or misses a variable is thus found before anything
is taken away.
"""

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import IO, Any

from opslib.api import health, log, pm2
from opslib.api.pm2 import Worker
from opslib.deployment.deployment import Deployment, Trial
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import located

END_SECONDS = 5

_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


def trial(environment: Deployment, workers: Sequence[Worker]) -> list[Change]:
    """Make the change that tries the code once; none where the environment's file does not say how (`api.trial`)."""
    how = environment.api.trial
    if how is None or not workers:
        return []
    held = pm2.listed(environment)[0]["pm2_env"]
    given = [f"{how.port}=‹free port›", *(f"{key}={shlex.quote(value)}" for key, value in how.variables.items())]
    folder, *words = (located(Path(held["pm_cwd"])), held["exec_interpreter"], *_words(held))
    lines = [
        f"cd {shlex.quote(folder)} && {' '.join(given)} {shlex.join(words)}",
        f"GET http://127.0.0.1:‹free port›{environment.api.health} until it answers 200, then end it",
    ]
    kept = Kept("it is ended again; what it did to the database by starting, nobody can tell", matters=False)
    again = [act(*lines, run=lambda: carry_out(environment, how))]
    return [Change("Try the code on disk", again, undo=kept, replaces=lambda: "nothing: the API serves meanwhile")]


def carry_out(environment: Deployment, how: Trial) -> float:
    """Start the code once and give the seconds until it answered 200. Raise RunbookError with what it said."""
    entry = pm2.listed(environment)[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        said = log.mark([Path(folder, "trial.log")])
        with said[0].path.open("wb") as file:
            process = _start(environment, entry, {**how.variables, how.port: str(port)}, file)
        begun = time.monotonic()
        try:
            while not health.ask(f"http://127.0.0.1:{port}{environment.api.health}").well:
                ended, late = process.poll(), time.monotonic() - begun > environment.api.boot
                if ended is not None or late:
                    causes = log.causes(said)
                    did = f"did not answer in {environment.api.boot:g} s" if late else f"ended with exit code {ended}"
                    lines = causes[-1].text.splitlines() if causes else ["it said nothing"]
                    last = next((line for line in lines if "Error" in line), lines[0])  # Node's stack begins above it
                    why = f"the code on disk, started once, {did}: {last} — Nothing was taken away."
                    raise RunbookError(why, causes)
                time.sleep(0.1)
            return time.monotonic() - begun
        finally:
            _end(process)


def _start(
    environment: Deployment, entry: Mapping[str, Any], given: Mapping[str, str], said: IO[bytes]
) -> "subprocess.Popen[bytes]":
    held, kept = entry["pm2_env"], pm2.started_with(entry)
    node = which(held["exec_interpreter"], path=f"{kept.get('PATH', '')}:{environment.variables['PATH']}")
    if node is None:
        raise RunbookError(f"{held['exec_interpreter']} is not on PATH; name its folder as the environment's `tools`")
    return subprocess.Popen(
        [node, *_words(held)],
        cwd=held["pm_cwd"],
        env={**kept, **given},
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_us if os.name == "posix" else None,
    )


def _words(held: Mapping[str, Any]) -> list[str]:
    """Give what stands behind the interpreter, as PM2 starts it."""
    script = os.path.relpath(held["pm_exec_path"], held["pm_cwd"])
    return [*(held.get("node_args") or []), script, *(held.get("args") or [])]


def _die_with_us() -> None:
    """Have the system end this process when we are killed."""
    ctypes.CDLL(None).prctl(_DEATH, signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it has started."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(END_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
