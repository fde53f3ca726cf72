"""A description of a deployment: the file that its lines make."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from opslib import description
from opslib.deployment.line import Asked, Line
from opslib.description import Description
from opslib.propertypulse import PropertyPulse, load
from opslib.runbook import environment
from opslib.runbook.errors import BadParameter, CheckFailed, RunbookError
from tests.place import rooted
from tests.sandbox.layout import ROOT


def lines(name: str) -> tuple[Line, ...]:
    """The lines of a committed environment."""
    content = yaml.safe_load((ROOT / "parameters" / f"{name}.yaml").read_text())
    return tuple(flat(content, PropertyPulse))


def flat(content: dict[str, Any], part: type[BaseModel], at: str = "") -> list[Line]:
    found = []
    for word, value in content.items():
        inner = description.part_of(part.model_fields[word])
        if inner and isinstance(value, dict):
            found += flat(value, inner, f"{at}{word}.")
        else:
            found.append(Line(f"{at}{word}", value, "a test gave it"))
    return found


@pytest.mark.parametrize("name", ["sandbox", "plain"])
def test_the_file_is_read_as_its_lines_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = Description("another", lines(name))
    rooted(tmp_path, "another", described.text())
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    assert description.reads("another", described)
    monkeypatch.delenv("RUNBOOK_ROOT")
    read = load(name).model_dump(exclude={"name"})
    assert Description(name, lines(name)).environment().model_dump(exclude={"name"}) == read
