"""A step of a run, shown: an output for people, and beside it in the output's metadata the same for machines."""

import datetime
import uuid
from typing import Any, Literal

from opslib import table

Kind = Literal["start", "check", "plan", "change", "verify", "undo", "note", "end"]
Step = dict[str, Any]
"""`step` (its kind), `at` (UTC, ISO 8601), `title`, and what else that kind has to say."""

_SIGNS = {True: "✓", False: "✗", None: "·"}


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def step(kind: Kind, title: str, ok: bool | None = None, **more: Any) -> Step:
    """Make a step; `ok` is None for what was not asked or not done."""
    return {"step": kind, "at": now(), "title": title, "ok": ok, **more}


def line(one: Step) -> str:
    """One line of plain text for a step, as the terminal shows it."""
    note = f" — {one['note']}" if one.get("note") else ""
    return f"{_SIGNS[one['ok']]} {one['title']}{note}"


class Display:
    """One output of a cell that can be shown again as the step goes on."""

    def __init__(self) -> None:
        self._id: str | None = None

    def show(self, one: Step, evidence: table.Rows = (), text: str = "") -> None:  # type: ignore[assignment]
        """Show a step: its line, then the evidence as a table, then text in Markdown."""
        plain = "\n".join(part for part in (line(one), table.plain(list(evidence)), text) if part)
        if shell() is None:
            print(plain)
            return
        from IPython.display import publish_display_data

        head = f"**{_SIGNS[one['ok']]} {table.escape(one['title'])}**"
        if one.get("note"):
            head += f" — {table.escape(one['note'])}"
        marked = "\n\n".join(part for part in (head, table.markdown(list(evidence)), text) if part)
        again, self._id = self._id is not None, self._id or uuid.uuid4().hex
        publish_display_data(
            {"text/markdown": marked, "text/plain": plain},
            metadata={"opslib": one},
            transient={"display_id": self._id},
            update=again,
        )


def shell() -> Any:
    """The IPython shell of this kernel, or None outside of one."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()
