"""Outside programs: run to their end, with their output in hand and nothing of it thrown away."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which

from opslib.runbook.errors import CommandFailed, TimedOut
from opslib.runbook.mask import mask


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    seconds: float = 60,
    given: bytes = b"",
    cwd: Path | None = None,
) -> str:
    """Run a command and give its standard output. Raise CommandFailed if it is missing, fails or takes too long.

    `given` is what it reads as its standard input.
    """
    program = which(command[0], path=env.get("PATH"))
    if program is None:
        raise CommandFailed(f"{command[0]} is not installed, or not in the environment's `tools` folder or PATH")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            env=env,
            cwd=cwd,
            input=given,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(f"`{shown(command)}` had not ended after {seconds:g} s and was stopped") from None
    except OSError as error:
        raise CommandFailed(f"`{shown(command)}` could not be started: {error.strerror}") from None
    if done.returncode:
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        message = f"`{shown(command)}` ended with exit code {done.returncode}: {last[0]}"
        raise CommandFailed(message, done.returncode, said)
    return done.stdout.decode("utf-8", "replace")


def shown(command: Sequence[str]) -> str:
    """Give a command as a person would type it."""
    return mask.text(shlex.join(command))
