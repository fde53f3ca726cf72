"""What changes ran, beside what their plans had shown."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recorded:
    """One change as it was carried out: the lines of its plan, and the statements, commands and calls that it made."""

    change: str
    shown: list[str]
    ran: list[str]

    @property
    def unshown(self) -> list[str]:
        """What ran and stands in none of its lines."""
        lines = [" ".join(line.split()) for act in self.shown for line in act.splitlines() if line.strip()]
        return [one for one in self.ran if not any(_shows(line, one) for line in [*lines, " ".join(lines)])]


@contextmanager
def recording(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorded]]:
    """Record the changes of all runs that begin meanwhile; the list is whole afterwards."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("ACTS_FILE", str(file))
    found: list[Recorded] = []
    try:
        yield found
    finally:
        monkeypatch.delenv("PYTHONPATH")
        monkeypatch.delenv("ACTS_FILE")
        if file.exists():
            found += [Recorded(**json.loads(line)) for line in file.read_text().splitlines()]


def _shows(line: str, ran: str) -> bool:
    kind, _, rest = ran.partition(" ")
    if kind == "aws":
        call, _, key = rest.partition(" ")
        return call in line or bool(key and key in line)
    if kind == "http":
        path = rest.partition(" ")[2]
        named = any(_fits(word, path, r"‹[^›]*›") for word in line.split() if word.startswith("/"))
        return named or path in line or all(part in line for part in path.rstrip("/").split("/")[-2:])
    return _fits(line, ran, r"‹[^›]*›") or _fits(ran, line, r"%s|%\(\w+\)s")


def _fits(text: str, within: str, open_: str) -> bool:
    """Whether one text stands within another, whatever that has for each part that is left open."""
    return re.search(".+".join(re.escape(part) for part in re.split(open_, text)), within) is not None
