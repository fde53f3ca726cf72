"""Scratch folders: removed once their process is gone, and nothing else ever is."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from opslib.runbook.errors import RunbookError
from opslib.runbook.scratch import Scratch


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that all users of a machine share."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(*folders: Path) -> None:
    for folder in folders:
        os.utime(folder, (time.time() - 120,) * 2)


def test_what_killed_processes_left_is_removed_and_nothing_else(shared: Path) -> None:
    others = shared / "runbook-1-others"
    others.mkdir()
    live = Scratch("kernel")
    home = live.path.parent
    left, new, file = home / "kernel-left", home / "lab-new", home / "notes"
    for folder in (left, new):
        folder.mkdir()
        (folder / "kernel.json").touch()
    file.touch()
    age(others, left, live.path, file)
    with Scratch("lab") as other:
        found = {one.name for one in home.iterdir()}
        assert found == {live.path.name, other.name, "lab-new", "notes"}
    live.remove()
    live.remove()
    assert {one.name for one in home.iterdir()} == {"lab-new", "notes"}
    assert others.exists()
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("found", ["a link", "open to others", "a file", "another user's"])
def test_a_folder_that_is_not_ours_alone_is_left_alone(found: str, shared: Path) -> None:
    home, elsewhere = shared / f"opslib-{os.geteuid()}", shared / "elsewhere"
    kept = elsewhere / "kernel-left"
    kept.mkdir(parents=True)
    if found == "a link":
        home.symlink_to(elsewhere)
    elif found == "a file":
        home.touch()
    else:
        kept = home / "kernel-left"
        kept.mkdir(parents=True)
        home.chmod(0o755 if found == "open to others" else 0o700)
    if found == "another user's":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(home, 65534, 65534)
    age(kept)
    with pytest.raises(RunbookError, match=r"expected one that is yours alone.+set TMPDIR"):
        Scratch("kernel")
    assert kept.exists()
