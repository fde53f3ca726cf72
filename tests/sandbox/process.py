"""A part's process: started apart from us, found again by its command line, ended for certain."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from .errors import SandboxError
from .layout import HOST


def spawn(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
) -> None:
    """Start `command` in a session of its own, its output in `log`."""
    with log.open("ab") as output:
        # Through setsid, which forks: a part is nobody's child, and leaves no zombie in a long test run.
        subprocess.run(
            ("setsid", "--fork", *command),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            check=True,
        )


def find(command: Sequence[str]) -> psutil.Process | None:
    """Return the running process with the command line of `command`, by whichever name of its program it was started.

    Ours carry the path of the state folder in it, so this finds them also after a starter that was killed before
    it could note a pid, and never takes another process for one of ours.
    """
    # One Python is `python` to make and `python3` to pytest.
    return next(matching(lambda cmdline: bool(cmdline) and cmdline[1:] == list(command[1:])), None)


def matching(is_ours: Callable[[list[str]], bool]) -> Iterator[psutil.Process]:
    """Yield the running processes whose command line satisfies `is_ours`."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if is_ours(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def end(processes: Iterable[psutil.Process], *, by: signal.Signals = signal.SIGTERM, within: float = 10) -> None:
    """End `processes` and all that they started; kill what is left after `within` seconds."""
    family: set[psutil.Process] = set()
    roots = list(processes)
    for process in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            family |= {process, *process.children(recursive=True)}
    for process in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(by)
    _, alive = psutil.wait_procs(list(family), timeout=within)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def listener(port: int) -> psutil.Process | None:
    """Return the process that listens on `port`, if it can be seen."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(connection.pid)
    return None


def describe(process: psutil.Process) -> str:
    """Name a process for a person: its pid and command line."""
    try:
        return f"pid {process.pid} ({' '.join(process.cmdline())[:200]})"
    except psutil.Error:
        return f"pid {process.pid}"


def accepts(port: int) -> bool:
    """Tell whether something accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def wait(until: Callable[[], bool], what: str, *, within: float = 20, log: Path | None = None) -> None:
    """Wait for `until` to be true; say what was waited for, and the log's last line, if time is up."""
    deadline = time.monotonic() + within
    while not until():
        if time.monotonic() > deadline:
            last = f"; {log} ends with: {last_line(log)}" if log else ""
            raise SandboxError(f"waited {within:g} s in vain for {what}{last}")
        time.sleep(0.03)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "(nothing)")[:300]
