"""PM2, with a home of its own, and the API that it runs."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

import psutil

from . import process
from .errors import SandboxError
from .layout import API, APP, BIN, CURRENT, ENVIRONMENT, PM2_HOME, url
from .part import http_problem

APPLICATION = "propertypulse-api"
RELOAD_LOCK = 30
"""Seconds for which PM2 refuses a second reload after one that was cut short."""
INSTANCES = 2
LISTEN_TIMEOUT = 5000
"""Milliseconds that a worker has to come up, PM2's own default; a reload of one worker by its id takes all of them."""
ECOSYSTEM = APP / "ecosystem.config.cjs"
FORK_ECOSYSTEM = APP / "ecosystem.fork.config.cjs"
HASTY_ECOSYSTEM = APP / "ecosystem.hasty.config.cjs"
HASTY_TIMEOUT = 500
"""Milliseconds after which PM2 takes the old worker away there, ready or not the new one."""

# kill_timeout: longer than the longest request, or PM2 kills the worker that answers it.
# cwd goes through `current`, so that a reload runs whichever release is current by then.
TEMPLATE = """\
module.exports = {{
  apps: [
    {{
      name: "{name}",
      cwd: "{cwd}",
      script: "src/server.js",
      exec_mode: "{mode}",
      instances: {instances},
      wait_ready: true,
      listen_timeout: {listen_timeout},
      kill_timeout: 10000,
      merge_logs: false,
    }},
  ],
}};
"""


def write_ecosystems(listen_timeout: int = LISTEN_TIMEOUT) -> None:
    """Write how PM2 runs the API, the variant in fork mode, and the one that does not wait for a worker."""
    for path, mode, instances, timeout in (
        (ECOSYSTEM, "cluster", INSTANCES, listen_timeout),
        (FORK_ECOSYSTEM, "fork", 1, listen_timeout),
        (HASTY_ECOSYSTEM, "cluster", INSTANCES, HASTY_TIMEOUT),
    ):
        cwd = CURRENT / "server"
        path.write_text(
            TEMPLATE.format(name=APPLICATION, cwd=cwd, mode=mode, instances=instances, listen_timeout=timeout)
        )


def run(*arguments: str) -> str:
    """Run pm2 in the clean environment of a deploy user; its output."""
    done = subprocess.run(
        (str(BIN / "pm2"), *arguments), cwd=APP, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise SandboxError(
            f"pm2 {' '.join(arguments)} exited {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout


def start(ecosystem: Path = ECOSYSTEM) -> None:
    """Start the API anew as `ecosystem` says."""
    # With the daemon: one that restarts a crashing worker while it is told to delete it leaves one behind.
    stop()
    run("-s", "start", str(ecosystem))
    process.wait(lambda: problem() is None, "the API to be healthy", log=PM2_HOME / "pm2.log")


def reload() -> None:
    """Reload the API, once PM2 takes it: for 30 s it does not after one that was killed."""
    process.wait(_reloaded, "PM2 to take a reload", within=RELOAD_LOCK + 5)


def _reloaded() -> bool:
    try:
        run("reload", APPLICATION)  # with -s it would not say why not
    except SandboxError as error:
        if "already in progress" not in str(error):
            raise
        return False
    return True


def workers() -> list[dict[str, Any]]:
    """Return what PM2 says of each of the API's workers; none if PM2 does not run."""
    # Any pm2 command would spawn the daemon.
    if daemon() is None:
        return []
    listed: list[dict[str, Any]] = json.loads(run("-s", "jlist"))
    return [worker for worker in listed if worker["name"] == APPLICATION]


def mode() -> Literal["cluster_mode", "fork_mode"] | None:
    """Return how the API runs."""
    return next((worker["pm2_env"]["exec_mode"] for worker in workers()), None)


def problem() -> str | None:
    """Say why the API does not answer its health check; None if it does."""
    return http_problem(API, "/health")


def serving() -> set[tuple[int, str]]:
    """Return the pid and release of each worker that answers the health check."""
    seen: set[tuple[int, str]] = set()
    # Connections go to the workers in turn: this asks each of them more than once.
    for _ in range(4 * INSTANCES):
        with suppress(OSError, ValueError), urlopen(f"{url(API)}/health", timeout=3) as answer:
            health = json.load(answer)
            seen.add((health["pid"], health["release"]))
    return seen


def daemon() -> psutil.Process | None:
    """Return the PM2 daemon of our home."""
    title = f"God Daemon ({PM2_HOME})"
    return next(iter(process.matching(lambda cmdline: title in " ".join(cmdline))), None)


def orphans() -> bool:
    """Tell whether workers run that PM2 does not list."""
    return len(processes()) > 1 + len(workers())


def processes() -> list[psutil.Process]:
    """Return the daemon and every worker, also one whose daemon is gone."""
    script = str(CURRENT / "server" / "src" / "server.js")
    # A worker's title is one word to the system or several: the script is a whole word of it either way.
    ours = process.matching(
        lambda cmdline: any("node" in word for word in cmdline[:1]) and script in " ".join(cmdline).split()
    )
    return [*filter(None, [daemon()]), *ours]


def stop() -> None:
    """End the daemon and all workers, those too that it was starting when it was ended."""
    while running := processes():
        process.end(running)
