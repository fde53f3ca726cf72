"""Records: whole, sealed, and chained, so that whatever happens to one of them shows."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.runbook import record
from opslib.runbook.cli import main
from opslib.runbook.errors import Refused, RunbookError
from opslib.runbook.step import step

SEAL = "import sys; from pathlib import Path; from opslib.runbook import record; "
SEAL += "[record.seal(Path(p)) for p in sys.argv[1:]]"


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

    after = make("b")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunbookError, match="the record is not sealed: No space left on device"):
        record.seal(after)
    assert ledger().read_bytes() == before


def test_a_name_is_sealed_once(capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = sealed("a")
    before = ledger().read_bytes()
    for move in (lambda: None, lambda: make("a", outcome="failed"), file.unlink, lambda: make("a")):
        move()
        if file.exists():
            with pytest.raises(Refused, match="a record of this name was sealed before"):
                record.seal(file)
    assert ledger().read_bytes() == before


def test_a_name_that_is_in_the_ledger_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """As older versions left it: the first entry of a name is its record's, so what came over it shows."""
    (file,) = sealed("a")
    first = ledger().read_bytes()
    make("a", outcome="failed")
    ledger().unlink()
    record.seal(file)
    (line,) = ledger().read_bytes().splitlines()
    entry = {**json.loads(line), "previous": hashlib.sha256(first[:-1]).hexdigest()}
    ledger().write_bytes(first + json.dumps(entry).encode() + b"\n")
    code, said = verify(capsys)
    assert code == 1
    assert "ledger.jsonl:2: seals test/a.ipynb once more: its first seal holds" in said
    assert "test/a.ipynb: was altered after it was sealed" in said
    assert said.count("\n") == 2


# Who may write where


GONE = {"pid": 2**22 + 1}


@pytest.mark.parametrize(
    ("about", "seal", "moved", "why"),
    [
        ({}, True, False, "is the name of a record that was sealed"),
        ({}, True, True, "is the name of a record that was sealed"),
        ({}, False, False, "is the record of a run that has ended"),
        ({"outcome": "", "finished": ""}, False, False, "is the record of a run that is under way"),
        ({"outcome": "", "finished": "", "process": GONE}, False, False, "is the record of a run that was cut short"),
        ({"started": ""}, False, False, "is a working copy"),
    ],
    ids=["sealed", "sealed and moved away", "not sealed", "running", "interrupted", "never started"],
)
@pytest.mark.parametrize("inside", [True, False], ids=["among the records", "elsewhere"])
def test_where_a_record_is_no_other_one_goes(
    about: dict[str, Any], seal: bool, moved: bool, why: str, inside: bool, root: Path
) -> None:
    file = make("nightly", **about)
    if not inside:
        file = file.rename(root / "nightly.ipynb")
    if seal:
        record.seal(file)
    if moved:
        file.rename(root / "moved.ipynb")
    (file.parent / "nightly-2.ipynb").touch()
    before = {one.name: one.read_bytes() for one in file.parent.iterdir() if one.is_file()}
    with pytest.raises(Refused, match=rf"nightly\.ipynb: {why}, and nothing .+ another name, as nightly-3\.ipynb"):
        record.claim(file, b"{}")
    assert {one.name: one.read_bytes() for one in file.parent.iterdir() if one.is_file()} == before
    record.claim(file.with_stem("nightly-3"), b"{}")


def test_what_is_no_record_is_replaced_but_never_among_the_records(root: Path) -> None:
    plain = b'{"metadata": {"papermill": {}}, "cells": []}'
    for file, free in ((root / "out.ipynb", True), (record.folder() / "test/out.ipynb", False)):
        record.save(file, plain)
        if free:
            record.claim(file, b"{}")
        else:
            with pytest.raises(Refused, match="lies among the records"):
                record.claim(file, b"{}")
        assert file.read_bytes() == (b"{}" if free else plain)
    os.mkfifo(root / "pipe")
    with pytest.raises(Refused, match="is no regular file"):
        record.claim(root / "pipe", b"{}")


