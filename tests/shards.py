"""Tests in shards side by side, as most of their time is waiting: `python -m tests.shards [PYTEST'S ARGUMENTS]`.

A shard takes one file of tests after the other, and of what notebooks show its part. Ports and folders of the stand-in
are fixed: so each shard has namespaces of its own, in which it has the ports, and in memory the stand-in's state and
the records. Where these may not be made (that takes root) the tests run one after the other, as plain pytest has them.
"""

import os
import subprocess
import sys
from shlex import join

import pytest

from tests.sandbox import toolchain
from tests.sandbox.layout import ROOT, STATE

SHARDS = int(os.environ.get("SHARDS", 4))
OWN = (STATE, ROOT / "records")
"""The folders that each shard has for itself."""
# What a shard leaves running ends with it. The shell stays, to reap what has lost its parent.
ALONE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c")
SET_UP = " && ".join(
    ["ip link set lo up", *(join(["mount", "-t", "tmpfs", "-o", "mode=755", "own", str(p)]) for p in OWN)]
)
INSIDE = (*ALONE, f'{SET_UP} && "$@"; exit $?', "shard")
"""Behind this, a command runs in a shard."""


def allowed() -> bool:
    """Whether shards can be made here."""
    for folder in OWN:
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        return subprocess.run([*INSIDE, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def main(arguments: list[str]) -> int:
    """Run the tests; give pytest's exit code."""
    toolchain.install()
    if SHARDS > 1 and allowed():
        python = join([*INSIDE, sys.executable])
        arguments += ["--dist=loadgroup", "--no-loadscope-reorder", f"--tx={SHARDS}*popen//python={python}"]
    return pytest.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
