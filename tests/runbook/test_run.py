"""A run, as a person steps through it: cells run again, out of order, after a failure, after the world has moved."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets.config import Config

from opslib import Change, Kept, act, start
from opslib.runbook import errors, procedure, run as runs
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError, UndoFailed
from opslib.runbook.run import Run
from opslib.runbook.step import contradiction, line as shown_line
from tests.place import Place


@pytest.fixture(autouse=True)
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    for name in ("OPSLIB_RECORD", "OPSLIB_RUN", "OPSLIB_SAVED", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    place.write("act", "run.finish()", parameters="seconds: int = 1  # [1..9] how long")
    monkeypatch.setattr(runs, "_current", None)
    yield place
    if runs._current is not None:
        runs._current.release()


class World:
    """Something to change, that counts what was done to it."""

    def __init__(self) -> None:
        self.value = "old"
        self.calls: list[str] = []

    def change(self, title: str = "Set it", *, fails: bool = False, undo: bool | str = True) -> Change:
        def do() -> None:
            self.calls.append(f"do {title}")
            self.value = title
            if fails:
                raise OSError("no route")

        def take_back() -> None:
            self.calls.append(f"undo {title}")
            if undo == "fails":
                raise UndoFailed("stuck")
            self.value = "old"

        return Change(
            title,
            [act(f"set {title}", run=do)],
            undo=[act("as it was before", run=take_back)] if undo else Kept("there is no undo for this change"),
            replaces=lambda: "a value",
        )


@pytest.fixture
def world() -> World:
    return World()


def begin(**options: Any) -> Run:
    return start("act", environment="test", **{"apply": True, **options})


def kinds(run: Run) -> list[str]:
    return [one["step"] for one in run.steps]


# Without a kernel, steps are printed


def test_a_run_from_start_to_finish(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin()
    run.check("It is old", world.value == "old", {"value": world.value})
    run.plan(world.change())
    run.apply(world.change())
    run.verify("It is set", lambda: (world.value == "Set it", [world.value]))
    run.note("Seen", [1, 2])
    run.finish()
    assert (run.ended, world.calls) == ("applied", ["do Set it"])
    shown = capsys.readouterr().out
    for line in ("carries out its plan", "✓ It is old\nvalue\nold", "✓ Set it — took", "✓ It is set", "✓ Applied: all"):
        assert line in shown


def test_a_plan_run_changes_and_asks_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(apply=False)
    run.plan(world.change())
    run.apply(world.change())
    run.verify("It is set", lambda: world.calls.append("asked"))
    run.verify("It is loved", lambda: world.calls.append("asked"), asked=False)
    run.finish()
    assert (run.ended, world.calls, world.value) == ("planned", [], "old")
    shown = capsys.readouterr().out
    assert "· It is set — asked after the change" in shown and "· It is loved — not asked" in shown


@pytest.mark.parametrize("answer", [False, None, Answer(False), 1, "yes", [1], 0])
def test_only_a_plain_yes_answers_a_check(answer: Any) -> None:
    run = begin()
    with pytest.raises(errors.CheckFailed, match=r"not so: Well\. Wait for it"):
        run.check("Well", answer, otherwise="Wait for it.")
    assert run.ended is None


def test_what_a_check_cannot_tell_holds_the_run_up_until_that_is_accepted() -> None:
    run = begin(apply=False)
    answer = Answer(None, {"found": "no log"}, "Look by hand.")
    with pytest.raises(errors.CheckFailed, match=r"cannot tell: Well\. Look by hand"):
        run.check("Well", answer)
    with pytest.raises(errors.CheckFailed, match="no plan while a check is not answered yes"):
        run.plan()
    run.check("Well", answer, accept=True)
    assert (run.steps[-1]["ok"], run.steps[-1]["evidence"]) == (None, [{"found": "no log"}])
    assert shown_line(run.steps[-1]) == "! Well — accepted by the operator"
    run.plan()
    run.finish()
    assert run.ended is errors.Outcome.PLANNED


def test_an_answer_of_no_that_the_operator_accepts_is_shown_as_that(world: World) -> None:
    run = begin()
    run.check("A reload drops no request", Answer(False, {"mode": "fork"}, "REQUESTS WILL FAIL"), accept=True)
    one = world.change()
    run.plan(one)
    run.apply(one)
    run.verify("No request failed", lambda: (False, {"failed": 3}), within=0, accept=True)
    run.finish()
    assert run.ended is errors.Outcome.APPLIED
    asked = [one for one in run.steps if one["step"] in ("check", "verify")]
    assert [(one["ok"], one["accepted"], bool(one["evidence"])) for one in asked] == [(False, True, True)] * 2
    assert contradiction(run.steps, "applied") == ""
    why = "what had to hold held; accepted by the operator: A reload drops no request; No request failed"
    assert run._closing["why"] == why


def test_what_is_not_asked_has_no_answer(world: World) -> None:
    run = begin()
    run.check("The name was typed", lambda: pytest.fail("asked"), asked=False)
    one = world.change()
    run.plan(one)
    run.apply(one)
    run.verify("It was gone before", lambda: pytest.fail("asked"), asked=False)
    run.finish()
    plan = begin(apply=False)
    plan.check("There is a reason", lambda: pytest.fail("asked"), to_apply="reason")
    plan.plan(world.change())
    run_of_it = begin(reason="why")
    run_of_it.check("There is a reason", True, to_apply="reason")
    run_of_it.plan(world.change())
    assert plan.steps[-1]["digest"] == run_of_it.steps[-1]["digest"]
    assert shown_line(plan.steps[-2]) == "· There is a reason — asked in a run that applies, with reason"
    plan.finish()
    assert plan._closing["why"].endswith("To carry it out: runbook run act -e test --reason '…' --apply")
    said = [shown_line(one) for one in run.steps if one["step"] in ("check", "verify")]
    assert said == ["· The name was typed — not asked", "· It was gone before — not asked"]


def test_what_a_verify_cannot_tell_undoes_nothing(world: World) -> None:
    run = begin()
    one = world.change()
    run.plan(one)
    run.apply(one)
    with pytest.raises(errors.VerifyFailed, match="cannot be told"):
        run.verify("It is there", lambda: Answer(None, otherwise="Ask the API yourself."), within=0)
    assert run.ended is errors.Outcome.NEEDS_PERSON
    assert world.calls == ["do Set it"]


def test_two_changes_of_one_title_are_refused(world: World) -> None:
    run = begin()
    with pytest.raises(errors.PlanVoid, match="called Set it"):
        run.plan(world.change(), world.change())


def test_findings_stand_at_the_end_the_worst_first_each_with_what_mends_it(place: Place) -> None:
    place.write(
        "look",
        "from opslib.runbook.finding import Finding, Severity\n"
        "run.find(Finding('a key is old', 'rotate', {'stage': 'key'}, severity=Severity.RISK))",
        "run.find(Finding('8 events are missing', do='Have them sent again.'))",
        "run.plan()\nrun.finish()",
    )
    done = place.runbook("run", "look")
    *_, ended, first, second, path = done.stdout.splitlines()
    assert done.returncode == 5
    assert ended.startswith("planned: what had to hold held; found wrong: 8 events are missing; a key is old.")
    assert first == "✗ 8 events are missing — Have them sent again."
    assert second == "✗ a key is old — runbook run rotate -e test -p stage key"
    about = json.loads(Path(path).read_text())["metadata"]["opslib"]
    assert (about["outcome"], [one["what"] for one in about["findings"]]) == (
        "planned",
        ["8 events are missing", "a key is old"],
    )


def test_the_end_of_a_plan_is_the_command_that_carries_it_out(place: Place) -> None:
    change = "run.plan(Change('Set it', [act('set', run=print)], undo=Kept('fine'), replaces=lambda: ''))"
    place.write("act", change, "run.finish()", parameters="seconds: int = 1  # how long")
    done = place.runbook("run", "act", "-p", "seconds", "5", "--incident", "4711")
    command = "runbook run act -e test -p seconds 5 --incident 4711 --apply"
    assert f"Nothing was changed. To carry it out: {command}" in done.stdout


def test_a_check_may_be_asked_again(world: World) -> None:
    run = begin()
    with pytest.raises(errors.CheckFailed):
        run.check("Well", False)
    later: tuple[Callable[[], None], ...] = (lambda: run.plan(world.change()), run.finish)
    for forbidden in later:
        with pytest.raises(errors.CheckFailed, match=r"not answered yes: Well\. Ask it again"):
            forbidden()
    run.check("Well", True)
    run.plan(world.change())


def test_a_change_is_made_once_and_only_as_planned(world: World) -> None:
    run = begin()
    with pytest.raises(errors.PlanVoid, match="'Set it' was not in the plan"):
        run.apply(world.change())
    run.plan(world.change())
    with pytest.raises(errors.ChangeFailed, match="planned and not applied: Set it"):
        run.finish()
    run.apply(world.change())
    run.apply(world.change())
    run.plan(world.change())
    run.apply(world.change())
    assert world.calls == ["do Set it"]


def test_a_plan_is_void_once_the_world_is_another(world: World) -> None:
    run = begin()
    there = ["a"]
    one = Change(
        "Move it",
        [act("mv", run=lambda: world.calls.append("moved"))],
        undo=Kept("this cannot be taken back"),
        replaces=lambda: there[0],
    )
    run.plan(one)
    there[0] = "b"
    with pytest.raises(errors.PlanVoid, match=r"Move it: planned for 'a', now there is 'b'\. Run the plan cell again"):
        run.apply(one)
    assert (world.calls, run.in_force) == ([], [])
    run.plan(one)
    run.apply(one)
    assert world.calls == ["moved"]


@pytest.mark.parametrize(
    ("undo", "outcome", "calls"),
    [
        (True, "undone", ["do One", "do Two", "undo Two", "undo One"]),
        ("fails", "needs-person", ["do One", "do Two", "undo Two"]),
        (False, "needs-person", ["do One", "do Two"]),
    ],
)
def test_what_fails_is_undone_newest_first(world: World, undo: bool | str, outcome: str, calls: list[str]) -> None:
    run = begin()
    planned = world.change("One"), world.change("Two", fails=True, undo=undo)
    run.plan(*planned)
    with pytest.raises(errors.ChangeFailed, match="Two: OSError: no route"):
        run.apply(*planned)
    assert (run.ended, world.calls) == (outcome, calls)
    assert run._closing["steps"][-1]["outcome"] == outcome
    with pytest.raises(errors.Refused, match=f"this run has ended as {outcome}"):
        run.check("Well", True)


def test_a_verify_is_asked_until_it_is_true(world: World) -> None:
    run = begin()
    answers = iter([False, None, (0, "no"), (1, "now")])
    run.verify("Well", lambda: next(answers), every=0.001)
    assert run.steps[-1]["evidence"] == [{"": "now"}]
    run.plan(world.change())
    run.apply(world.change())
    with pytest.raises(errors.VerifyFailed, match=r"still not so after 0\.01 s: Well\. Look"):
        run.verify("Well", lambda: False, within=0.01, every=0.001, otherwise="Look.")
    assert (run.ended, world.value) == ("undone", "old")
    assert kinds(run)[-3:] == ["change", "verify", "undo"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError("x"), RunbookError("x")])
def test_a_question_that_fails_undoes_too(world: World, error: BaseException) -> None:
    run = begin()
    run.plan(world.change())
    run.apply(world.change())

    def question() -> None:
        raise error

    with pytest.raises(type(error)):
        run.verify("Well", question)
    assert (run.ended, world.value) == ("undone", "old")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"environment": "nowhere"}, "there is no environment"),
        ({"reason": "a\nb"}, "without control characters"),
        ({"reason": "x" * 9999}, "2000 at most"),
        ({"apply": "perhaps"}, "a value of type bool"),
    ],
)
def test_a_start_that_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.Refused, match=said):
        start("act", **{"environment": "test", **options})


def test_an_unknown_procedure_is_refused() -> None:
    with pytest.raises(errors.Refused, match="Did you mean act"):
        start("acts", environment="test")


def test_two_runs_that_apply_exclude_each_other(place: Place) -> None:
    first = begin()
    with pytest.raises(errors.Held, match="holds this environment: act"):
        Run("act", "test", True, "", "", "")
    first.finish()
    Run("act", "test", True, "", "", "").release()


def test_the_digest_tells_one_plan_from_another(world: World) -> None:
    def digest(*planned: Change) -> str:
        run = begin(apply=False, reason=f"{len(planned)}")
        run.plan(*planned)
        return str(run.steps[-1]["digest"])

    one = digest(world.change())
    assert one == digest(world.change())
    assert len({one, digest(world.change("Other")), digest(world.change(undo=False)), digest()}) == 4


# Cells, in the shell of a notebook

CELLS = {
    "start": "from opslib import Change, act, start\nrun = start('act', environment='test', apply=True)",
    "world": "calls, there = [], ['old']",
    "plan": """
