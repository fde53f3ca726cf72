"""What a restart costs in fork mode on an API that nobody has prepared: by handover, and by PM2's own commands."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests import sandbox
from tests.place import elsewhere
from tests.sandbox.layout import ROOT
from tests.sandbox.plain import deployment, fault, pm2
from tests.sandbox.plain.traffic import PlainTraffic

RATE = 200
TIMES = int(os.environ.get("TIMES", 10))
PROCEDURE = ("run", "restart_api", "-e", "plain", "--apply", "-p", "settle_seconds", "2", "-p", "accept_downtime")


def main() -> None:
    """Print a row for each way to restart: what was lost in each of its times, and in all."""
    sandbox.start()
    deployment.stop()
    deployment.start()
    print(f"At {RATE} requests a second; the bar for a handover is a fiftieth of what `pm2 restart` loses.")
    print(f"{'how':<44} {'lost':>6}   each time")
    with tempfile.TemporaryDirectory() as folder:
        restarts = elsewhere(Path(folder), "plain", api={"handover": False})
        row("runbook run restart_api, by handover", procedure, TIMES)
        row("pm2 restart propertypulse-api", partial(pm2.run, "-s", "restart", pm2.APPLICATION), TIMES)
        row("pm2 reload propertypulse-api", partial(pm2.run, "-s", "reload", pm2.APPLICATION), 3)
        row("runbook run restart_api, without", partial(procedure, root=restarts), 3)
        for name in ("bad-release", "hanging-release"):
            fault.break_(name)
            row(f"runbook run restart_api, {name}", partial(procedure, good=False), 1)
            row(f"pm2 restart propertypulse-api, {name}", partial(pm2.run, "-s", "restart", pm2.APPLICATION), 1)
            fault.mend()
    deployment.stop()


def row(name: str, restart: Callable[[], object], times: int) -> None:
    """Restart so many times, each under traffic of its own, and print what that lost."""
    lost = []
    for _ in range(times):
        with PlainTraffic(rate=RATE, seconds=20) as traffic:
            restart()
            traffic.wait()
        lost.append(traffic.result.failed)
    print(f"{name:<44} {sum(lost):>6}   {' '.join(map(str, lost))}", flush=True)


def procedure(*, root: Path = ROOT, good: bool = True) -> None:
    """Restart as this project does."""
    words = [sys.executable, "-m", "opslib.runbook.cli", *PROCEDURE, "True"]
    done = subprocess.run(words, env={**os.environ, "RUNBOOK_ROOT": str(root)}, capture_output=True, text=True)
    if (done.returncode == 0) != good:
        raise SystemExit(f"restart_api ended with {done.returncode}:\n{done.stdout[-2000:]}")


if __name__ == "__main__":
    main()
