"""The ledger: each record's name is claimed once, and sealed once with a digest, chained to the one before."""

import errno
import fcntl
import hashlib
import json
import os
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path

from opslib.runbook.errors import Refused, RunbookError
from opslib.runbook.listing import summary
from opslib.runbook.record import alone, folder, head, named, save, saving
from opslib.runbook.step import now


def claim(file: Path, content: bytes) -> None:
    """Have the first content of a run's record in its place: from then on no other run writes there.

    A file that is no record is replaced, as papermill does with its outputs, unless it lies among the records. Raise
    Refused, with a name that is free, where a record of any state is, or was: the ledger keeps its name.
    """
    with alone(file.parent):
        with saving(file):
            why = _taken(file)
        if why:
            others = (file.with_stem(f"{file.stem}-{number}") for number in count(2))
            free = next(other for other in others if not os.path.lexists(other) and not _taken(other))
            raise Refused(f"{file}: {why}, and nothing writes over it. Give the record another name, as {free.name}.")
        save(file, content, durable=False)


def seal(file: Path) -> None:
    """Enter the digest of a finished record into the ledger, behind the digest of the entry before.

    Raise Refused if a record of this name was sealed before: that seal holds. Raise RunbookError, with the ledger left
    as it was, if it cannot be written.
    """
    ledger, name = folder() / "ledger.jsonl", named(file)
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
            file, digest = folder() / entry["record"], str(entry["sha256"])
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
            wrong.append(f"{named(file)}: is in the ledger and missing on disk")
        elif file in sealed:
            if hashlib.sha256(file.read_bytes()).hexdigest() != sealed[file]:
                wrong.append(f"{named(file)}: was altered after it was sealed")
        elif (one := summary(file)) and one.outcome == "unreadable":
            wrong.append(f"{named(file)}: is not a record that can be read")
        elif one and one.finished:
            wrong.append(
                f"{named(file)}: finished, and not in the ledger: the ledger was cut, or sealing was cut short"
            )
    return sorted(wrong)


def is_sealed(file: Path) -> bool:
    """Whether the ledger has this record."""
    return _has(_ledger(), named(file))


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
