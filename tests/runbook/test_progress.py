"""The pace of progress, and how it is shown: rewritten in the output, never a save of its own, gone at the end."""

import itertools
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from opslib.runbook import progress
from tests.place import Place

LONG = """\
import time

from opslib import Change, Kept, act
from opslib.runbook import progress

def work():
    for part in range(6):
        time.sleep(0.5)
        progress.report(f"{part + 1} of 6 parts")

def slow():
    work()
    return True

change = Change("Work", [act("work", run=work)], undo=Kept("done is done"), replaces=lambda: "nothing")
run.plan(change)"""
CELLS = (LONG, 'run.apply(change)\nrun.verify("It is slow", slow)\nrun.apply(change)', "run.finish()")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (15452, "15 kB"), (2_500_000, "2.5 MB"), (3.2e14, "320 TB")]
)
def test_sizes_read_as_people_say_them(count: float, said: str) -> None:
    assert progress.size(count) == said


def test_a_long_step_reports_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(n / 4 for n in range(10_000))
    monkeypatch.setattr("opslib.runbook.progress.time.monotonic", lambda: next(clock))
    shown: list[str] = []
    with progress.shown(shown.append):
        for second in range(9_000):
            progress.report(str(second / 4))
    times = [float(text) for text in shown]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] >= progress.SHORTEST - 0.25
    assert min(gaps) >= progress.SHORTEST
    assert max(gaps) <= progress.LONGEST + 0.25
    assert gaps[-1] > gaps[0]


def test_outside_of_a_step_nothing_is_shown() -> None:
    shown: list[str] = []
    with progress.shown(shown.append):
        pass
    progress.report("lost")
    assert shown == []


def test_the_record_keeps_no_progress_and_the_terminal_shows_it(place: Place) -> None:
    place.write("work", *CELLS, tags={1: "apply"})
    done = place.runbook("run", "work", "--apply")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    working = [line for line in lines if " of 6 parts" in line]
    assert 4 <= len(working) <= 6
    assert any(line.startswith("· It is slow — ") for line in working)
    made = json.loads(Path(lines[-1]).read_text(encoding="utf-8"))
    outputs = [output for cell in made["cells"] for output in cell.get("outputs", [])]
    assert "of 6 parts" not in json.dumps(outputs)
    steps = [output["metadata"]["opslib"] for output in outputs]
    assert [one["title"] for one in steps].count("Work") == 2  # the second says that it is not done again
    assert not [one for one in steps if one.get("progress")]


def test_as_json_each_report_is_a_line(place: Place) -> None:
    place.write("work", *CELLS, tags={1: "apply"})
    lines = [json.loads(line) for line in place.runbook("run", "work", "--apply", "--json").stdout.splitlines()]
    reports = [line for line in lines if line.get("progress")]
    assert {line["step"] for line in reports} == {"change", "verify"}
    assert all(line["note"].endswith("of 6 parts") for line in reports)


def test_a_terminal_has_the_line_rewritten(place: Place) -> None:
    place.write("work", *CELLS, tags={1: "apply"})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", "work", "--apply"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=place.variables) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0, shown
    text = shown.decode()
    assert "\r\x1b[K· Work — 2 of 6 parts\r\x1b[K" in text or "\r\x1b[K· Work — 3 of 6 parts\r\x1b[K" in text
    assert "of 6 parts\r\n" not in text
