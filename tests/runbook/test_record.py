"""Records: saved whole, private and readable, with the steps that were seen."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from opslib.runbook import record
from opslib.runbook.errors import RunbookError
from opslib.runbook.step import step

pytestmark = pytest.mark.usefixtures("root")


def test_a_save_is_private_and_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "records/test/a.ipynb"
    record.save(file, b"old")
    assert file.stat().st_mode & 0o777 == 0o600

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunbookError, match=r"cannot be saved: No space left on device\. Free space there"):
        record.save(file, b"new")
    assert file.read_bytes() == b"old"
    assert [one.name for one in file.parent.iterdir()] == ["a.ipynb"]


def test_what_killed_saves_have_left_is_swept(root: Path) -> None:
    """Not what a save holds, in whatever container, nor what is new, nor what somebody else calls so."""
    names = ("left", "held", "new")
    for name in names:
        (root / f".a.ipynb.{name}.opslib.tmp").touch()
    (root / ".a.ipynb.4711.tmp").touch()
    for file in root.iterdir():
        os.utime(file, (time.time() - (0 if ".new." in file.name else 120),) * 2)
    with (root / ".a.ipynb.held.opslib.tmp").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        record.sweep(root)
    assert {one.name for one in root.iterdir()} == {
        ".a.ipynb.held.opslib.tmp",
        ".a.ipynb.new.opslib.tmp",
        ".a.ipynb.4711.tmp",
    }


def test_any_text_can_be_saved() -> None:
    content = record.dumps({"metadata": {}, "cells": [{"source": "\ud800 \x00 ü"}]})
    assert json.loads(content)["cells"] == [{"source": "\ud800 \x00 ü"}]


def test_what_json_has_no_word_for_is_saved_as_text() -> None:
    content = record.dumps({"metadata": {}, "cells": [{"a": [float("nan"), 1.5], "b": float("-inf")}]})
    assert json.loads(content, parse_constant=pytest.fail)["cells"] == [{"a": ["nan", 1.5], "b": "-inf"}]


def test_steps_that_a_cell_lost_are_told_by_the_end() -> None:
    start = {**step("start", "Begin", True), "apply": False, "at": "2026-01-01T00:00:01Z"}
    check = {**step("check", "It is well", True), "at": "2026-01-01T00:00:02Z"}
    end = step("end", "Planned", True, outcome="planned", why="")
    change = {**step("change", "Set it", None, state="applying"), "at": "2026-01-01T00:00:03Z"}

    def shown(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"cells": [{"outputs": [{"metadata": {"opslib": one}} for one in steps]}]}

    told = record.steps(shown({**end, "steps": [start, check, end]}))
    assert [one["step"] for one in told] == ["start", "check", "end"]
    later = ({**start, "at": "2026-01-01T00:00:04Z"}, {**check, "at": "2026-01-01T00:00:05Z"})
    assert record.steps(shown(check, start, *later)) == list(later)
    told = record.steps(shown(start, change, {**end, "steps": [start, check, 3, {"step": "x"}, end]}))
    assert [one["step"] for one in told] == ["start", "check", "change", "end"]
