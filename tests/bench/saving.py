"""What it costs to keep the record on disk while a notebook runs: ours, nbclient that saves nothing, and papermill."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.place import Place

SIZES = {50: 7, 200: 5, 500: 5}
"""Cells, and how often each engine runs them."""
BAR = 1.3


def main() -> None:
    """Print a row for each size: medians, and the ratio to the engine that saves nothing."""
    print(f"trivial cells, seconds from kernel start to end (medians); the bar for ours: {BAR} × nbclient")
    print(f"{'cells':>5} {'nbclient':>9} {'ours':>9} {'ratio':>7} {'papermill':>10} {'ratio':>7}")
    for cells, times in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder) / "place")
            place.write("cells", *[f"x = {i}" for i in range(cells)], start=False)
            taken: dict[str, list[float]] = {"nbclient": [], "ours": [], "papermill": []}
            for turn in range(times):
                for engine, seconds in taken.items():
                    if engine != "papermill" or turn < 2:  # it takes up to a minute
                        seconds.append(measure(engine, place))
        base, ours, theirs = (statistics.median(seconds) for seconds in taken.values())
        print(
            f"{cells:>5} {base:>9.2f} {ours:>9.2f} {ours / base:>7.2f} {theirs:>10.2f} {theirs / base:>7.2f}",
            flush=True,
        )


def measure(engine: str, place: Place) -> float:
    """Run the notebook once in a process of its own; give the seconds that it took there."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.saving", engine]
    done = subprocess.run(command, env=place.variables, check=True, capture_output=True, text=True)
    return float(done.stdout)


def execute(engine: str) -> float:
    """Run the notebook in this process, everything imported before; give the seconds."""
    root = Path(os.environ["RUNBOOK_ROOT"])
    path = root / "notebooks/cells.ipynb"
    if engine == "ours":
        from opslib.runbook import execution, procedure, runner

        assert execution
        begun = time.monotonic()
        done = asyncio.run(runner.run(procedure.read(path), {}))
        assert done.outcome == "planned"
    elif engine == "nbclient":
        import nbformat
        from nbclient import NotebookClient

        begun = time.monotonic()
        NotebookClient(nbformat.read(path, 4), kernel_name="python3").execute()
    else:
        import papermill

        begun = time.monotonic()
        papermill.execute_notebook(path, root / "out.ipynb", kernel_name="python3", progress_bar=False)
    return time.monotonic() - begun


if __name__ == "__main__":
    if sys.argv[1:]:
        print(execute(sys.argv[1]))
    else:
        main()
