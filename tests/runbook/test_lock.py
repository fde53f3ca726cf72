"""The lock: one holder at a time, by name, and a dead one blocks nobody."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opslib.runbook import lock
from opslib.runbook.errors import Held, Refused

HOLDER = {"procedure": "restart_api", "operator": "ada", "since": "2026-01-01T00:00:00Z", "pid": 7, "record": "r.ipynb"}
HOLD = "import sys, time; from pathlib import Path; from opslib.runbook import lock; "
HOLD += "f = lock.hold(Path(sys.argv[1]), {}); "


def test_the_second_is_told_who_holds_it_and_has_it_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.hold(path, HOLDER), pytest.raises(Held, match=r"restart_api, started by ada at .+process 7, record r"):
        lock.hold(path, {**HOLDER, "operator": "eve"})
    with lock.hold(path, HOLDER):
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("said", ["", "{", "[]", '{"procedure": "x"}', "\x00" * 9])
def test_a_holder_that_has_not_said_who_it_is(tmp_path: Path, said: str) -> None:
    with lock.hold(tmp_path / "lock", HOLDER) as held:
        held.seek(0)
        held.truncate()
        held.write(said)
        held.flush()
        with pytest.raises(Held, match="another run has just taken this environment"):
            lock.hold(tmp_path / "lock", HOLDER)


@pytest.mark.parametrize("before", ["x" * 5000, '{"a": 1}', "\x00\xff"])
def test_what_an_earlier_holder_has_left_is_gone(tmp_path: Path, before: str) -> None:
    (tmp_path / "lock").write_text(before)
    with lock.hold(tmp_path / "lock", HOLDER), pytest.raises(Held, match="restart_api"):
        lock.hold(tmp_path / "lock", HOLDER)


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    code = HOLD + "print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Held):
            lock.hold(tmp_path / "lock", HOLDER)
        holder.kill()
    lock.hold(tmp_path / "lock", HOLDER).close()


def test_a_child_of_the_holder_does_not_keep_it(tmp_path: Path) -> None:
    code = HOLD + "import subprocess; subprocess.Popen(['sleep', '5'], close_fds=False); print('held', flush=True)"
    holder = subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.DEVNULL, timeout=30)
    assert holder.returncode == 0
    lock.hold(tmp_path / "lock", HOLDER).close()


def test_a_lock_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=re.escape(f"{tmp_path}: cannot be opened for the environment's lock")):
        lock.hold(tmp_path, HOLDER)
    assert os.listdir(tmp_path) == []
