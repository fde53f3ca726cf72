"""A step of a run, shown: an output for people, and beside it in the output's metadata the same for machines."""

import datetime
import re
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeGuard, get_args

from opslib.runbook import table
from opslib.runbook.errors import Outcome

Kind = Literal["start", "check", "plan", "change", "verify", "undo", "note", "finding", "end"]
Step = dict[str, Any]
"""`step` (its kind), `at` (UTC, ISO 8601), `title`, and what else that kind has to say."""

UNDO = "Undo: "
"""What the title of an undo has before the title of its change."""
GOOD = (Outcome.PLANNED, Outcome.APPLIED)

_STATES = {"applying": (None,), "applied": (True,), "failed": (False,), "not done": (None, False)}
_TEXTS = ("note", "otherwise", "digest", "why", "operator", "reason", "incident")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")

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
    return f"{_sign(one)} {one['title']}{note}"


def is_step(one: object) -> TypeGuard[Step]:
    """Whether this is a step, with all of it as its readers take it to be. A kernel can send anything."""
    if not isinstance(one, dict) or not {"step", "at", "title", "ok"} <= one.keys():
        return False
    texts = isinstance(one["title"], str) and all(isinstance(one.get(key, ""), str) for key in _TEXTS)
    judged = one["ok"] is None or isinstance(one["ok"], bool)
    shown = isinstance(one.get("progress", False), bool) and _are_rows(one.get("evidence", []))
    return texts and judged and shown and _is_time(one["at"]) and _fits(one)


def told(said: Iterable[Step]) -> list[Step]:
    """Give each step once: what was said of it last, where it was said first. What was begun stays begun."""
    found: list[Step] = []
    begun: dict[tuple[str, str], int] = {}
    for one in said:
        key = (one["step"], one["title"])
        at = begun.pop(key, None) if one.get("state") != "not done" else None
        if at is None:
            at = len(found)
            found.append(one)
        found[at] = one
        if one.get("state") == "applying" or (one["step"] == "undo" and one["ok"] is None):
            begun[key] = at
    return found


def standing(happened: Iterable[Step]) -> list[str]:
    """Give the titles of the changes that were begun and not undone since, oldest first."""
    begun: dict[str, None] = {}
    for one in happened:
        if one["step"] == "change" and one["state"] != "not done":
            begun[one["title"]] = None
        elif one["step"] == "undo" and one["ok"]:
            begun.pop(one["title"].removeprefix(UNDO), None)
    return list(begun)


def ending(happened: Sequence[Step]) -> Step | None:
    """Give the step that ends the run; None if it goes on, or something acted after what was said to be its end."""
    for one in reversed(happened):
        if one["step"] == "end":
            return one
        if one["step"] in ("start", "undo") or (one["step"] == "change" and one["state"] != "not done"):
            return None
    return None


def findings(happened: Iterable[Step]) -> list[Step]:
    """Give what a run has found wrong, each once and the worst first."""
    found = {one["title"]: one for one in happened if one["step"] == "finding"}
    return sorted(found.values(), key=lambda one: int(one["severity"]))


def accepted(happened: Iterable[Step]) -> list[str]:
    """Give the titles of the questions that were not answered yes, and with which the operator went on all the same."""
    asked = {one["title"]: one for one in happened if one["step"] in ("check", "verify")}
    return [title for title, one in asked.items() if one.get("accepted")]


def contradiction(happened: Sequence[Step], outcome: str) -> str:
    """Say why a run cannot have ended well, with this outcome, after these steps; empty if it can have."""
    starts = [i for i, one in enumerate(happened) if one["step"] == "start"]
    if not starts:
        return "no step began it"
    run = happened[starts[-1] :]
    last = {(one["step"], one["title"]): one for one in run}
    stands = standing(happened)
    made = [title for title in stands if last.get(("change", title), {}).get("state") == "applied"]
    plans = [one for one in run if one["step"] == "plan" and not one.get("approved")]
    planned = [row["change"] for row in plans[-1]["changes"]] if plans else []
    asked = [one for one in last.values() if one["step"] in ("check", "verify") and not one.get("verified")]
    wrong = [one["title"] for one in asked if one["ok"] is False and not one.get("accepted")]
    half = [title for title in stands if title not in made]
    if outcome == Outcome.PLANNED:
        return f"it changed something: {'; '.join(stands)}" if stands else _no(wrong)
    if not run[0]["apply"]:
        return "it only planned"
    if missing := [title for title in [*half, *planned] if title not in made]:
        return f"not done, or not whole: {'; '.join(dict.fromkeys(missing))}"
    return _no(wrong)


def _sign(one: Step) -> str:
    if one.get("accepted"):
        return "!"
    return "?" if one.get("unknown") else _SIGNS[one["ok"]]


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

        head = f"**{_sign(one)} {table.escape(one['title'])}**"
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


def _no(wrong: Sequence[str]) -> str:
    return f"answered no: {'; '.join(wrong)}" if wrong else ""


def _is_time(text: object) -> bool:
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _are_rows(rows: object, *names: str) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, dict) and row.keys() >= set(names) and all(_is_said(said) for said in row.values())
        for row in rows
    )


def _is_said(said: object) -> bool:
    """Whether this is a text, or lines of text."""
    return all(isinstance(line, str) for line in (said if isinstance(said, list) else [said]))


def _fits(one: Step) -> bool:
    """Whether a step says what its kind has to say."""
    match one["step"]:
        case "start":
            return isinstance(one.get("apply"), bool)
        case "plan":
            shown = one.get("approved") is True or _are_rows(one.get("evidence", []), "change", "")
            return shown and "digest" in one and _are_rows(one.get("changes"), "change", "does")
        case "change":
            return isinstance(one.get("state"), str) and one["ok"] in _STATES.get(one["state"], ())
        case "end":
            known = one.get("outcome") in [*Outcome] and one["ok"] is (one["outcome"] in GOOD)
            return known and "why" in one and isinstance(one.get("steps", []), list)
        case "finding":
            return isinstance(one.get("severity"), int) and isinstance(one.get("note"), str)
        case kind:
            return kind in get_args(Kind)
