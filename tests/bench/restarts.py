"""What a restart costs at 200 requests a second: the procedure, and PM2's own commands in cluster and in fork mode."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from opslib import propertypulse
from opslib.runbook import program
from tests import sandbox

SECONDS = 30
PROCEDURE = ("run", "restart_api", "--apply", "-p", "settle_seconds", "2", "-p", "accept_downtime")


def main() -> None:
    """Print a row for each way to restart."""
    sandbox.start()
    print("At 200 requests a second; the bar for the graceful procedure is 0 failed.")
    print(f"{'how':<42} {'asked':>6} {'failed':>7}")
    for mode in ("cluster", "fork"):
        sandbox.mend()
        if mode == "fork":
            sandbox.break_("fork-mode")
        row(f"runbook run restart_api, {mode}", partial(procedure, fork=mode == "fork"))
        for words in ("restart", "reload"):
            row(f"pm2 {words} propertypulse-api, {mode}", partial(pm2, words, "propertypulse-api"))
    sandbox.mend()


def row(name: str, restart: Callable[[], None]) -> None:
    """Restart once under traffic and print what the traffic saw."""
    with sandbox.Traffic(rate=200, seconds=SECONDS) as traffic:
        restart()
        traffic.wait()
    print(f"{name:<42} {traffic.result.asked:>6} {traffic.result.failed:>7}", flush=True)


def procedure(*, fork: bool) -> None:
    """Restart as this project does."""
    subprocess.run(
        [sys.executable, "-m", "opslib.runbook.cli", *PROCEDURE, str(fork)], check=True, stdout=subprocess.DEVNULL
    )


def pm2(*words: str) -> None:
    """Restart as the old runbook did."""
    program.run(["pm2", *words], env=propertypulse.load("sandbox").variables)


if __name__ == "__main__":
    main()