one = Change('Set it', [act('set', run=lambda: calls.append('do'))], replaces=lambda: there[0],
             undo=[act('unset', run=lambda: calls.append('undo'))])
run.plan(one)""",
    "apply": "run.apply(one)",
    "overtake": "there[0] = 'new'",
    "yes": "run.check('Well', True)",
    "no": "run.check('Well', False)",
    "true": "run.verify('Set', lambda: True)",
    "false": "run.verify('Set', lambda: False, within=0)",
    "wrong": "1 / 0",
    "finish": "run.finish()",
}


@pytest.fixture
def cell(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], ExecutionResult]]:
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield lambda name: shell.run_cell(CELLS[name])
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("cells", "calls", "ended"),
    [
        ("start world plan apply true finish", ["do"], "applied"),
        ("start world plan apply apply true true finish", ["do"], "applied"),
        ("start world plan plan apply plan apply finish", ["do"], "applied"),
        ("start world apply! plan apply finish", ["do"], "applied"),
        ("start world plan overtake apply! finish! plan apply finish", ["do"], "applied"),
        ("start world plan apply start plan apply finish", ["do"], "applied"),
        ("start world plan start apply! plan apply finish", ["do"], "applied"),
        ("start world no! plan! finish! yes plan apply finish", ["do"], "applied"),
        ("start world plan apply wrong! true finish", ["do"], "applied"),
        ("start world plan apply false! true! apply! finish", ["do", "undo"], "undone"),
        ("start world plan apply false! start plan apply finish", ["do", "undo", "do"], "applied"),
        ("start world plan apply finish apply! yes! finish", ["do"], "applied"),
    ],
)
def test_cells_again_and_out_of_order(
    cell: Callable[[str], ExecutionResult], cells: str, calls: list[str], ended: str
) -> None:
    for name in cells.split():
        result = cell(name.rstrip("!"))
        error = result.error_in_exec or result.error_before_exec
        assert (error is not None) == name.endswith("!"), (name, error)
    variables = InteractiveShell.instance().user_ns
    assert (variables["calls"], variables["run"].ended) == (calls, ended)


BEHIND = {
    "setup": "from opslib import Change, Kept, act, start\nfine = False\n"
    "run = start('look', environment='test', apply=True)\nput = Change('Set it', [act('set', run=lambda: None)],"
    " undo=Kept('fine', matters=False), replaces=lambda: 'old')\nrun.plan(put)",
    "apply": "run.apply(put)",
    "first": "run.verify('First', lambda: True)",
    "last": "run.verify('Last', lambda: True)\nrun.note('Beside it', lambda: fine or 1 / 0)",
    "note": "run.note('A look', lambda: fine or 1 / 0)",
    "raw": "fine or 1 / 0",
    "mend": "fine = True",
    "finish": "run.finish()",
}
BESIDE, LOOK, RAW = (f"{name} (ZeroDivisionError: division by zero)" for name in (
    "Beside it", "A look", "The cell `fine or 1 / 0` has failed"))  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "seen"),
    [
        ("setup apply first last note raw! finish", [BESIDE, LOOK, RAW]),
        ("setup apply first last note raw! mend last note raw finish", []),
        ("setup apply last! first note! finish", [BESIDE, LOOK]),  # the last cell was not run to its end
        ("setup first last! note! apply note! finish", [BESIDE, LOOK]),  # verified before the change is not verified
        ("setup apply note! first note! last note finish", [LOOK, BESIDE]),
        ("setup apply raw! first raw! mend last raw finish", []),
    ],
)
def test_a_look_behind_the_last_verify_fails_and_undoes_nothing(
    place: Place, capsys: pytest.CaptureFixture[str], cells: str, seen: list[str]
) -> None:
    place.write("look", *BEHIND.values(), start=False)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    for name in cells.split():
        result = shell.run_cell(BEHIND[name.rstrip("!")])
        error = result.error_in_exec or result.error_before_exec
        assert (error is not None) == name.endswith("!"), (name, error)
    run = shell.user_ns["run"]
    InteractiveShell.clear_instance()
    assert (run.ended, [one.title for one in run.in_force]) == ("applied", ["Set it"])
    why = f"what had to hold held; not seen: {'; '.join(seen)}" if seen else "all checks held"
    assert run._closing["why"] == why


def test_a_failed_cell_ends_a_run_that_nobody_watches(
    cell: Callable[[str], ExecutionResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSLIB_RECORD", "x.ipynb")
    for name in ("start", "world", "plan", "apply", "wrong"):
        cell(name)
    variables = InteractiveShell.instance().user_ns
    assert (variables["calls"], variables["run"].ended) == (["do", "undo"], "undone")


GUARDED = [
    "from opslib import Change, Kept, act\ndone = []\nput = Change('Set it', [act('set', run=lambda: done.append(1))],"
    " undo=Kept('fine', matters=False), replaces=lambda: 'old')",
    "run.plan(put)",
    "run.apply(put)",
    "run.verify('It is set', lambda: done == [1])",
]


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """The shell of a notebook whose environment asks for an approved plan, with its plan approved."""
    place = Place(tmp_path_factory.mktemp("guarded") / "place", approval="digest")
    place.write("guarded", *GUARDED, parameters="seconds: int = 1  # [1..9] how long")
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    own = [cell["source"] for cell in procedure.load("guarded").notebook["cells"] if cell["cell_type"] == "code"]
    for source in (own[0], "# Parameters of this run\napply = True\nseconds = 3", *own[1:4]):
        shell.run_cell(source, store_history=True).raise_error()
    shell.user_ns["run"].approve(shell.user_ns["run"]._digest)
    yield shell
    InteractiveShell.clear_instance()


def test_what_is_approved_runs_as_it_was_shown(guarded: InteractiveShell) -> None:
    for source in [*GUARDED[2:], "run.finish()"]:
        guarded.run_cell(source, store_history=True).raise_error()
    assert guarded.user_ns["run"].ended is errors.Outcome.APPLIED


@pytest.mark.parametrize(
    ("source", "then", "said"),
    [
        ("put.acts[0].run()\nrun.apply(put)", "", "ran after the plan was shown"),
        ("put = Change('Set it', put.acts, put.undo, put.replaces)", GUARDED[2], "ran after the plan was shown"),
        ("run.apply( put )", "", "ran after the plan was shown"),
        ("seconds = 4", GUARDED[2], "seconds was given another value"),
        ("apply = False", GUARDED[2], "apply was given another value"),
    ],
)
def test_a_cell_edited_after_the_approval_is_not_approved(
    guarded: InteractiveShell, source: str, then: str, said: str
) -> None:
    first = guarded.user_ns["run"]._digest
    result = guarded.run_cell(source, store_history=True)
    if then:
        result = guarded.run_cell(then, store_history=True)
    assert said in str(result.error_in_exec)
    assert guarded.user_ns["run"].in_force == []
    if "value" not in said:
        guarded.run_cell(GUARDED[1], store_history=True)
        assert guarded.user_ns["run"]._digest != first
        assert "ran that the procedure does not have" in guarded.user_ns["run"].steps[-1]["note"]


def test_what_a_check_rested_on_is_approved_with_the_plan(world: World) -> None:
    @dataclass(frozen=True)
    class Seen:
        workers: int
        uptime: int = field(compare=False)

    def digest(*answers: Answer, **options: Any) -> str:
        run = begin(apply=False)
        for number, answer in enumerate(answers):
            run.check(f"Question {number}", answer, **options)
        run.plan(world.change())
        return str(run.steps[-1]["digest"])

    one = digest(Answer(True, Seen(2, uptime=7)))
    assert one == digest(Answer(True, Seen(2, uptime=8)))
    others = [digest(Answer(True, Seen(3, uptime=7))), digest(), digest(Answer(False, Seen(2, uptime=7)), accept=True)]
    assert len({one, *others, digest(Answer(True), asked=False)}) == 5


def test_what_an_undo_has_put_back_is_not_called_left(world: World) -> None:
    def away() -> None:
        raise errors.UndoFailed("worker 0 does not answer.")

    def full() -> None:
        raise OSError("disk full")

    steps = [act("swap the names back", run=lambda: world.calls.append("swapped")), act("reload\nall", run=away)]
    swap = Change("Swap", [act("swap", run=lambda: None)], undo=steps, replaces=lambda: "the old one")
    more = Change("More", [act("fill", run=full)], undo=Kept("it is harmless", matters=False), replaces=lambda: "none")
    run = begin()
    run.plan(world.change(), swap, more)
    with pytest.raises(errors.ChangeFailed):
        run.apply(world.change(), swap, more)
    assert run.ended is errors.Outcome.NEEDS_PERSON and world.calls[-1] == "swapped"
    why = str(run._closing["why"])
    assert "Undone in part: Swap: done: swap the names back; not, or not for certain: reload." in why
    assert "Not undone: Set it (a value)." in why and "Not undone: Swap" not in why
