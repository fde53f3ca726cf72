"""The crash matrix in shards side by side: `python -m tests.crash_shards [N] […]`.

What follows N, the number of shards, is for `tests.crash_matrix`.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import shards
from tests.crash_matrix import all_well, summary
from tests.sandbox import toolchain
from tests.sandbox.layout import ROOT

SHARDS = 3


def main(arguments: list[str]) -> int:
    """Run the shards; 1 unless every case of each survives."""
    wanted = int(arguments.pop(0)) if arguments and arguments[0].isdecimal() else SHARDS
    toolchain.install()
    count = wanted if shards.allowed() else 1
    with tempfile.TemporaryDirectory(prefix="crash-") as folder, ThreadPoolExecutor(count) as pool:
        files = [Path(folder, f"{number}.json") for number in range(1, count + 1)]
        list(pool.map(lambda file: _run(file, count, arguments), files))
        ended = [json.loads(file.read_text()) for file in files if file.exists()]
    results = [one for shard in ended for one in shard]
    print(summary(results))
    return 0 if len(ended) == count and all_well(results) else 1


def _run(results: Path, count: int, arguments: list[str]) -> None:
    """Run one shard to its end, of which it leaves its results."""
    shard = f"{results.stem}/{count}"
    command = [sys.executable, "-m", "tests.crash_matrix", "--shard", shard, "--results", str(results), *arguments]
    subprocess.run([*shards.INSIDE, *command] if count > 1 else command, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
