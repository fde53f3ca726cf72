"""The crash matrix: a procedure is killed at each of its steps and inside its changes, run again, and must converge.

`python -m tests.crash_matrix [--sample N] [--shard K/N] [PROCEDURE…]`; exits 1 unless every case survives. Starts the
stand-in unless it runs. A case survives if the second run ends applied or undone, or finds nothing left to do where
nothing is, and the procedure's own check then finds nothing wrong.
"""

import argparse
import json
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, cycle, groupby, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

import psutil

from tests import sandbox
from tests.crash_subjects import SUBJECTS, Subject

INSIDE = (0.15, 0.5, 0.85)
"""The moments inside a change at which it is killed, in parts of the time that it takes."""
SHORT = 0.5
"""A change that takes fewer seconds than this is killed at the middle one of them only."""
VICTIMS = ("kernel", "runner")
AT_ONCE = 4
"""So many steps that only read share the run in which it is seen whether all is well."""
DEATH_SECONDS = 20
RUN_SECONDS = 300
GOOD = {0: "applied", 2: "undone"}
LISTEN_TIMEOUT = 1500
"""Milliseconds that a reload takes for each worker here, which is up in a third of that: most of the waiting."""

FAILED = "FAILED"

Step = Mapping[str, Any]
Row = tuple[str, int, str]
"""A result: the procedure, the number of kills, how the run after them has ended or that it has not survived."""


@dataclass(frozen=True)
class Kill:
    """The kernel or the runner is killed so many seconds after the run has shown something, or when it shows more."""

    victim: str
    shown: int | str
    """How many steps the run has shown, or the title of the change that it has begun."""
    after: float = 0
    where: str = ""

    def __str__(self) -> str:
        return f"{self.victim} killed {self.where or f'in {self.shown!r}'}"


@dataclass(frozen=True)
class Case:
    """A run that is killed and run again: once, or where it only reads, killed at one step after the other."""

    subject: Subject
    kills: Sequence[Kill]
    last: str = ""
    """The last change: once a killed run has begun it, a run after that may find nothing left to do."""

    def __str__(self) -> str:
        return f"{self.subject}: {'; '.join(map(str, self.kills))}"


@dataclass(frozen=True)
class Result:
    """How the run after the kill has ended, and what is wrong then."""

    ended: str
    problems: Sequence[str] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the cases of what is named, or of all; 1 unless all survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash_matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PROCEDURE", help="only what begins so, as in 'NAME stage=retire'")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many cases, spread over all of a procedure's")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="only every Nth case, beginning at the Kth")
    parser.add_argument("--list", action="store_true", help="only show the cases")
    parser.add_argument("--results", type=Path, metavar="FILE", help="also write the results there, as JSON")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if not any(str(one).startswith(name) for one in SUBJECTS)]:
        parser.error(f"found {', '.join(unknown)}, expected of: {', '.join(map(str, SUBJECTS))}")
    wanted = [one for one in SUBJECTS if not options.names or str(one).startswith(tuple(options.names))]
    started = sandbox.start(listen_timeout=LISTEN_TIMEOUT)
    results: list[Row] = []
    try:
        for procedure, subjects in groupby(wanted, attrgetter("procedure")):
            of_stages = [
                shard(sample(list(cases(one)), options.sample), options.shard, wanted.index(one)) for one in subjects
            ]
            for case in filter(None, chain.from_iterable(zip_longest(*of_stages))):
                begun = time.monotonic()
                result = Result("listed") if options.list else survive(case)
                ended = FAILED if result.problems else result.ended
                results.append((procedure, len(case.kills), ended))
                took = f"{time.monotonic() - begun:3.0f} s"
                print(f"{ended:8} {took} {case} {'; '.join(result.problems)}", flush=True)
    finally:
        if started:
            sandbox.stop()
    if options.results:
        options.results.write_text(json.dumps(results))
    else:
        print(summary(results))
    return 0 if all_well(results) else 1


def all_well(results: Sequence[Row]) -> bool:
    """Whether there was a case, and every one has survived."""
    return bool(results) and all(ended != FAILED for _, _, ended in results)


def summary(results: Sequence[Row]) -> str:
    """Say how many cases there were and have survived, for each procedure and in all."""
    lines = []
    for name in [*dict.fromkeys(procedure for procedure, _, _ in results), "in all"]:
        rows = [row for row in results if name in (row[0], "in all")]
        ends = Counter(ended for _, _, ended in rows)
        how = ", ".join(f"{n} {ended}" for ended, n in sorted(ends.items()))
        counted = f"{sum(kills for _, kills, _ in rows)} kills in {len(rows)} cases"
        lines.append(f"{name}: {counted}, {len(rows) - ends[FAILED]} survivors ({how})")
    return "\n".join(lines)


