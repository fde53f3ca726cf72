"""Backups in a folder: what is listed, fetched and refused, whatever bytes lie there."""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from opslib import propertypulse
from opslib.backups import backup, store
from opslib.backups.backup import Backup, Damaged
from opslib.backups.manifest import Manifest, Table
from opslib.backups.store import Folder
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment, RunbookError
from tests.place import Place

NOW = datetime(2030, 1, 31, 2, 30, tzinfo=UTC)
TABLES = (Table("public.payments", 300, NOW), Table('odd."x', 0, None))
ABOUT = Manifest(NOW, "18.6", "db", "app", "m1", "0/1", "UTF8", "C", "C", "c", None, TABLES, (), ("app",))
CONTENT = os.urandom(3000) * 900 + b"the end"


@pytest.fixture
def env(place: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    """An environment whose folder is of its own, and whose bucket is never asked."""
    file = place.folder / "parameters/test.yaml"
    backups = "{folder: backups, bucket: none, region: us-east-1, credentials: 'env:NONE'}"
    file.write_text(f"{file.read_text()}backups: {backups}\n")
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    return propertypulse.load("test")


@pytest.fixture
def folder(env: PropertyPulse) -> Folder:
    """The folder of that environment."""
    return Folder(env)


def make(folder: Folder, run: str = "0123abcd", content: bytes = CONTENT, taken: datetime = NOW) -> Backup:
    """Make a whole backup, in two frames as compression by parts would."""
    half = len(content) // 2
    squeeze = zstandard.ZstdCompressor(write_checksum=True)
    archive = squeeze.compress(content[:half]) + squeeze.compress(content[half:])
    digest = hashlib.sha256(archive).hexdigest()
    one = Backup(f"{taken:%Y%m%dT%H%M%SZ}-{run}", taken, len(archive), digest, len(content), ABOUT)
    folder.write(one.name + store.ARCHIVE, archive)
    backup.write(one, folder)
    return backup.read([folder])[0][0]


def test_what_was_written_is_listed_and_fetched_and_nothing_is_left(env: PropertyPulse, folder: Folder) -> None:
    one = make(folder)
    assert (one.manifest, one.taken, one.proven) == (ABOUT, NOW, None)
    assert one.where == (f"backups/{one.name}.dump.zst",)
    backup.fetch(one, folder, folder.fetched)
    assert folder.fetched.read_bytes() == CONTENT
    assert folder.fetched.stat().st_mode & 0o777 == 0o600
    (left,) = folder.unfinished()
    assert left.shown == f"rm -f backups/{folder.fetched.name}"
    left.run()
    assert folder.unfinished() == []
    assert {file.stat().st_mode & 0o777 for file in folder.path.glob("*")} == {0o600}
    assert folder.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["cut", "cut a frame", "flipped", "empty", "another's", "longer", "raw"])
def test_damage_is_found_before_anything_is_given(env: PropertyPulse, folder: Folder, damage: str) -> None:
    one = make(folder)
    file = folder.path / (one.name + store.ARCHIVE)
    good = file.read_bytes()
    squeeze = zstandard.ZstdCompressor(write_checksum=True)
    file.write_bytes(
        {
            "cut": good[:-1],
            "cut a frame": squeeze.compress(CONTENT[: len(CONTENT) // 2]),  # a whole frame: zstd finds nothing wrong
            "flipped": good[:999] + bytes([good[999] ^ 4]) + good[1000:],
            "empty": b"",
            "another's": squeeze.compress(CONTENT[::-1]),
            "longer": good + squeeze.compress(b"more"),
            "raw": CONTENT,
        }[damage]
    )
    with pytest.raises(Damaged, match=r"is damaged|is cut short|has another content"):
        backup.fetch(one, folder, folder.fetched)
    assert not folder.fetched.exists()


@pytest.mark.parametrize("at", range(0, 1000, 37))
def test_each_flipped_bit_is_found(folder: Folder, at: int) -> None:
    one = make(folder, content=b"payments " * 4000)
    file = folder.path / (one.name + store.ARCHIVE)
    content = bytearray(file.read_bytes())
    content[at % len(content)] ^= 1 << (at % 8)
    file.write_bytes(content)
    with pytest.raises(Damaged):
        backup.check(one, folder)


def test_a_half_is_no_backup(folder: Folder) -> None:
    one = make(folder)
    for name in (one.name + store.ARCHIVE, one.name + store.PROVEN):
        folder.write(name.replace("0123abcd", "11111111"), b"archive without a manifest")
    (folder.path / f"{one.name.replace('0123', '2222')}.json.part").write_text("{}")
    (folder.path / "notes.json").write_text("{}")
    assert [found.name for found in backup.read([folder])[0]] == [one.name]


def test_only_parts_of_backups_of_ones_own_are_removed(env: PropertyPulse, folder: Folder) -> None:
    own, time = store.owner(env), "20300131T023000Z-0123abcd"
    others = {"download.part", f"{time}.dump.zst.part", f"{time}-deadbeef.json.part", "fetched-deadbeef.dump.part"}
    others |= {f"{time}-{own}.part.txt"}
    mine = {f"{time}-{own}.dump.zst.part", f"fetched-{own}.dump.part", f"fetched-{own}.dump.part.own.part"}
    folder.path.mkdir()
    for name in others | mine:
        (folder.path / name).write_bytes(b"x")
    for act in folder.unfinished():
        act.run()
    assert {file.name for file in folder.path.glob("*.part*")} == others
    assert folder.unfinished() == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "x"}', b"\xff"])
def test_a_manifest_that_cannot_be_read_is_named(folder: Folder, content: bytes) -> None:
    one = make(folder)
    folder.write(one.name + store.MANIFEST, content)
    assert backup.read([folder]) == ([], [f"backups/{one.name}.json"])


def test_a_proof_of_another_archive_proves_nothing(folder: Folder) -> None:
    one = make(folder)
    backup.prove(one, folder, NOW)
    assert backup.read([folder])[0][0].proven == NOW
    make(folder, content=CONTENT + b"!")
    assert backup.read([folder])[0][0].proven is None


def test_removed_from_the_manifest_on(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(folder)
    backup.prove(one, folder, NOW)
    gone: list[str] = []
    monkeypatch.setattr(folder, "delete", gone.append)
    backup.remove(one, [folder])
    assert gone == [one.name + ending for ending in (".json", ".proven", ".dump.zst")]


def test_newest_first_and_copies_together(folder: Folder, env: PropertyPulse, tmp_path: Path) -> None:
    newer = make(folder, "1111aaaa", taken=NOW.replace(hour=3))
    make(folder, "2222bbbb")
    other = Folder(env)
    other.path = tmp_path / "other"
    make(other, "1111aaaa", taken=NOW.replace(hour=3))
    found = backup.listed(env, [other, folder])
    assert [one.name for one in found] == [newer.name, "20300131T023000Z-2222bbbb"]
    assert [len(one.where) for one in found] == [2, 1]
    assert backup.holding(found[1], [other, folder]) == [folder]
    with pytest.raises(RunbookError, match="none of that can be reached"):
        backup.holding(found[1], [other])


def test_no_room_is_said_with_what_is_needed(
    env: PropertyPulse, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(folder)

    def full(*_: Any, **__: Any) -> Iterator[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "pieces", full)
    with pytest.raises(RunbookError, match=r"No space left on device; 2\.7 MB are needed there"):
        backup.fetch(one, folder, folder.fetched)
    assert not folder.fetched.exists()


def test_an_environment_without_backups_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    with pytest.raises(BadEnvironment, match="has no `backups:`"):
        store.stores(propertypulse.load("test"))
