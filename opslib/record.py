"""A record: the executed notebook of a run, saved whole, sealed at the end, and chained in a ledger."""

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from opslib.errors import Outcome, Refused, RunbookError
from opslib.procedure import root
from opslib.step import Step, now

PACKAGES = ("opslib", "papermill", "nbclient", "ipykernel", "psycopg", "boto3", "stripe", "pandas")
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
    return json.dumps(ordered, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def save(file: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace the file by this content: whole or not at all, mode 0600. Durable means also after a power cut.

    Raise RunbookError, with what is in place left as it was, if the disk is full or the folder closed.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as to:
                to.write(content)
                to.flush()
                if durable:
                    os.fsync(to.fileno())
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        what = "Free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Make the folder writable"
        raise RunbookError(f"{file}: the record cannot be saved: {error.strerror}. {what}, then go on.") from None


def sweep(where: Path) -> None:
    """Remove what saves of processes that were killed have left in a folder of records."""
    for partial in where.glob(".*.ipynb.*.tmp"):
        pid = partial.suffixes[-2][1:]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(OSError):
                partial.unlink()


def seal(file: Path) -> None:
    """Enter the digest of a finished record into the ledger, behind the digest of the entry before.

    Raise RunbookError, with the ledger left as it was, if it cannot be written.
    """
    ledger = folder() / "ledger.jsonl"
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+", buffering=0) as entries:
            fcntl.flock(entries, fcntl.LOCK_EX)
            whole, end, _ = entries.read().rpartition(b"\n")  # what follows was cut short by a kill: no entry
            previous = hashlib.sha256(whole.rpartition(b"\n")[2]).hexdigest() if whole else ""
            entry = {"record": _relative(file), "sha256": digest, "sealed": now(), "previous": previous}
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
    """Give the steps of the last run in a notebook, in the order in which they happened."""
    found: list[Step] = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            one = output.get("metadata", {}).get("opslib")
            if one:
                found.append(one)
    ends = [one for one in found if one["step"] == "end"]
    if ends:
        return list(ends[-1]["steps"])
    found.sort(key=lambda one: str(one["at"]))
    begins = [i for i, one in enumerate(found) if one["step"] == "start"]
    return found[begins[-1] :] if begins else found


def standing(happened: list[Step]) -> list[str]:
    """Give the titles of the changes that were begun and not undone, oldest first."""
    undone = {one["title"].removeprefix("Undo: ") for one in happened if one["step"] == "undo" and one["ok"]}
    begun = [one["title"] for one in happened if one["step"] == "change" and one.get("state") != "not done"]
    return [title for title in begun if title not in undone]


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
    *lines, rest = ledger.read_bytes().split(b"\n") if ledger.exists() else [b""]
    if rest:
        wrong.append(f"{ledger}:{len(lines) + 1}: is cut short: sealing was, or the ledger was cut")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            sealed[_absolute(entry["record"])] = entry["sha256"]
            follows = entry["previous"] == previous
        except (ValueError, KeyError, TypeError):
            follows = False
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
    ledger = folder() / "ledger.jsonl"
    name = json.dumps(_relative(file))
    return ledger.exists() and any(f'"record": {name}' in line for line in ledger.read_text().splitlines())


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
