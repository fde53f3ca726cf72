"""Proposals, from the plans that PostgreSQL makes."""

from typing import Any

import pytest

from opslib.database import index_proposal
from opslib.database.index_proposal import Proposal
from opslib.database.statement import Statement

TABLE: dict[str, Any] = {
    "rows": 300_000,
    "columns": ["id", "tenant_id", "kind", "email", "at", "Odd name"],
    "distinct": {"tenant_id": 50_000, "kind": 3, "email": 300_000, "Odd name": 9},
}


def columns(condition: str, *above: dict[str, Any], rows: int = 10) -> tuple[str, ...]:
    node = {"Node Type": "Seq Scan", "Relation Name": "visits", "Alias": "v", "Plan Rows": rows}
    found = index_proposal._columns(node | ({"Filter": condition} if condition else {}), above, TABLE)
    return found[0] if found else ()


SORT = {"Node Type": "Sort", "Sort Key": ["v.at DESC"]}
LIMIT = {"Node Type": "Limit"}


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("(v.tenant_id = $1)", ("tenant_id",)),
        ("((v.kind = $1) AND (v.tenant_id = $2))", ("tenant_id", "kind")),
        ("((v.at > $2) AND (v.kind = $1) AND (v.at <= $3))", ("kind", "at")),
        ("((v.email)::text = $1)", ("email",)),
        ("(v.tenant_id = ANY ($1))", ("tenant_id",)),
        ("(v.email IS NULL)", ("email",)),
        ('(v."Odd name" = $1)', ("Odd name",)),
        ("((v.tenant_id = $1) AND ((v.kind = $2) OR (v.email = $3)))", ("tenant_id",)),
        ("((v.tenant_id = $1) OR (v.kind = $2))", ()),
        ("(lower((v.email)::text) = $1)", ()),
        ("((v.at)::date = $1)", ()),
        ("(v.kind = v.email)", ()),
        ("(v.email ~~ $1)", ()),
        ("(NOT (v.tenant_id = $1))", ()),
        ("((v.kind = ') AND (v.id = 1'::text) AND (v.tenant_id = 5))", ("tenant_id", "kind")),
        ("", ()),
    ],
)
def test_columns_of_a_condition(condition: str, wanted: tuple[str, ...]) -> None:
    assert columns(condition) == wanted


def test_order_follows_what_must_be_equal() -> None:
    assert columns("(v.tenant_id = $1)", SORT, LIMIT) == ("tenant_id", "at")
    assert columns("(v.tenant_id = $1)", {"Node Type": "Aggregate"}, SORT) == ("tenant_id",)
    assert columns("", SORT, LIMIT, rows=300_000) == ("at",)
    assert columns("(v.tenant_id = $1)", {"Node Type": "Result"}, SORT, LIMIT) == ("tenant_id", "at")
    assert columns("", SORT, rows=300_000) == ()  # without a limit all of it is read anyway


def test_nothing_for_most_of_a_table() -> None:
    assert columns("(v.kind = $1)", rows=100_000) == ()


def test_mixed_directions_are_kept() -> None:
    sort = {"Node Type": "Sort", "Sort Key": ["v.at DESC", "v.id"]}
    assert index_proposal._order([sort], TABLE["columns"], []) == [("at", True), ("id", False)]


def test_identifiers_are_quoted_and_the_name_fits() -> None:
    made = Statement(1, "app", "SELECT 1", 1, 1.0, 1, 1)
    odd = Proposal('s"x', "t", ('a"; DROP TABLE t; --', "b" * 60), (False, True), made, "", {})
    text = odd.create.as_string(None)
    assert '"a""; DROP TABLE t; --"' in text and '"s""x"."t"' in text and text.endswith('" DESC)')
    assert len(odd.name) <= 63
