"""Tables of evidence, for people: as Markdown in the notebook, as plain text in a terminal."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib.runbook.procedure import located

Rows = list[dict[str, str]]

_MARKDOWN = str.maketrans({c: "\\" + c for c in "\\`*_[]<>|$~#"} | {"\n": " "})

_KEPT = "\u00a0"
"""A space that HTML keeps."""


def rows(evidence: Any, *, lasting: bool = False) -> Rows:
    """Give evidence as rows: a mapping is one row, a list one row for each item, anything else a row of text.

    `lasting` leaves out what passes while a plan stays the same, as an uptime does: fields that are not compared.
    """
    if evidence is None:
        return []
    if isinstance(evidence, Mapping):
        return [{str(key): _cell(value) for key, value in evidence.items()}]
    if dataclasses.is_dataclass(evidence) and not isinstance(evidence, type):
        shown = [f.name for f in dataclasses.fields(evidence) if f.repr and (f.compare or not lasting)]
        return rows({name: getattr(evidence, name) for name in shown})
    if isinstance(evidence, Iterable) and not isinstance(evidence, str | bytes):
        return [row for item in evidence for row in rows(item, lasting=lasting)]
    return [{"": _cell(evidence)}]


def markdown(table: Rows) -> str:
    """Give rows as a Markdown table; a value that looks like Markdown or HTML is shown as it is."""
    if not table:
        return ""
    names = _names(table)
    if names == [""]:
        return "\n".join(f"- {escape(row[''])}" for row in table)
    lines = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in table)]
    return "\n".join("| " + " | ".join(c if c == "---" else escape(c) for c in line) + " |" for line in lines)


def plain(table: Rows) -> str:
    """Give rows as text in columns."""
    if not table:
        return ""
    names = _names(table)
    lines = [*([names] if names != [""] else []), *([row.get(name, "") for name in names] for row in table)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join(c + " " * (width - _width(c)) for c, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def escape(text: str) -> str:
    """Give text that Markdown shows as it is, indented as it is."""
    bare = text.lstrip(" ")
    return _KEPT * (len(text) - len(bare)) + bare.translate(_MARKDOWN)


def _names(table: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Path):
        return located(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return "" if value is None else str(value)


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
