"""What changes ran, beside what their plans had shown."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OPEN = r"‹[^›]*›"
"""What is only known once the act runs."""


@dataclass(frozen=True)
class Recorded:
    """One change as it was carried out: the lines of its plan, and the statements, commands and calls that it made."""

    change: str
    shown: list[str]
    ran: list[str]

    @property
    def unshown(self) -> list[str]:
        """What ran and stands in none of its lines."""
        said = [line.partition(" -- ")[0] for act in self.shown for line in act.splitlines()]  # less a comment
        lines = [" ".join(line.split()) for line in said if line.strip()]
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
    words = line.replace("s3://", "/").split()  # as a path of S3's: /BUCKET/KEY
    if kind == "aws":
        call, _, key = rest.partition(" ")
        return call in line or (bool(key) and any(_ends(word, key) for word in words))
    if kind == "http":
        path = rest.partition(" ")[2]
        return any(_ends(word, path) for word in words) or all(
            part in line for part in path.rstrip("/").split("/")[-2:]
        )
    return _fits(line, ran, OPEN) or _fits(ran, line, r"%s|%\(\w+\)s")


def _ends(word: str, address: str) -> bool:
    """Whether a word of a line is this address or ends with it, whatever it has for what was left open."""
    parts = [re.escape(part) for part in re.split(OPEN, word)]
    return word.endswith(address) or ("/" in word and re.search(f"{'.+'.join(parts)}$", address) is not None)


def _fits(text: str, within: str, open_: str) -> bool:
    """Whether one text stands within another, whatever that has for each part that is left open."""
    return re.search(".+".join(re.escape(part) for part in re.split(open_, text)), within) is not None
