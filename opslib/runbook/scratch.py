"""A scratch folder: what a process needs on disk while it lives, in a folder that is this user's alone."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from opslib.runbook.errors import RunbookError

FRESH = 60
"""Seconds for which a folder is left alone that nobody holds: its process may not have come to that yet."""


class Scratch:
    """A folder that is removed at the end or, once its process was killed, by the next that makes one."""

    def __init__(self, kind: str) -> None:
        """Make one. Raise RunbookError if the folder of all of them is not this user's alone."""
        home = _home()
        _sweep(home)
        self.path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=home))
        self._held = _hold(self.path, wait=True)

    def remove(self) -> None:
        """Remove it with all that it holds. Once is enough."""
        if self._held >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._held)
            self._held = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()


def _home() -> Path:
    """Give the folder in which they lie. Not in XDG_RUNTIME_DIR: that goes when its user logs out, and a run stays.

    In a folder that all share, whoever comes first can have the name: so this looks whose it is.
    """
    home = Path(tempfile.gettempdir()) / f"opslib-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    about = home.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise RunbookError(
            f"{home}: found {stat.filemode(about.st_mode)} of uid {about.st_uid}, expected one that is yours alone, "
            "drwx------. Find out who made it and remove it, or set TMPDIR to a folder of your own."
        )
    return home


def _hold(folder: Path, *, wait: bool = False) -> int:
    """Lock a folder until what this gives is closed, or its process gone. Raise OSError if somebody has it."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(held)
        raise
    return held


def _sweep(home: Path) -> None:
    """Remove the folders of processes that were killed: a live one holds its own, wherever it can be seen from."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError):
            held = _hold(folder)
            try:
                if time.time() - folder.stat().st_mtime > FRESH:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
