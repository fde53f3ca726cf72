"""A client of the database: the process on this machine at the other end of a session, and ending it."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from opslib.api import pm2
from opslib.database.sessions import Ends, Session
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import act
from opslib.runbook.change import Change, Kept
from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import located

GRACE = 10
"""Seconds that a client gets to end by itself after SIGTERM. It is never killed."""


@dataclass(frozen=True)
class Client:
    """A process. Of its command line only the program is kept: others put passwords there."""

    process: psutil.Process = field(repr=False)
    pid: int
    program: str
    user: str
    folder: str
    sessions: int

    @classmethod
    def of(cls, pid: int, sessions: int) -> Self | None:
        """Ask for a process; None if it has ended or is somebody else's."""
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                program, folder = Path(process.exe()).name, Path(process.cwd())  # a name may hold arguments
                return cls(process, pid, program, process.username(), located(folder), sessions)
        except psutil.Error:
            return None


def processes(sessions: Sequence[Session], ends: Ends) -> list[Client]:
    """Give the processes on this machine that have these sessions open, those with most first."""
    pids = [pid for one in sessions if (pid := ends.get((one.address, one.port)))]
    found = (Client.of(pid, pids.count(pid)) for pid in dict.fromkeys(pids))
    return sorted(filter(None, found), key=lambda client: (-client.sessions, client.process.pid))


def workers(environment: Deployment) -> list[int]:
    """Give the processes of the API's workers; none where PM2 does not run."""
    return [worker.pid for worker in pm2.workers(environment)] if pm2.daemon(environment)["runs"] else []


def stop(application: str, clients: Sequence[Client], *, spared: Collection[int], most: int) -> list[Change]:
    """Make the changes that end these clients, which have no undo; none where no application is named.

    `spared` are processes that are never ended. Raise RunbookError if one of them is meant, there is no such client on
    this machine, or more than `most`.
    """
    if not application:
        return []
    if not clients:
        raise RunbookError(f"no process on this machine has sessions of {application} open: end it where it runs")
    if len(clients) > most:
        raise RunbookError(f"{len(clients)} processes have sessions of {application}, and most is {most}: raise it")
    spared = {*spared, os.getpid()}
    for one in clients:
        if {one.process.pid, *(parent.pid for parent in one.process.parents())} & spared:
            raise RunbookError(f"process {one.process.pid} ({one.program}) is the API's own: open restart_api instead")
    return [_stop(application, one) for one in clients]


def _stop(application: str, client: Client) -> Change:
    process = client.process

    def do() -> None:
        if not process.is_running():  # compares the time at which it began: its pid may be another's by now
            return
        try:
            process.terminate()
            process.wait(GRACE)
        except psutil.NoSuchProcess:
            return
        except (psutil.AccessDenied, psutil.TimeoutExpired) as error:
            why = "may not be ended by this user" if isinstance(error, psutil.AccessDenied) else "does not end"
            raise RunbookError(f"process {process.pid} ({client.program}) {why}: ask {client.user} to end it") from None

    return Change(
        f"Stop {application} (process {process.pid})",
        [act(f"kill -TERM {process.pid}", run=do)],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: f"{client.program} of {client.user} in {client.folder}, process {process.pid}",
    )
