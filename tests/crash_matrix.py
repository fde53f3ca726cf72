"""The crash matrix: a procedure is killed at each of its steps and inside its changes, run again, and must converge.

`python -m tests.crash_matrix [--sample N] [PROCEDURE…]` on the running stand-in; exits 1 unless every case survives.
A case survives if the second run ends applied or undone, and the procedure's own check then finds nothing wrong.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.drills import jwt_secret

FAST = {"settle_seconds": "1"}
INSIDE = (0.1, 0.4, 0.7, 0.95)
"""The moments inside a change at which it is killed, in parts of the time that it takes."""
SHORT = 0.5
"""A change that takes fewer seconds than this is only killed as it begins and as it has ended."""
VICTIMS = ("kernel", "runner")
DEATH_SECONDS = 20
RUN_SECONDS = 300
GOOD = {0: "applied", 2: "undone"}


@dataclass(frozen=True)
class Subject:
    """A procedure with its parameters, what brings the stand-in to where it starts, and what must hold at its end."""

    procedure: str
    prepare: Callable[[], object]
    problem: Callable[[], str]
    """Says what is wrong with the state that the procedure has ended in; empty if nothing is."""
    parameters: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        given = {key: value for key, value in self.parameters.items() if key not in FAST}
        return " ".join([self.procedure, *(f"{key}={value}" for key, value in given.items())])


SUBJECTS = (
    Subject("rotate_jwt_secret", jwt_secret.idle, jwt_secret.problem, FAST),
    Subject("rotate_jwt_secret", jwt_secret.overlap, jwt_secret.problem, {**FAST, "stage": "retire"}),
    Subject("rotate_jwt_secret", jwt_secret.overlap, jwt_secret.problem, {**FAST, "compromised": "True"}),
)


@dataclass(frozen=True)
class Case:
    """One kill: of the kernel or the runner, so many seconds after the run has shown something."""

    subject: Subject
    victim: str
    shown: int | str
    """How many steps the run has shown, or the title of the change that it has begun."""
    after: float
    where: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.victim} killed {self.where}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the cases of the named procedures, or of all; 1 unless all survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash_matrix", description=__doc__)
    parser.add_argument("procedures", nargs="*", metavar="PROCEDURE", help="only these; else all")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many cases, spread over all of a procedure's")
    parser.add_argument("--list", action="store_true", help="only show the cases")
    options = parser.parse_args(arguments)
    known = {subject.procedure for subject in SUBJECTS}
    if unknown := set(options.procedures) - known:
        parser.error(f"found {', '.join(sorted(unknown))}, expected of {', '.join(sorted(known))}")
    count = survivors = 0
    for subject in SUBJECTS:
        if options.procedures and subject.procedure not in options.procedures:
            continue
        for case in sample(list(cases(subject)), options.sample):
            count += 1
            wrong = "" if options.list else survive(case)
            survivors += not wrong
            print(f"{count:4} {f'FAILED {case}: {wrong}' if wrong else f'ok     {case}'}", flush=True)
    print(f"{count} cases, {survivors} survivors")
    return 0 if count and survivors == count else 1


def cases(subject: Subject) -> Iterator[Case]:
    """Give the cases of a procedure, from the steps that it shows when nobody kills it.

    Inside a change and around it both victims die. Between steps that only read they take turns, as what is left
    behind is the same.
    """
    subject.prepare()
    steps = list(_undisturbed(subject))
    for shown, (at, step) in enumerate(steps, 1):
        where = f"{'in' if step.get('state') == 'applying' else 'after'} {step['step']} {step['title'][:60]!r}"
        for victim in VICTIMS if step["step"] == "change" else [VICTIMS[shown % 2]]:
            yield Case(subject, victim, shown, 0, where)
        if step.get("state") == "applying" and (took := steps[shown][0] - at) >= SHORT:
            for after in (round(took * part, 1) for part in INSIDE):
                for victim in VICTIMS:
                    yield Case(subject, victim, shown, after, f"{where} after {after:.1f} s")


def sample(all_cases: list[Case], size: int | None) -> list[Case]:
    """Give so many of the cases, spread evenly; all of them if no size is asked for."""
    if not size or size >= len(all_cases):
        return all_cases
    return [all_cases[(2 * n + 1) * len(all_cases) // (2 * size)] for n in range(size)]


def survive(case: Case) -> str:
    """Kill a run as the case says, run the procedure again, and say what is wrong then; empty if nothing is."""
    case.subject.prepare()
    process = _start(case.subject)
    assert process.stdout
    kernel = None
    for count, line in enumerate(iter(process.stdout.readline, ""), 1):
        kernel = kernel or _kernel(process)
        if case.shown in (count, json.loads(line).get("state") == "applying" and json.loads(line)["title"]):
            break
    time.sleep(case.after)
    victim = psutil.Process(process.pid) if case.victim == "runner" else kernel
    if victim is None or not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE:
        return f"there was no {case.victim} to kill any more"
    victim.kill()
    _, ended, _ = _ended(process)
    if not ended:
        return f"the runner lives on {RUN_SECONDS} s after its {case.victim} was killed"
    if kernel:
        try:
            kernel.wait(DEATH_SECONDS)
        except psutil.TimeoutExpired:
            return f"the kernel lives on {DEATH_SECONDS} s after its runner"
    again = _start(case.subject)
    out, ended, err = _ended(again)
    if not ended or again.returncode not in GOOD:
        last = [json.loads(line).get("title", "") for line in out.splitlines() if line.startswith("{")]
        return f"run again, it ended with {again.returncode}: {' '.join(last[-1:])} {err.strip()[-300:]}"
    return case.subject.problem()


def _undisturbed(subject: Subject) -> Iterator[tuple[float, dict[str, Any]]]:
    process = _start(subject)
    assert process.stdout
    for line in iter(process.stdout.readline, ""):
        if json.loads(line)["step"] != "record":  # by then the run is over
            yield time.monotonic(), json.loads(line)
    if process.wait() != 0:
        raise SystemExit(f"{subject}: ended with {process.returncode} although nobody killed it; mend that first")


def _start(subject: Subject) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "opslib.cli", "run", subject.procedure, "--apply", "--json"]
    command += [word for key, value in subject.parameters.items() for word in ("-p", key, value)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ended(process: "subprocess.Popen[str]") -> tuple[str, bool, str]:
    """Wait for a process; give its output, whether it ended by itself in time, and its errors."""
    try:
        out, err = process.communicate(timeout=RUN_SECONDS)
        return out, True, err
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return out, False, f"{err} (still running after {RUN_SECONDS} s)"


def _kernel(runner: "subprocess.Popen[str]") -> psutil.Process | None:
    with suppress(psutil.Error):  # a child that ends while it is looked at
        for child in psutil.Process(runner.pid).children():
            if "ipykernel_launcher" in " ".join(child.cmdline()):
                return child
    return None


if __name__ == "__main__":
    sys.exit(main())
