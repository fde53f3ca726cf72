"""The ledger: whatever happens to a sealed record shows, and no record is written over."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from opslib.runbook import ledger, record
from opslib.runbook.cli import main
from opslib.runbook.errors import Refused, RunbookError
from tests.runbook.records import make

pytestmark = pytest.mark.usefixtures("root")

SEAL = "import sys; from pathlib import Path; from opslib.runbook import ledger; "
SEAL += "[ledger.seal(Path(p)) for p in sys.argv[1:]]"


def sealed(*names: str) -> list[Path]:
    files = [make(name) for name in names]
    for file in files:
        ledger.seal(file)
    return files


def file_of_ledger() -> Path:
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
    assert ledger.problems() == ["test/a.ipynb: was altered after it was sealed"]
    file.write_bytes(whole)
    assert ledger.problems() == []


def test_a_record_removed(capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b")[0].unlink()
    assert verify(capsys) == (1, "test/a.ipynb: is in the ledger and missing on disk\n")


@pytest.mark.parametrize(("at", "broken"), [(0, True), (1, True), (2, False)], ids=["first", "middle", "last"])
def test_an_entry_removed(at: int, broken: bool, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a", "b", "c")
    sealed(*names)
    lines = file_of_ledger().read_bytes().splitlines(keepends=True)
    file_of_ledger().write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
    code, said = verify(capsys)
    assert code == 1
    assert f"test/{names[at]}.ipynb: finished, and not in the ledger" in said
    assert ("does not follow the entry before it" in said) == broken


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_entry_altered(at: int, capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b", "c")
    lines = file_of_ledger().read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[at])
    lines[at] = json.dumps({**entry, "sha256": "0" * 64}).encode() + b"\n"
    file_of_ledger().write_bytes(b"".join(lines))
    code, said = verify(capsys)
    assert code == 1
    assert f"test/{'abc'[at]}.ipynb: was altered" in said


@pytest.mark.parametrize("line", [b"{", b"[]", b"null", b'{"record": 3}', b"\xff\xfe", b""])
def test_an_entry_that_is_none(line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a")
    file_of_ledger().write_bytes(file_of_ledger().read_bytes() + line + b"\n")
    code, said = verify(capsys)
    assert code == 1
    assert "ledger.jsonl:2: does not follow" in said


def test_the_ledger_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    sealed("a", "b")
    file_of_ledger().unlink()
    code, said = verify(capsys)
    assert code == 1
    assert said.count("finished, and not in the ledger") == 2


def test_an_entry_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    """As a kill in the middle of sealing leaves it: said, and the next seal goes on from the last whole entry."""
    sealed("a", "b")
    file_of_ledger().write_bytes(file_of_ledger().read_bytes()[:-20])
    code, said = verify(capsys)
    assert code == 1
    assert "ledger.jsonl:2: is cut short" in said
    assert "test/b.ipynb: finished, and not in the ledger" in said
    ledger.seal(make("c"))
    code, said = verify(capsys)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("test/b.ipynb: finished, and not in the ledger")


def test_a_seal_that_fails_leaves_the_ledger_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed("a")
    before = file_of_ledger().read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    after = make("b")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunbookError, match="the record is not sealed: No space left on device"):
        ledger.seal(after)
    assert file_of_ledger().read_bytes() == before


def test_a_name_is_sealed_once(capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = sealed("a")
    before = file_of_ledger().read_bytes()
    for move in (lambda: None, lambda: make("a", outcome="failed"), file.unlink, lambda: make("a")):
        move()
        if file.exists():
            with pytest.raises(Refused, match="a record of this name was sealed before"):
                ledger.seal(file)
    assert file_of_ledger().read_bytes() == before


def test_a_name_that_is_in_the_ledger_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """As older versions left it: the first entry of a name is its record's, so what came over it shows."""
    (file,) = sealed("a")
    first = file_of_ledger().read_bytes()
    make("a", outcome="failed")
    file_of_ledger().unlink()
    ledger.seal(file)
    (line,) = file_of_ledger().read_bytes().splitlines()
    entry = {**json.loads(line), "previous": hashlib.sha256(first[:-1]).hexdigest()}
    file_of_ledger().write_bytes(first + json.dumps(entry).encode() + b"\n")
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
        ledger.seal(file)
    if moved:
        file.rename(root / "moved.ipynb")
    (file.parent / "nightly-2.ipynb").touch()
    before = {one.name: one.read_bytes() for one in file.parent.iterdir() if one.is_file()}
    with pytest.raises(Refused, match=rf"nightly\.ipynb: {why}, and nothing .+ another name, as nightly-3\.ipynb"):
        ledger.claim(file, b"{}")
    assert {one.name: one.read_bytes() for one in file.parent.iterdir() if one.is_file()} == before
    ledger.claim(file.with_stem("nightly-3"), b"{}")


def test_what_is_no_record_is_replaced_but_never_among_the_records(root: Path) -> None:
    plain = b'{"metadata": {"papermill": {}}, "cells": []}'
    for file, free in ((root / "out.ipynb", True), (record.folder() / "test/out.ipynb", False)):
        record.save(file, plain)
        if free:
            ledger.claim(file, b"{}")
        else:
            with pytest.raises(Refused, match="lies among the records"):
                ledger.claim(file, b"{}")
        assert file.read_bytes() == (b"{}" if free else plain)
    os.mkfifo(root / "pipe")
    with pytest.raises(Refused, match="is no regular file"):
        ledger.claim(root / "pipe", b"{}")


CLAIM = """\
import json, sys
from pathlib import Path
from opslib.runbook import ledger, record
from opslib.runbook.errors import Refused
about = {"started": "2026-01-01T00:00:00.000Z", "id": sys.argv[2], "process": record.process()}
print("ready", flush=True)
sys.stdin.readline()
try:
    ledger.claim(Path(sys.argv[1]), record.dumps({"metadata": {"opslib": about}, "cells": []}))
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
    assert len(file_of_ledger().read_bytes().splitlines()) == 60
    assert ledger.problems() == []


def test_only_some_are_verified(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sealed("a", "b")
    first.write_bytes(b"{}")
    assert main(["verify", str(second)]) == 0
    assert main(["verify", "a"]) == 1
    assert "was altered" in capsys.readouterr().out
