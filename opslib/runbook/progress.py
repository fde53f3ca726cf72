"""Progress: how far a long step is, shown while it is under way and forgotten once it is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SHORTEST, LONGEST = 1.0, 10.0
"""Seconds between two reports: at first, and in a step that takes long."""

_UNITS = ("B", "kB", "MB", "GB", "TB")
_current: ContextVar[Callable[[str], None] | None] = ContextVar("progress", default=None)


@contextmanager
def shown(show: Callable[[str], object]) -> Iterator[None]:
    """Have what is reported in this block shown so, once a second or, in a long one, more seldom."""
    begun, last = time.monotonic(), 0.0

    def paced(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - max(last, begun) >= min(LONGEST, max(SHORTEST, (now - begun) / 20)):
            last = now
            show(text)

    before = _current.set(paced)
    try:
        yield
    finally:
        _current.reset(before)


def report(text: str) -> None:
    """Say how far the step is that is under way. Shown of its own thread only: that is what an output belongs to."""
    if show := _current.get():
        show(text)


class Bytes(int):
    """A number of bytes that is shown as a person reads it."""

    def __str__(self) -> str:
        return size(self)


def size(count: float) -> str:
    """Give a number of bytes as a person reads it, in powers of 1000."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit < 2 or count >= 100 else f"{count:.1f} {_UNITS[unit]}"
