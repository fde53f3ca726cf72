"""The application's `.env`, read as Node's dotenv reads it and edited without disturbing what was not asked.

The grammar is that of `lib/main.js` (`LINE` and `parse`) in the npm package dotenv, the same in 16.6.1 and 17.4.2, with
JavaScript's idea of white space and line ends. python-dotenv reads other values from the same bytes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from opslib.runbook.errors import RunbookError

__all__ = ["Edit", "EnvFileError", "drop", "edit", "edits", "fingerprint", "latest", "names", "read", "restore"]

_SPACE = "\t\n\v\f\r \xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"
_START, _END = r"(?<![^\n\u2028\u2029])", r"(?![^\n\u2028\u2029])"
_LINE = re.compile(
    rf"{_START}[{_SPACE}]*(?P<head>(?:export[{_SPACE}]+)?)(?P<key>[A-Za-z0-9_.-]+)(?P<mark>[{_SPACE}]*=|:[{_SPACE}]+?)"
    rf"(?P<value>[{_SPACE}]*'(?:\\'|[^'])*'|[{_SPACE}]*\"(?:\\\"|[^\"])*\"|[{_SPACE}]*`(?:\\`|[^`])*`|[^#\n]+)?"
    rf"[{_SPACE}]*(?:#[^\n\u2028\u2029]*)?{_END}"
)
_QUOTED = re.compile(rf"{_START}(['\"`])(.*)\1{_END}", re.DOTALL)
_NEWLINE = re.compile(r"\r\n?")
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@%+=-]*")  # needs no quotes in dotenv, nor in a shell that sources the file
_LOCK_SECONDS = 10.0


class EnvFileError(RunbookError, ValueError):
    """An `.env` that cannot be read or edited safely; names keys, lines and paths, never a value."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of an `.env`: the real file, its backup, and the digests of both states."""

    path: Path
    backup: Path
    before: str
    after: str


class _Entry(NamedTuple):
    """One assignment; `written` is where its value stands in the text, `lines` the whole lines it stands on."""

    key: str
    value: str
    written: slice
    lines: slice


def read(path: Path) -> dict[str, str]:
    """Return the values as the application gets them: of a duplicate key the last."""
    return {entry.key: entry.value for entry in _parse(_decode(path, _load(path)))}


def edit(
    path: Path, values: Mapping[str, str | None], *, folder: Path | None = None, backup: bool = True
) -> Edit | None:
    """Set these keys (None removes one), keep every other byte, and return how to undo it, or None if nothing differs.

    The backup lies in `folder`, or else beside the file. Without `backup` there is no way back, and nothing that a
    process which dies could leave.
    A symbolic link stays and its target changes; mode, owner and extended attributes are kept. Of a duplicate key the
    last one, which counts, is set; removal takes all. Raises EnvFileError, with the file as it was.
    """
    with _locked(path) as real:
        old = _load(real)
        text = _decode(real, old)
        for key, value in values.items():
            text = _compose(real, text, key, value)
        new = (b"\xef\xbb\xbf" if old.startswith(b"\xef\xbb\xbf") else b"") + text.encode()
        if new == old:
            return None
        folder = folder or real.parent
        if not backup:
            _replace(real, old, new, folder)
            return None
        kept = folder / _backup(real, old, new)
        _replace(real, old, new, folder, kept)
        return Edit(real, kept, _digest(old), _digest(new))


def edits(path: Path, folder: Path | None = None) -> list[Edit]:
    """Return the edits whose backups are still there, oldest first, also those of a process that has died."""
    real = path.resolve()
    folder = folder or real.parent
    name = re.compile(rf"{re.escape(real.name)}\.\d{{8}}T\d{{6}}\.\d{{6}}Z\.([0-9a-f]{{16}})\.([0-9a-f]{{16}})\.bak")
    files = sorted(folder.iterdir()) if folder.exists() else []
    return [Edit(real, file, match[1], match[2]) for file in files if (match := name.fullmatch(file.name))]


