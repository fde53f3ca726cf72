"""JavaScript as text, read without a parser: enough to see what a call is given, and what a condition guards."""

import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from opslib.api import release
from opslib.api.release import Line

_TEXTS = r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"""
_TOKEN = re.compile(rf"(?P<text>{_TEXTS})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_MARK = re.compile(rf"{_TEXTS}|[()\[\]{{}},]", re.DOTALL)
_ENDS = re.compile(rf"{_TEXTS}|[()\[\]{{}};\n]", re.DOTALL)
_LITERAL = re.compile(r"""(["'`])([^"'`$\\]*)\1""")
_FAR = 1 << 15  # characters behind a bracket in which its end is looked for
_LONG, _WIDE = 1 << 19, 4096  # characters that no person has in a file, or a line
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def files(folder: Path) -> dict[Path, str]:
    """Read the files of the API's own code below a folder."""
    return {file: read(file) for file in release.code(folder)}


def loaded(name: str, by: Path, files: Collection[Path]) -> Path | None:
    """Give the file among these that one of them loads by this name; None for a package."""
    if not name.startswith("."):
        return None
    base = Path(by.parent, name).resolve()
    stem = base.with_suffix("") if base.suffix in release.CODE else base  # TypeScript loads x.ts as ./x.js
    tries = [base, *(Path(f"{stem}{suffix}") for suffix in release.CODE), *(base / f"index{s}" for s in release.CODE)]
    return next((one for one in tries if one in files), None)


def read(file: Path) -> str:
    """Give the text of a file with blanks for its comments, so that all else stands where it stood.

    Of what no person has written, a bundle, nothing is given.
    """
    text = file.read_text("utf-8", "replace")
    return "" if bundled(text) else _TOKEN.sub(lambda one: one[0] if one["text"] else _blank(one[0]), text)


def bundled(text: str) -> bool:
    """Whether a program has packed this text: it is no use to look for what a person would have written."""
    return len(text) > _LONG or max(map(len, text.splitlines()), default=0) > _WIDE


def closing(text: str, at: int) -> int:
    """Give where the bracket closes that opens at this place; where the text ends if it does not."""
    depth = 0
    for mark in _MARK.finditer(text, at, at + _FAR):
        depth += (mark[0] in _PAIRS) - (mark[0] in _PAIRS.values())
        if depth == 0:
            return mark.start()
    return len(text)


def ended(text: str, at: int) -> int:
    """Give where the statement ends that begins at this place, on one line but for what stands in brackets."""
    past = at
    for mark in _ENDS.finditer(text, at, at + _FAR):
        if mark.start() < past or mark[0][0] in "\"'`":
            continue
        if mark[0] in (";", "\n", *_PAIRS.values()):
            return mark.start()
        past = closing(text, mark.start()) + 1
    return len(text)


def inside(text: str, at: int) -> str:
    """Give what stands between the bracket that opens at this place and its end."""
    return text[at + 1 : closing(text, at)]


def given(text: str, at: int) -> list[str]:
    """Give the same, parted by its commas: the arguments of a call, the elements of an array."""
    held, depth, begin, found = inside(text, at), 0, 0, []
    for mark in _MARK.finditer(held):
        depth += (mark[0] in _PAIRS) - (mark[0] in _PAIRS.values())
        if mark[0] == "," and depth == 0:
            found.append(held[begin : mark.start()].strip())
            begin = mark.end()
    return [part for part in (*found, held[begin:].strip()) if part]


def fields(text: str) -> dict[str, str]:
    """Give the fields of an object as it is written, each with what it is set to; of a short one its own name."""
    pairs = (part.partition(":") for part in given(text, 0)) if text.startswith("{") else ()
    return {key.strip().strip("\"'"): (value if colon else key).strip() for key, colon, value in pairs}


def constants(text: str, name: str) -> list[str]:
    """Give what the constants of this name are set to: one in each function may have it."""
    begins = re.finditer(rf"\b(?:const|let|var)\s+{re.escape(name)}\b[^=\n]*=\s*(?=\S)", text) if name else ()
    return list(dict.fromkeys(_begun(text[one.end() :]) for one in begins))


def constant(text: str, name: str) -> str:
    """Give what the constant of this name is set to; empty if there is none, or several that differ."""
    found = constants(text, name)
    return found[0] if len(found) == 1 else ""


def literal(text: str) -> str | int | bool | None:
    """Give the value of a text, a whole number (or a product, as 60 * 60) or a truth value; None of anything else."""
    if found := _LITERAL.fullmatch(text):
        return found[2]
    if re.fullmatch(r"\d[\d_]*(?:\s*\*\s*\d[\d_]*)*", text):
        return math.prod(int(one) for one in text.split("*"))
    return {"true": True, "false": False}.get(text)


def calls(text: str, names: str) -> Iterator[int]:
    """Give where the bracket of each call opens whose name this regular expression finds."""
    for found in re.finditer(rf"(?<![\w$])(?:{names})\s*\(", text):
        yield found.end() - 1


def line(file: Path, text: str, at: int) -> Line:
    """Give the line of a file that this place of its text is in."""
    return Line(file, text.count("\n", 0, at) + 1)


def _begun(text: str) -> str:
    """Give what a text begins with: all in its brackets, or what is left of the line."""
    return text[: closing(text, 0) + 1] if text[0] in _PAIRS else re.split(r"[;\n]", text, maxsplit=1)[0].strip()


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
