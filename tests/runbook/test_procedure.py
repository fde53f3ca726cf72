"""Procedures: what a notebook declares, and what is refused before a kernel starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.runbook import procedure
from opslib.runbook.errors import BadParameter, Refused
from opslib.runbook.procedure import Procedure
from tests.place import Place

DECLARED = """\
name: str = "a"  # what it is called
mode: str = "graceful"  # [graceful|hard] how
count: int = 3  # [1..10] how many
free: int = 3  # any number
ratio: float = 0.5  # [0..1] of all
rest: float = 1.0  # any
sure: bool = False  # say so"""


@pytest.fixture
def one(place: Place, monkeypatch: pytest.MonkeyPatch) -> Procedure:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    place.write("act", "run.finish()", parameters=DECLARED)
    return procedure.load("act")


def test_what_is_declared(one: Procedure) -> None:
    assert (one.title, one.summary) == ("Try act", "Does what a test wants.")
    count, mode = one.parameters["count"], one.parameters["mode"]
    assert (count.type, count.default, count.low, count.high, count.help) == (int, 3, 1, 10, "how many")
    assert (mode.choices, mode.help) == (("graceful", "hard"), "how")


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("count", "7", 7),
        ("count", 7, 7),
        ("ratio", "1e-3", 0.001),
        ("ratio", 1, 1.0),
        ("sure", "TRUE", True),
        ("sure", False, False),
        ("mode", "hard", "hard"),
        ("free", "-12", -12),
        ("name", "; rm -rf / #", "; rm -rf / #"),
        ("name", "' OR 1=1; --", "' OR 1=1; --"),
        ("name", "$(id) `id` %s {x} \\", "$(id) `id` %s {x} \\"),
        ("name", 'quotes " and \' and """', 'quotes " and \' and """'),
        ("name", "", ""),
        ("name", "ümlaut 日本 🙂", "ümlaut 日本 🙂"),
    ],
)
def test_what_fits(one: Procedure, name: str, value: object, bound: object) -> None:
    values = one.bind({name: value})
    assert (values[name], type(values[name])) == (bound, type(bound))
    assert run_cell(one.copy(values)) == values


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("nam", "x", "act has no parameter 'nam'; did you mean name?"),
        ("__import__", "x", "has no parameter"),
        ("x" * 500, "x", "has no parameter 'x{80}'"),
        ("count", "x", "found 'x', expected a value of type int"),
        ("count", "1.5", "expected a value of type int"),
        ("count", 1.5, "expected a value of type int"),
        ("count", True, "expected a value of type int"),
        ("count", "", "expected a value of type int"),
        ("count", "٣", "expected a value of type int"),
        ("count", "11", "found 11, expected 1 to 10"),
        ("count", "0", "found 0, expected 1 to 10"),
        ("free", "9" * 5000, "expected a value of type int"),
        ("count", 10**30, "expected a value of type int"),
        pytest.param("free", 10**5000, "found a number of very many digits, expected", id="huge"),
        ("ratio", "nan", "expected"),
        ("ratio", "inf", "expected"),
        ("rest", "nan", "expected"),
        ("rest", "-inf", "expected"),
        ("rest", "1e999", "expected"),
        ("rest", 10**400, "expected"),
        ("sure", "yes", "found 'yes', expected a value of type bool"),
        ("sure", 1, "expected a value of type bool"),
        ("sure", None, "expected a value of type bool"),
        ("mode", "soft", "found 'soft', expected graceful or hard"),
        ("name", None, "expected a value of type str"),
        ("name", 77950e8, "expected text: quote it"),
        ("name", ["a"], "expected a value of type str"),
        ("name", "a\nimport os", "without control characters"),
        ("name", "a\x00", "without control characters"),
        ("name", "a\x1b[2J", "without control characters"),
        ("name", "a\u2028b", "without control characters"),
        ("name", "\ud800", "without control characters"),
        ("name", "x" * 1_000_000, "found 1000000 characters, expected 2000 at most"),
    ],
)
def test_what_does_not_fit_is_refused(one: Procedure, name: str, value: object, said: str) -> None:
    with pytest.raises(BadParameter, match=said) as caught:
        one.bind({name: value})
    assert len(str(caught.value)) < 400


VALUES = st.one_of(
    st.text(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(),
    st.lists(st.text()),
    st.complex_numbers(),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(st.one_of(st.sampled_from(["name", "count", "ratio", "sure", "rest"]), st.text()), VALUES)
)
def test_any_values_are_bound_exactly_or_refused(one: Procedure, values: dict[str, Any]) -> None:
    try:
        bound = one.bind(values)
    except BadParameter:
        return
    assert run_cell(one.copy(bound)) == bound


def run_cell(notebook: dict[str, Any]) -> dict[str, Any]:
    """The variables that the injected cell sets."""
    variables: dict[str, Any] = {}
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "parameters-of-this-run")
    exec(cell["source"], {"__builtins__": {}}, variables)
    return variables


def test_a_copy_carries_no_output_and_leaves_the_source_alone(one: Procedure) -> None:
    one.notebook["cells"][1].update(outputs=[{"x": 1}], execution_count=3)
    copied = one.copy(one.bind({}))
    code = [cell for cell in copied["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * 4
    assert one.notebook["cells"][1]["execution_count"] == 3


def test_the_digest_is_of_code_and_prose_not_of_outputs(one: Procedure) -> None:
    before = one.digest
    one.notebook["cells"][1]["outputs"] = [{"x": 1}]
    assert one.digest == before
    one.notebook["cells"][0]["source"] += "."
    assert one.digest != before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"cells": 3}', '{"cells": [3]}', '{"cells": [{}]}', "\x00"]
)
def test_what_is_no_notebook_is_refused(place: Place, content: str) -> None:
    path = place.folder / "notebooks/broken.ipynb"
    path.write_text(content)
    with pytest.raises(Refused, match=r"broken\.ipynb: not a notebook that can be read"):
        procedure.read(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x = 1", "expected `name: type = default"),
        ("x: int", "expected `name: type = default"),
        ("x: list = []", "found type list, expected one of str, int, float, bool"),
        ("x: int = len('a')", "parameters cell: malformed"),
        ("x: int =", "parameters cell"),
        ("import os", "expected `name: type = default"),
        ("x: int = 'a'", "x"),
    ],
)
def test_a_bad_declaration_is_told(place: Place, line: str, said: str) -> None:
    path = place.write("bad", "run.finish()", parameters=line)
    with pytest.raises(Refused, match=said):
        procedure.read(path).bind({})


@pytest.mark.parametrize("name", ["", "ac", "../act", "act.ipynb", "act\n", "\ud800", "x" * 999])
def test_no_such_procedure(one: Procedure, name: str) -> None:
    with pytest.raises(Refused, match="there is no procedure") as caught:
        procedure.load(name)
    assert len(str(caught.value)) < 300


def test_lines_on_disk_are_one_text(place: Place) -> None:
    path = place.write("act", "run.finish()")
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    joined = Path(path.with_stem("joined"))
    joined.write_text(json.dumps(notebook))
    assert procedure.read(joined).digest == procedure.read(path).digest
