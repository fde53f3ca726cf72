"""A record: the executed notebook of a run, saved whole, sealed at the end, and chained in a ledger."""

import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

import psutil

from opslib.runbook.errors import Outcome, Refused, RunbookError
from opslib.runbook.procedure import root
from opslib.runbook.step import Step, is_step, now, told

PACKAGES = ("opslib", "papermill", "nbclient", "ipykernel", "psycopg", "boto3", "stripe", "pandas")
PARTIAL = ".opslib.tmp"
"""How the name of a file ends that a save has not put in its place yet."""
FRESH = 60
"""Seconds for which such a file is left alone that nobody holds: its save may not have come to that yet."""
_BEGINNING = 1 << 16


def folder() -> Path:
    """The folder of all records."""
    return root() / "records"


def path(environment: str, procedure: str, started: str, run: str) -> Path:
    """Where the record of a run lies: `records/ENVIRONMENT/STARTED-PROCEDURE-ID.ipynb`."""
    stamp = started.split(".")[0].replace("-", "").replace(":", "") + "Z"
    return folder() / environment / f"{stamp}-{procedure}-{run}.ipynb"


def provenance() -> dict[str, Any]:
    """What else a record says of its run: the process, its host, and the versions of what took part."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"process": process(), "packages": versions}


def process() -> dict[str, Any]:
    """Say which process this is, so that a listing can tell whether it lives."""
    this = psutil.Process()
    return {"pid": this.pid, "created": this.create_time(), "host": socket.gethostname()}


def dumps(notebook: dict[str, Any]) -> bytes:
    """Write a notebook as JSON with its metadata first, so that a listing need not read the outputs."""
    ordered = {"metadata": notebook["metadata"], "nbformat": 4, "nbformat_minor": 5, "cells": notebook["cells"]}
    try:
        text = json.dumps(ordered, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number that JSON has no word for
        text = json.dumps(_finite(ordered), indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def save(file: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace the file by this content: whole or not at all, mode 0600. Durable means also after a power cut.

    Raise RunbookError, with what is in place left as it was, if the disk is full or the folder closed.
    """
    with _saving(file):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as to:
                fcntl.flock(to, fcntl.LOCK_EX)  # so that a sweep sees that it lives, from wherever it looks
                to.write(content)
                to.flush()
                if durable:
                    os.fsync(to.fileno())
                os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def alone(where: Path) -> Iterator[None]:
    """Look at a folder of records and write there while no other claim or save of a copy does. Raise RunbookError."""
    with _saving(where):
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _saving(where):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def claim(file: Path, content: bytes) -> None:
    """Have the first content of a run's record in its place: from then on no other run writes there.

    A file that is no record is replaced, as papermill does with its outputs, unless it lies among the records. Raise
    Refused, with a name that is free, where a record of any state is, or was: the ledger keeps its name.
    """
    with alone(file.parent):
        with _saving(file):
            why = _taken(file)
        if why:
            others = (file.with_stem(f"{file.stem}-{number}") for number in count(2))
            free = next(other for other in others if not os.path.lexists(other) and not _taken(other))
            raise Refused(f"{file}: {why}, and nothing writes over it. Give the record another name, as {free.name}.")
        save(file, content, durable=False)


def sweep(where: Path) -> None:
    """Remove what saves of processes that were killed have left in a folder of records."""
    for partial in where.glob(f".*{PARTIAL}"):
        with suppress(OSError), partial.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(left.fileno()).st_mtime > FRESH:
                partial.unlink()


def seal(file: Path) -> None:
    """Enter the digest of a finished record into the ledger, behind the digest of the entry before.

    Raise Refused if a record of this name was sealed before: that seal holds. Raise RunbookError, with the ledger left
    as it was, if it cannot be written.
    """
    ledger, name = folder() / "ledger.jsonl", _relative(file)
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+", buffering=0) as entries:
            fcntl.flock(entries, fcntl.LOCK_EX)
            whole, end, _ = entries.read().rpartition(b"\n")  # what follows was cut short by a kill: no entry
            if _has(whole, name):
                raise Refused(f"{name}: is not sealed: a record of this name was sealed before, and that seal holds.")
            previous = hashlib.sha256(whole.rpartition(b"\n")[2]).hexdigest() if whole else ""
            entry = {"record": name, "sha256": digest, "sealed": now(), "previous": previous}
            size = entries.seek(len(whole + end))
            try:
                entries.truncate()
                line = json.dumps(entry).encode() + b"\n"
                if entries.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(entries.fileno())
            except OSError:
                with suppress(OSError):
                    entries.truncate(size)
                raise
    except OSError as error:
        raise RunbookError(f"{ledger}: the record is not sealed: {error.strerror}.") from None


def steps(notebook: dict[str, Any]) -> list[Step]:
    """Give the steps of the last run in a notebook, in the order in which they happened.

    A runner keeps in each cell what it saw there, whatever becomes of the outputs. Of a working copy, and of a record
    older than that, the outputs tell; and the last step, which repeats those that a cell run again has lost.
    """
    cells = notebook["cells"]
    found = told(one for cell in cells for one in kept(cell))
    if found and "opened" not in _at(notebook, "metadata", "opslib", dict):
        return found
    found = sorted(found or (one for cell in cells for one in shown(cell)), key=lambda one: str(one["at"]))
    begins = [i for i, one in enumerate(found) if one["step"] == "start"]
    found = found[begins[-1] :] if begins else found
    ends = [one for one in found if one["step"] == "end"]
    if not ends:
        return found
    repeated = [one for one in ends[-1].get("steps", []) if is_step(one) and one["step"] != "end"]
    known = {(one["step"], one["title"]) for one in repeated}
    # It leaves none out unless somebody has written it: what acted is told all the same.
    acted = [one for one in found if one["step"] in ("start", "change", "undo")]
    acted = [one for one in acted if (one["step"], one["title"]) not in known]
    return [*sorted([*repeated, *acted], key=lambda one: str(one["at"])), ends[-1]]


