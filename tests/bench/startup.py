"""How long it takes to the first answered check, beside papermill on an empty notebook, and to the end of a run."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from tests import sandbox

TIMES = 7
ENDS = 40
BAR = 0.55


def main() -> None:
    """Print both medians with their ratio, then the slowest end of 40 runs."""
    sandbox.start()
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": kernel}), empty)
        ours, theirs = [], []
        for _ in range(TIMES):
            ours.append(first_check()[0])
            theirs.append(papermill(empty))
    check, whole = statistics.median(ours), statistics.median(theirs)
    print(f"command to first answered check of restart_api   {check:6.2f} s")
    print(f"papermill, an empty notebook                     {whole:6.2f} s")
    print(f"ratio {check / whole:.2f}, the bar is {BAR}")
    ends = [first_check()[1] for _ in range(ENDS)]
    print(
        f"last step to end of process, {ENDS} runs: median {statistics.median(ends):.2f} s, slowest {max(ends):.2f} s"
    )


def first_check() -> tuple[float, float]:
    """Plan a restart; give the seconds to the first check, and from the last step to the end."""
    begun = time.monotonic()
    checked = last = 0.0
    command = [str(Path(sys.executable).with_name("runbook")), "run", "restart_api"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            last = time.monotonic()
            if not checked and "PM2's daemon" in line:
                checked = last - begun
    return checked, time.monotonic() - last


def papermill(notebook: Path) -> float:
    """Execute a notebook with plain papermill; give the seconds."""
    begun = time.monotonic()
    command = [Path(sys.executable).with_name("papermill"), notebook, notebook.with_name("out.ipynb")]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
