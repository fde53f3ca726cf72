"""How a part of the stand-in is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """How one part is: its pids, and why it is not ready, if it is not."""

    name: str
    port: int
    pids: tuple[int, ...]
    problem: str | None
