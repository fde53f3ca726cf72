"""Who blocks whom: the sessions that wait for a lock as a forest, whose roots wait for nobody, and a drawing of it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

from opslib.database.sessions import IDLE, PREPARED, Session

SHOWN = 8
"""Sessions that are drawn below the one that they wait for, those that wait for longest; the rest are counted."""
MOST = 40
"""Sessions that are drawn at all."""

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
    more: tuple[float, ...] = ()
    """Of the sessions that are not drawn and for which it stands, how long each has waited, in seconds."""

    @property
    def branch(self) -> str:
        """What stands before it in a text; hard spaces, since Markdown drops others."""
        if not self.last:
            return ""
        return "".join("   " if last else "│  " for last in self.last[:-1]) + ("└─ " if self.last[-1] else "├─ ")

    @property
    def title(self) -> str:
        """Which session it is, and whose."""
        if self.more:
            return f"… and {len(self.more)} more"
        if self.session is None:
            return "a prepared transaction" if self.pid == PREPARED else f"{self.pid} (gone when it was looked for)"
        return f"{self.pid} {self.session.name}{' (see above)' if self.again else ''}"

    @property
    def does(self) -> str:
        """What it does, and for how long."""
        one = self.session
        if self.more:
            return f"wait, {min(self.more):.0f} to {max(self.more):.0f} s"
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
        """Make the forest of these sessions: all of the server, for a root waits for nothing itself."""
        return cls(tuple(sessions))

    def before(self, waiting: Collection[int]) -> "Blocking":
        """Give the part of it that keeps these sessions waiting, with them."""
        by_pid = {one.pid: one for one in self.sessions}
        found, ahead = set(waiting), list(waiting)
        while ahead:
            one = by_pid.get(ahead.pop())
            new = set(one.blocked_by if one else ()) - found
            found |= new
            ahead += new
        return Blocking(tuple(one for one in self.sessions if one.pid in found))

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
        """The forest, root by root, each followed by what waits for it: SHOWN sessions, and how many more.

        PostgreSQL says of each session in a queue that it waits for all before it: it is drawn below what all wait for.
        """
        by_pid = {one.pid: one for one in self.sessions}
        below = self._below
        drawn: set[int] = set()

        def under(pid: int, last: tuple[bool, ...]) -> Iterator[Node]:
            again = pid in drawn
            drawn.add(pid)
            yield Node(pid, by_pid.get(pid), len(last), last, again)
            children = [] if again else below.get(pid, [])
            rest = children[SHOWN:] if len(children) > SHOWN + 1 else []
            shown = children[: len(children) - len(rest)]
            for number, child in enumerate(shown, 1):
                yield from under(child.pid, (*last, number == len(shown) and not rest))
            if rest:
                behind = {pid for one in rest for pid in (one.pid, *self.behind(one.pid))} - drawn
                drawn.update(behind)
                ages = [by_pid[pid].age for pid in behind]
                if ages:
                    yield Node(-1, None, len(last) + 1, (*last, True), more=tuple(ages))

        return [node for root in self.roots for node in under(root, ())]

    @cached_property
    def _below(self) -> dict[int, list[Session]]:
        """By pid, what is drawn below it: what waits for it, but for what waits for something before it as well."""
        blockers = {one.pid: {*one.blocked_by} for one in self.sessions}
        for whole in (False, True):  # in a ring, which PostgreSQL breaks soon, one would be left out
            below: dict[int, list[Session]] = {}
            for one in sorted(self.sessions, key=lambda one: -one.age):
                for pid in one.blocked_by:
                    if whole or not blockers.get(pid, set()) & blockers[one.pid]:
                        below.setdefault(pid, []).append(one)
            seen, ahead = {*self.roots}, [*self.roots]
            while ahead:
                new = {one.pid for one in below.get(ahead.pop(), ())} - seen
                seen |= new
                ahead += new
            if all(self.behind(root) <= seen for root in self.roots):
                break
        return below

    @property
    def drawn(self) -> list[Node]:
        """What is drawn of it: at most MOST nodes, and the number of the rest."""
        if len(self.nodes) <= MOST + 1:
            return self.nodes
        rest = [age for node in self.nodes[MOST:] for age in node.more or ([node.session.age] if node.session else [])]
        return [*self.nodes[:MOST], Node(-1, None, 0, (), more=tuple(rest))]

    def rows(self) -> list[dict[str, str]]:
        """The forest as an indented table."""
        return [node.row() for node in self.drawn]

    def svg(self) -> str:
        """The forest as a drawing: who blocks in red, who waits for it in yellow below."""
        nodes = self.drawn
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
