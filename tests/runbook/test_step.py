"""Steps: whatever a kernel sends, the record is closed and sealed, and its outcome is never better than the truth."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.runbook import ledger, record
from opslib.runbook.environment import Limits
from opslib.runbook.execution import Execution, _Client
from opslib.runbook.kernel import Kernel
from opslib.runbook.step import UNDO, contradiction, is_step, standing, step

TITLES = ("Set it", "Send it")
ENDS = {"planned": True, "applied": True, "failed": False, "undone": False, "needs-person": False, "refused": False}
STEPS = [
    {**step("start", "Begin", True), "apply": True},
    {**step("start", "Begin", True), "apply": False},
    step("check", "It is well", True),
    step("check", "It is well", False),
    step("verify", "It is set", None, progress=True),
    step("note", "Seen", None, evidence=[{"pid": "1"}]),
    step("plan", "Plan 0", None, digest="0", changes=[{"change": TITLES[0], "does": "it"}]),
    *(step("change", TITLES[0], ok, state=state) for state, ok in (("applied", True), ("failed", False))),
    *(step("change", title, None, state="not done") for title in TITLES),
    step("undo", f"{UNDO}{TITLES[0]}", None),
    *(step("end", "Over", good, outcome=outcome, why="so") for outcome, good in ENDS.items()),
    step("end", "Over", True, outcome="applied", why="so", steps=[3, {"step": "change"}]),
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.just("x" * 300_000),
    st.just("2026-13-41T25:61:61Z"),
    st.lists(st.sampled_from(["end", "change", 0, None]), max_size=3),
    st.dictionaries(
        st.sampled_from(["step", "at", "state", "title"]), st.sampled_from(["end", "applied", 1]), max_size=3
    ),
)
KEYS = ("step", "at", "title", "ok", "state", "outcome", "why", "steps", "apply", "changes", "evidence", "note")


@st.composite
def mangled(draw: st.DrawFn, one: dict[str, Any] | None = None) -> Any:
    """Something that may say it is a step, and most often is none."""
    if one is None:
        if draw(st.booleans()):
            return draw(JUNK)
        one = draw(st.sampled_from(STEPS))
    one = dict(one)
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=2)):
        if draw(st.booleans()):
            one.pop(key, None)
        else:
            one[key] = draw(JUNK)
    return one


def act(title: str) -> st.SearchStrategy[tuple[Any, ...]]:
    """A change that is made if the runner has it in the record, or an undo, and what is said of it before and after."""
    begun, done = step("change", title, None, state="applying"), step("change", title, True, state="applied")
    undone = step("undo", f"{UNDO}{title}", True)
    changes = st.tuples(
        st.just("change"), st.just(title), st.just(begun) | mangled(begun), st.just(done) | mangled(done)
    )
    return changes | st.tuples(st.just("undo"), st.just(title), st.just(undone) | mangled(undone))


SAYS = mangled().filter(lambda one: not (is_step(one) and one["step"] == "undo" and one["ok"]))
"""That something was undone which was not, is a lie that nobody but the kernel could know."""
EVENTS = st.one_of(
    st.sampled_from(STEPS).map(lambda one: ("say", one)),
    SAYS.map(lambda one: ("say", one)),
    st.sampled_from(TITLES).flatmap(act),
    st.booleans().map(lambda wait: ("clear", wait)),
    st.sampled_from(["update", "break"]).map(lambda kind: (kind, "")),
)

ACT = """\
import json, os, select
from IPython.display import clear_output, publish_display_data
from ipykernel.zmqshell import ZMQInteractiveShell

def say(one, **more):
    publish_display_data({"text/plain": "x"}, metadata={"opslib": one}, transient={"display_id": "one"}, **more)

ANSWERS = int(os.environ["OPSLIB_SAVED"])

def answered(seconds):
    return bool(select.select([ANSWERS], [], [], seconds)[0])

def begin(one):
    while answered(0):  # late ones, to what was no change or was said to be one
        os.read(ANSWERS, 1)
    say(one)
    return answered(0.5) and os.read(ANSWERS, 1) == b"y"

def carry_out(file):
    stand = []
    for kind, *given in json.load(open(file)):
        if kind == "say":
            say(given[0])
        elif kind == "clear":
            clear_output(wait=given[0])
        elif kind == "update":
            say({}, update=True)
        elif kind == "break":
            session, socket = get_ipython().kernel.session, get_ipython().kernel.iopub_socket
            session.send(socket, "display_data", {"metadata": []}, parent=get_ipython().kernel.get_parent())
        elif kind == "change":
            title, begun, done = given
            if begin(begun):
                stand = [*(one for one in stand if one != title), title]
                say(done)
        elif given[0] in stand:
            stand.remove(given[0])
            say(given[1])
    json.dump(stand, open(file, "w"))"""


@dataclass
class Ground:
    """A kernel that carries out what a test draws."""

    loop: asyncio.Runner
    kernel: Kernel
    client: Any
    folder: Path

    def execute(self, source: str) -> Execution:
        """Execute a cell and close its record, as a run does."""
        cell: dict[str, Any] = {
            "cell_type": "code",
            "id": "a",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        about = {"id": "0", "procedure": "act", "environment": "test", "started": step("note", "")["at"]}
        path = record.folder() / f"test/{uuid.uuid4().hex}.ipynb"
        execution = Execution({"metadata": {}, "cells": [cell]}, about, path, Limits())
        client = _Client(execution.notebook, self.kernel, execution._on_output, execution._on_unread)
        client.kc = self.client
        self.loop.run(execution._execute(client, execution.notebook.cells[0], 0, "cell", 60))
        execution._close(*execution._judge(""))
        return execution


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("ground")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as loop:
        patch.setenv("RUNBOOK_ROOT", str(folder))
        kernel = Kernel(run="a", record=folder / "a.ipynb", cwd=folder)
        client = loop.run(kernel.client())
        ground = Ground(loop, kernel, client, folder)
        ground.execute(ACT)
        yield ground
        kernel.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(events=st.lists(EVENTS, max_size=6))
def test_no_message_makes_an_outcome_better_than_the_truth(ground: Ground, events: list[Any]) -> None:
    file = ground.folder / "events"
    file.write_text(json.dumps(events))
    execution = ground.execute(f"carry_out({str(file)!r})")
    stands = json.loads(file.read_text())
    assert execution.sealed, execution.why
    assert ledger.problems([execution.path]) == []
    content = json.loads(execution.path.read_bytes(), parse_constant=pytest.fail)
    about, told = content["metadata"]["opslib"], record.steps(content)
    assert about["finished"] and about["outcome"] == execution.outcome and content["cells"]
    assert all(map(is_step, told))
    assert set(stands) <= set(standing(told))
    assert not stands or execution.outcome in ("needs-person", "applied"), (execution.outcome, execution.why)
    if execution.outcome == "applied":
        assert contradiction(told, "applied") == ""
    sent = [event[1] for event in events if event[0] == "say" and event[1] is not None]
    if not all(map(is_step, sent)):
        assert "none of that counts as a step" in about["why"]


@pytest.mark.parametrize("one", STEPS, ids=lambda one: f"{one['step']}-{one['ok']}")
def test_a_step_is_one(one: dict[str, Any]) -> None:
    assert is_step(one)


@settings(max_examples=300)
@given(mangled())
def test_what_is_no_step_is_told_without_a_fault(one: Any) -> None:
    assert is_step(one) in (True, False)
