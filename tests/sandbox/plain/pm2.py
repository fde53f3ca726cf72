"""PM2 with a home of its own, and the API that it runs as nobody has prepared it: in fork mode, or by `-i`."""

import json
import subprocess
from typing import Any

import psutil

from .. import process
from ..errors import SandboxError
from ..layout import BIN
from ..part import http_problem
from .layout import API, ENVIRONMENT, PM2_HOME, SERVER, STARTED, STATE

APPLICATION = "propertypulse-api"


def run(*arguments: str) -> str:
    """Run pm2 in the server's folder, in the clean environment of a deploy user; its output."""
    done = subprocess.run(
        (str(BIN / "pm2"), *arguments),
        cwd=SERVER if SERVER.exists() else STATE,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise SandboxError(
            f"pm2 {' '.join(arguments)} exited {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout


def start_daemon() -> None:
    """Start the daemon, which takes as long as the API itself."""
    run("-s", "ping")


def start(instances: int = 1, options: tuple[str, ...] = ()) -> None:
    """Start the API: in fork mode, or with more instances as a cluster; `options` are pm2's own."""
    STARTED.write_text(json.dumps({"instances": instances, "options": options}))
    _begin()


def begin() -> None:
    """Start the API anew, as it was started first."""
    for worker in workers():
        run("-s", "delete", str(worker["pm_id"]))
    _begin()


def _begin() -> None:
    how = json.loads(STARTED.read_text())
    several = () if how["instances"] == 1 else ("-i", str(how["instances"]))
    run("-s", "start", "server.js", "--name", APPLICATION, *several, *how["options"])
    process.wait(lambda: problem() is None, "the plain API to be healthy", log=PM2_HOME / "pm2.log")
    STARTED.write_text(json.dumps(how | {"pids": _pids()}))


def as_started() -> bool:
    """Tell whether the API runs, healthy, in the very processes that were started last on good code."""
    how, running = json.loads(STARTED.read_text()), workers()
    mode = "fork_mode" if how["instances"] == 1 else "cluster_mode"
    online = all((one["pm2_env"]["status"], one["pm2_env"]["exec_mode"]) == ("online", mode) for one in running)
    return online and _pids() == how["pids"] and not orphans() and problem() is None


def _pids() -> list[int]:
    return sorted(found.pid for found in processes() if found != daemon())


def restart() -> None:
    """Restart the API as its owner does."""
    run("-s", "restart", APPLICATION)


def workers() -> list[dict[str, Any]]:
    """Return what PM2 says of each of the API's processes; none if PM2 does not run."""
    # Any pm2 command would spawn the daemon.
    if daemon() is None:
        return []
    listed: list[dict[str, Any]] = json.loads(run("-s", "jlist"))
    return [worker for worker in listed if worker["name"] == APPLICATION]


def log(kind: str = "out") -> str:
    """Return what the API's processes have printed: `out`, or `error`."""
    files = sorted((PM2_HOME / "logs").glob(f"{APPLICATION}-{kind}*.log"))
    return "".join(file.read_text(errors="replace") for file in files)


def problem() -> str | None:
    """Say why the API does not answer its health check; None if it does."""
    return http_problem(API, "/health")


def daemon() -> psutil.Process | None:
    """Return the PM2 daemon of our home."""
    title = f"God Daemon ({PM2_HOME})"
    return next(iter(process.matching(lambda cmdline: title in " ".join(cmdline))), None)


def processes() -> list[psutil.Process]:
    """Return the daemon and every process of the API, also one whose daemon is gone."""
    script = str(SERVER / "server.js")
    ours = process.matching(
        lambda cmdline: any("node" in word for word in cmdline[:1]) and script in " ".join(cmdline).split()
    )
    return [*filter(None, [daemon()]), *ours]


def orphans() -> bool:
    """Tell whether processes of the API run that PM2 does not list."""
    return len(processes()) > 1 + len(workers())


def stop() -> None:
    """End the daemon and all processes, those too that it was starting when it was ended."""
    while running := processes():
        process.end(running)
