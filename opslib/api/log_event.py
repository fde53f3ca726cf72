"""A log's events: JSON lines, or plain ones that begin with a sign (✅ ❌ 📧), and what was printed over several lines.

Either may have a time before it, in any format that PM2 was given, or be wrapped in PM2's own JSON.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_STACKED = 20  # lines at most between a failure and the stack of it
_TIME = re.compile(r"\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| UTC|[+-]\d\d:?\d\d)?)[\]:]*(?: |$)")
# Whatever format PM2 was given (`time`, `log_date_format`), a colon follows it.
_WORD = r"(?:[A-Z][a-z]{2,8}|\d[\dT:/.+-]*(?:st|nd|rd|th|Z)?|[+-]\d\d:?\d\d|[AaPp]\.?[Mm]\.?|[A-Z]{1,4})[,.]?"
_STAMP = re.compile(rf"\[?((?:{_WORD} ){{0,6}}{_WORD})\]?:(?: |$)")
_BEFORE_JSON = re.compile(r"""(?=(?:[^:{]*\d){4})([\w\[][^"{}]{0,60}): (?=\{")""")
_CLOCK = re.compile(r"(?<![\d.])\d{1,2}:\d\d(?!\d\d)|\d{4}[-/.]\d\d?[-/.]\d\d?|^\d{10,13}$")
_MORE = re.compile(r"\s|[}\])]|$|[{\[]$|Caused by:|\.\.\. \d+ ")  # such a line belongs to the entry before it
_HEAD = re.compile(r"(?:Uncaught )?\w*(?:Error|Exception)\b")
_FRAME = re.compile(r"\s+at ")
_FAILED = re.compile(r"[Ff]ail(?:ed|ure)?\b|[Ee]rror\b|[Dd]enied\b")
_SIGNS = {"error": "❌✖✗💥🔥🚨🛑⛔🚫💀", "warn": "⚠🐌🟡🟠⏰"}
_CARET = re.compile(r"\n\s*\^+\s*\Z")  # Node shows the line that threw, and after a blank line the error
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Event:
    """One event of a log, whole: it holds secrets and names, so it is counted, and shown only through `redact`."""

    file: str
    time: str
    level: str
    text: str
    means: str = ""
    """What it means, as `Log` has it; empty if it is none of that."""
    said: dict[str, Any] = field(default_factory=dict)
    """The fields of a JSON line, or what varies in a plain one."""

    @property
    def at(self) -> datetime | None:
        """When, if the log says it with a date; in the zone of this machine if it names none."""
        text = re.sub(r" (?=[+-]\d)", "", self.time.replace(" UTC", "+00:00").replace(",", "."))
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            return None


def events(name: str, data: bytes) -> Iterator[Event]:
    """Give the events in a piece of the log of this name."""
    for time, text in _grouped(data.decode("utf-8", "replace")):
        if text.strip():
            yield _structured(name, time, text) or Event(name, time, _guessed(text), text.strip("\n"))


def understood(event: Event, patterns: Mapping[Any, re.Pattern[str]]) -> Event:
    """Give the event with what it means by the first of these patterns that its text has."""
    for means, pattern in patterns.items():
        if found := pattern.search(event.text):
            said = {key: value for key, value in found.groupdict().items() if value is not None}
            return dataclasses.replace(event, means=means, said={**said, **event.said})
    return event


def _grouped(text: str) -> Iterator[tuple[str, str]]:
    """Give the time and text of each entry, what was printed over several lines being one with that which it follows.

    A stack that unindented lines stand before, as of Prisma's errors, belongs with these to the failure above them.
    """
    found: list[tuple[str, list[str]]] = []
    for time, line in _lines(text):
        before = found[-1][1] if found else []
        if before and not (len(before) == 1 and _said(before[0])) and _continues(line, before):
            before.append(line)
        else:
            found.append((time, [line]))
        if _FRAME.match(line) and (head := _failure(found)) is not None:
            below = [line for _, lines in found[head + 1 :] for line in lines]
            found[head][1].extend(below)
            del found[head + 1 :]
    return ((time, "\n".join(lines)) for time, lines in found)


def _continues(line: str, before: list[str]) -> bool:
    """Whether a line goes on with the entry before it."""
    if _MORE.match(line) or _CARET.search("\n".join(before[-3:])):
        return True
    failed = _guessed(before[0]) == "error"
    said = _said(line)
    printed = not {"message", "msg", "level"} & said.keys() if said is not None else line[:1] in ("{", "[")
    return failed and (printed or before[-1].rstrip().endswith(":"))


def _failure(found: list[tuple[str, list[str]]]) -> int | None:
    """Give which of these entries the last one, a stack, belongs to, if it does not begin with an error of its own."""
    if _HEAD.match(last := found[-1][1][0]) or _guessed(last):
        return None
    for number in range(len(found) - 2, max(-1, len(found) - 2 - _STACKED), -1):
        first = found[number][1][0]
        if _guessed(first):
            return number if _guessed(first) == "error" else None
        if _HEAD.match(first) or _said(first):
            return None
    return None


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Give each line with the time before it, if one is there, and out of the JSON of PM2's own (`log_type`)."""
    for line in text.split("\n"):
        said = _said(line) if '"process_id"' in line and '"app_name"' in line else None
        if said:
            for inner in str(said.get("message", "")).rstrip("\n").split("\n"):
                yield str(said.get("timestamp", "")), inner
            continue
        line = line.removesuffix("\r")
        stamp = _STAMP.match(line)
        stamp = stamp if stamp and _CLOCK.search(stamp[1]) else _TIME.match(line)
        if stamp is None and (stamp := _BEFORE_JSON.match(line)) and not _said(line[stamp.end() :]):
            stamp = None
        yield stamp[1] if stamp else "", line[stamp.end() if stamp else 0 :]


def _guessed(text: str) -> str:
    """Give the level that the sign tells with which a plain line begins; empty if it begins with none."""
    sign = text[:1]
    if not sign or unicodedata.category(sign) != "So":
        return ""
    level = next((level for level, signs in _SIGNS.items() if sign in signs), "info")
    return "error" if level == "info" and _FAILED.search(text.partition("\n")[0]) else level


def _said(text: str) -> dict[str, Any] | None:
    """Give what a JSON line says, None for any other text."""
    try:
        said = json.loads(text) if text.startswith("{") and text.endswith("}") else None
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _structured(name: str, time: str, text: str) -> Event | None:
    """Give the event of a JSON line of winston or of PostgreSQL's jsonlog, None for any other text."""
    said = _said(text)
    if said is None or "message" not in said:
        return Event(name, time, "", text, said=said) if said else None
    message, stack = str(said["message"]), str(said.get("stack") or "")
    told = stack if message in stack else f"{message}\n{stack}".rstrip("\n")
    level = _COLOUR.sub("", str(said.get("level") or said.get("error_severity") or ""))
    return Event(name, str(said.get("timestamp") or time), level, told, said=said)
