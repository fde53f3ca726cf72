"""The runner inside one process, as a scheduler uses it."""

import subprocess
import sys

from tests.place import Place

MANY = """\
import asyncio, gc
from opslib.runbook import procedure, runner

for _ in range(6):
    execution = asyncio.run(runner.run(procedure.load("many"), {}))
    gc.collect()
    print(execution.outcome, flush=True)
"""


def test_many_runs_in_one_process(place: Place) -> None:
    place.write("many", "print('x' * 100_000)", "run.finish()")
    done = subprocess.run(
        [sys.executable, "-c", MANY], env=place.variables, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["planned"] * 6, done.stderr
