"""Application logs: what was written since a moment, across rotation, and never a tail that follows for ever."""

import gzip
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any

from opslib.runbook.errors import RunbookError
from opslib.runbook.mask import mask

LIMIT_BYTES = 1 << 20
LIMIT_ENTRIES = 50
TEXT_LENGTH = 300

LOST = "lost"
"""The level of the entry which says that a file no longer holds the place from which it was to be read."""

_File = BufferedReader | gzip.GzipFile
_PROBE = 1 << 14
_SEVERE = {"error", "fatal", "panic", "critical", "emerg", "alert", "crit", LOST}
_ERROR = re.compile(
    r"\b(?:ERROR|FATAL|PANIC|CRITICAL)\b|\w*[Ee]rror(?: \[\w+\])?:|❌|(?i:\b(?:uncaught|unhandled|panic:))"
)
_STDERR = re.compile(r"(?:^|[-_.])(?:err|error|stderr)(?:[-_.]|$)")
_TIME = re.compile(r"\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| UTC|[+-]\d\d:?\d\d)?)[\]:]*(?: |$)")
_MORE = re.compile(r"\s|[}\])]|$|Caused by:|\.\.\. \d+ ")  # such a line belongs to the entry before it
_CARET = re.compile(r"\n\s*\^+\s*\Z")  # Node shows the line that threw, and after a blank line the error
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
# The shapes of well-known secrets, which a log may hold although no environment names them.
_SHAPES = (
    # Of a database URL whatever stands before the last @: it is the malformed ones that get logged.
    (re.compile(r"(\b(?:postgres(?:ql)?|mysql|mongodb(?:\+srv)?|rediss?|amqps?)://[^\s:/@]*:)\S+@"), r"\1[…]@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/]+@", re.IGNORECASE), r"\1[…]@"),
    (re.compile(r"\b(Bearer|Basic)\s+(?=\S*\d|\S{16})[\w.~+/-]{8,}=*", re.IGNORECASE), r"[\1…]"),
    (re.compile(r"(?<![A-Za-z0-9])((?:sk|rk)_(?:live|test)|whsec)_[\w+/-]{8,}=*"), r"[\1…]"),
    (re.compile(r"(?<![A-Za-z0-9])(AKIA|ASIA)[A-Z0-9]{12,}|(?<![A-Za-z0-9])(SG)\.[\w-]{8,}\.[\w-]{8,}"), r"[\1\2…]"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{5,}(?:\.[\w-]*)+"), "[JWT…]"),
)


@dataclass(frozen=True)
class Position:
    """Where a log file ended at some moment; inode 0 if it was not there yet."""

    path: Path
    inode: int
    offset: int  # bytes
    probe: str = ""  # digest of what stands before: tells the file after a rename, a copy, compression, a cut


@dataclass(frozen=True)
class Entry:
    """One entry of a log, without secrets and cut to `TEXT_LENGTH` characters; `level` is empty if it does not say."""

    file: str
    time: str
    level: str
    text: str


def mark(paths: Iterable[Path]) -> list[Position]:
    """Give where these files end now; one that is not there yet is read from its beginning later."""
    return [_position(path) for path in dict.fromkeys(paths)]


def since(positions: Iterable[Position], *, limit: int = LIMIT_ENTRIES) -> list[Entry]:
    """Give the last entries written since those positions, at most `limit` a file, equal neighbours once.

    A file that was renamed, copied or compressed meanwhile is found by what stands before the position, one that was
    cut is read from its beginning. What is left out for its length, or cannot be found any more, has an entry that
    says so. At most LIMIT_BYTES a file are held. Raise RunbookError if a file cannot be read.
    """
    found = []
    for position in positions:
        name = position.path.name
        with ExitStack() as files:
            streams, whole = _streams(position, files)
            data, skipped = _last(streams)
        groups = groupby(_entries(name, data), key=lambda entry: (entry.level, entry.text))
        entries = [(next(same), sum(1 for _ in same)) for _, same in groups]
        if not whole:
            found.append(Entry(name, "", LOST, "(the place to read from is gone: earlier entries may be missing)"))
        counts = (max(0, len(entries) - limit), "earlier entries"), (skipped, "bytes")
        if left := [f"{count} {what}" for count, what in counts if count]:
            found.append(Entry(name, "", "", f"({' and '.join(left)} since then are left out)"))
        found.extend(_shown(entry, more) for entry, more in entries[-limit:])
    return found


def fields(positions: Iterable[Position]) -> Iterator[dict[str, Any]]:
    """Give the JSON entries written since those positions with all fields: to be counted, as they hold secrets."""
    for position in positions:
        with ExitStack() as files:
            data, _ = _last(_streams(position, files)[0])
        for line in data.decode("utf-8", "replace").splitlines():
            with suppress(ValueError, RecursionError):
                if isinstance(said := json.loads(line), dict):
                    yield said


def errors(entries: Iterable[Entry]) -> list[Entry]:
    """Give the entries that tell of an error: by their level, or without one by their words or file."""
    return [
        e
        for e in entries
        if (e.level.lower() in _SEVERE if e.level else _STDERR.search(e.file) or _ERROR.search(e.text))
    ]


def redact(text: str) -> str:
    """Give the text without secrets, known ones or such as have a well-known shape, and with nothing invisible."""
    text = mask.text(text)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _open(path: Path, files: ExitStack) -> _File | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RunbookError(f"{path} is not a regular file, so reading it may never end; name the log file itself")
        if path.suffix == ".gz":
            return files.enter_context(gzip.GzipFile(path))
        return files.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunbookError(f"{path} cannot be read: {error.strerror}; run as the user that runs the API") from error


