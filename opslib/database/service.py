"""PostgreSQL as a service of systemd: its unit, and the command with which this user may start it unasked."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from opslib.deployment.deployment import Deployment
from opslib.runbook import program
from opslib.runbook.errors import CommandFailed

SUDOERS = ("sudo", "wheel", "admin")
"""Groups whose members sudo can be asked about; it mails its administrator about others who ask."""
SECONDS = 5

_AS_ROOT = re.compile(r"\s+\((?:ALL|root)\b[^)]*\)\s+(?P<rest>.+)")
_TAGS = re.compile(r"(?P<tags>(?:[A-Z_]+:\s*)*)(?P<command>.*)")


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


def start(environment: Deployment, unit: str) -> str:
    """Give the command that starts a unit and asks for no password; nothing if that is not sure.

    It is not carried out.
    """
    if os.getuid() == 0:
        return f"systemctl start {unit}"
    try:
        groups = program.run(["id", "-nG"], env=environment.variables, seconds=SECONDS).split()
        if not {*groups} & {*SUDOERS}:
            return ""
        listed = program.run(["sudo", "-n", "-l"], env=environment.variables, seconds=SECONDS)
    except CommandFailed:
        return ""
    for name in (unit, unit.removesuffix(".service")):
        # The last entry counts.
        free = [without for without, command in _entries(listed) if command in ("ALL", f"systemctl start {name}")]
        if free and free[-1]:
            return f"sudo -n systemctl start {name}"
    return ""


def _entries(listed: str) -> Iterator[tuple[bool, str]]:
    """Give what sudo lists as root's commands, in order: whether without a password, and the command without its path.

    A tag counts for what follows it in its line.
    """
    for line in filter(None, map(_AS_ROOT.fullmatch, listed.splitlines())):
        without = False
        for one in line["rest"].split(", "):
            match = _TAGS.fullmatch(one)
            assert match
            if tags := re.findall(r"\b(?:NO)?PASSWD\b", match["tags"]):
                without = tags[-1] == "NOPASSWD"
            command, _, words = match["command"].partition(" ")
            yield without, f"{Path(command).name} {words}".strip()
