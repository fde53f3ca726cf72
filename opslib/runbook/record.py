"""A record: the executed notebook of a run, saved whole, with the steps that were seen in it."""

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any

import psutil

from opslib.runbook.errors import RunbookError
from opslib.runbook.procedure import root
from opslib.runbook.step import Step, is_step, told

PACKAGES = ("opslib", "papermill", "nbclient", "ipykernel", "psycopg", "boto3", "stripe", "pandas")
PARTIAL = ".opslib.tmp"
"""How the name of a file ends that a save has not put in its place yet."""
FRESH = 60
"""Seconds for which such a file is left alone that nobody holds: its save may not have come to that yet."""
_BEGINNING = 1 << 16


def folder() -> Path:
    """The folder of all records."""
    return root() / "records"


def named(file: Path) -> str:
    """Give a record's name: where it lies in the folder of all records, or its whole path."""
    file = file.resolve()
    return str(file.relative_to(folder())) if file.is_relative_to(folder()) else str(file)


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
    with saving(file):
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
    with saving(where):
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with saving(where):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def sweep(where: Path) -> None:
    """Remove what saves of processes that were killed have left in a folder of records."""
    for partial in where.glob(f".*{PARTIAL}"):
        with suppress(OSError), partial.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(left.fileno()).st_mtime > FRESH:
                partial.unlink()


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


@contextmanager
def saving(file: Path) -> Iterator[None]:
    """Say what to do where a record cannot be saved. Raise RunbookError."""
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