def _position(path: Path) -> Position:
    with ExitStack() as files:
        file = _open(path, files)
        if file is None:
            return Position(path, 0, 0)
        size = file.seek(0, os.SEEK_END)
        return Position(path, _status(file).st_ino, size, _probe(_before(file, size)))


def _status(file: _File) -> os.stat_result:
    return os.fstat(file.fileno())


def _before(file: _File, offset: int) -> bytes:
    start = file.seek(max(0, offset - _PROBE))
    return file.read(offset - start)


def _probe(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _resume(file: _File, position: Position) -> bool:
    """Go to where the line begins that was being written at the position, if this file is the one that was marked."""
    if position.offset == 0:
        file.seek(0)
        return position.inode in (0, _status(file).st_ino)
    try:
        before = _before(file, position.offset)
        grown = bool(file.read(1))
    except (EOFError, gzip.BadGzipFile, zlib.error):  # a file that is still being compressed: its source is there too
        return False
    begun = len(before) - before.rfind(b"\n") - 1
    found = begun < len(before) or len(before) == position.offset
    file.seek(position.offset - (begun if grown and found else 0))
    return len(before) == min(position.offset, _PROBE) and _probe(before) == position.probe


def _streams(position: Position, files: ExitStack) -> tuple[list[_File], bool]:
    """Give the files written since the position, oldest first, each where reading starts; False if some may be gone."""
    current = _open(position.path, files)
    if current and _resume(current, position):
        return [current], True
    last = [current] if current else []
    if not position.inode:
        return last, True
    known = {_status(file).st_ino for file in last}
    beside = [
        file for path in _rotated(position.path) if (file := _open(path, files)) and _status(file).st_ino not in known
    ]
    beside.sort(key=lambda file: _status(file).st_mtime_ns)
    marked = [n for n, file in enumerate(beside) if _resume(file, position)]
    same = [n for n in marked if _status(beside[n]).st_ino == position.inode]
    for file in last:
        file.seek(0)
    if not marked:
        return last, False
    oldest = (same or marked)[0]
    for file in beside[oldest + 1 :]:
        file.seek(0)
    return beside[oldest:] + last, True


def _rotated(path: Path) -> list[Path]:
    """Give what logrotate (x.log.1, x.log-20250101), PM2 (x__2025-01-01_00-00-00.log), winston (x1.log) put aside."""
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    name = re.compile(rf"{stem}(?:(?:__[\d_T:-]+|\d+)?{suffix}|{suffix}[.-]\d[\d.-]*)(\.gz)?")
    names = {file.name for file in path.parent.iterdir() if name.fullmatch(file.name)} - {path.name}
    return [path.with_name(name) for name in names if name.removesuffix(".gz") not in names - {name}]


def _last(files: Iterable[_File]) -> tuple[bytes, int]:
    """Give the last LIMIT_BYTES of these files as they are now, in whole lines, and how many bytes are left out."""
    data, skipped = b"", 0
    for file in files:
        data += b"\n" * (data[-1:] not in (b"", b"\n"))
        for chunk, left in _chunks(file):
            data += chunk
            over = max(0, len(data) - LIMIT_BYTES)
            data, skipped = data[over:], skipped + left + over
    if skipped:
        cut = data.find(b"\n") + 1
        data, skipped = data[cut:], skipped + cut
    return data, skipped


def _chunks(file: _File) -> Iterator[tuple[bytes, int]]:
    if isinstance(file, gzip.GzipFile):
        try:
            while chunk := file.read(LIMIT_BYTES):
                yield chunk, 0
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise RunbookError(f"{file.name} is damaged or still being compressed; run again in a minute") from error
    else:
        size = _status(file).st_size - file.tell()  # asked once: the file may grow as fast as it is read
        left = max(0, size - LIMIT_BYTES)
        file.seek(left, os.SEEK_CUR)
        yield file.read(max(0, size - left)), left


def _entries(name: str, data: bytes) -> Iterator[Entry]:
    for time, text in _grouped(data.decode("utf-8", "replace")):
        if text.strip():
            yield _structured(name, time, text) or Entry(name, time, "", text.strip("\n"))


def _grouped(text: str) -> Iterator[tuple[str, str]]:
    """Give the time and text of each entry, a stack trace being one with the line that it follows."""
    time, lines = "", [""]
    for line in text.split("\n"):
        stamp = _TIME.match(line)
        rest = line[stamp.end() if stamp else 0 :].removesuffix("\r")
        structured = lines[0].startswith("{") and lines[0].endswith("}")
        if not structured and (_MORE.match(rest) or _CARET.search("\n".join(lines))):
            lines.append(rest)
        else:
            yield time, "\n".join(lines)
            time, lines = stamp[1] if stamp else "", [rest]
    yield time, "\n".join(lines)


def _structured(name: str, time: str, text: str) -> Entry | None:
    """Give the entry of a JSON line of winston or of PostgreSQL's jsonlog, None for any other text."""
    try:
        said = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "message" not in said:
        return None
    message, stack = str(said["message"]), str(said.get("stack") or "")
    told = stack if message in stack else f"{message}\n{stack}".rstrip("\n")
    level = _COLOUR.sub("", str(said.get("level") or said.get("error_severity") or ""))
    return Entry(name, str(said.get("timestamp") or time), level, told)


def _shown(entry: Entry, more: int) -> Entry:
    text = redact(entry.text)
    text = text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}…"
    return Entry(entry.file, redact(entry.time), redact(entry.level), f"{text} (and {more} more)" if more else text)
