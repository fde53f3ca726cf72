"""Listings of records: newest first, filtered, and quick."""

import json
from typing import Any

import psutil
import pytest

from opslib.runbook import ledger, listing, record
from opslib.runbook.cli import main
from opslib.runbook.errors import Refused
from tests.runbook.records import make

pytestmark = pytest.mark.usefixtures("root")


def listed(*options: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["records", "--json", *options]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_records_are_listed_newest_first_and_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    make("20260101T000000Z-act-1", incident="INC-1")
    make("20260102T000000Z-look-2", procedure="look")
    make("20260103T000000Z-act-3", environment="other")
    assert [one["procedure"] for one in listed(capsys=capsys)] == ["act", "look", "act"]
    assert [one["environment"] for one in listed("--environment", "other", capsys=capsys)] == ["other"]
    assert [one["procedure"] for one in listed("--procedure", "look", capsys=capsys)] == ["look"]
    assert [one["incident"] for one in listed("--incident", "INC-1", capsys=capsys)] == ["INC-1"]
    assert listed("--incident", "*", capsys=capsys) == []
    assert listed("--environment", "/etc", capsys=capsys) == []


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
    assert [one["outcome"] for one in listed(capsys=capsys)] == [outcome]
    assert ledger.problems() == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff", b'{"metadata": 3}', b'{"metadata": {"opslib": 3}}', b"{}"]
)
def test_what_is_no_record_is_listed_as_unreadable(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    record.save(record.folder() / "test/a.ipynb", content)
    assert [one["outcome"] for one in listed(capsys=capsys)] == ["unreadable"]
    assert ledger.problems() == ["test/a.ipynb: is not a record that can be read"]


def test_a_listing_reads_no_more_than_the_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    template = make("template")
    content = template.read_bytes()[:-1] + b" " * (1 << 20)
    template.unlink()
    for number in range(2000):
        with (record.folder() / f"test/{number:04}.ipynb").open("wb") as file:
            file.write(content[: 1 << 10])
            file.truncate(1 << 20)  # a hole, which costs the test no disk
    before = psutil.Process().io_counters().read_chars
    assert len(listed(capsys=capsys)) == 2000
    assert psutil.Process().io_counters().read_chars - before < 2000 * (1 << 17)


@pytest.mark.parametrize(("name", "found"), [("c3", "1-a-c3"), ("1-a-c3.ipynb", "1-a-c3"), ("zz", None), ("a-", None)])
def test_a_record_is_found_by_the_end_of_its_name(name: str, found: str | None) -> None:
    make("1-a-c3")
    make("2-a-d4")
    if found:
        assert listing.find(name).stem == found
    else:
        with pytest.raises(Refused, match="names 0 records"):
            listing.find(name)
