"""A run: checks, a plan, its changes, what verifies them, and what undoes them."""

import atexit
import linecache
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, Any

from opslib.runbook import (
    environment as environments,
    lock,
    mask as masking,
    plan as plans,
    procedure,
    progress,
    session,
    table,
)
from opslib.runbook.act import Act
from opslib.runbook.answer import Answer, answered
from opslib.runbook.change import Change, Kept
from opslib.runbook.environment import Environment, Policy
from opslib.runbook.errors import (
    ChangeFailed,
    CheckFailed,
    NotApproved,
    Outcome,
    PlanVoid,
    Refused,
    RunbookError,
    UndoFailed,
    VerifyFailed,
)
from opslib.runbook.finding import Finding
from opslib.runbook.procedure import Procedure
from opslib.runbook.step import Display, Step, accepted as accepted_in, now, shell, step

_current: "Run | None" = None


def start(
    name: str, *, environment: str, apply: bool = False, approval: str = "", reason: str = "", incident: str = ""
) -> "Run":
    """Begin the run of a procedure: read its environment, check its parameters, take the lock if it will apply.

    In JupyterLab the cell may be run again: a run that has applied changes and not ended goes on.
    Raise Refused (a parameter, the environment, the lock) with nothing changed.
    """
    global _current
    masking.install()
    _refuse_closed_copy(name)
    kernel = shell()
    if kernel is not None and _after_cell not in kernel.events.callbacks["post_run_cell"]:
        kernel.events.register("post_run_cell", _after_cell)
    if _current is not None and not _current.ended:
        if _current.in_force:
            _current.show_start(note="this run goes on; what it has applied stays applied")
            return _current
        _current.release()
    _current = Run(name, environment, apply, approval, reason, incident)
    return _current


def stop(why: str) -> None:
    """End the current run; what it has changed stays if it is verified. The runner calls this when nobody else can."""
    if _current is not None:
        _current.leave(RunbookError(why))


