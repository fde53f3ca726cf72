"""PostgreSQL as a service of systemd: its unit, and whether this user may start it without being asked."""

import os

import psutil

from opslib.deployment.deployment import Deployment
from opslib.runbook import program
from opslib.runbook.errors import CommandFailed

SUDOERS = ("sudo", "wheel", "admin")
"""Groups whose members sudo can be asked about; it mails its administrator about others who ask."""
SECONDS = 5


def unit(environment: Deployment, server: psutil.Process) -> str:
    """Give the active unit whose main process the server is; nothing if none is."""
    asked = ["systemctl", "show", "--property=Id,MainPID", "--type=service", "--state=active", "*postgres*"]
    try:
        said = program.run(asked, env=environment.variables, seconds=SECONDS)
    except CommandFailed:
        return ""
    units = [dict(line.split("=", 1) for line in one.splitlines() if "=" in line) for one in said.split("\n\n")]
    mine = [one["Id"] for one in units if "Id" in one and one.get("MainPID") == str(server.pid)]
    return mine[0] if len(mine) == 1 else ""


def start(name: str) -> list[str]:
    """Give the command that starts a unit."""
    return [*([] if os.getuid() == 0 else ["sudo", "-n"]), "systemctl", "start", name]


def may_start(environment: Deployment, name: str) -> bool:
    """Whether this user may, as far as sudo can be asked without carrying it out."""
    if os.getuid() == 0:
        return True
    try:
        groups = program.run(["id", "-nG"], env=environment.variables, seconds=SECONDS).split()
        asked = ["sudo", "-n", "-l", "systemctl", "start", name]
        return bool({*groups} & {*SUDOERS} and program.run(asked, env=environment.variables, seconds=SECONDS))
    except CommandFailed:
        return False
