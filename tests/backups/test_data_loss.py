"""What a recovery takes away, table by table."""

from datetime import UTC, datetime

from opslib.backups.data_loss import compared
from opslib.backups.manifest import Table

THEN, NOW = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 2, tzinfo=UTC)


def test_the_greatest_difference_comes_first_and_no_table_is_missing() -> None:
    then = (
        Table("public.same", 7, THEN),
        Table("public.touched", 5, THEN),
        Table("public.grown", 10, THEN),
        Table("public.emptied", 500, THEN),
        Table("public.dropped", 3, None),
    )
    now = (
        Table("public.same", 7, THEN),
        Table("public.touched", 5, NOW),
        Table("public.grown", 12, NOW),
        Table("public.emptied", 0, None),
        Table("public.made", 4, NOW),
    )
    rows = compared(then, now)
    assert [(row["table"], row["since then"]) for row in rows] == [
        ("public.emptied", -500),
        ("public.made", 4),
        ("public.dropped", -3),
        ("public.grown", 2),
        ("public.touched", 0),
        ("public.same", 0),
    ]
    assert rows[1]["rows then"] == "no table"
    assert rows[2]["newest now"] == "no table"
    assert (rows[4]["newest then"], rows[4]["newest now"]) == ("2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z")


def test_a_present_that_cannot_be_read_is_all_missing() -> None:
    rows = compared((Table("public.one", 7, THEN),), ())
    assert [(row["table"], row["rows then"], row["rows now"]) for row in rows] == [("public.one", 7, "no table")]
