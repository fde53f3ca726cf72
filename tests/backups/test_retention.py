"""The policy: what it keeps and lets go."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from opslib.backups import retention
from opslib.backups.backup import Backup
from opslib.backups.manifest import Manifest
from opslib.backups.settings import Backups

NOW = datetime(2030, 1, 31, tzinfo=UTC)
OWN, OTHER = "aaaaaaaa", "bbbbbbbb"
ABOUT = Manifest(NOW, "18", "db", "app", "", "0/0", "UTF8", "C", "C", "c", None, (), (), ())


def policy(days: int, proven: int) -> Backups:
    return Backups(
        folder=Path("b"), bucket="bucket", region="r", credentials="env:X", keep_days=days, keep_proven=proven
    )


def made(*ages: tuple[float, bool], owner: str = OWN) -> list[Backup]:
    """Backups of these ages in days, newest first; whether each is proven."""
    return [
        Backup(f"n{age}-{owner}", NOW - timedelta(days=age), 1, "", 1, ABOUT, NOW if proven else None)
        for age, proven in sorted(ages)
    ]


@pytest.mark.parametrize(
    ("ages", "going"),
    [
        ([], []),
        ([(1, True)], []),
        ([(100, True)], []),  # the last proven one, however old
        ([(100, True), (101, True), (102, True)], ["n102"]),
        ([(1, True), (2, True), (3, True)], []),  # all young
        ([(1, True), (20, True), (21, True)], ["n21"]),
        ([(1, False), (100, True)], ["n1"]),  # not proven: no backup
        ([(1, False), (2, False)], ["n1", "n2"]),
    ],
)
def test_policy(ages: list[tuple[float, bool]], going: list[str]) -> None:
    found = retention.expired(made(*ages), policy(14, 2), NOW, OWN)
    assert [one.name for one in found] == [f"{name}-{OWN}" for name in going]


def test_what_another_may_be_proving_is_let_be_while_it_is_young() -> None:
    others = made((1, False), (20, False), (30, True), owner=OTHER)
    assert [one.name for one in retention.expired(others, policy(14, 2), NOW, OWN)] == [f"n20-{OTHER}"]


@given(
    st.lists(st.tuples(st.floats(0, 400), st.booleans()), max_size=40, unique_by=lambda one: one[0]),
    st.integers(1, 60),
    st.integers(1, 20),
)
def test_whatever_there_is_enough_proven_ones_stay(ages: list[tuple[float, bool]], days: int, proven: int) -> None:
    found = made(*ages)
    going = {one.name for one in retention.expired(found, policy(days, proven), NOW, OWN)}
    stays = [one for one in found if one.name not in going]
    all_proven = [one for one in found if one.proven]
    assert len(stays) >= min(proven, len(all_proven))
    assert stays[:1] == all_proven[:1]
    assert all(one.proven for one in stays)
    assert not [one for one in all_proven if one.name in going and one.taken > NOW - timedelta(days=days)]