def cases(subject: Subject) -> Iterator[Case]:
    """Give the cases of a procedure, from the steps that it shows when nobody kills it.

    Around a change both victims die. Inside it, and between steps that only read, they take turns. Before the first
    change the run after a kill is itself killed at the next step, as nothing can be left behind but a lock.
    """
    subject.prepare()
    steps = list(_undisturbed(subject))
    begins = [shown for shown, (_, step) in enumerate(steps, 1) if step.get("state") == "applying"]
    victim = cycle(VICTIMS)
    reading: list[Kill] = []
    for shown, (at, step) in enumerate(steps, 1):
        applying = shown in begins
        where = f"{'in' if applying else 'after'} {step['step']} {step['title'][:60]!r}"
        if shown < begins[0]:
            reading.append(Kill(next(victim), shown, 0, where))
            if len(reading) == AT_ONCE or shown + 1 == begins[0]:
                yield Case(subject, tuple(reading))
                reading.clear()
            continue
        # At the end the kernel may be gone already, and only the record is left to be closed.
        dies = {"change": VICTIMS, "end": ("runner",)}.get(step["step"]) or (next(victim),)
        kills = [Kill(one, shown, 0, where) for one in dies]
        if applying:
            took = steps[shown][0] - at
            moments = [took * part for part in (INSIDE if took >= SHORT else INSIDE[1:2])]
            kills += [Kill(next(victim), shown, after, f"{where} after {after:.3f} s") for after in moments]
        yield from (Case(subject, (kill,), last=steps[begins[-1] - 1][1]["title"]) for kill in kills)


def sample(all_cases: list[Case], size: int | None) -> list[Case]:
    """Give so many of the cases, spread evenly; all of them if no size is asked for."""
    if not size or size >= len(all_cases):
        return all_cases
    return [all_cases[(2 * n + 1) * len(all_cases) // (2 * size)] for n in range(size)]


def shard(all_cases: list[Case], which: str, turn: int = 0) -> list[Case]:
    """Give the cases of shard K/N: every Nth, so that each shard has as many of each kind.

    With each `turn` another shard begins, so that a few cases of many stages are spread over all shards.
    """
    first, step = map(int, which.split("/"))
    return all_cases[(first - 1 + turn) % step :: step]


def survive(case: Case) -> Result:
    """Kill a run as the case says, run the procedure again, and say how that ended and what is wrong then."""
    case.subject.prepare()
    shown: list[Step] = []
    for kill in case.kills:
        shown, problem = _kill(_start(case.subject), kill)
        if problem:
            return Result("not killed", [problem])
    again = _start(case.subject)
    out, ended, err = _ended(again)
    steps = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    late = any(step.get("title") == case.last and step.get("state") == "applying" for step in shown)
    if ended and late and case.subject.over in _refused_by(steps):
        return Result("over", case.subject.problems())
    if not ended or again.returncode not in GOOD:
        last = steps[-2].get("title", "") if len(steps) > 1 else ""
        return Result("failed", [f"run again, it ended with {again.returncode}: {last} {err.strip()[-300:]}"])
    return Result(GOOD[again.returncode], case.subject.problems())


def _kill(process: "subprocess.Popen[str]", kill: Kill) -> tuple[list[Step], str]:
    """Kill a run, and wait until runner and kernel are gone; give what it has shown, and what went wrong with that.

    It may show more than it was to be killed at: a kill takes its time.
    """
    assert process.stdout
    kernel, shown = None, []
    for line in iter(process.stdout.readline, ""):
        kernel = kernel or _kernel(process)
        shown.append(json.loads(line))
        if kill.shown in (len(shown), shown[-1].get("state") == "applying" and shown[-1]["title"]):
            break
    select.select([process.stdout], [], [], kill.after)  # sooner, if the change ends before that
    victim = psutil.Process(process.pid) if kill.victim == "runner" else kernel
    if victim is None or not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE:
        return shown, f"there was no {kill.victim} to kill any more"
    victim.kill()
    out, ended, _ = _ended(process)
    shown += [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    if not ended:
        return shown, f"the runner lives on {RUN_SECONDS} s after its {kill.victim} was killed"
    try:
        if kernel:
            kernel.wait(DEATH_SECONDS)
    except psutil.TimeoutExpired:
        return shown, f"the kernel lives on {DEATH_SECONDS} s after its runner"
    return shown, ""


def _undisturbed(subject: Subject) -> Iterator[tuple[float, Step]]:
    process = _start(subject)
    assert process.stdout
    for line in iter(process.stdout.readline, ""):
        if json.loads(line)["step"] != "record":  # by then the run is over
            yield time.monotonic(), json.loads(line)
    if process.wait() != 0:
        raise SystemExit(f"{subject}: ended with {process.returncode} although nobody killed it; mend that first")


def _start(subject: Subject) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", subject.procedure, "--apply", "--json"]
    given = subject.parameters | ({"settle_seconds": str(subject.settle)} if subject.settle else {})
    command += [word for key, value in given.items() for word in ("-p", key, value)]
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


def _refused_by(steps: Iterable[Step]) -> list[str]:
    """Give the checks that a run has failed before it changed anything."""
    if any(step["step"] == "change" for step in steps):
        return []
    return [step["title"] for step in steps if step["step"] == "check" and step["ok"] is False]


def _kernel(runner: "subprocess.Popen[str]") -> psutil.Process | None:
    with suppress(psutil.Error):  # a child that ends while it is looked at
        for child in psutil.Process(runner.pid).children():
            if "ipykernel_launcher" in " ".join(child.cmdline()):
                return child
    return None


if __name__ == "__main__":
    sys.exit(main())
