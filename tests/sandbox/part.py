"""One part of the stand-in: a process, its port, and whether it does its work."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from . import process
from .layout import HOST, PYTHON, ROOT, STATE

PATIENCE = 60
"""Seconds that a part gets to be ready: a machine that others keep busy needs more than it would alone."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """How to start, ask and stop one part."""

    name: str
    port: int
    command: tuple[str, ...]
    problem: Callable[[], str | None]
    cwd: Path = ROOT
    environment: Mapping[str, str] | None = None
    user: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM

    @property
    def log(self) -> Path:
        """Where the part's own output goes."""
        return STATE / "logs" / f"{self.name}.log"

    def process(self) -> psutil.Process | None:
        """Return the part's running process."""
        return process.find(self.command)

    def start(self) -> None:
        """Start the part, unless it runs, and wait until it does its work."""
        if self.process() is None:
            self.log.parent.mkdir(exist_ok=True)
            process.spawn(self.command, cwd=self.cwd, log=self.log, environment=self.environment, user=self.user)
        process.wait(lambda: self.problem() is None, f"{self.name} to be ready", within=PATIENCE, log=self.log)

    def stop(self) -> None:
        """End the part; nothing if it does not run."""
        if found := self.process():
            process.end([found], by=self.stop_signal)


def server(module: str, *, port: int, path: str) -> Part:
    """Return a part that is a module of this package, ready when it answers `path`."""
    # The last argument is not read: it tells this stand-in's processes from those of another checkout.
    command = (PYTHON, "-m", f"{__package__}.{module}", str(STATE))
    return Part(name=module, port=port, command=command, problem=lambda: http_problem(port, path))


def http_problem(port: int, path: str, *, timeout: float = 2) -> str | None:
    """Say why a GET of `path` is not answered by 200; None if it is."""
    connection = HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return f"GET {path}: {error}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"GET {path} answered {answer.status}: {text[:160]}"
