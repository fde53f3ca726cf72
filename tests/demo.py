"""The main job on something real: restart the stand-in's API under traffic, and show what came of it."""

import os
import subprocess
import sys
from pathlib import Path

from tests import sandbox

RATE = 200  # requests a second


def main() -> int:
    """Start the stand-in if need be, restart its API under traffic, say what happened and where the record lies."""
    print("Starting the stand-in: PM2 with two workers, PostgreSQL, Redis, and servers for AWS, Stripe and SendGrid.")
    print("already running" if not sandbox.start() else "started", end="\n\n")
    command = ["restart_api", "--apply", "--reason", "demonstration", "-p", "settle_seconds", "5"]
    print(f"With {RATE} requests a second on it:  runbook run {' '.join(command)}\n", flush=True)
    runbook = Path(sys.executable).with_name("runbook")
    with sandbox.Traffic(rate=RATE) as traffic:
        run = subprocess.run([runbook, "run", *command], stdout=subprocess.PIPE, text=True, env=os.environ)
    print(run.stdout)
    print(f"Meanwhile: {traffic.result}\n")
    print("The record is the last file named above. Read it with:")
    print(f"  .venv/bin/runbook show {Path(run.stdout.splitlines()[-1]).stem}")
    print("Break it with `.venv/bin/python -m tests.sandbox break bad-release` and restart it again.")
    print("`make sandbox-stop` ends it.")
    return run.returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except sandbox.SandboxError as error:
        sys.exit(f"error: {error}")
