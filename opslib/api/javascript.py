"""JavaScript as text, read without a parser: enough to see what a call is given, and what a condition guards."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

_TEXTS = r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"""
_TEXT = re.compile(_TEXTS, re.DOTALL)
_TOKEN = re.compile(rf"(?P<text>{_TEXTS})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_MARK = re.compile(rf"{_TEXTS}|[()\[\]{{}}]", re.DOTALL)
_ENDS = re.compile(rf"{_TEXTS}|[()\[\]{{}};\n]", re.DOTALL)
_LITERAL = re.compile(r"""(["'`])([^"'`$\\]*)\1""")
_FAR = 1 << 15  # characters behind a bracket in which its end is looked for
_LONG, _WIDE = 1 << 19, 4096  # characters that no person has in a file, or a line
_PAIRS = {"(": ")", "[": "]", "{": "}"}


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


def given(text: str, at: int) -> list[str]:
    """Give what stands between the bracket that opens at this place and its end, parted by its commas."""
    inside = text[at + 1 : closing(text, at)]
    bare, depth, begin, found = _bare(inside), 0, 0, []
    for place, letter in enumerate(bare):
        depth += (letter in _PAIRS) - (letter in _PAIRS.values())
        if letter == "," and depth == 0:
            found.append(inside[begin:place].strip())
            begin = place + 1
    return [part for part in (*found, inside[begin:].strip()) if part]


def fields(text: str) -> dict[str, str]:
    """Give the fields of an object as it is written, each with what it is set to; of a short one its own name."""
    pairs = (part.partition(":") for part in given(text, text.find("{")))
    return {key.strip().strip("\"'"): (value if colon else key).strip() for key, colon, value in pairs}


def constant(text: str, name: str) -> str:
    """Give what a constant of this text is set to; empty if there is none of this name."""
    found = name and re.search(rf"\b(?:const|let|var)\s+{re.escape(name)}\b[^=\n]*=\s*(?=(.))", text)
    if not found:
        return ""
    if found[1] in _PAIRS:
        return text[found.end() : closing(text, found.end()) + 1]
    return re.split(r";|\n", text[found.end() :], maxsplit=1)[0].strip()


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


def line(text: str, at: int) -> int:
    """Give the number of the line that this place is in."""
    return text.count("\n", 0, at) + 1


def _bare(text: str) -> str:
    return _TEXT.sub(lambda one: _blank(one[0]), text)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