class Run:
    """One execution of a procedure in one environment. Made by `start`."""

    def __init__(self, name: str, environment: str, apply: bool, approval: str, reason: str, incident: str) -> None:
        copy = session.copy()
        self.id = os.environ.get("OPSLIB_RUN") or (copy.stem.rpartition("-")[2] if copy else uuid.uuid4().hex[:8])
        self.applies = apply
        self.ended: Outcome | None = None
        self.steps: list[Step] = []
        self.in_force: list[Change] = []
        """The changes that were begun and not undone, oldest first."""
        self._done: dict[str, Step] = {}
        self._checks: dict[str, bool] = {}
        self._answers: dict[str, Any] = {}
        """What each check was answered with, as the plan's digest has it."""
        self._failed: dict[str, str] = {}
        """What was to be looked at and failed, and why. After the last verify that undoes nothing."""
        self._passed: set[int] = set()
        """The cells that have run to their end, and since the last change that comes before them."""
        self._reached = (-1, 0)
        self._to_apply: set[str] = set()
        """The parameters that only a run that applies needs."""
        self._planned: dict[str, dict[str, Any]] = {}
        self._found: dict[str, Finding] = {}
        self._foreign: list[str] = []
        self._digest = ""
        self._approval = approval
        self._approved = ""
        self._began = now()
        self._closing: Step = {}
        self._lock: IO[str] | None = None
        self._about = {"reason": reason, "incident": incident, "operator": session.operator()}
        try:
            self.procedure: Procedure = procedure.load(name)
            self.parameters = self.procedure.bind(self._given(environment, apply, approval, reason, incident))
            self.environment: Environment = environments.load(environment, new=self.procedure.describes)
            masking.mask.know(self.environment.values())
            if apply:
                self._hold()
        except Refused as error:
            self.stop(error)
            raise
        self.show_start(note=self._left_open() if apply else "")

    def check(
        self,
        title: str,
        given: Answer | bool | Callable[[], Answer | bool],
        evidence: Any = None,
        *,
        otherwise: str = "",
        accept: bool = False,
        asked: bool = True,
        to_apply: str = "",
    ) -> None:
        """Record a question about the world that must be answered yes. Raise CheckFailed if it is not.

        `evidence` is shown as a table; `otherwise` says what to do where the answer is not yes. With `accept` the
        operator goes on with any answer, which the record says. One that is not `asked` is shown so. `to_apply` names a
        parameter that only a run that applies needs (a name that is typed, a reason): neither it nor the question is
        part of the plan.
        """
        self._open()
        self._reach()
        if to_apply:
            self._to_apply.add(to_apply)
        if not asked or (to_apply and not self.applies):
            self._checks.pop(title, None)
            self._answer(title, "not asked", to_apply)
            note = f"asked in a run that applies, with {to_apply}" if asked else "not asked"
            self._show(step("check", title, None, note=note))
            return
        given = given() if callable(given) else given
        # Anything else than a plain yes is no: an object that happens to be true answers nothing.
        answer = answered(given if isinstance(given, Answer) else given is True, evidence, otherwise)
        if answer or accept or not self.verified:
            self._checks[title] = bool(answer) or accept
        self._answer(title, [answer.ok, accept, table.rows(answer.evidence, lasting=True)], to_apply)
        self._show(step("check", title, answer.ok, **_more(answer, accept)), answer.evidence)
        if not answer and not accept:
            found = "cannot tell" if answer.ok is None else "not so"
            raise CheckFailed(f"{found}: {title}. {answer.otherwise or 'Nothing was changed by this step.'}")

    def plan(self, *planned: Change) -> None:
        """Show the changes that `apply` will make, with the plan's digest. Raise NotApproved if that is asked for.

        Raise CheckFailed while a check of this run stands answered no.
        """
        self._open()
        self._need_parameters()
        if wrong := [title for title, ok in self._checks.items() if not ok]:
            raise CheckFailed(f"no plan while a check is not answered yes: {'; '.join(wrong)}. Ask it again first.")
        titles = [one.title for one in planned]
        if twice := {title for title in titles if titles.count(title) > 1}:
            raise PlanVoid(
                f"two changes of a plan are called {'; '.join(sorted(twice))}. Give each a title of its own."
            )
        rows = [one.describe() for one in planned]
        self._planned = {t: r for t, r in self._planned.items() if t in self._done} | {r["change"]: r for r in rows}
        settled = {name: value for name, value in self.parameters.items() if name not in self._to_apply}
        self._foreign = plans.foreign(self.procedure)
        context = plans.context(self.procedure, self.environment, settled, self._answers, self._foreign)
        self._digest = plans.digest(context, rows)
        title = f"Plan {plans.short(self._digest)}"
        shown = step("plan", title, None, digest=self._digest, context=context, changes=rows)
        shown["note"] = f"{len(rows)} change{'s' * (len(rows) != 1)}, " + (
            "none of them made yet" if self.applies else "none of which this run makes"
        )
        if self._foreign:
            shown["note"] += f"; {len(self._foreign)} cells ran that the procedure does not have"
        numbered = enumerate(zip(planned, rows, strict=True), 1)
        self._show(shown, [line for number, (one, row) in numbered for line in one.lines(number, row["to"])])
        if self.applies:
            self._need_approval()

    def apply(self, *planned: Change) -> None:
        """Make changes that the plan has shown, each once in a run. In a plan run, say that nothing is done.

        A change that fails is undone, with all before it, and the run ends. Raise ChangeFailed, PlanVoid, NotApproved.
        """
        self._open()
        self._reach()
        for one in planned:
            if one.title in self._done:
                self._redisplay(self._done[one.title])
                continue
            if one.title not in self._planned:
                raise PlanVoid(f"{one.title!r} was not in the plan that this run has shown. Run the plan cell again.")
            if not self.applies:
                self._show(step("change", one.title, None, state="not done", note="not done: this run only plans"))
                continue
            if self._policy != "none" and self._approved != self._digest:
                raise NotApproved(
                    f"plan {plans.short(self._digest)} is not approved. Approve it above, then run this cell again."
                )
            if self._policy != "none" and plans.foreign(self.procedure) != self._foreign:
                raise NotApproved(
                    "a cell that is not the procedure's, or was edited, ran after the plan was shown: what is approved "
                    "is what runs. Run the plan cell again, and approve what it shows then."
                )
            self._need_parameters()
            self._make(one)

    def verify(
        self,
        title: str,
        question: Callable[[], Any],
        *,
        within: float = 30,
        every: float = 0.5,
        otherwise: str = "",
        accept: bool = False,
        asked: bool = True,
    ) -> None:
        """Ask after a change until the answer is true or time is up. In a plan run, only show the question.

        `question` gives an Answer, a truth value, or a pair of that and evidence. `within` and `every` are seconds.
        What is still no when time is up undoes what this run has applied and ends it; what cannot be told undoes
        nothing, and ends it as needs-person. With `accept` the operator goes on with any answer, which the record says.
        Raise VerifyFailed.
        """
        self._open()
        if not self.applies or not asked:
            self._reach()
            self._show(step("verify", title, None, note="asked after the change" if asked else "not asked"))
            return
        ends = time.monotonic() + within
        display = Display()
        begun = step("verify", title, None, progress=True)
        try:
            while True:
                with progress.shown(lambda text: display.show({**begun, "note": text})):
                    answer = answered(question(), otherwise=otherwise)
                if answer or time.monotonic() >= ends:
                    break
                time.sleep(every)
        except BaseException as error:
            self._show(step("verify", title, False, otherwise=f"{_said(error)} {otherwise}"), _evidence(error), display)
            self.stop(error)
            raise
        if answer or accept:
            self._reach()
        self._show(step("verify", title, answer.ok, **_more(answer, accept)), answer.evidence, display)
        if answer or accept:
            return
        unknown = answer.ok is None
        failed = VerifyFailed(
            f"{'it cannot be told' if unknown else 'still not so'} after {within:g} s: {title}. {answer.otherwise}"
        )
        if unknown and self.in_force:
            standing = "; ".join(one.title for one in self.in_force)
            self._end(Outcome.NEEDS_PERSON, f"{failed} Changed, not verified, not undone: {standing}.")
        else:
            self.stop(failed)
        raise failed

    def note(self, title: str, evidence: Any = None) -> None:
        """Record what was seen, without judging it; what has to be asked for is a function that gives it.

        One that fails is shown so. It raises what it failed with, unless every verify has been asked: then nothing
        that was changed hangs on it, and the run goes on and says at its end what it has not seen.
        """
        self._open()
        self._reach()
        display, begun = Display(), self._mark(step("note", title, None, progress=True))
        try:
            with progress.shown(lambda text: display.show({**begun, "note": text})):
                seen = table.rows(evidence() if callable(evidence) else evidence)
        except BaseException as error:
            self._fail(step("note", title, False, otherwise=_said(error)), error, display)
            if not self.verified or not isinstance(error, Exception):
                raise
            return
        self._failed.pop(title, None)
        self._show(step("note", title), seen, display)

    def find(self, *found: Finding) -> None:
        """Record what is wrong, each with what mends it, or that nothing is. What is found stands at the run's end."""
        self._open()
        self._reach()
        if not found:
            self._show(step("note", "Nothing was found wrong"))
        for one in found:
            self._found[one.what] = one
            self._show(step("finding", one.what, False, **one.describe(self.environment.name)))

    def finish(self) -> None:
        """End a run whose checks all held; its record is complete. Asked again in JupyterLab, say how it ended."""
        if self.ended and not session.headless():
            Display().show(self._closing, text=self._way_on)
            return
        self._open()
        self._reach()
        if wrong := [title for title, ok in self._checks.items() if not ok]:
            raise CheckFailed(f"a check is not answered yes: {'; '.join(wrong)}. Ask it again first.")
        if missing := self._missing:
            raise ChangeFailed(f"planned and not applied: {'; '.join(missing)}. Run the cells that apply them.")
        accepted = accepted_in(self.steps)
        held = "what had to hold held" if self._failed or self._found or accepted else "all checks held"
        if accepted:
            held += f"; accepted by the operator: {'; '.join(accepted)}"
        if self._found:
            worst_first = sorted(self._found.values(), key=lambda one: one.severity)
            held += f"; found wrong: {'; '.join(one.what for one in worst_first)}"
        if self._failed:
            held += f"; {self._unseen}"
        if self.applies:
            self._end(Outcome.APPLIED, held)
        elif self._planned:
            needed = {name: self.parameters[name] or "…" for name in sorted(self._to_apply)}
            given = {**self.parameters, **self._about, **needed}
            carry_out = plans.command(self.procedure, self.environment, given, self._digest)
            self._end(Outcome.PLANNED, f"{held}. Nothing was changed. To carry it out: {carry_out}")
        else:
            self._end(Outcome.PLANNED, f"{held}. Nothing was changed, and nothing is planned.")

    def approve(self, digest: str, *, by: str = "") -> Step:
        """Approve this plan and give the step that says so. Raise PlanVoid if another was shown since."""
        self._open()
        shown = plans.short(self._digest)
        if digest not in (shown, self._digest):
            raise PlanVoid(f"plan {digest} is not the last that was shown, which is {shown}. Approve that one.")
        self._approved = self._digest
        approved = step("plan", f"Plan {shown} is approved", True, digest=self._digest, changes=[], approved=True)
        approved["note"] = f"by {by or self._about['operator']}"
        self.steps.append(approved)
        return approved

    def release(self) -> None:
        """Let go of the environment's lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def show_start(self, note: str = "") -> None:
        """Show which procedure, environment and mode this is."""
        mode = "carries out its plan" if self.applies else "plan only, changes nothing"
        title = f"{self.procedure.title} — {self.environment.title}: {mode}"
        note = "; ".join(filter(None, [note, masking.mask.doubt]))
        begun = step("start", title, True, run=self.id, procedure=self.procedure.name, apply=self.applies, note=note)
        if not session.headless():
            from opslib.runbook import record

            begun["process"] = record.process()
        begun["at"] = self._began  # where a run goes on, its steps go on from its beginning
        self._show({**begun, **self._about, "environment": self.environment.name})

    # How a run goes wrong

    def _make(self, one: Change) -> None:
        display = Display()
        begun = step("change", one.title, None, state="applying", note="under way", **self._planned[one.title])
        if (found := one.replaces()) != (expected := self._planned[one.title]["to"]):
            raise PlanVoid(f"{one.title}: planned for {expected!r}, now there is {found!r}. Run the plan cell again.")
        try:
            display.show(begun)
            if not session.recorded():
                raise RunbookError("the record cannot be saved, so this change was not begun.")
            self.in_force.append(one)
            self._passed = {number for number in self._passed if number < self._reached[0]}
            with progress.shown(lambda text: display.show({**begun, "note": text, "progress": True})):
                one.do()
        except BaseException as error:
            state = "failed" if one in self.in_force else "not done"
            failed = {**begun, "ok": False, "state": state, "ended": now(), "note": _said(error)}
            self._show(failed, _evidence(error), display)
            self.stop(error)
            if not isinstance(error, Exception) or isinstance(error, RunbookError):
                raise
            raise ChangeFailed(f"{one.title}: {_said(error)}") from error
        done = {**begun, "ok": True, "state": "applied", "ended": now(), "note": _took(begun["at"])}
        self._done[one.title] = done
        self._show(done, display=display)

    @property
    def verified(self) -> bool:
        """Whether all that was planned is applied, and no cell of the notebook has a verify that is still to come."""
        cell, line = self._reached
        asked = self.procedure.verifies
        ahead = [n for n, last in asked.items() if n not in self._passed and (n != cell or last > line)]
        return bool(asked) and not ahead and not self._missing

    def passed(self, source: str) -> None:
        """Take note of a cell that has run to its end."""
        self._passed.add(self.procedure.cell(source))
        self._failed.pop(_first(source), None)

    def broke(self, source: str, error: BaseException) -> None:
        """Take note of a cell that has failed: after the last verify it is shown, and undoes nothing."""
        if not self.verified or isinstance(error, KeyboardInterrupt):
            self.leave(error)
        else:
            self._fail(step("note", _first(source), False, otherwise=_said(error)), error)

    def leave(self, error: BaseException) -> None:
        """End the run where nobody goes on with it: what is verified stays, anything else is undone."""
        if self.ended or not self.in_force or not self.verified:
            self.stop(error)
            return
        unseen = f", and {self._unseen}" if self._failed else ""
        self._end(Outcome.APPLIED, f"{_said(error)} What was changed is verified and stays{unseen}.", cut_short=True)

    def _fail(self, one: Step, error: BaseException, display: Display | None = None) -> None:
        self._failed[one["title"]] = _said(error)
        self._show(one, _evidence(error), display)

    def _mark(self, one: Step) -> Step:
        # The runner reads it, whatever befalls the kernel from here on.
        return one | {"verified": True} if self.verified else one

    @property
    def _missing(self) -> list[str]:
        return [title for title in self._planned if self.applies and title not in self._done]

    @property
    def _way_on(self) -> str:
        """For who has read a plan in JupyterLab: the link to a copy that carries it out, with all its parameters."""
        copy = session.copy()
        if copy is None or self.ended is not Outcome.PLANNED or not self._planned:
            return ""
        from opslib.runbook import record

        form = (record.head(copy) or {}).get("carried_out_by", "")
        approval = f"&approval={plans.short(self._digest)}" if self._policy != "none" else ""
        return f"**[Open a copy that carries this plan out]({form}{approval})**" if form else ""

    @property
    def _unseen(self) -> str:
        return "not seen: " + "; ".join(f"{title} ({why})" for title, why in self._failed.items())

    def _reach(self) -> None:
        """Take note of the line of the notebook that has called."""
        frame = sys._getframe(2)
        self._reached = self.procedure.cell("".join(linecache.getlines(frame.f_code.co_filename))), frame.f_lineno

    def stop(self, error: BaseException) -> None:
        """Undo what is in force, newest first, and end the run; at an undo that fails, stop and say what stands."""
        if self.ended:
            return
        if not self.in_force:
            refused = isinstance(error, Refused)
            self._end(Outcome.REFUSED if refused else Outcome.FAILED, f"{_said(error)} Nothing was changed.")
            return
        while self.in_force:
            one = self.in_force[-1]
            display = Display()
            title = f"Undo: {one.title}"
            undone: list[Act] = []
            try:
                if isinstance(one.undo, Kept) and one.undo.matters:
                    raise UndoFailed(f"{one.undo.why}.")
                display.show(step("undo", title, None, note="under way"))
                one.put_back(done=undone.append)
            except BaseException as failure:
                self._show(step("undo", title, False, note=_said(failure)), _evidence(failure), display)
                self._end(Outcome.NEEDS_PERSON, f"{_said(error)} {self._stands(undone)} {_said(failure)}")
                return
            self.in_force.pop()
            self._show(step("undo", title, True), display=display)
        self._end(Outcome.UNDONE, f"{_said(error)} What this run had changed was put back.")

    def _stands(self, undone: Sequence[Act]) -> str:
        """Say what stands after an undo that has failed; of that change these acts were undone."""
        *whole, last = self.in_force
        said = []
        if undone:
            left = [_first_line(act) for act in last.way_back[len(undone) :]]
            done = "; ".join(map(_first_line, undone))
            said.append(f"Undone in part: {last.title}: done: {done}; not, or not for certain: {'; '.join(left)}.")
        else:
            whole.append(last)
        if whole:
            standing = "; ".join(f"{one.title} ({self._planned[one.title]['to']})" for one in whole)
            said.append(f"Not undone: {standing}.")
        return " ".join(said)

    def _end(self, outcome: Outcome, why: str, **more: Any) -> None:
        self.ended = outcome
        self.release()
        why = masking.mask.text(why)
        good = outcome in (Outcome.PLANNED, Outcome.APPLIED)
        last = step("end", f"{outcome.capitalize()}: {why}", good, outcome=outcome.value, why=why, **more)
        # A cell that was run again has lost its earlier output, so the last step repeats them all.
        self._closing = {**last, "steps": [*self.steps, last]}
        Display().show(self._closing, text=self._way_on)

    # What a run needs

    def _given(self, environment: str, apply: bool, approval: str, reason: str, incident: str) -> dict[str, Any]:
        said = {"environment": environment, "apply": apply, "approval": approval}
        said |= {"reason": reason, "incident": incident}
        variables = session.variables()
        declared = {name: variables[name] for name in self.procedure.parameters if name in variables}
        return declared | {name: value for name, value in said.items() if name in self.procedure.parameters}

    def _left_open(self) -> str:
        from opslib.runbook import listing

        return listing.left_open(self.environment.name, self.procedure.name, besides=self.id)

    def _answer(self, title: str, said: Any, to_apply: str) -> None:
        """Keep what the plan's digest has of an answer."""
        if not to_apply:
            self._answers[title] = said

    def _need_parameters(self) -> None:
        """Raise PlanVoid if a parameter has been given another value since the run began."""
        given, declared = session.variables(), self.procedure.parameters
        changed = [n for n, value in self.parameters.items() if declared[n].accept(given.get(n, value)) != value]
        if changed:
            raise PlanVoid(f"since the run began, {', '.join(changed)} was given another value. Run its start again.")

    def _hold(self) -> None:
        self.environment.prepare()
        self._lock = lock.hold(
            self.environment.lock,
            {
                "procedure": self.procedure.name,
                "operator": self._about["operator"],
                "since": now(),
                "pid": os.getpid(),
                "record": os.environ.get("OPSLIB_RECORD") or str(session.copy() or ""),
            },
        )
        atexit.register(self.release)

    @property
    def _policy(self) -> Policy:
        return self.environment.policy(self.procedure.name)

    def _need_approval(self) -> None:
        given, shown = self._approval.strip().lower(), plans.short(self._digest)
        if self._policy == "none":
            return
        if self._policy == "second-person" and given in ("", shown, self._digest):
            from opslib.runbook import approval

            names = {"procedure": self.procedure.name, "operator": self._about["operator"]}
            found = approval.check(self._digest, environment=self.environment, **names)
            Display().show(self.approve(self._digest, by=f"{found.by}, who signed it at {found.at}"))
            return
        if given in (shown, self._digest):
            Display().show(self.approve(given))
            return
        if given:
            raise NotApproved(
                f"the approval is for plan {given[:40]!a}, and this plan is {shown}: the world, a parameter, the "
                f"procedure or its code is not what it was then. Read this plan, and approve {shown}."
            )
        if session.headless():
            raise NotApproved(
                f"{self.environment.name} asks for an approved plan. Read this one, and run it again with "
                f"--approval {shown}"
            )
        from opslib.runbook.panel import ask

        ask(self.environment, shown, self.approve)

    def _open(self) -> None:
        if self.ended:
            if not session.headless():
                Display().show(self._closing)  # a page that was loaded anew may have missed it
            raise Refused(f"this run has ended as {self.ended}. Start it again, in a new copy if its record is sealed.")

    def _show(self, one: Step, evidence: Any = None, display: Display | None = None) -> None:
        one = self._mark(one)
        self.steps.append(one)
        rows = table.rows(evidence)
        if one.get("otherwise"):
            one["note"] = one["otherwise"]
        if rows:
            one["evidence"] = rows
        (display or Display()).show(one, rows)

    def _redisplay(self, one: Step) -> None:
        Display().show({**one, "note": f"{one['note']}; not done a second time"})


