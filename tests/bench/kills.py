"""What is left of a record when its runner is killed at a random moment of a big notebook: ours and papermill's."""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.place import Place

KILLS = 40
CELLS = 80
PRINTS = "print('x' * 200_000)"
SEED = 3
WITHIN = (0.8, 4.0)  # seconds after the first sign of a record


def main() -> None:
    """Print for each engine how many records can be read, and how many of those are true."""
    print(f"{KILLS} SIGKILLs at random moments, {CELLS} cells of 200 kB; the bar for ours: all {KILLS} true")
    print(f"{'engine':<12} {'readable':>9} {'true':>6} {'left over':>10}")
    for engine in ("runbook", "papermill"):
        moments = random.Random(SEED)
        readable = true = 0
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder) / "place")
            place.write("big", *[PRINTS] * CELLS, start=False)
            (place.folder / "records").mkdir()
            for number in range(KILLS):
                notebook = kill(engine, place, number, moments.uniform(*WITHIN))
                readable += notebook is not None
                true += notebook is not None and is_true(notebook)
            left = len([file for file in (place.folder / "records").rglob("*") if file.name.startswith(".")])
        print(f"{engine:<12} {readable:>9} {true:>6} {left:>10}", flush=True)


def kill(engine: str, place: Place, number: int, after: float) -> dict[str, Any] | None:
    """Start a run, kill the runner so long after its record first shows, and read what is left."""
    before = set((place.folder / "records").rglob("*.ipynb"))
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", "big"]
    if engine == "papermill":
        command = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar"]
        command += ["notebooks/big.ipynb", f"records/{number}.ipynb"]
    quiet = subprocess.DEVNULL
    runner = subprocess.Popen(
        command, cwd=place.folder, env=place.variables, start_new_session=True, stdout=quiet, stderr=quiet
    )
    while not (new := set((place.folder / "records").rglob("*.ipynb")) - before):
        time.sleep(0.01)
    time.sleep(after)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    try:
        found: dict[str, Any] = json.loads(new.pop().read_bytes())
    except ValueError:
        return None
    return found


def is_true(notebook: dict[str, Any]) -> bool:
    """Whether exactly the cells that ran are shown as having run."""
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        status = cell["metadata"]["papermill"]["status"]
        ran = cell["execution_count"] is not None
        if status == "completed" and (not ran or (cell["source"] == PRINTS and not cell["outputs"])):
            return False
        if status == "pending" and (ran or cell["outputs"]):
            return False
    return True


if __name__ == "__main__":
    main()