def latest(path: Path, folder: Path | None = None) -> Edit | None:
    """Return the edit that made the file what it is now, also that of a dead process, if its backup is there."""
    now = _digest(_load(path))
    return next((edit for edit in reversed(edits(path, folder)) if edit.after == now), None)


def names(path: Path) -> list[str]:
    """Return names such as an edit gives the files that it makes."""
    real = path.resolve()
    return [_temporary(real), _backup(real, b"", b"")]


def restore(edit: Edit) -> None:
    """Put back the bytes from before the edit; does nothing if they are there already, refuses if others came since."""
    with _locked(edit.path) as real:
        now = _load(real)
        if _digest(now) == edit.before:
            return
        if _digest(now) != edit.after:
            raise EnvFileError(f"{real} was changed after the edit; compare it with {edit.backup} and mend it by hand")
        old = _load(edit.backup)
        if _digest(old) != edit.before:
            raise EnvFileError(f"{edit.backup} is not what the edit saved; put the old values into {real} by hand")
        _replace(real, now, old, edit.backup.parent)


def drop(edit: Edit) -> None:
    """Remove the backup, which holds secrets, once no undo is needed any more."""
    edit.backup.unlink(missing_ok=True)


def fingerprint(value: str) -> str:
    """Return 8 hex digits by which two people can compare a secret without showing it."""
    return hashlib.sha256(b"opslib fingerprint\0" + value.encode(errors="surrogatepass")).hexdigest()[:8]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvFileError(f"{path} cannot be read: {error.strerror}; expected the application's .env") from error


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    raise EnvFileError(f"{path}, line {line} is not UTF-8, so dotenv would garble it; save the file as UTF-8")


def _parse(text: str) -> list[_Entry]:
    """Return the assignments in order; positions are those of the text as it is, with its own line ends."""
    at = [match.start() for match in re.finditer(r"(?s)\r\n?|.", text)] + [len(text)]
    plain = _NEWLINE.sub("\n", text)
    entries = []
    for match in _LINE.finditer(plain):
        raw = match["value"] or ""
        written = raw.strip(_SPACE)
        start = match.end("mark") + (len(raw) - len(raw.lstrip(_SPACE)) if written else 0)
        stop = start + len(written)
        first = max(match.start(), plain.rfind("\n", 0, match.start("head")) + 1)
        last = (plain.find("\n", stop) + 1) or len(plain)
        value = _QUOTED.sub(r"\2", written)
        if written.startswith('"'):
            value = value.replace("\\n", "\n").replace("\\r", "\r")
        entries.append(_Entry(match["key"], value, slice(at[start], at[stop]), slice(at[first], at[last])))
    return entries


