"""Statements: what may be shown of one, and what two snapshots say."""

from datetime import UTC, datetime, timedelta

import pytest

from opslib.database import statement
from opslib.database.statement import Snapshot, Statement

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT  1\n  FROM x", "SELECT 1 FROM x"),
        ("WHERE email = 'ada@x.example'", "WHERE email = '…'"),
        ("WHERE a = 'it''s' AND b = $1", "WHERE a = '…' AND b = $1"),
        ("ALTER ROLE x PASSWORD 'never ended", "ALTER ROLE x PASSWORD '…'"),
        ("SELECT $$body$$, $q$it's$q$, $1, $2", "SELECT '…', '…', $1, $2"),
        ("x" * 200, "x" * 100 + "…"),
    ],
)
def test_literals_are_not_shown(text: str, shown: str) -> None:
    assert statement.shown(text) == shown


def one(calls: int, total: float, query: str = "SELECT $1") -> Statement:
    return Statement(1, "app", query, calls, total, calls, calls)


def snapshot(found: Statement, reset: datetime = NOW) -> Snapshot:
    return Snapshot(NOW, reset, {(1, "app", True): found})


def test_difference_of_two_snapshots() -> None:
    found = snapshot(one(30, 900.0)) - snapshot(one(10, 100.0))
    assert [(s.calls, s.total, s.mean) for s in found] == [(20, 800.0, 40.0)]


def test_a_reset_in_between_counts_from_there() -> None:
    found = snapshot(one(3, 30.0), NOW + timedelta(1)) - snapshot(one(10, 100.0))
    assert [(s.calls, s.total) for s in found] == [(3, 30.0)]


def test_a_statement_that_was_thrown_out_and_came_back_counts_anew() -> None:
    assert [s.calls for s in snapshot(one(2, 9.0)) - snapshot(one(10, 100.0))] == [2]


def test_dearest_of_both_rankings_are_taken_once() -> None:
    slow, often = one(1, 50.0), Statement(2, "app", "SELECT 2", 100, 100.0, 0, 0)
    assert statement.dearest([slow], [often, slow]) == [often, slow]
    assert statement.dearest([slow], [often, slow], most=1) == [often]