CLAIM = """\
import json, sys
from pathlib import Path
from opslib.runbook import record
from opslib.runbook.errors import Refused
about = {"started": "2026-01-01T00:00:00.000Z", "id": sys.argv[2], "process": record.process()}
print("ready", flush=True)
sys.stdin.readline()
try:
    record.claim(Path(sys.argv[1]), record.dumps({"metadata": {"opslib": about}, "cells": []}))
    print("got it")
except Refused as error:
    print(error)
sys.stdin.read()
"""


@pytest.mark.parametrize("before", [None, b"{}"], ids=["a new name", "over what is no record"])
def test_of_many_runs_onto_one_name_one_gets_it(before: bytes | None, root: Path) -> None:
    file = root / "out.ipynb"
    if before:
        file.write_bytes(before)
    pipe = subprocess.PIPE
    variables = {**os.environ, "RUNBOOK_ROOT": str(root)}
    mine = [
        subprocess.Popen([sys.executable, "-c", CLAIM, file, str(i)], stdin=pipe, stdout=pipe, text=True, env=variables)
        for i in range(8)
    ]
    assert [one.stdout and one.stdout.readline() for one in mine] == ["ready\n"] * 8
    for one in mine:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.stdout.readline() for one in mine if one.stdout]
    for one in mine:
        one.communicate()
    (winner,) = [i for i, line in enumerate(said) if line == "got it\n"]
    assert sum("is under way, and nothing writes over it" in line for line in said) == 7
    assert (record.head(file) or {})["id"] == str(winner)


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
    """Not what a save holds, in whatever container, nor what is new, nor what somebody else calls so."""
    names = ("left", "held", "new")
    for name in names:
        (root / f".a.ipynb.{name}.opslib.tmp").touch()
    (root / ".a.ipynb.4711.tmp").touch()
    for file in root.iterdir():
        os.utime(file, (time.time() - (0 if ".new." in file.name else 120),) * 2)
    with (root / ".a.ipynb.held.opslib.tmp").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        record.sweep(root)
    assert {one.name for one in root.iterdir()} == {
        ".a.ipynb.held.opslib.tmp",
        ".a.ipynb.new.opslib.tmp",
        ".a.ipynb.4711.tmp",
    }


def test_any_text_can_be_saved() -> None:
    content = record.dumps({"metadata": {}, "cells": [{"source": "\ud800 \x00 ü"}]})
    assert json.loads(content)["cells"] == [{"source": "\ud800 \x00 ü"}]


def test_what_json_has_no_word_for_is_saved_as_text() -> None:
    content = record.dumps({"metadata": {}, "cells": [{"a": [float("nan"), 1.5], "b": float("-inf")}]})
    assert json.loads(content, parse_constant=pytest.fail)["cells"] == [{"a": ["nan", 1.5], "b": "-inf"}]


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
    start = {**step("start", "Begin", True), "apply": False, "at": "2026-01-01T00:00:01Z"}
    check = {**step("check", "It is well", True), "at": "2026-01-01T00:00:02Z"}
    end = step("end", "Planned", True, outcome="planned", why="")
    change = {**step("change", "Set it", None, state="applying"), "at": "2026-01-01T00:00:03Z"}

    def shown(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"cells": [{"outputs": [{"metadata": {"opslib": one}} for one in steps]}]}

    told = record.steps(shown({**end, "steps": [start, check, end]}))
    assert [one["step"] for one in told] == ["start", "check", "end"]
    later = ({**start, "at": "2026-01-01T00:00:04Z"}, {**check, "at": "2026-01-01T00:00:05Z"})
    assert record.steps(shown(check, start, *later)) == list(later)
    told = record.steps(shown(start, change, {**end, "steps": [start, check, 3, {"step": "x"}, end]}))
    assert [one["step"] for one in told] == ["start", "check", "change", "end"]
