"""Tables: any evidence becomes rows, and nothing in them is taken for Markdown or HTML."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from opslib.runbook import procedure, table


@dataclass
class Worker:
    pid: int
    online: bool
    token: str = field(default="t0ken", repr=False)


@pytest.mark.parametrize(
    ("evidence", "rows"),
    [
        (None, []),
        ([], []),
        ({}, [{}]),
        ("text", [{"": "text"}]),
        (7, [{"": "7"}]),
        (True, [{"": "yes"}]),
        (["a", "b"], [{"": "a"}, {"": "b"}]),
        ({"a": 1, 2: None}, [{"a": "1", "2": ""}]),
        (Worker(3, False), [{"pid": "3", "online": "no"}]),
        ([Worker(3, True), {"pid": 4}], [{"pid": "3", "online": "yes"}, {"pid": "4"}]),
        ((x for x in "ab"), [{"": "a"}, {"": "b"}]),
        ({"due": datetime(2026, 1, 31, 3, tzinfo=timezone(timedelta(hours=2)))}, [{"due": "2026-01-31T01:00:00Z"}]),
        ({"file": procedure.root() / "notebooks/x.ipynb"}, [{"file": "notebooks/x.ipynb"}]),
    ],
)
def test_evidence_becomes_rows(evidence: Any, rows: table.Rows) -> None:
    assert table.rows(evidence) == rows


@given(st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=12), min_size=1, max_size=4), max_size=5))
def test_a_table_in_markdown_has_a_line_for_each_row_and_no_markup_of_its_content(rows: table.Rows) -> None:
    text = table.markdown(rows)
    if rows and list(dict.fromkeys(name for row in rows for name in row)) != [""]:
        assert text.count("\n") == len(rows) + 1
        cells = {line.replace("\\|", "").count("|") for line in text.split("\n")}
        assert len(cells) == 1
    assert "<" not in text.replace("\\<", "")


@given(st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=12), min_size=1, max_size=4), max_size=5))
def test_plain_text_never_fails(rows: table.Rows) -> None:
    assert isinstance(table.plain(rows), str)


def test_columns_are_as_wide_as_they_look() -> None:
    assert table.plain([{"a": "日本", "b": "x"}, {"a": "abcd", "b": "y"}]) == "a     b\n日本  x\nabcd  y"


def test_a_time_is_shown_to_the_second_and_in_utc_by_its_letter() -> None:
    at = datetime(2026, 1, 31, 9, 5, 7, 123, tzinfo=UTC)
    assert table.rows({"made": at, "paid": None}) == [{"made": "2026-01-31T09:05:07Z", "paid": ""}]
