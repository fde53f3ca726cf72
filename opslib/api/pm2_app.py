"""An app as PM2 tells of it, before any environment's file says which of them is the API."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from opslib.api import health, pm2
from opslib.deployment.deployment import Deployment

HEALTH = "/health"
_OURS = re.compile(r"property[\s_-]?pulse", re.IGNORECASE)
_ANYWHERE = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::1": "[::1]"}
_SIBLINGS = ("package.json", "README.md", "readme.md", "README")


@dataclass(frozen=True)
class App:
    """An app and its processes. `held` is all that PM2 tells of each, their variables and with them secrets too."""

    name: str
    held: tuple[Mapping[str, Any], ...] = field(repr=False)
    daemon: int

    @property
    def first(self) -> Mapping[str, Any]:
        """What PM2 holds of the first of its processes."""
        held: Mapping[str, Any] = self.held[0]["pm2_env"]
        return held

    @property
    def folder(self) -> Path:
        """The folder that PM2 runs it in."""
        return Path(self.first["pm_cwd"])

    @property
    def script(self) -> Path:
        """The file that PM2 runs."""
        return Path(self.first["pm_exec_path"])

    @property
    def fork(self) -> bool:
        """Whether PM2 runs it in fork mode, and no cluster."""
        return bool(self.first["exec_mode"] == "fork_mode")

    @property
    def pids(self) -> list[int]:
        """Its processes that run."""
        return [one["pid"] for one in self.held if one["pid"]]

    @property
    def down(self) -> str:
        """How PM2 lists it if none of its processes is online; empty otherwise."""
        statuses = [str(one["pm2_env"]["status"]) for one in self.held]
        return "" if "online" in statuses and self.pids else statuses[0]

    @property
    def variables(self) -> dict[str, str]:
        """The variables that PM2 holds for it, secrets with them."""
        return pm2.held(self.held)

    @property
    def logs(self) -> list[Path]:
        """The files that PM2 writes what it says to."""
        held = (one["pm2_env"] for one in self.held)
        return list(dict.fromkeys(Path(one[f"pm_{of}_log_path"]) for one in held for of in ("out", "err")))

    def addresses(self) -> list[str]:
        """Give where its processes listen; of a cluster it is PM2's daemon that does, for all its clusters."""
        found = set[tuple[int, str]]()
        for pid in (*self.pids, *([] if self.fork or not self.pids else [self.daemon])):
            try:
                held = psutil.Process(pid).net_connections("tcp")
            except psutil.Error:
                continue
            ends = (one.laddr for one in held if one.status == psutil.CONN_LISTEN)
            found |= {(end.port, _ANYWHERE.get(end.ip, end.ip)) for end in ends}
        return [f"http://{host}:{port}" for port, host in sorted(found)]

    def answers(self) -> bool:
        """Whether one of its processes answers 200 on `/health`."""
        return any(
            (got := health.ask(url + HEALTH, self.pids)).well and got.pid in self.pids for url in self.addresses()
        )

    def is_ours(self) -> bool:
        """Whether what lies beside its code, up to the top of its checkout, says that it is PropertyPulse."""
        for folder in (self.folder, *self.folder.parents[:3]):
            for file in (folder / name for name in _SIBLINGS):
                if file.is_file() and _OURS.search(file.read_text("utf-8", "replace")[:1000]):
                    return True
            if (folder / ".git").exists():
                break
        return False


def listed(environment: Deployment) -> list[App]:
    """Give the apps that PM2 has, without its own modules. Raise RunbookError if its daemon does not run as ours."""
    daemon = int(pm2.daemon(environment)["pid"] or 0)
    held = [one for one in pm2.listed_all(environment) if not one["pm2_env"].get("pmx_module")]
    held.sort(key=lambda one: (one["name"], str(one["pm_id"])))
    return [App(name, tuple(same), daemon) for name, same in groupby(held, key=lambda one: str(one["name"]))]


def chosen(apps: Sequence[App]) -> tuple[list[App], str]:
    """Give the app that is the API, and how that is known; several where that cannot be told."""
    if len(apps) == 1:
        return [*apps], "PM2 lists no other app"
    ours = [app for app in apps if app.is_ours()]
    if len(ours) == 1:
        return ours, f"of {len(apps)} apps that PM2 lists, its checkout is PropertyPulse's"
    left = ours or [*apps]
    answering = [app for app in left if app.answers()]
    if len(answering) == 1:
        return answering, f"of {len(apps)} apps that PM2 lists, it answers 200 on {HEALTH}"
    return left, ""
