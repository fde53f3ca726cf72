"""Every way a run can end: what its record says must be what has happened, cell by cell and step by step."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from opslib.runbook import ledger, listing, record
from tests.place import Place, states

CHECK = "run.check('The sky is blue', True)"
CHANGE = """\
import os, signal, time
from pathlib import Path

def read():
    return Path("value").read_text() if Path("value").exists() else "nothing"

def put(text):
    Path("value").write_text(text)

def reach(name):
    Path(name).touch()
    time.sleep(60)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def change(do=lambda: put("new"), undo=lambda: Path("value").unlink(missing_ok=True)):
    back = [act("as it was before", run=undo)] if undo else Kept("there is no undo for this change")
    return Change("Set it", [act("value = new", run=do)], undo=back, replaces=read)

set_it = {made}
run.plan(set_it)"""
SET = CHANGE.format(made="change()")
APPLY = "run.apply(set_it)"
VERIFY = "run.verify('It is set', lambda: read() == 'new', within=1)"
FINISH = "run.finish()"
LETTERS = {"p": "pending", "r": "running", "c": "completed", "f": "failed", "i": "interrupted"}

SAY = "from IPython.display import clear_output, publish_display_data\n"
FORGE = SAY + "publish_display_data({{'text/plain': 'x'}}, metadata={{'opslib': {}}})"
END = "{'step': 'end', 'at': '2026-01-01T00:00:00Z', 'title': 'x', 'ok': True, 'outcome': '%s', 'why': 'so'}"
ONE_ID = "import uuid; one = uuid.UUID(int=7); uuid.uuid4 = lambda: one"
UNREAD = "none of that counts as a step of the run"

HALF = "put('half'); raise OSError('broken pipe')"


def made(do: str = "put('new')", undo: str = "Path('value').unlink(missing_ok=True)") -> str:
    """A cell that plans a change with this code, each a few statements."""
    body = "\n".join(f"def {name}():\n    {code}" for name, code in (("do", do), ("undo", undo)))
    return CHANGE.format(made=f"None\n{body}\nset_it = change(do, undo)")


@dataclass
class Case:
    """A notebook, what befalls it, and how it must have ended."""

    name: str
    cells: list[str]
    outcome: str
    code: int
    states: str
    """Of the cells behind the three that begin every run, one letter each; a cell that was added stands at the end."""
    steps: str
    value: str = "nothing"
    """What there is in the world afterwards."""
    arguments: list[str] = field(default_factory=lambda: ["--apply"])
    why: str = ""
    limits: str = "{}"
    approval: str = "none"
    signals: list[tuple[str, int]] = field(default_factory=list)
    """Signals to the runner, each when a file of that name is there."""
    variables: dict[str, str] = field(default_factory=dict)
    begins: str = "ccc"


INT, TERM = signal.SIGINT, signal.SIGTERM
PLANNED = "start check plan"
APPLIED = f"{PLANNED} change"
WAIT = "reach('waiting')"
STUBBORN = """\
Path('waiting').touch()
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass"""
LATE = "{cell: 4, run: 90, undo: 10}"
OVER = "{cell: 60, run: 8, undo: 10}"
ALL = [CHECK, SET, APPLY, VERIFY, FINISH]
HELD = "what had to hold held; not seen: "
STAYS = "What was changed is verified and stays"
TWO = "run.verify('It is there', lambda: True); run.note('Seen', 1)"
LOOK = "run.note('A look', lambda: 1 / 0); reached = True"
REACHED = "run.note('Reached', reached)"


def behind(*cells: str) -> list[str]:
    """Cells that follow what is changed and verified."""
    return [CHECK, SET, APPLY, VERIFY, *cells]


CASES = [
    Case("plan", ALL, "planned", 0, "ccccc", f"{APPLIED} verify end", arguments=[]),
    Case("applies", ALL, "applied", 0, "ccccc", f"{APPLIED} verify end", "new"),
    Case("check_false", ["run.check('The sky is green', False, otherwise='Wait.')", *ALL[1:]], "failed", 1, "fpppp",
         "start check end", why="The sky is green. Wait. Nothing was changed"),
    Case("error_before", [CHECK, SET, "1 / 0", *ALL[2:]], "failed", 1, "ccfppp", f"{PLANNED} end",
         why="ZeroDivisionError"),
    Case("error_after", [CHECK, SET, APPLY, "1 / 0", FINISH], "undone", 2, "cccfp", f"{APPLIED} undo end",
         why="ZeroDivisionError.*put back"),
    Case("exit_after", [CHECK, SET, APPLY, "raise SystemExit", FINISH], "undone", 2, "cccfp", f"{APPLIED} undo end"),
    Case("change_fails", [CHECK, made(HALF), *ALL[2:]], "undone", 2, "ccfpp", f"{APPLIED} undo end",
         why="broken pipe"),
    Case("change_and_undo_fail", [CHECK, made(HALF, "raise UndoFailed('gone')"), *ALL[2:]], "needs-person", 3, "ccfpp",
         f"{APPLIED} undo end", "half", why=r"broken pipe.*Not undone: Set it \(nothing\). gone"),
    Case("no_undo", [CHECK, f"{CHANGE.format(made='change(undo=None)')}", APPLY, "1 / 0", FINISH], "needs-person", 3,
         "cccfp", f"{APPLIED} undo end", "new", why="there is no undo"),
    Case("verify_false", [CHECK, made("put('newer')"), *ALL[2:]], "undone", 2, "cccfp", f"{APPLIED} verify undo end",
         why="still not so after 1 s: It is set"),
    Case("verify_raises", [CHECK, SET, APPLY, "run.verify('It is set', lambda: 1 / 0)", FINISH], "undone", 2, "cccfp",
         f"{APPLIED} verify undo end", why="ZeroDivisionError"),
    Case("look_fails", behind(LOOK, REACHED, FINISH), "applied", 0, "ccccccc", f"{APPLIED} verify note note end", "new",
         why=rf"^{HELD}A look \(ZeroDivisionError: division by zero\)$"),
    Case("look_fails_in_a_plan", behind(LOOK, REACHED, FINISH), "planned", 0, "ccccccc",
         f"{APPLIED} verify note note end", arguments=[], why=f"^{HELD}A look .*Nothing was changed"),
    Case("look_fails_in_the_verify_s_cell", [CHECK, SET, APPLY, f"{VERIFY}\n{LOOK}", REACHED, FINISH], "applied", 0,
         "cccccc", f"{APPLIED} verify note note end", "new", why=f"^{HELD}A look"),
    Case("look_gives_what_cannot_be_shown", behind("run.note('A look', lambda: iter([1, *object()]))", FINISH),
         "applied", 0, "cccccc", f"{APPLIED} verify note end", "new", why=f"^{HELD}A look .TypeError"),
    Case("look_fails_before_the_verify", [CHECK, SET, APPLY, LOOK, VERIFY, FINISH], "undone", 2, "cccfpp",
         f"{APPLIED} note undo end", why="ZeroDivisionError.*put back"),
    Case("look_fails_between_verifies", [CHECK, SET, APPLY, f"{VERIFY}\n{LOOK}\n{TWO}", FINISH], "undone", 2,
         "cccfp", f"{APPLIED} verify note undo end", why="ZeroDivisionError.*put back"),
    Case("look_fails_before_the_last_change", [CHECK, SET, f"{TWO}\n{LOOK}", APPLY, FINISH], "failed", 1, "ccfpp",
         f"{PLANNED} verify note note end", why="ZeroDivisionError.*Nothing was changed"),
    Case("verify_that_is_not_asked", [CHECK, SET, APPLY, VERIFY, f"if read() == 'old':\n    {TWO}", LOOK, FINISH],
         "applied", 0, "ccccccc", f"{APPLIED} verify note end", "new", why=f"^{HELD}A look"),
    Case("cell_breaks_behind", behind("1 / 0", "run.note('Reached', 1)", FINISH), "applied", 0, "ccccfcc",
         f"{APPLIED} verify note note end", "new", why=rf"^{HELD}The cell `1 / 0` has failed \(ZeroDivisionError"),
    Case("check_is_false_behind", behind("run.check('It is blue', False)", FINISH), "applied", 0, "ccccfc",
         f"{APPLIED} verify check note end", "new", why=f"^{HELD}The cell .*not so: It is blue"),
    Case("exit_behind", behind("raise SystemExit", FINISH), "applied", 0, "ccccfc", f"{APPLIED} verify note end", "new",
         why=f"^{HELD}The cell .*SystemExit"),
    Case("killed_behind", behind("die()", FINISH), "applied", 0, "ccccfp", f"{APPLIED} verify", "new",
         why=f"SIGKILL.*{STAYS}"),
    Case("killed_in_a_long_look", behind("import threading\nfrom opslib.runbook import progress\n"
         "run.note('A look', lambda: [time.sleep(1.2), progress.report('half'), time.sleep(.3), die()])", FINISH),
         "applied", 0, "ccccfp", f"{APPLIED} verify", "new", why=f"SIGKILL.*{STAYS}"),  # a look half way is no step
    Case("cell_late_behind", behind("time.sleep(60)", FINISH), "applied", 0, "ccccip", f"{APPLIED} verify end", "new",
         limits=LATE, why=f"The cell was over its time of 4 s. .*{STAYS}"),
    Case("run_late_behind", behind("run.note('A look', lambda: time.sleep(60))", FINISH), "applied", 0, "ccccip",
         f"{APPLIED} verify note end", "new", limits=OVER,
         why=f"The run was over its time of 8 s. .*{STAYS}, and not seen: A look"),
    Case("stubborn_behind", behind(STUBBORN, FINISH), "applied", 0, "ccccip", f"{APPLIED} verify", "new",
         signals=[("waiting", INT)], limits="{undo: 1}", why=f"Stopped by SIGINT. It did not stop.*{STAYS}"),
    Case("without_finish", ALL[:-1], "applied", 0, "ccccc", f"{APPLIED} verify end", "new",
         why=rf"run\.finish.*{STAYS}"),
    Case("without_verify_or_finish", ALL[:-2], "undone", 2, "cccc", f"{APPLIED} undo end", why=r"run\.finish"),
    Case("plan_without_finish", ALL[:-1], "failed", 1, "cccc", f"{APPLIED} verify", arguments=[], why=r"run\.finish"),
    Case("killed_before", [CHECK, SET, "die()", *ALL[2:]], "failed", 1, "ccfppp", PLANNED, why="SIGKILL"),
    Case("killed_during", [CHECK, made("put('half'); die()"), *ALL[2:]], "needs-person", 3, "ccfpp", APPLIED, "half",
         why="SIGKILL.*not undone: Set it"),
    Case("killed_after", [CHECK, SET, APPLY, "die()", FINISH], "needs-person", 3, "cccfp", APPLIED, "new",
         why="SIGKILL.*not undone: Set it"),
    Case("cleared_then_killed", [CHECK, SET, f"{APPLY}\n{SAY}clear_output()\ndie()", FINISH], "needs-person", 3, "ccfp",
         APPLIED, "new", why="SIGKILL.*not undone: Set it"),
    Case("cleared_late_then_killed", [CHECK, SET, f"{APPLY}\n{SAY}clear_output(wait=True)\nprint(1)\ndie()", FINISH],
         "needs-person", 3, "ccfp", APPLIED, "new", why="SIGKILL.*not undone: Set it"),
    Case("updated_then_killed", [CHECK, f"{SET}\n{ONE_ID}", APPLY, f"{SAY}publish_display_data({{'text/plain': 'x'}}, "
         "transient={'display_id': one.hex}, update=True)\ndie()", FINISH], "needs-person", 3, "cccfp", APPLIED, "new",
         why="SIGKILL.*not undone: Set it"),
    Case("cleared_and_applied", [CHECK, SET, f"{APPLY}\n{SAY}clear_output()", VERIFY, FINISH], "applied", 0, "ccccc",
         f"{APPLIED} verify end", "new"),
    *(
        Case(f"forged_{outcome}_{when}", [CHECK, SET, *cells, "die()", FINISH], "needs-person", 3, "ccccfp",
             steps, "new", why="SIGKILL.*not undone: Set it|cannot be")
        for outcome in ("applied", "planned")
        for when, cells, steps in (
            ("before", [FORGE.format(END % outcome), APPLY], f"{PLANNED} end change"),
            ("after", [APPLY, FORGE.format(END % outcome)],
             f"{APPLIED} end"),
        )
        if (outcome, when) != ("applied", "after")  # that is what it would say itself
    ),
    Case("mangled_planned", [FORGE.format("{'step': 'change', 'at': 'now', 'title': 3}"), *ALL], "planned", 0, "cccccc",
         f"{APPLIED} verify end", arguments=[], why=UNREAD),
    Case("mangled_failed", [CHECK, SET, FORGE.format("['end']"), "1 / 0", FINISH], "needs-person", 3, "cccfp",
         f"{PLANNED} end", why=UNREAD),
    Case("killed_in_undo", [CHECK, made(HALF, "die()"), *ALL[2:]], "needs-person", 3, "ccfpp", f"{APPLIED}( undo)?",
         "half", why="not undone: Set it"),
    Case("cell_late_before", [CHECK, SET, "time.sleep(60)", *ALL[2:]], "failed", 1, "ccippp", f"{PLANNED} end",
         limits=LATE, why="The cell was over its time of 4 s"),
    Case("cell_late_after", [CHECK, SET, APPLY, "time.sleep(60)", FINISH], "undone", 2, "cccip", f"{APPLIED} undo end",
         limits=LATE, why="The cell was over its time of 4 s"),
    Case("run_late_before", [CHECK, SET, "time.sleep(60)", *ALL[2:]], "interrupted", 143, "ccippp", f"{PLANNED} end",
         limits=OVER, why="The run was over its time of 8 s"),
    Case("run_late_after", [CHECK, SET, APPLY, "time.sleep(60)", FINISH], "interrupted", 143, "cccip",
         f"{APPLIED} undo end", limits=OVER, why="The run was over its time of 8 s"),
    Case("undo_late", [CHECK, made(undo="time.sleep(60)"), APPLY, "time.sleep(60)", FINISH], "needs-person", 3, "cccip",
         f"{APPLIED}( undo)?", "new", limits="{cell: 4, undo: 2}", why="The cell was over its time of 4 s"),
    *(
        case
        for name, number in (("INT", INT), ("TERM", TERM))
        for case in (
            Case(f"{name}_at_rest", [CHECK, SET, WAIT, *ALL[2:]], "interrupted", 128 + number, "ccippp",
                 f"{PLANNED} end", signals=[("waiting", number)], why=f"Stopped by SIG{name}"),
            Case(f"{name}_in_change", [CHECK, made("put('half'); reach('waiting')"), *ALL[2:]], "interrupted",
                 128 + number, "ccipp", f"{APPLIED} undo end", signals=[("waiting", number)]),
            Case(f"{name}_in_verify", [CHECK, SET, APPLY, f"run.verify('It is well', lambda: {WAIT})", FINISH],
                 "interrupted", 128 + number, "cccip", f"{APPLIED} verify undo end", signals=[("waiting", number)]),
            Case(f"{name}_between_cells", [CHECK, SET, APPLY, f"os.kill(os.getppid(), {number:d}); time.sleep(.01)",
                 VERIFY, FINISH], "interrupted", 128 + number, "ccc*pp*", f"{APPLIED} undo end"),
            Case(f"{name}_behind", behind(WAIT, FINISH), "applied", 0, "ccccip", f"{APPLIED} verify end", "new",
                 signals=[("waiting", number)], why=f"Stopped by SIG{name}. .*{STAYS}"),
            Case(f"{name}_between_cells_behind", behind(f"os.kill(os.getppid(), {number:d}); time.sleep(.01)", FINISH),
                 "applied", 0, "cccc*p*", f"{APPLIED} verify end", "new", why=f"Stopped by SIG{name}. .*{STAYS}"),
            Case(f"{name}_twice", [CHECK, made(undo="reach('undoing')"), APPLY, WAIT, FINISH], "needs-person", 3,
                 "cccip", f"{APPLIED}( undo)?", "new", signals=[("waiting", number), ("undoing", number)],
                 why="not undone: Set it"),
        )
    ),
    Case("INT_swallowed", [CHECK, SET, STUBBORN, FINISH], "interrupted", 130, "ccip", PLANNED,
         signals=[("waiting", INT)], limits="{undo: 1}"),
    Case("INT_swallowed_after", [CHECK, SET, APPLY, STUBBORN, FINISH], "needs-person", 3, "cccip", APPLIED, "new",
         signals=[("waiting", INT)], limits="{undo: 1}"),
    Case("TERM_after_the_end", [CHECK, f"{FINISH}; import os; os.kill(os.getppid(), 15)"], "planned", 0, "c*",
         "start check end", arguments=[]),
    Case("bad_parameter", ALL, "refused", 4, "ppppp", "", arguments=["-p", "aply", "true"], begins="ppp",
         why="did you mean apply"),
    Case("approval_missing", ALL, "refused", 4, "cfppp", f"{PLANNED} end", approval="digest", why="--approval .{16}"),
    Case("approval_wrong", ALL, "refused", 4, "cfppp", f"{PLANNED} end", approval="digest",
         arguments=["--apply", "--approval", "0" * 16], why="the approval is for plan '0000000000000000'"),
    Case("broken_kernel", ALL, "failed", 1, "ppppp", "", variables={"PYTHONPATH": "broken"}, begins="ppp",
         why="the kernel did not start.*out of order"),
]  # fmt: skip


@dataclass
class Ended:
    """A run that has ended: its exit code, what it said, and its record."""

    place: Place
    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        return Path(self.out.splitlines()[-1])

    @property
    def record(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return content


def execute(case: Case, folder: Path) -> Ended:
    """Run a case in a place of its own."""
    place = Place(folder, approval=case.approval, limits=case.limits)
    (folder / "broken").mkdir()
    (folder / "broken/ipykernel_launcher.py").write_text("raise SystemExit('out of order')")
    place.write(case.name, *case.cells, tags={i: "apply" for i, cell in enumerate(case.cells) if cell == APPLY})
    with place.start("run", case.name, *case.arguments, variables=case.variables, cwd=folder) as process:
        for name, number in case.signals:
            wait_for(folder / name, process)
            process.send_signal(number)
        out, err = process.communicate(timeout=100)
    return Ended(place, process.returncode, out, err)


def wait_for(file: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a cell has made this file."""
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[Ended]"]]:
    """All cases, run some at a time: most of a run's time is spent waiting."""
    with ThreadPoolExecutor(4) as pool:
        yield {case.name: pool.submit(execute, case, tmp_path_factory.mktemp(case.name) / "place") for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_run_ends_as_its_record_says(
    case: Case, ended: "dict[str, Future[Ended]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ended[case.name].result(timeout=150)
    assert "Traceback" not in run.err, run.err
    about = run.record["metadata"]["opslib"]
    assert (about["outcome"], run.code) == (case.outcome, case.code), (about, run.out, run.err)
    assert re.search(case.why, about["why"]), about["why"]
    assert f"{case.outcome}: {about['why']}" in run.out
    assert re.fullmatch(case.steps, kinds(run.record))
    assert_true_cells(run.record, case.begins + case.states)
    value = run.place.folder / "value"
    assert (value.read_text() if value.exists() else "nothing") == case.value
    monkeypatch.setenv("RUNBOOK_ROOT", str(run.place.folder))
    assert ledger.problems() == []
    assert [one.outcome for one in listing.records()] == [case.outcome]
    assert not list(run.path.parent.glob(".*"))
    assert run.path.stat().st_mode & 0o777 == 0o600


def test_a_run_says_which_one_it_goes_on_from(place: Place) -> None:
    place.write("act", CHECK, SET, "Path('waiting').touch(); time.sleep(60)", FINISH)
    with place.start("run", "act", "--apply", cwd=place.folder) as process:
        wait_for(place.folder / "waiting", process)
        process.kill()
    with place.start("run", "act", "--apply", cwd=place.folder) as process:
        assert process.stdout
        said = process.stdout.readline()
        process.send_signal(INT)
        process.communicate(timeout=60)
    assert re.search(
        r"— the run of 2\d{3}-\d\d-\d\d \d\d:\d\d UTC was cut short(, after: .+)?; this one goes on from there$", said
    )


def kinds(notebook: dict[str, Any]) -> str:
    """The steps of a record; a change that was shown as under way and then as done counts once."""
    return " ".join(one["step"] for one in record.steps(notebook))


def assert_true_cells(notebook: dict[str, Any], letters: str) -> None:
    """Check the state of each code cell, and that a cell that never ran shows no sign of having run."""
    found = states(notebook)
    fits = [letter == "*" or LETTERS[letter] == state for letter, state in zip(letters, found, strict=False)]
    assert all(fits), (letters, found)
    assert len(found) in (len(letters), len(letters.rstrip("*"))), (letters, found)
    for cell, state in zip((c for c in notebook["cells"] if c["cell_type"] == "code"), found, strict=True):
        about = cell["metadata"]["papermill"]
        if state == "pending":
            assert cell["execution_count"] is None
            assert cell["outputs"] == []
            assert set(about) == {"status"}
        else:
            assert cell["execution_count"] is not None or state == "failed"
            assert about["start_time"] <= about["end_time"]
            assert about["duration"] >= 0
        errors = [output["ename"] for output in cell["outputs"] if output["output_type"] == "error"]
        assert not errors or state in ("failed", "interrupted")


def test_the_command_verify_is_content(ended: "dict[str, Future[Ended]]") -> None:
    done = ended["applies"].result().place.runbook("verify")
    assert (done.returncode, done.stdout) == (0, "The records are whole and unaltered.\n")


# What approves a plan


def test_an_approval_holds_for_the_plan_that_was_seen(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", approval="digest")
    place.write("act", *ALL, tags={2: "apply"})
    code, plan = place.run("act")
    digest = next(one["digest"] for one in record.steps(plan) if one["step"] == "plan")
    assert code == 0
    (place.folder / "value").write_text("somebody else's")
    code, stale = place.run("act", "--apply", "--approval", digest)
    assert (code, stale["metadata"]["opslib"]["outcome"]) == (4, "refused")
    assert "is not what it was then" in stale["metadata"]["opslib"]["why"]
    (place.folder / "value").unlink()
    code, applied = place.run("act", "--apply", "--approval", digest.upper())
    assert (code, applied["metadata"]["opslib"]["outcome"]) == (0, "applied")


# Who holds the environment


def test_one_run_at_a_time_and_a_dead_one_blocks_nobody(place: Place) -> None:
    place.write("hold", SET, APPLY, WAIT, FINISH, tags={1: "apply"})
    place.write("act", FINISH)
    holder = place.start("run", "hold", "--apply")
    wait_for(place.folder / "waiting", holder)
    code, refused = place.run("act", "--apply")
    assert (code, refused["metadata"]["opslib"]["outcome"]) == (4, "refused")
    assert re.search(r"holds this environment: hold, started by .+record /.+hold", refused["metadata"]["opslib"]["why"])
    assert place.run("act")[0] == 0  # a plan needs no lock
    holder.kill()
    holder.communicate()
    wait_until_gone(holder.pid)
    assert place.run("act", "--apply")[0] == 0


def wait_until_gone(runner: int, seconds: float = 20) -> None:
    """Wait until no kernel of this runner is left."""
    ends = time.monotonic() + seconds
    while kernels(runner):
        assert time.monotonic() < ends, "the kernel outlives its runner"
        time.sleep(0.05)


def kernels(runner: int) -> list[int]:
    """The kernels that were started by this runner, by what is in their environment."""
    mark = f"JPY_PARENT_PID={runner}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


# A runner that is killed


def test_killed_at_any_moment(place: Place) -> None:
    place.write("busy", *["print('x' * 200_000)"] * 12, FINISH)
    runs, folder = [], place.folder / "records/test"
    for recorded, after in ((False, 0.2), (False, 0.6), (True, 0), (True, 0.4), (True, 0.8), (True, 1.2)):
        before = len(list(folder.glob("*.ipynb")))
        process = place.start("run", "busy")
        while recorded and len(list(folder.glob("*.ipynb"))) == before:
            assert process.poll() is None
        time.sleep(after)
        process.kill()
        process.communicate()
        wait_until_gone(process.pid)
        runs.append(process)
    files = sorted(folder.glob("*.ipynb"))
    assert files
    for file in files:
        content = json.loads(file.read_text())
        for cell in content["cells"]:
            if cell["cell_type"] == "code" and cell["metadata"]["papermill"]["status"] == "pending":
                assert (cell["execution_count"], cell["outputs"]) == (None, [])
    listed = [json.loads(line) for line in place.runbook("records", "--json").stdout.splitlines()]
    assert {one["outcome"] for one in listed} <= {"interrupted", "planned"}
    torn = folder / f".{files[0].name}.0123abcd{record.PARTIAL}"  # as a kill in the middle of a save does
    torn.write_text("{")
    os.utime(torn, (time.time() - 120,) * 2)
    assert place.run("busy")[0] == 0
    assert not list(folder.glob(".*"))


# A disk that is full, a folder that is closed

FILL = """\
import os
fill = os.open("records/fill", os.O_WRONLY | os.O_CREAT)
try:
    while os.write(fill, b"x" * 4096):
        pass
except OSError:
    os.close(fill)"""


@pytest.fixture
def small(place: Place) -> Iterator[Place]:
    """A place whose records lie on a disk of 256 kB."""
    folder = place.folder / "records"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", folder], check=True)


def test_a_disk_full_before_the_run(small: Place) -> None:
    small.write("act", *ALL, tags={2: "apply"})
    (small.folder / "records/fill").write_bytes(b"x" * 256 * 1024)
    done = small.runbook("run", "act", "--apply")
    assert done.returncode == 1
    assert "the record cannot be saved: No space left on device. Free space there" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small.folder / "value").exists()


@pytest.mark.parametrize(
    ("cells", "outcome", "code", "value"),
    [
        ([CHECK, SET, FILL, APPLY, VERIFY, FINISH], "failed", 1, None),
        ([CHECK, SET, f"{FILL}\n{APPLY}", VERIFY, FINISH], "failed", 1, None),
        ([CHECK, made(f"put('new')\n{FILL}".replace("\n", "\n    ")), APPLY, VERIFY, FINISH], "applied", 0, "new"),
        ([CHECK, SET, APPLY, VERIFY, f"{FILL}\n{FINISH}"], "applied", 0, "new"),
    ],
    ids=["before the cell", "before the change", "in the change", "at the end"],
)
def test_a_disk_full_in_the_run(small: Place, cells: list[str], outcome: str, code: int, value: str | None) -> None:
    small.write("act", *cells, tags={i: "apply" for i, cell in enumerate(cells) if cell == APPLY})
    done = small.runbook("run", "act", "--apply")
    assert "Traceback" not in done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "No space left on device. Free space there" in done.stdout
    file = Path(done.stdout.splitlines()[-1])
    assert not file.is_relative_to(small.folder)  # where there was room
    content = json.loads(file.read_text())
    shutil.rmtree(file.parent)
    assert content["metadata"]["opslib"]["outcome"] == outcome
    assert_true_cells(content, "ccccc" + ("c" if outcome == "applied" else "*") * (len(cells) - 2))
    written = small.folder / "value"
    assert (written.read_text() if written.exists() else None) == value
    left = small.runbook("records").stdout
    assert "interrupted" in left  # what lies on the full disk says no more than it knows


def test_a_ledger_that_cannot_be_written(place: Place) -> None:
    place.write("act", CHECK, FINISH)
    (place.folder / "records/ledger.jsonl").mkdir(parents=True)
    done = place.runbook("run", "act")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "ledger.jsonl: the record is not sealed: Is a directory." in done.stdout
    (place.folder / "records/ledger.jsonl").rmdir()
    verified = place.runbook("verify")
    assert verified.returncode == 1
    assert "finished, and not in the ledger" in verified.stdout


def test_a_records_folder_that_cannot_be_written(place: Place) -> None:
    place.write("act", *ALL, tags={2: "apply"})
    (place.folder / "records").write_text("a file, where a folder should be")
    done = place.runbook("run", "act", "--apply")
    assert done.returncode == 1
    assert "the record cannot be saved" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.folder / "value").exists()


# The same notebook under papermill


TYPED = {"approval": "77950e8", "reason": "1_000", "incident": "007"}


def papermill(place: Place, name: str, *arguments: str, output: str = "") -> "subprocess.Popen[str]":
    """Start a procedure by plain papermill, with our engine unless told otherwise."""
    command = [sys.executable, "-m", "papermill", "--engine", "runbook"]
    command += [f"notebooks/{name}.ipynb", output or f"records/{name}.ipynb", *arguments]
    variables = {**place.variables, "PYTHONWARNINGS": "ignore"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place.folder, env=variables, stdout=pipe, stderr=pipe, text=True)


def ends(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a command; give its exit code and what it said of what went wrong."""
    err = process.communicate(timeout=100)[1]
    return process.returncode, err


def test_papermill_makes_the_same_record(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("act", *ALL, tags={2: "apply"})
    place.write("fail", CHECK, SET, APPLY, "1 / 0", FINISH, tags={2: "apply"})
    place.write("look", *behind(LOOK, FINISH), tags={2: "apply"})
    place.write("break", *behind("1 / 0", FINISH), tags={2: "apply"})
    done = {name: ends(papermill(place, name, "-p", "apply", "True")) for name in ("act", "fail", "look", "break")}
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    acted, failed = (json.loads((place.folder / f"records/{name}.ipynb").read_text()) for name in ("act", "fail"))
    assert (done["act"][0], acted["metadata"]["opslib"]["outcome"]) == (0, "applied"), done["act"]
    assert_true_cells(acted, "cccccccc")
    assert kinds(acted) == f"{APPLIED} verify end"
    assert (done["fail"][0], failed["metadata"]["opslib"]["outcome"]) == (2, "undone")
    assert "Error: undone: ZeroDivisionError" in done["fail"][1]
    assert_true_cells(failed, "ccccccfp")
    for name, code, letters in (("look", 0, "ccccccccc"), ("break", 1, "cccccccfc")):  # papermill minds every error
        looked = json.loads((place.folder / f"records/{name}.ipynb").read_text())
        assert (done[name][0], looked["metadata"]["opslib"]["outcome"]) == (code, "applied"), done[name][1]
        assert looked["metadata"]["opslib"]["why"].startswith(HELD)
        assert_true_cells(looked, letters)
    files = [place.folder / f"records/{name}.ipynb" for name in done]
    assert ledger.problems(files) == []
    assert all(ledger.is_sealed(file) for file in files)


def test_papermill_takes_no_text_for_a_number(place: Place) -> None:
    place.write("act", FINISH, parameters="count: int = 1  # how many")
    words = [word for name, text in TYPED.items() for word in ("-p", name, text)]
    assert ends(papermill(place, "act", *words, "-p", "count", "7"))[0] == 0
    made = json.loads((place.folder / "records/act.ipynb").read_text())["metadata"]["opslib"]["parameters"]
    assert made == {"environment": "test", "apply": False, **TYPED, "count": 7}


def test_papermill_refuses_what_is_not_declared(place: Place) -> None:
    place.write("act", *ALL, tags={2: "apply"})
    code, said = ends(papermill(place, "act", "-p", "aply", "True"))
    assert code == 4
    assert "Error: refused: act has no parameter 'aply'; did you mean apply?" in said
    refused = json.loads((place.folder / "records/act.ipynb").read_text())
    assert_true_cells(refused, "pppppppp")
    assert not (place.folder / "value").exists()


def test_papermill_writes_over_no_record(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it tells the engine where it will write or not, names this engine or another, or executes nothing."""
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    place.write("act", "open('ran', 'a').write('.')", FINISH)
    (place.folder / "out.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    first = [papermill(place, "act"), papermill(place, "act", output="out.ipynb")]
    assert [ends(one)[0] for one in first] == [0, 0]  # what is no record is replaced, as papermill always did
    files = [place.folder / "records/act.ipynb", place.folder / "out.ipynb"]
    before = [file.read_bytes() for file in files]
    assert all(ledger.is_sealed(file) for file in files)
    (place.folder / "ran").unlink()
    late = "--no-request-save-on-cell-execute"
    again = [papermill(place, "act"), papermill(place, "act", late), papermill(place, "act", late, output="out.ipynb")]
    for process in again:
        code, said = ends(process)
        assert code == 4, said
        assert re.search(r"is the name of a record that was sealed.+as (act|out)-2\.ipynb", said)
    others = [papermill(place, "act", "--prepare-only"), papermill(place, "act", "--engine", "nbclient")]
    for process in others:
        code, said = ends(process)
        assert code == 1
        assert "is a sealed record, and nothing writes over it" in said
    assert [file.read_bytes() for file in files] == before
    assert not (place.folder / "ran").exists()
    assert ledger.problems() == []


def test_two_runs_onto_one_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    place.write("act", "import time; time.sleep(3)", FINISH)
    codes = sorted(ends(one)[0] for one in [papermill(place, "act"), papermill(place, "act")])
    assert codes == [0, 4]
    assert [entry.name for entry in (place.folder / "records").iterdir()].count("act.ipynb") == 1
    assert ledger.problems() == []


def test_the_tests_leave_no_kernel_behind() -> None:
    assert kernels(os.getpid()) == []
