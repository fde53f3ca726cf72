"""Disk space: what is needed on a disk is added up."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from opslib.backups import disk_space
from opslib.backups.disk_space import Need

Usage = namedtuple("Usage", "free")


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two disks with a hundred bytes free on each: the folders `a` and `b` lie on one, `other` on the other."""
    places = {name: tmp_path / name for name in ("a", "b", "other")}
    for place in places.values():
        place.mkdir()
    monkeypatch.setattr(psutil, "disk_usage", lambda place: Usage(100))
    monkeypatch.setattr(disk_space, "same_disk", lambda one, two: (one.name == "other") == (two.name == "other"))
    return places


def test_needs_that_fit_each_and_not_together_lack_room_on_the_disk_that_they_share(disks: dict[str, Path]) -> None:
    assert not disk_space.enough([Need("backups", disks["a"], 60), Need("the database", disks["b"], 60)])
    assert disk_space.enough([Need("backups", disks["a"], 60), Need("the database", disks["other"], 60)])
    assert disk_space.enough([Need("backups", disks["a"], 60), Need("the database", disks["b"], 40)])


def test_a_place_that_is_not_known_says_so_and_does_not_count(disks: dict[str, Path]) -> None:
    found = disk_space.enough([Need("backups", disks["a"] / "to/be/made", 60), Need("the database", None, 1e12)])
    assert found
    assert [one.free for one in found.evidence] == ["100 B", "not known"]


def test_a_folder_shares_the_disk_of_the_one_that_it_would_be_made_in(tmp_path: Path) -> None:
    assert disk_space.same_disk(tmp_path / "not/yet", tmp_path)
