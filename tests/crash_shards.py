"""The crash matrix in shards side by side, as most of its time is waiting: `python -m tests.crash_shards [N] […]`.

Each shard has a clone of the last commit in a temporary folder, with a stand-in of its own, and namespaces of its own,
since ports are fixed. Where these may not be made (that takes root) there is one shard. What follows N is for
`tests.crash_matrix`.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import join

from tests.crash_matrix import all_well, summary
from tests.sandbox import toolchain
from tests.sandbox.layout import NODE_MODULES, ROOT

SHARDS = 3
# In namespaces of its own, and what it leaves running ends with it. The shell stays, to reap what has lost its parent.
ALONE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
LOOPBACK = "ip link set lo up"


def main(arguments: list[str]) -> int:
    """Run the shards; 1 unless every case of each survives."""
    wanted = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else SHARDS
    count = wanted if _may_be_alone() else 1
    toolchain.install()
    with tempfile.TemporaryDirectory(prefix="crash-") as folder, ThreadPoolExecutor(count) as pool:
        os.chmod(folder, 0o755)  # PostgreSQL, which is not root, must get to its data
        places = [Path(folder, f"shard-{number}") for number in range(1, count + 1)]
        list(pool.map(lambda place: _run(place, count, arguments), places))
        ended = [json.loads(file.read_text()) for place in places if (file := _results(place)).exists()]
    results = [one for shard in ended for one in shard]
    print(summary(results))
    return 0 if len(ended) == count and all_well(results) else 1


def _run(place: Path, count: int, arguments: list[str]) -> None:
    """Run one shard to its end, of which it leaves its results."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True)
    (place / NODE_MODULES.relative_to(ROOT)).symlink_to(NODE_MODULES)
    shard = f"{place.name.partition('-')[2]}/{count}"
    command = [sys.executable, "-m", "tests.crash_matrix", "--shard", shard, "--results", str(_results(place))]
    command += arguments
    if count > 1:
        command = [*ALONE, f"{LOOPBACK} && {join(command)}; exit $?"]
    (temporary := place.with_suffix(".tmp")).mkdir(0o755)
    # This Python knows opslib by the folder that it was installed from: the clone's goes before that.
    variables = {**os.environ, "PYTHONPATH": str(place), "TMPDIR": str(temporary)}
    subprocess.run(command, cwd=place, env=variables)


def _results(place: Path) -> Path:
    return place.with_suffix(".json")


def _may_be_alone() -> bool:
    try:
        return subprocess.run([*ALONE, LOOPBACK], capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