def _compose(path: Path, text: str, key: str, value: str | None) -> str:
    """Return the text with one key changed, having parsed it again: all other assignments must be as they were."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", key):
        raise EnvFileError(f"a key to set in {path} is no dotenv name; expected letters, digits, '_', '.' and '-' only")
    entries = _parse(text)
    pairs = [(entry.key, entry.value) for entry in entries]
    if dict(pairs).get(key) == value:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    closed = not text or text.endswith(("\n", "\r"))
    last = max((index for index, pair in enumerate(pairs) if pair[0] == key), default=len(pairs))
    for written in [""] if value is None else _quotings(value):
        written = written.replace("\n", newline)
        if value is None:
            wanted = [pair for pair in pairs if pair[0] != key]
            cut = [entry.lines for entry in entries if entry.key == key]
            starts, stops = [0, *(lines.stop for lines in cut)], [*(lines.start for lines in cut), len(text)]
            changed = "".join(text[start:stop] for start, stop in zip(starts, stops, strict=True))
        elif last < len(pairs):
            wanted = [*pairs[:last], (key, value), *pairs[last + 1 :]]
            changed = text[: entries[last].written.start] + written + text[entries[last].written.stop :]
        else:
            wanted = [*pairs, (key, value)]
            changed = f"{text}{'' if closed else newline}{key}={written}{newline if closed else ''}"
        if [(entry.key, entry.value) for entry in _parse(changed)] == wanted:
            return changed
    before = text[: entries[last].written.start] if last < len(entries) else text
    where = f"{key} ({path}, line {len(_NEWLINE.sub(chr(10), before).split(chr(10)))})"
    if value is None:
        raise EnvFileError(f"{where} cannot be removed without changing how other keys are read; edit it by hand")
    raise EnvFileError(f"no quotes can carry the new value of {where}; choose a value without quotes and backslashes")


def _quotings(value: str) -> Iterator[str]:
    if re.search(r"[\0\ud800-\udfff]", value):  # no environment variable, no UTF-8 file can hold these
        return
    if _PLAIN.fullmatch(value):
        yield value
    yield from (f"{quote}{value}{quote}" for quote in "'`" if quote not in value)
    if '"' not in value:
        yield '"' + value.replace("\n", "\\n").replace("\r", "\\r") + '"'


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Hold the directory of the real file against other edits, and ask whether the file may be edited at all."""
    try:
        real = Path(os.path.realpath(path, strict=True))
        directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise EnvFileError(f"{path} cannot be edited: {error.strerror}; expected the application's .env") from error
    try:
        _lock(directory, real)
        status = real.stat()
        if not stat.S_ISREG(status.st_mode):
            raise EnvFileError(f"{real} is not a regular file ({stat.filemode(status.st_mode)}); change what makes it")
        if status.st_nlink != 1:
            raise EnvFileError(f"{real} has {status.st_nlink} hard links, expected 1; make the others symbolic links")
        if not status.st_mode & stat.S_IWUSR:
            raise EnvFileError(f"{real} is read-only ({stat.filemode(status.st_mode)}); find out why, then chmod u+w")
        for needed in (real, real.parent):
            if not os.access(needed, os.W_OK):
                raise EnvFileError(
                    f"{needed} is not writable for this user; run as its owner, uid {needed.stat().st_uid}"
                )
        yield real
    finally:
        os.close(directory)


def _lock(directory: int, real: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EnvFileError(f"{real} has been locked for {_LOCK_SECONDS:g} s; see who else edits it") from None
        time.sleep(0.02)


def _temporary(path: Path) -> str:
    return f"{path.name}.opslib.tmp"


def _backup(path: Path, old: bytes, new: bytes) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{path.name}.{stamp}.{_digest(old)}.{_digest(new)}.bak"


def _replace(path: Path, old: bytes, new: bytes, folder: Path, backup: Path | None = None) -> None:
    """Replace the file whole or not at all, the backup being on disk first; the caller holds the lock."""
    temp, beside = folder / _temporary(path), path.with_name(_temporary(path))
    for left in (temp, beside):  # by a process that was killed: under the lock nobody else can be writing it
        left.unlink(missing_ok=True)
    try:
        _create(temp, new, like=path)
        if backup:
            _create(backup, old)
            _sync(backup.parent)
        try:
            _rename(temp, path, old)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Nothing can be renamed from another file system (nor from another mount of the same one, which its
            # device's number does not tell): there the new file lies beside the old one for that moment.
            _create(beside, new, like=path)
            _rename(beside, path, old)
    except BaseException as error:
        if backup and not (path.exists() and path.read_bytes() == new):
            backup.unlink(missing_ok=True)  # it is of no use: nothing has been replaced
        if isinstance(error, OSError):
            raise EnvFileError(f"{path} was not changed: {error.strerror}; put that right and run again") from error
        raise
    finally:
        for made in (temp, beside):
            made.unlink(missing_ok=True)
    _sync(path.parent)


def _rename(temp: Path, path: Path, old: bytes) -> None:
    if path.read_bytes() != old:
        raise EnvFileError(f"{path} was changed by somebody else meanwhile; look at that and run again")
    os.replace(temp, path)


def _create(path: Path, data: bytes, *, like: Path | None = None) -> None:
    """Write a new 0600 file to the disk, then give it the owner, mode and extended attributes of another."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        if like:
            status = like.stat()
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            shutil.copystat(like, path)
            os.utime(path)
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