def kept(cell: dict[str, Any]) -> list[Step]:
    """Give the steps that were seen in a cell."""
    return [one for one in _at(cell, "metadata", "opslib", "steps", list) if is_step(one)]


def shown(cell: dict[str, Any]) -> list[Step]:
    """Give the steps that the outputs of a cell show."""
    said = [_at(output, "metadata", "opslib", dict) for output in _at(cell, "outputs", list)]
    return [one for one in said if is_step(one)]


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
        one = summary(file) if environment in ("", file.parent.name) else None
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
        found = ", ".join(_relative(file) for file in fits[:5]) or "none"
        raise Refused(f"{name[:120]!a} names {len(fits)} records ({found}). `runbook records` lists them.")
    return fits[0]


def problems(only: list[Path] | None = None) -> list[str]:
    """Check the ledger and the records against each other; give what is wrong, in sentences."""
    wrong = []
    sealed: dict[Path, str] = {}
    ledger = folder() / "ledger.jsonl"
    previous = ""
    *lines, rest = _ledger().split(b"\n")
    if rest:
        wrong.append(f"{ledger}:{len(lines) + 1}: is cut short: sealing was, or the ledger was cut")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            file, digest = _absolute(entry["record"]), str(entry["sha256"])
            follows = entry["previous"] == previous
        except (ValueError, KeyError, TypeError):
            follows = False
        else:
            if file in sealed:
                wrong.append(f"{ledger}:{number}: seals {entry['record']} once more: its first seal holds")
            sealed.setdefault(file, digest)
        if not follows:
            wrong.append(f"{ledger}:{number}: does not follow the entry before it: the ledger was cut or altered")
        previous = hashlib.sha256(line).hexdigest()
    for file in sealed.keys() | set(folder().glob("*/*.ipynb")):
        if only is not None and file not in only:
            continue
        if not file.exists():
            wrong.append(f"{_relative(file)}: is in the ledger and missing on disk")
        elif file in sealed:
            if hashlib.sha256(file.read_bytes()).hexdigest() != sealed[file]:
                wrong.append(f"{_relative(file)}: was altered after it was sealed")
        elif (one := summary(file)) and one.outcome == "unreadable":
            wrong.append(f"{_relative(file)}: is not a record that can be read")
        elif one and one.finished:
            wrong.append(
                f"{_relative(file)}: finished, and not in the ledger: the ledger was cut, or sealing was cut short"
            )
    return sorted(wrong)


def is_sealed(file: Path) -> bool:
    """Whether the ledger has this record."""
    return _has(_ledger(), _relative(file))


def head(file: Path) -> dict[str, Any] | None:
    """Give what a record says of its run; None if it cannot be read."""
    try:
        with file.open(encoding="utf-8") as text:
            beginning = text.read(_BEGINNING)
            try:
                start = beginning.index("{", 1)
                if beginning[:start].split() != ["{", '"metadata":']:
                    raise ValueError
                found, _ = json.JSONDecoder().raw_decode(beginning, start)
            except ValueError:
                found = json.loads(beginning + text.read())["metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    about = found.get("opslib", {}) if isinstance(found, dict) else None
    return about if isinstance(about, dict) else None


def _taken(file: Path) -> str:
    """Say why a run's record cannot lie here; empty if it can."""
    if is_sealed(file):
        return "is the name of a record that was sealed"
    if not os.path.lexists(file):
        return ""
    if not stat.S_ISREG(file.lstat().st_mode):
        return "is no regular file"
    about = head(file)
    if not about:
        return "lies among the records" if file.resolve().is_relative_to(folder()) else ""
    one = summary(file)
    states = {"running": "is under way", "interrupted": "was cut short"}
    return f"is the record of a run that {states.get(one.outcome, 'has ended')}" if one else "is a working copy"


def _ledger() -> bytes:
    ledger = folder() / "ledger.jsonl"
    return ledger.read_bytes() if ledger.is_file() else b""


def _has(entries: bytes, name: str) -> bool:
    """Whether a record of this name was sealed."""
    needle = json.dumps(name).encode()
    return needle in entries and any(_name(line) == name for line in entries.splitlines() if needle in line)


def _name(line: bytes) -> object:
    try:
        return json.loads(line)["record"]
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _saving(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "Free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Make the folder writable"
        raise RunbookError(f"{file}: the record cannot be saved: {error.strerror}. {what}, then go on.") from None


def _at(tree: Any, *path: Any) -> Any:
    """Give what lies at the end of a path of keys if it is of the type that ends it, else an empty one of that."""
    *keys, kind = path
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, kind) else kind()


def _finite(tree: Any) -> Any:
    """Give a JSON-like value with the numbers that JSON has no word for as text."""
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not isfinite(tree) else tree


def _alive(process: Any) -> bool:
    try:
        if process["host"] != socket.gethostname():
            return False
        age: float = psutil.Process(process["pid"]).create_time() - process["created"]
    except (psutil.Error, LookupError, TypeError):
        return False
    return abs(age) < 1


def _relative(file: Path) -> str:
    file = file.resolve()
    return str(file.relative_to(folder())) if file.is_relative_to(folder()) else str(file)


def _absolute(name: str) -> Path:
    return folder() / name
