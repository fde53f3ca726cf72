"""One command at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from .layout import STATE


@contextmanager
def exclusively() -> Iterator[None]:
    """Hold the stand-in's lock, so that two commands do not work on it at once."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
