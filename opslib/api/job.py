"""The jobs that run inside the API, as its code begins them, and the variables that turn them off."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opslib.api import javascript
from opslib.api.release import Line

_BEGINS = (
    r"setInterval|\w*[cC]ron\w*\.schedule|(?:\w+\.)?scheduleJob|agenda\.(?:every|start)|@(?:Cron|Interval)|"
    r"new\s+(?:[\w.]*CronJob|Worker|Queue|Bull|Bree)"
)
_AGAIN = "setTimeout"  # a job too, where what it calls is the function that it stands in
_SWITCH = re.compile(
    r"""process\.env\.(\w+)(?:\??\.(?:toLowerCase|trim)\(\))*\s*(===?|!==?)\s*["'`](true|false)["'`]"""
)
_IF = re.compile(r"(?<![\w$])if\s*(?=\()")
_ELSE = re.compile(r"\s*else\s*(?=\{)")
_FUNCTION = re.compile(
    r"^(?:export\s+)?(?:default\s+)?(?:async\s+)?(?:function\s*\*?\s*(\w+)|(?:const|let|var)\s+(\w+)\s*=)", re.M
)
_LEAVES = re.compile(r"(?<![\w$])return\b[^;{}]*;?\s*\}?\s*$")
_SERVES = re.compile(r"\.\s*listen\s*\(")
_SIGN = re.compile(r"\S")
_OTHER = {"true": "false", "false": "true"}


@dataclass(frozen=True)
class Switch:
    """A variable that the code compares before it begins a job, and its value by which the job stays off."""

    variable: str
    off: str
    line: Line


@dataclass(frozen=True)
class Job:
    """Where the code begins a job, and what turns it off; None where the code does not show it."""

    line: Line
    switch: Switch | None


@dataclass(frozen=True)
class _Guard:
    """What a condition on a switch guards: the places from `begin` to `end`."""

    begin: int
    end: int
    switch: Switch

    def only_jobs(self, text: str) -> bool:
        """Whether the API listens all the same, whatever the condition says."""
        return not _SERVES.search(text[self.begin : self.end])


def all_of(folder: Path) -> list[Job]:
    """Give the jobs in the code below a folder, without those that only tidy up, which keep no process alive."""
    texts = javascript.files(folder)
    guards = {file: [one for one in _guards(file, text) if one.only_jobs(text)] for file, text in texts.items()}
    found = []
    for file, text in texts.items():
        places = [at for at in javascript.calls(text, _BEGINS) if not _tidies(text, at)]
        places += [at for at in javascript.calls(text, _AGAIN) if _calls_itself(text, at)]
        if not text:  # of a bundle nobody can tell what turns its jobs off
            packed = file.read_text("utf-8", "replace")
            places = [*javascript.calls(packed, _BEGINS)][:1]
            found += [Job(javascript.line(file, packed, at), None) for at in places]
            continue
        for at in sorted(places):
            switch = _switch(guards[file], at) or _elsewhere(file, _function(text, at), texts, guards)
            found.append(Job(javascript.line(file, text, at), switch))
    return found


def _calls_itself(text: str, at: int) -> bool:
    """Whether a call is given the function that it stands in, or what calls that."""
    name, given = _function(text, at), javascript.given(text, at)
    return bool(name and given and re.search(rf"(?<![\w$.]){re.escape(name)}(?![\w$])", given[0]))


def _tidies(text: str, at: int) -> bool:
    """Whether nothing waits for a timer: it, or the constant that holds it, is `unref`ed."""
    behind = text[javascript.closing(text, at) + 1 :]
    held = re.search(r"(\w+)\s*=\s*setInterval\s*$", text[max(0, at - 80) : at])
    return bool(re.match(r"\s*\??\.unref\b", behind) or (held and re.search(rf"\b{held[1]}\??\.unref\b", behind)))


def _guards(file: Path, text: str) -> Iterator[_Guard]:
    for found in _IF.finditer(text):
        closes = javascript.closing(text, found.end())
        condition = text[found.end() + 1 : closes]
        compared = _SWITCH.search(condition)
        if not compared or "?" in condition.replace("?.", "") or re.search(r"!\s*\(", condition):
            continue
        variable, sign, value = compared.groups()
        met, unmet = (value, _OTHER[value]) if sign.startswith("=") else (_OTHER[value], value)
        line = javascript.line(file, text, found.start())
        begin = next((one.start() for one in _SIGN.finditer(text, closes + 1)), len(text))
        ends = javascript.closing(text, begin) if text[begin : begin + 1] == "{" else javascript.ended(text, begin)
        # Any one of several conditions lets it return; each of several is needed to begin.
        if "&&" not in condition:
            if _LEAVES.search(text[begin : ends + 1]):
                yield _Guard(ends, _end(text, ends), Switch(variable, met, line))
            elif other := _ELSE.match(text, ends + 1):
                yield _Guard(other.end(), javascript.closing(text, other.end()), Switch(variable, met, line))
        if "||" not in condition:
            yield _Guard(begin, ends, Switch(variable, unmet, line))


def _end(text: str, at: int) -> int:
    """Give where the block ends that this place is in."""
    depth = 0
    for place in range(at + 1, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth < 0:
            return place
    return len(text)


def _switch(guards: list[_Guard], at: int) -> Switch | None:
    return next((guard.switch for guard in guards if guard.begin <= at < guard.end), None)


def _function(text: str, at: int) -> str:
    """Give the name of the function that this place is in; empty at the top of a file."""
    before = list(_FUNCTION.finditer(text, 0, at))
    if not before or re.search(r"^\}", text[before[-1].end() : at], re.M):
        return ""
    return before[-1][1] or before[-1][2]


def _elsewhere(file: Path, name: str, texts: dict[Path, str], guards: dict[Path, list[_Guard]]) -> Switch | None:
    """Give the switch before every call of a function of that file, whichever file calls it."""
    found = []
    for other, text in texts.items():
        if name and (other == file or re.search(rf"""[/"'`]{re.escape(file.stem)}(?:\.\w+)?["'`]""", text)):
            declared = re.compile(rf"function\s*\*?\s*{name}\s*$")
            calls = (at for at in javascript.calls(text, name) if not declared.search(text[max(0, at - 120) : at]))
            found += [_switch(guards[other], at) for at in calls]
    same = {(one.variable, one.off) for one in found if one}
    return found[0] if len(same) == 1 and all(found) else None
