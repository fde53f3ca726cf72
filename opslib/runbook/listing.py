"""The listing of records: what each run was, when, and how it ended."""

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from opslib.runbook.errors import Outcome, Refused
from opslib.runbook.record import folder, head, named, steps

_NAME = re.compile(r"\d{8}T\d{6}Z-(?P<procedure>\w+)-[0-9a-f]{8}")  # as `record.path` makes it


@dataclass(frozen=True)
class Summary:
    """One line of a listing. `outcome` is `running` while the run's process lives."""

    path: Path
    procedure: str
    environment: str
    incident: str
    operator: str
    apply: bool
    started: str
    finished: str
    outcome: str


def records(*, environment: str = "", procedure: str = "", incident: str = "") -> Iterator[Summary]:
    """Give the records that match, newest first."""
    for file in sorted(folder().glob("*/*.ipynb"), key=lambda f: f.name, reverse=True):
        known = _NAME.fullmatch(file.stem)  # of other procedures nothing has to be read
        fits = environment in ("", file.parent.name) and (not known or procedure in ("", known["procedure"]))
        one = summary(file) if fits else None
        if one and procedure in ("", one.procedure) and incident in ("", one.incident):
            yield one


def summary(file: Path) -> Summary | None:
    """Say what a record is; None for a working copy that was never started."""
    about = head(file)
    if about is None:
        return Summary(file, "", file.parent.name, "", "", False, "", "", "unreadable")
    if not about.get("started"):
        return None
    outcome = about.get("outcome") or ("running" if _alive(about.get("process")) else Outcome.INTERRUPTED.value)
    texts = {key: str(about.get(key) or "") for key in ("procedure", "environment", "incident", "operator")}
    times = {key: str(about.get(key) or "") for key in ("started", "finished")}
    return Summary(file, apply=bool(about.get("apply")), outcome=outcome, **texts, **times)


def find(name: str) -> Path:
    """Give the file of a record named by its path, its file name or the end of it. Raise Refused if none or several."""
    given = Path(name)
    if given.is_file():
        return given.resolve()
    fits = [file for file in folder().glob("*/*.ipynb") if file.stem.endswith(given.stem)]
    if len(fits) != 1:
        found = ", ".join(named(file) for file in fits[:5]) or "none"
        raise Refused(f"{name[:120]!a} names {len(fits)} records ({found}). `runbook records` lists them.")
    return fits[0]


def left_open(environment: str, procedure: str, *, besides: str) -> str:
    """Say which run a new one goes on from, if the last that applied was killed or needs a person."""
    found = records(environment=environment, procedure=procedure)
    last = next((one for one in found if one.apply and not one.path.stem.endswith(besides)), None)
    if last is None or (last.finished and last.outcome != Outcome.NEEDS_PERSON):
        return ""
    ended = "needs a person" if last.finished else "was cut short"
    happened = steps(json.loads(last.path.read_bytes()))
    came = [one["title"] for one in happened if one["step"] not in ("start", "end")]
    after = f", after: {came[-1]}" if came else ""
    return f"the run of {last.started[:16].replace('T', ' ')} UTC {ended}{after}; this one goes on from there"


def _alive(process: Any) -> bool:
    try:
        if process["host"] != socket.gethostname():
            return False
        age: float = psutil.Process(process["pid"]).create_time() - process["created"]
    except (psutil.Error, LookupError, TypeError):
        return False
    return abs(age) < 1
