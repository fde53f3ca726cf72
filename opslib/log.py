"""Application logs: what was written since a moment, across rotation, and never a tail that follows for ever."""

import gzip
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from opslib.mask import mask

LIMIT_BYTES = 1 << 20
LIMIT_ENTRIES = 50
TEXT_LENGTH = 300

_LEVELS = re.compile(r"\b(ERROR|FATAL|PANIC|CRITICAL)\b|❌|\buncaught\b|^\w*(?:Error|Exception)\b", re.IGNORECASE)
_SEVERE = {"error", "fatal", "panic", "critical", "emerg", "alert", "crit"}
# The shapes of well-known secrets, which a log may hold although no environment names them.
_SHAPES = (
    (re.compile(r"\b((?:sk|rk)_(?:live|test)_|whsec_|SG\.|AKIA|ASIA)[\w.\-]{8,}"), r"[\1…]"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+(?=@)"), r"\1…"),
    (re.compile(r"\bBearer\s+[\w.~+/\-]+=*"), "[Bearer…]"),
    (re.compile(r"\beyJ[\w\-]+\.[\w\-]+\.[\w\-]*"), "[JWT…]"),
)
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Position:
    """Where a log file ended at some moment; inode 0 if it was not there yet."""

    path: Path
    inode: int
    offset: int  # bytes


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

    A file that was rotated is followed to where its inode lies now, one that was cut is read from its beginning. What
    is left out for its length is counted in an entry of its own.
    """
    found = []
    for position in positions:
        entries = list(_merged(_entries(position.path.name, _lines(position))))
        if len(entries) > limit:
            left = len(entries) - limit
            found.append(Entry(position.path.name, "", "", f"({left} earlier entries since then are left out)"))
        found.extend(entries[-limit:])
    return found


def errors(entries: Iterable[Entry]) -> list[Entry]:
    """Give the entries that tell of an error: by their level, or where they have none by what they say."""
    return [e for e in entries if (e.level.lower() in _SEVERE if e.level else _LEVELS.search(e.text))]


def _position(path: Path) -> Position:
    try:
        status = path.stat()
    except FileNotFoundError:
        return Position(path, 0, 0)
    return Position(path, status.st_ino, status.st_size)


def _lines(position: Position) -> Iterator[str]:
    """Give the whole lines since a position, the rotated file's first."""
    text = b"".join(_bytes(position))[-LIMIT_BYTES:]
    whole = text[: text.rfind(b"\n") + 1] or text
    yield from whole.decode("utf-8", "replace").splitlines()


def _bytes(position: Position) -> Iterator[bytes]:
    now = _position(position.path)
    if position.inode and position.inode != now.inode:
        beside = position.path.parent.glob(f"{position.path.name}*")
        old = next((file for file in beside if file.stat().st_ino == position.inode), None)
        if old is not None:
            yield _read(old, position.offset)
        elif (packed := position.path.with_name(f"{position.path.name}.1.gz")).exists():
            with gzip.open(packed) as file:
                file.seek(position.offset)
                yield file.read()
    if now.inode:
        yield _read(position.path, position.offset if position.inode == now.inode and position.offset <= now.offset else 0)


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(offset, os.fstat(file.fileno()).st_size - LIMIT_BYTES))
        return file.read()


def _entries(name: str, lines: Iterable[str]) -> Iterator[Entry]:
    for line in lines:
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            text = str(said["message"])
            yield Entry(name, str(said.get("timestamp", "")), str(said.get("level", "")), _shown(text))
        except (ValueError, KeyError, TypeError):
            yield Entry(name, "", "", _shown(line))


def _merged(entries: Iterable[Entry]) -> Iterator[Entry]:
    last, times = None, 1
    for entry in entries:
        if last and (entry.level, entry.text) == (last.level, last.text):
            times += 1
        else:
            if last:
                yield _times(last, times)
            last, times = entry, 1
    if last:
        yield _times(last, times)


def _times(entry: Entry, times: int) -> Entry:
    return entry if times == 1 else Entry(entry.file, entry.time, entry.level, f"{entry.text} (and {times - 1} more)")


def _shown(text: str) -> str:
    text = mask.text(text)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    text = _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}…"