def _refuse_closed_copy(name: str) -> None:
    """Refuse to start in a working copy whose record is closed, where nothing of a new run would be kept."""
    copy = session.copy()
    if copy is None:
        return
    from opslib.runbook import ledger

    if (_current is not None and _current.ended) or ledger.is_sealed(copy):
        raise Refused(f"the run in this copy has ended and its record is closed. Open a new copy: /runbook/{name}")


def _after_cell(result: Any) -> None:
    """Tell the run how a cell has ended; one that has failed ends it where nobody is there to mend it and go on."""
    if _current is None or _current.ended:
        return
    error = result.error_in_exec or result.error_before_exec
    if error is None:
        _current.passed(result.info.raw_cell)
    elif session.headless() or (_current.verified and not isinstance(error, KeyboardInterrupt)):
        _current.broke(result.info.raw_cell, error)


def _first(source: str) -> str:
    """Name a cell by its first line."""
    return f"The cell `{source.strip().partition(chr(10))[0][:60]}` has failed"


def _first_line(act: Act) -> str:
    return act.shown.partition("\n")[0]


def _more(answer: Answer, accepted: bool) -> dict[str, Any]:
    """What a step says of an answer that is not yes."""
    if answer:
        return {}
    unknown = {"unknown": True} if answer.ok is None else {}
    if accepted:
        return {"otherwise": "accepted by the operator", "accepted": True, **unknown}
    return {"otherwise": answer.otherwise, **unknown}


def _said(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "It was interrupted."
    if isinstance(error, RunbookError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _evidence(error: BaseException) -> Any:
    return error.evidence if isinstance(error, RunbookError) else None


def _took(begun: str) -> str:
    seconds = (datetime.fromisoformat(now()) - datetime.fromisoformat(begun)).total_seconds()
    return f"took {seconds:.1f} s"
