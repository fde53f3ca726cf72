"""Working copies: what was once saved of a run stays told, and a sealed one is not saved again."""

import json
from pathlib import Path
from typing import Any

import pytest

from opslib.runbook import ledger, procedure, record, working_copy
from opslib.runbook.errors import Refused
from opslib.runbook.step import Step, standing, step
from tests.place import Place

START = {**step("start", "Begin", True), "apply": True, "operator": "ada", "at": "2026-01-01T00:00:00Z"}
BEGUN = {**step("change", "Set it", None, state="applying"), "at": "2026-01-01T00:00:01Z"}
MADE = {**BEGUN, "ok": True, "state": "applied"}


def end(outcome: str, good: bool, steps: list[Step] | None = None) -> Step:
    said = {**step("end", "Over", good, outcome=outcome, why="so"), "at": "2026-01-01T00:00:09Z"}
    return {**said, "steps": [*(steps or []), said]}


@pytest.fixture
def copy(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    place.write("act", "run.apply(change)", "run.finish()")
    return working_copy.make(procedure.load("act"), {"environment": "test", "apply": True})


def keep(copy: Path, *shown: list[Any]) -> dict[str, Any]:
    """Save it as a browser does whose last cells show these."""
    notebook = json.loads(copy.read_bytes())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell, steps in zip(cells[-len(shown) :], shown, strict=True):
        cell["metadata"].pop("opslib", None)  # the browser has the copy as it was opened
        cell["execution_count"] = 1 if steps else None
        data = {"output_type": "display_data", "data": {"text/plain": "x"}}
        cell["outputs"] = [{**data, "metadata": {"opslib": one}} for one in steps]
    working_copy.keep(copy, notebook)
    saved: dict[str, Any] = json.loads(copy.read_bytes())
    return saved


def test_what_a_copy_once_showed_it_tells_for_ever(copy: Path) -> None:
    keep(copy, [START], [BEGUN], [])
    saved = keep(copy, [START], [{**BEGUN, "progress": True, "note": "1 of 2"}], [])
    assert [one["step"] for one in record.steps(saved)] == ["start", "change"]
    keep(copy, [START], [MADE], [])
    saved = keep(copy, [START], [], [])
    assert [one.get("state") for one in record.steps(saved)] == [None, "applied"]
    assert standing(record.steps(saved)) == ["Set it"]
    assert not ledger.is_sealed(copy)


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (end("applied", True, [START, MADE]), "applied"),
        (end("applied", True), "applied"),
        (end("planned", True, [START]), "needs-person"),
        (end("failed", False, [START, {"step": "change"}]), "needs-person"),
        (end("needs-person", False), "needs-person"),
        (end("undone", False, [START, MADE, step("undo", "Undo: Set it", True)]), "undone"),
    ],
    ids=lambda one: one if isinstance(one, str) else one["outcome"],
)
def test_an_end_is_taken_at_its_word_only_if_the_steps_bear_it_out(copy: Path, last: Step, outcome: str) -> None:
    keep(copy, [START], [MADE], [])
    saved = keep(copy, [START], [], [last])
    assert saved["metadata"]["opslib"]["outcome"] == outcome, saved["metadata"]["opslib"]["why"]
    assert ledger.is_sealed(copy)
    assert ledger.problems() == []


@pytest.mark.parametrize("last", [[], "end", {"step": "end"}, {**end("applied", True), "steps": 3}, {"step": ["end"]}])
def test_what_is_no_step_ends_nothing_and_costs_no_save(copy: Path, last: Any) -> None:
    saved = keep(copy, [START, {**MADE, "at": "soon"}, 7], [MADE], [last])
    assert [one["step"] for one in record.steps(saved)] == ["start", "change"]
    assert "outcome" not in saved["metadata"]["opslib"]


def test_a_sealed_copy_is_not_saved_again(copy: Path) -> None:
    keep(copy, [START], [MADE], [end("applied", True, [START, MADE])])
    before = copy.read_bytes()
    with pytest.raises(Refused, match="its record is closed"):
        keep(copy, [START], [], [])
    assert copy.read_bytes() == before
