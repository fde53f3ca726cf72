"""Application logs: what was written since a moment, across rotation, and never a tail that follows for ever."""

import gzip
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path

from opslib.api import log_event
from opslib.api.log_event import Event
from opslib.api.settings import Log
from opslib.runbook import secret_shape
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from opslib.runbook.mask import mask

LIMIT_BYTES = 1 << 20
LIMIT_ENTRIES = 50
TEXT_LENGTH = 300

LOST = "lost"
"""The level of the entry which says that a file does not hold what was to be read: an error may have been among it."""

_File = BufferedReader | gzip.GzipFile
_PROBE = 1 << 14
_SEVERE = {"error", "fatal", "panic", "critical", "emerg", "alert", "crit", LOST}
_ERROR = re.compile(
    r"\b(?:ERROR|FATAL|PANIC|CRITICAL)\b|\w*[Ee]rror(?: \[\w+\])?:|❌|(?i:\b(?:uncaught|unhandled|panic:))"
)
_SAID = re.compile(r"^(?:Uncaught )?\w*(?:Error|Exception)\b.*", re.MULTILINE)
_STDERR = re.compile(r"(?:^|[-_.])(?:err|error|stderr)(?:[-_.]|$)")


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


@dataclass(frozen=True)
class Reading:
    """The events that logs hold, and which files keep nothing."""

    events: list[Event]
    nowhere: list[str]

    @property
    def recognised(self) -> int:
        """How many events are understood: JSON with a message, or a line that is known."""
        return sum(bool(one.means or "message" in one.said) for one in self.events)

    @property
    def legible(self) -> Answer:
        """Whether the logs can be read, so that what is not in them did not happen; None where that cannot be told."""
        seen = {"entries": len(self.events), "understood": self.recognised, "kept nowhere": ", ".join(self.nowhere)}
        if self.recognised and not self.nowhere:
            return Answer(True, seen)
        if self.nowhere:
            lost = f"PM2 keeps nothing of what goes to {', '.join(self.nowhere)}"
            files = "Give the API log files, or name its own in `log.files` of the environment's file."
            return Answer(None, seen, f"{lost}. {files}")
        if not self.events:
            return Answer(None, seen, "The logs are empty.")
        unread = f"The logs cannot be read: none of {len(self.events)} entries is known. Say how the API words them"
        return Answer(None, seen, f"{unread} in `log.lines` of the environment's file.")


def read(positions: Iterable[Position], known: Log | None = None) -> Reading:
    """Give the events written since those positions, at most LIMIT_BYTES a file. Raise as `since` does."""
    events, nowhere, patterns = [], [], (known or Log()).lines
    for position in positions:
        if is_nowhere(position.path):
            nowhere += [] if known and known.files else [str(position.path)]
            continue
        events += [log_event.understood(one, patterns) for one in _of(position)]
    return Reading(events, list(dict.fromkeys(nowhere)))


def mark(paths: Iterable[Path]) -> list[Position]:
    """Give where these files end now; one that is not there yet is read from its beginning later."""
    return [_position(path) for path in dict.fromkeys(paths)]


def beginnings(positions: Iterable[Position], known: Log) -> list[Position]:
    """Give the beginnings of the same files as they are now, and of those besides that the API writes itself."""
    paths = [*(position.path for position in positions), *known.files]
    return [Position(path, 0, 0) for path in dict.fromkeys(paths)]


def since(positions: Iterable[Position], *, limit: int = LIMIT_ENTRIES) -> list[Entry]:
    """Give the last entries written since those positions, at most `limit` a file, equal neighbours once.

    A file that was renamed, copied or compressed meanwhile is found by what stands before the position, one that was
    cut is read from its beginning. What is left out for its length, or cannot be found any more, has an entry that
    says so. At most LIMIT_BYTES a file are held. Raise RunbookError if a file cannot be read.
    """
    found = []
    for position in positions:
        name = position.path.name
        if is_nowhere(position.path):
            found.append(Entry(name, "", LOST, f"(PM2 keeps nothing: its log is {position.path})"))
            continue
        with ExitStack() as files:
            streams, whole = _streams(position, files)
            data, skipped = _last(streams)
        groups = groupby(log_event.events(name, data), key=lambda event: (event.level, event.text))
        entries = [(next(same), sum(1 for _ in same)) for _, same in groups]
        if not whole:
            found.append(Entry(name, "", LOST, "(the place to read from is gone: earlier entries may be missing)"))
        counts = (max(0, len(entries) - limit), "earlier entries"), (skipped, "bytes")
        if left := [f"{count} {what}" for count, what in counts if count]:
            found.append(Entry(name, "", "", f"({' and '.join(left)} since then are left out)"))
        found.extend(_shown(entry, more) for entry, more in entries[-limit:])
    return found


def causes(positions: Iterable[Position], *, limit: int = 6) -> list[Entry]:
    """Give the last errors written since those positions; the last entries of any kind where there is none.

    An API that is started again and again writes its banner each time, which would push the error out.
    """
    entries = since(positions, limit=LIMIT_BYTES)
    told = [one for one in entries if one.level.lower() in _SEVERE or (not one.level and _ERROR.search(one.text))]
    return (told or errors(entries) or entries)[-limit:]


def errors(entries: Iterable[Entry]) -> list[Entry]:
    """Give the entries that tell of an error: by their level, or without one by their words or file."""
    return [
        e
        for e in entries
        if (e.level.lower() in _SEVERE if e.level else _STDERR.search(e.file) or _ERROR.search(e.text))
    ]


def redact(text: str) -> str:
    """Give the text without secrets, known ones or such as have a well-known shape, and with nothing invisible."""
    text = secret_shape.hidden(mask.text(text))
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def is_nowhere(path: Path) -> bool:
    """Whether this is /dev/null, or what PM2 takes for it."""
    return path.name == "NULL" or path.resolve() == Path(os.devnull)


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
        file = None if is_nowhere(path) else _open(path, files)
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


def _of(position: Position) -> Iterator[Event]:
    if is_nowhere(position.path):
        return
    with ExitStack() as files:
        data, _ = _last(_streams(position, files)[0])
    yield from log_event.events(position.path.name, data)


def _shown(entry: Event, more: int) -> Entry:
    text = _cut(redact(entry.text))
    return Entry(entry.file, redact(entry.time), redact(entry.level), f"{text} (and {more} more)" if more else text)


def _cut(text: str) -> str:
    """Cut a text that is too long, so that the line with the error is in what is left of it."""
    if len(text) <= TEXT_LENGTH:
        return text
    said = _SAID.search(text)
    begin = said.start() if said and said.end() > TEXT_LENGTH else 0
    return f"{'…' * bool(begin)}{text[begin : begin + TEXT_LENGTH]}{'…' * (len(text) > begin + TEXT_LENGTH)}"
