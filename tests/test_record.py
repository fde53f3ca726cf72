"""Records: whole, sealed, and chained, so that whatever happens to one of them shows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib import record
from opslib.cli import main
from opslib.errors import Refused, RunbookError

SEAL = "import sys; from pathlib import Path; from opslib import record; [record.seal(Path(p)) for p in sys.argv[1:]]"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNBOOK_ROOT", str(tmp_path))
    return tmp_path


def make(name: str, **about: Any) -> Path:
    """Save a finished record, not sealed yet."""
    known: dict[str, Any] = {"procedure": "act", "environment": "test", "started": "2026-01-01T00:00:00.000Z"}
    known |= {"finished": "2026-01-01T00:00:01.000Z", "outcome": "applied", "apply": True, "process": record.process()}
    file = record.folder() / f"{about.get('environment', 'test')}/{name}.ipynb"
    record.save(file, record.dumps({"metadata": {"opslib": known | about}, "cells": []}))
    return file


def sealed(*names: str) -> list[Path]:
    files = [make(name) for name in names]
    for file in files:
        record.seal(file)
    return files


def ledger() -> Path:
    return record.folder() / "ledger.jsonl"


def verify(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["verify"])
    return code, capsys.readouterr().out


# What a seal shows


def test_whole(capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b", "c")
    assert verify(capsys) == (0, "The records are whole and unaltered.\n")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_byte_changed_anywhere(data: st.DataObject) -> None:
    file = record.folder() / "test/a.ipynb"
    if not file.exists():
        sealed("a")
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    file.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    assert record.problems() == ["test/a.ipynb: was altered after it was sealed"]
    file.write_bytes(whole)
    assert record.problems() == []


def test_a_record_removed(capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b")[0].unlink()
    assert verify(capsys) == (1, "test/a.ipynb: is in the ledger and missing on disk\n")


@pytest.mark.parametrize(("at", "broken"), [(0, True), (1, True), (2, False)], ids=["first", "middle", "last"])
def test_an_entry_removed(at: int, broken: bool, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a", "b", "c")
    sealed(*names)
    lines = ledger().read_bytes().splitlines(keepends=True)
    ledger().write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
    code, said = verify(capsys)
    assert code == 1
    assert f"test/{names[at]}.ipynb: finished, and not in the ledger" in said
    assert ("does not follow the entry before it" in said) == broken


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_entry_altered(at: int, capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b", "c")
    lines = ledger().read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[at])
    lines[at] = json.dumps({**entry, "sha256": "0" * 64}).encode() + b"\n"
    ledger().write_bytes(b"".join(lines))
    code, said = verify(capsys)
    assert code == 1
    assert f"test/{'abc'[at]}.ipynb: was altered" in said


@pytest.mark.parametrize("line", [b"{", b"[]", b"null", b'{"record": 3}', b"\xff\xfe", b""])
def test_an_entry_that_is_none(line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a")
    ledger().write_bytes(ledger().read_bytes() + line + b"\n")
    code, said = verify(capsys)
    assert code == 1
    assert "ledger.jsonl:2: does not follow" in said


def test_the_ledger_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b")
    ledger().unlink()
    code, said = verify(capsys)
    assert code == 1
    assert said.count("finished, and not in the ledger") == 2


def test_an_entry_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    """As a kill in the middle of sealing leaves it: said, and the next seal goes on from the last whole entry."""
    sealed("a", "b")
    ledger().write_bytes(ledger().read_bytes()[:-20])
    code, said = verify(capsys)
    assert code == 1
    assert "ledger.jsonl:2: is cut short" in said
    assert "test/b.ipynb: finished, and not in the ledger" in said
    record.seal(make("c"))
    code, said = verify(capsys)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("test/b.ipynb: finished, and not in the ledger")


def test_a_seal_that_fails_leaves_the_ledger_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed("a")
    before = ledger().read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunbookError, match="the record is not sealed: No space left on device"):
        record.seal(record.folder() / "test/a.ipynb")
    assert ledger().read_bytes() == before


def test_many_processes_seal_at_once(root: Path) -> None:
    files = [make(f"r{i}") for i in range(60)]
    mine = [
        subprocess.Popen([sys.executable, "-c", SEAL, *files[i::6]], env={**os.environ, "RUNBOOK_ROOT": str(root)})
        for i in range(6)
    ]
    assert [process.wait() for process in mine] == [0] * 6
    assert len(ledger().read_bytes().splitlines()) == 60
    assert record.problems() == []


def test_only_some_are_verified(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sealed("a", "b")
    first.write_bytes(b"{}")
    assert main(["verify", str(second)]) == 0
    assert main(["verify", "a"]) == 1
    assert "was altered" in capsys.readouterr().out


# Saving


def test_a_save_is_private_and_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "records/test/a.ipynb"
    record.save(file, b"old")
    assert file.stat().st_mode & 0o777 == 0o600

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunbookError, match=r"cannot be saved: No space left on device\. Free space there"):
        record.save(file, b"new")
    assert file.read_bytes() == b"old"
    assert [one.name for one in file.parent.iterdir()] == ["a.ipynb"]


def test_what_killed_saves_have_left_is_swept(root: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (root / f".a.ipynb.{pid}.tmp").touch()
    (root / ".a.ipynb.notes.tmp").touch()
    record.sweep(root)
    assert {one.name for one in root.iterdir()} == {f".a.ipynb.{os.getpid()}.tmp", ".a.ipynb.notes.tmp"}


def test_any_text_can_be_saved() -> None:
    content = record.dumps({"metadata": {}, "cells": [{"source": "\ud800 \x00 ü"}]})
    assert json.loads(content)["cells"] == [{"source": "\ud800 \x00 ü"}]


# Listings


def listing(*options: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["records", "--json", *options]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_records_are_listed_newest_first_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    make("20260101T000000Z-act-1", incident="INC-1")
    make("20260102T000000Z-look-2", procedure="look")
    make("20260103T000000Z-act-3", environment="other")
    assert [one["procedure"] for one in listing(capsys=capsys)] == ["act", "look", "act"]
    assert [one["environment"] for one in listing("--environment", "other", capsys=capsys)] == ["other"]
    assert [one["procedure"] for one in listing("--procedure", "look", capsys=capsys)] == ["look"]
    assert [one["incident"] for one in listing("--incident", "INC-1", capsys=capsys)] == ["INC-1"]
    assert listing("--incident", "*", capsys=capsys) == []
    assert listing("--environment", "/etc", capsys=capsys) == []


@pytest.mark.parametrize(
    ("process", "outcome"),
    [
        ({}, "running"),
        ({"created": 1.0}, "interrupted"),  # the same number, given to another process since
        ({"pid": 2**22 + 1}, "interrupted"),
        ({"host": "elsewhere"}, "interrupted"),
        ({"pid": "x"}, "interrupted"),
    ],
    ids=["alive", "pid used again", "gone", "another host", "altered"],
)
def test_an_unfinished_record_runs_or_was_interrupted(
    process: dict[str, Any], outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a", outcome="", finished="", process={**record.process(), **process})
    assert [one["outcome"] for one in listing(capsys=capsys)] == [outcome]
    assert record.problems() == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff", b'{"metadata": 3}', b'{"metadata": {"opslib": 3}}', b"{}"]
)
def test_what_is_no_record_is_listed_as_unreadable(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    record.save(record.folder() / "test/a.ipynb", content)
    assert [one["outcome"] for one in listing(capsys=capsys)] == ["unreadable"]
    assert verify(capsys) == (1, "test/a.ipynb: is not a record that can be read\n")


def test_a_listing_reads_no_more_than_the_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    template = make("template")
    content = template.read_bytes()[:-1] + b" " * (1 << 20)
    template.unlink()
    for number in range(2000):
        with (record.folder() / f"test/{number:04}.ipynb").open("wb") as file:
            file.write(content[: 1 << 10])
            file.truncate(1 << 20)  # a hole, which costs the test no disk
    before = psutil.Process().io_counters().read_chars
    assert len(listing(capsys=capsys)) == 2000
    assert psutil.Process().io_counters().read_chars - before < 2000 * (1 << 17)


@pytest.mark.parametrize(("name", "found"), [("c3", "1-a-c3"), ("1-a-c3.ipynb", "1-a-c3"), ("zz", None), ("a-", None)])
def test_a_record_is_found_by_the_end_of_its_name(name: str, found: str | None) -> None:
    make("1-a-c3")
    make("2-a-d4")
    if found:
        assert record.find(name).stem == found
    else:
        with pytest.raises(Refused, match="names 0 records"):
            record.find(name)


def test_steps_that_a_cell_lost_are_told_by_the_end() -> None:
    start, check, end = ({"step": kind, "at": str(i)} for i, kind in enumerate(("start", "check", "end")))
    cells = [{"outputs": [{"metadata": {"opslib": {**end, "steps": [start, check, end]}}}]}]
    assert [one["step"] for one in record.steps({"cells": cells})] == ["start", "check", "end"]
    again = [
        {
            "outputs": [
                {"metadata": {"opslib": one}} for one in (check, start, {**start, "at": "3"}, {**check, "at": "4"})
            ]
        }
    ]
    assert [one["at"] for one in record.steps({"cells": again})] == ["3", "4"]
