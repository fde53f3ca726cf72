"""Who blocks whom: the sessions that wait for a lock as a forest, whose roots wait for nobody, and a drawing of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

from opslib.database.sessions import IDLE, PREPARED, Session

_BOX, _LINE, _INDENT, _WIDTH = 54, 66, 36, 880  # pixels
_COLOURS = {"root": ("#fde2e1", "#a40000"), "waiting": ("#fff4d6", "#8a6100")}


@dataclass(frozen=True)
class Node:
    """A session in the forest; `depth` 0 is a root. `again` says that it is drawn elsewhere with what waits for it."""

    pid: int
    session: Session | None  # None: a prepared transaction, or a session that ended while it was asked
    depth: int
    last: tuple[bool, ...]  # of each of its ancestors below the root and itself: whether it is the last of its kind
    again: bool = False

    @property
    def branch(self) -> str:
        """What stands before it in a text; hard spaces, since Markdown drops others."""
        if not self.last:
            return ""
        return "".join("   " if last else "│  " for last in self.last[:-1]) + ("└─ " if self.last[-1] else "├─ ")

    @property
    def title(self) -> str:
        """Which session it is, and whose."""
        if self.session is None:
            return "a prepared transaction" if self.pid == PREPARED else f"{self.pid} (has ended)"
        return f"{self.pid} {self.session.name}{' (see above)' if self.again else ''}"

    @property
    def does(self) -> str:
        """What it does, and for how long."""
        one = self.session
        if one is None:
            return "look into pg_prepared_xacts" if self.pid == PREPARED else ""
        waits = "waits" if self.depth else one.state if one.state in IDLE else f"runs ({one.state})"
        return f"{waits}, {one.age:.0f} s"

    def row(self) -> dict[str, str]:
        """A row of evidence."""
        said = self.session.said if self.session else ""
        return {"session": f"{self.branch}{self.title}", "does": self.does, "last statement": said}


@dataclass(frozen=True)
class Blocking:
    """The sessions that block others and those that wait for them, as they were when they were read."""

    sessions: tuple[Session, ...]

    @classmethod
    def among(cls, sessions: Sequence[Session]) -> "Blocking":
        """Make the forest of these sessions."""
        return cls(tuple(sessions))

    @cached_property
    def waiting(self) -> dict[int, list[int]]:
        """By pid, the sessions that wait for it."""
        found: dict[int, list[int]] = {}
        for one in self.sessions:
            for pid in one.blocked_by:
                found.setdefault(pid, []).append(one.pid)
        return found

    @cached_property
    def roots(self) -> list[int]:
        """The pids that block others and wait for nobody, those that most wait for first.

        A ring of waiting sessions has no root: PostgreSQL breaks it after deadlock_timeout.
        """
        waits = {one.pid for one in self.sessions if one.blocked_by}
        return sorted(self.waiting.keys() - waits, key=lambda pid: (-len(self.behind(pid)), pid))

    def behind(self, pid: int) -> set[int]:
        """The sessions that wait for this one, or for one that does."""
        found: set[int] = set()
        ahead = [pid]
        while ahead:
            new = set(self.waiting.get(ahead.pop(), ())) - found
            found |= new
            ahead += new
        return found - {pid}

    @cached_property
    def nodes(self) -> list[Node]:
        """The forest, root by root, each followed by what waits for it."""
        by_pid = {one.pid: one for one in self.sessions}
        drawn: set[int] = set()

        def under(pid: int, last: tuple[bool, ...]) -> Iterator[Node]:
            again = pid in drawn
            drawn.add(pid)
            yield Node(pid, by_pid.get(pid), len(last), last, again)
            below = [] if again else self.waiting.get(pid, [])
            for number, child in enumerate(below, 1):
                yield from under(child, (*last, number == len(below)))

        return [node for root in self.roots for node in under(root, ())]

    def rows(self) -> list[dict[str, str]]:
        """The forest as an indented table."""
        return [node.row() for node in self.nodes]

    def svg(self) -> str:
        """The forest as a drawing: who blocks in red, who waits for it in yellow below."""
        nodes = self.nodes
        height = _LINE * len(nodes) + 12 if nodes else 44
        parts = [f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>']
        if not nodes:
            parts.append('<text x="12" y="28" fill="#0a6b2d" font-size="15">No session waits for another one.</text>')
        above: dict[int, int] = {}  # by depth, the line of the last node that stands there
        for line, node in enumerate(nodes):
            above[node.depth] = line
            x, y = 12 + node.depth * _INDENT, 8 + line * _LINE
            if node.depth:
                parts.append(_arrow(x - _INDENT + 16, 8 + above[node.depth - 1] * _LINE + _BOX, x, y + _BOX // 2))
            parts.append(_box(node, x, y))
        body = "".join(parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="system-ui, sans-serif">{body}</svg>'
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        lines = [f"{row['session']} — {row['does']}" for row in self.rows()]
        return {"image/svg+xml": self.svg(), "text/plain": "\n".join(lines) or "No session waits for another one."}


def _box(node: Node, x: int, y: int) -> str:
    fill, ink = _COLOURS["waiting" if node.depth else "root"]
    said = node.session.said if node.session else ""
    room = (_WIDTH - x - 24) // 7
    title, does = escape(f"{node.title} — {node.does}"[: room - 4]), escape(said[:room])
    code = 'font-size="12" font-family="ui-monospace, monospace" fill="#333"'
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH - x - 8}" height="{_BOX}" rx="6" fill="{fill}" stroke="{ink}"/>'
        f'<text x="{x + 12}" y="{y + 22}" font-size="15" font-weight="600" fill="{ink}">{title}</text>'
        f'<text x="{x + 12}" y="{y + 43}" {code}>{does}</text>'
    )


def _arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    """From the node that waits to the bottom of the one that it waits for."""
    return (
        f'<path d="M{to_x} {to_y} H{x} V{y}" fill="none" stroke="#555" stroke-width="1.5"/>'
        f'<path d="M{x - 4} {y + 8} L{x} {y} L{x + 4} {y + 8} Z" fill="#555"/>'
    )
