"""What the API's processes tell an environment's file: where they listen, how long they boot, what they write."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from opslib.api import health, log, log_event
from opslib.api.code_discovery import Port
from opslib.api.pm2_app import HEALTH, App
from opslib.deployment.line import Asked, Line
from opslib.runbook.procedure import located

_LISTENS = re.compile(r"\blisten|\brunning (?:on|at)\b|\bstarted (?:on|at)\b|\bport \d", re.IGNORECASE)
_BOOT, _SLOWER = 15, 10  # seconds; how many times longer it may take on a bad night
_LONGEST = 300  # seconds after a start in which a line is one of the boot
_COMPARED = 1 << 18  # bytes at the end of a log


def found_url(app: App, ports: Sequence[Port], top: Path) -> Line | Asked:
    """Find where the API answers on this machine."""
    found = app.addresses()
    holder = "its process listens" if app.fork else "PM2's daemon listens for it"
    state = f"it is {app.down}" if app.down else "none of its processes listens"
    own = [port for port in ports if port.variable == "PORT" and port.value]
    if not found and len(own) == 1:
        said = f"the port that the code would take ({own[0].line.within(top)}): {state}"
        return Line("api.url", f"http://127.0.0.1:{own[0].value}", said)
    values = {port.value: port.variable for port in ports if port.value}
    told = [url for url in found if url.rpartition(":")[2] in values]
    if len(told) == 1:
        return Line("api.url", told[0], f"{holder} there, as {values[told[0].rpartition(':')[2]]} says")
    if len(found) == 1 and app.fork:
        return Line("api.url", found[0], f"{holder} there, and nowhere else")
    answers = {url: health.ask(url + HEALTH, app.pids) for url in found}
    if len(well := [url for url, got in answers.items() if got.well and got.pid in app.pids]) == 1:
        return Line("api.url", well[0], f"{holder} there, and it answers 200 on {HEALTH}")
    there = f"it listens on {', '.join(found)}" if found else state
    example = found[0] if found else "http://127.0.0.1:5000"
    return Asked("api.url", f"where {app.name} answers on this machine: {there}", example)


def found_boot(app: App) -> Iterator[Line]:
    """Find how long the code may take to come up, from how long it took to say that it listens; generously."""
    took = [seconds for pid in app.pids if (seconds := _took(app, pid)) is not None]
    if took:
        allowed = max(_BOOT, math.ceil(max(took) * _SLOWER / _BOOT) * _BOOT)
        said = f"it took {max(took):.1f} s from its start until it said that it listens; a bad night takes longer"
        yield Line("api.boot", allowed, said)


def _took(app: App, pid: int) -> float | None:
    """Give the seconds from the start of a process to the first line, with a time, that says that it listens."""
    try:
        start = psutil.Process(pid).create_time()
    except psutil.Error:
        return None
    for file in app.logs:
        for event in log_event.events(file.name, _end(file)):
            took = event.at.timestamp() - start if event.at else -_LONGEST
            # Where PM2 writes the time, it leaves the fractions out.
            if -1 < took < _LONGEST and event.said.get("pid", pid) == pid and _LISTENS.search(event.text):
                return max(took, 1)
    return None


def found_logs(app: App, home: Path) -> Iterator[Line | Asked]:
    """Find logs that the API writes itself, and whose newest line PM2's own do not have."""
    known = b"".join(_end(file) for file in app.logs)
    if not known and not any(log.is_nowhere(file) for file in app.logs):
        return  # PM2 may just have turned its own away, and nothing can be compared
    found = list[Path]()
    for file in sorted(_open_logs(app, home), key=lambda one: (-one.stat().st_size, one)):
        text = _end(file)
        last = text.rstrip(b"\n").rpartition(b"\n")[2]
        if last and last not in known:
            found.append(file)
            known += text
    nowhere = [str(file) for file in app.logs if log.is_nowhere(file)]
    if nowhere and not found:
        what = f"logs that the API writes itself, if it does: PM2 keeps nothing of what it says ({', '.join(nowhere)})"
        yield Asked("log.files", what)
    if found:
        shown = [located(file) for file in found]
        yield Line("log.files", shown, "the API holds them open, and PM2's own logs lack their newest line")


def _open_logs(app: App, home: Path) -> set[Path]:
    """Give the logs that its processes hold open, and that are none of PM2's."""
    found = set[Path]()
    for pid in app.pids:
        with contextlib.suppress(psutil.Error):
            found |= {Path(file.path) for file in psutil.Process(pid).open_files()}
    others = {file.resolve() for file in app.logs}
    found = {file for file in found - others if not file.is_relative_to(home.resolve())}
    return {file for file in found if file.suffix == ".log" and file.is_file()}


def _end(file: Path) -> bytes:
    """Give the end of a log; nothing of one that keeps nothing or cannot be read."""
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - _COMPARED))
            return opened.read()
    except OSError:
        return b""
