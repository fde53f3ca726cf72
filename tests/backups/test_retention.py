"""The policy: what it keeps and lets go."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from opslib.backups import retention
from opslib.backups.backup import Backup
from opslib.backups.manifest import Manifest
from opslib.backups.settings import Backups, Periods

NOW = datetime(2030, 1, 31, 6, tzinfo=UTC)  # a Thursday
OWN, OTHER = "aaaaaaaa", "bbbbbbbb"


def policy(**keep: Any) -> Backups:
    """A policy that keeps the newest one, and else only what is said."""
    least = {"keep_last": 1, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_yearly": 0}
    return Backups(folder=Path("b"), bucket="bucket", region="r", credentials="env:X", **(least | keep))


OWNERS = Backups(folder=Path("b"), bucket="bucket", region="r", credentials="env:X")
"""What the owner keeps: nothing is said of it."""


def made(taken: datetime, *, proven: bool = True, owner: str = OWN, database: str = "db", run: int = 0) -> Backup:
    about = Manifest(taken, "18", database, "app", "", "0/0", "UTF8", "C", "C", "c", None, (), (), ())
    name = f"{taken.astimezone(UTC):%Y%m%dT%H%M%SZ}-{run:08x}-{owner}"
    return Backup(name, taken, 1, "", 1, about, NOW if proven else None)


def at(text: str) -> datetime:
    """A time of UTC unless it says another zone."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def left(found: Sequence[Backup], rule: Backups, now: datetime = NOW) -> list[Backup]:
    """What is still there when the others are gone."""
    going = retention.expired(found, rule, now, OWN)
    return [one for one in found if one not in going]


@pytest.mark.parametrize(
    ("keep", "taken", "stays"),
    [
        ({}, [], []),
        ({}, ["2001-01-01"], ["2001-01-01"]),  # the last one, however old
        ({"keep_last": 2}, ["2030-01-03", "2030-01-02", "2030-01-01"], ["2030-01-03", "2030-01-02"]),
        # Of each day the newest one, of the last two that have one.
        (
            {"keep_daily": 2},
            ["2030-01-30 10:00", "2030-01-30 02:30", "2030-01-20", "2030-01-10"],
            ["2030-01-30 10:00", "2030-01-20"],
        ),
        # A day ends at midnight in UTC, whatever zone the time is told in.
        ({"keep_daily": 2}, ["2030-01-31 00:30+02:00", "2030-01-30 21:30"], ["2030-01-31 00:30+02:00"]),
        ({"keep_daily": 2}, ["2030-01-31 00:30", "2030-01-30 23:30"], ["2030-01-31 00:30", "2030-01-30 23:30"]),
        # A week begins on Monday, and is one across the end of a year.
        ({"keep_weekly": 2}, ["2030-01-28", "2030-01-27", "2030-01-21"], ["2030-01-28", "2030-01-27"]),
        ({"keep_weekly": 9}, ["2027-01-03", "2027-01-01", "2026-12-31", "2026-12-28"], ["2027-01-03"]),
        ({"keep_weekly": 9}, ["2027-01-04", "2027-01-03"], ["2027-01-04", "2027-01-03"]),
        ({"keep_monthly": 2}, ["2030-01-02", "2029-12-31", "2029-12-01", "2029-11-30"], ["2030-01-02", "2029-12-31"]),
        # Fifty-two weeks ago it was the same week of another year.
        ({"keep_weekly": 9}, ["2030-01-30", "2029-01-31"], ["2030-01-30", "2029-01-31"]),
        ({"keep_yearly": 1}, ["2030-01-02", "2029-12-31", "2028-12-31"], ["2030-01-02"]),
        ({"keep_yearly": "all"}, ["2029-06-01", "2029-05-01", "1999-01-01"], ["2029-06-01", "1999-01-01"]),
        # One is enough: what several rules keep counts in each.
        ({"keep_daily": 1, "keep_weekly": 1, "keep_monthly": 1}, ["2030-01-30", "2030-01-29"], ["2030-01-30"]),
    ],
)
def test_rules(keep: dict[str, Any], taken: list[str], stays: list[str]) -> None:
    found = [made(at(text)) for text in taken]
    assert [one.taken for one in left(found, policy(**keep))] == [at(text) for text in stays]


def test_what_its_owner_keeps_of_four_years_of_nights() -> None:
    nights = [made(at("2030-01-31 02:30") - timedelta(days=days)) for days in range(4 * 365)]
    daily = {date(2030, 1, 31) - timedelta(days=days) for days in range(30)}
    weekly = {date(2030, 1, 27) - timedelta(weeks=weeks) for weeks in range(11)} | {date(2030, 1, 31)}
    ends = ["01-31", "02-28", "03-31", "04-30", "05-31", "06-30", "07-31", "08-31", "09-30", "10-31", "11-30", "12-31"]
    monthly = {date.fromisoformat(f"{2030 if end == '01-31' else 2029}-{end}") for end in ends}
    yearly = {date(2026, 12, 31), date(2027, 12, 31), date(2028, 12, 31)}
    assert {one.taken.date() for one in left(nights, OWNERS)} == daily | weekly | monthly | yearly


@pytest.mark.parametrize(
    ("owner", "age", "proven", "stays"),
    [
        (OWN, 0.1, False, False),  # of one's own, never proven: no backup
        (OWN, 40, False, False),
        (OTHER, 1, False, True),  # another machine may be proving it
        (OTHER, 20, False, False),
        (OTHER, 1, True, True),
    ],
)
def test_what_was_never_proven_is_no_backup(owner: str, age: float, proven: bool, stays: bool) -> None:
    one = made(NOW - timedelta(days=age), proven=proven, owner=owner)
    proven_later = made(NOW - timedelta(minutes=1), run=1)
    assert (one in left([proven_later, one], OWNERS)) == stays


def test_a_day_of_many_unproven_ones_costs_no_proven_one() -> None:
    proven = made(at("2030-01-20"))
    unproven = [made(NOW - timedelta(hours=hours), proven=False, run=hours) for hours in range(40)]
    assert left([*unproven, proven], policy(keep_daily=1)) == [proven]


@pytest.mark.parametrize(("owner", "database"), [(OTHER, "db"), (OWN, "another"), ("", "db")])
def test_another_machine_and_another_database_are_judged_by_themselves(owner: str, database: str) -> None:
    found = [made(at("2030-01-30 04:00"), owner=owner, database=database), made(at("2030-01-30 02:30"))]
    assert left(found, policy(keep_daily=1)) == found


@pytest.mark.parametrize(
    "keep", [{"keep_last": 0}, {"keep_daily": -1}, {"keep_yearly": "forever"}, {"keep_days": 14}, {"keep_proven": 7}]
)
def test_a_policy_that_cannot_be_meant_is_refused(keep: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy(**keep)


periods: st.SearchStrategy[Periods] = st.one_of(st.integers(0, 6), st.just("all"))
policies = st.builds(
    policy,
    keep_last=st.integers(1, 4),
    keep_daily=periods,
    keep_weekly=periods,
    keep_monthly=periods,
    keep_yearly=periods,
)
# Years of them in which few share a day, and days in which many do.
times = st.one_of(
    st.datetimes(datetime(2024, 12, 20), datetime(2030, 1, 30), timezones=st.just(UTC)),
    st.datetimes(datetime(2026, 12, 20), datetime(2027, 1, 10), timezones=st.just(UTC)),
)


@st.composite
def stores(draw: st.DrawFn, *, proven: st.SearchStrategy[bool] = st.booleans()) -> list[Backup]:  # noqa: B008
    """What may lie in a store, newest first."""
    taken = sorted(draw(st.lists(times, max_size=30, unique=True)), reverse=True)
    zones = st.sampled_from([UTC, timezone(timedelta(hours=13)), timezone(timedelta(hours=-11))])
    return [
        made(
            time.astimezone(draw(zones)),
            proven=draw(proven),
            owner=draw(st.sampled_from([OWN, OWN, OTHER])),
            database=draw(st.sampled_from(["db", "db", "db", "other"])),
            run=number,
        )
        for number, time in enumerate(taken)
    ]


def groups(found: Sequence[Backup]) -> list[list[Backup]]:
    """The proven ones of each machine and database, newest first."""
    whose: dict[object, list[Backup]] = {}
    for one in found:
        if one.proven:
            whose.setdefault((one.name.split("-")[2], one.manifest.database), []).append(one)
    return list(whose.values())


def is_kept(one: Backup, group: list[Backup], rule: Backups) -> bool:
    """Whether the rule, said once more in other words, keeps a proven backup."""

    def counts(period: Any, count: Periods) -> bool:
        same = [period(other.taken.astimezone(UTC)) for other in group]
        mine, newer = period(one.taken.astimezone(UTC)), same[: group.index(one)]
        return mine not in newer and (count == "all" or len({*newer}) < count)

    return (
        counts(lambda time: time, rule.keep_last)
        or counts(lambda time: time.date(), rule.keep_daily)
        or counts(lambda time: time.isocalendar()[:2], rule.keep_weekly)
        or counts(lambda time: (time.year, time.month), rule.keep_monthly)
        or counts(lambda time: time.year, rule.keep_yearly)
    )


@given(stores(), policies)
def test_what_goes_is_what_no_rule_keeps(found: list[Backup], rule: Backups) -> None:
    stays = left(found, rule)
    for group in groups(found):
        assert [one for one in group if one in stays] == [one for one in group if is_kept(one, group, rule)]


@given(stores(), policies)
def test_what_stays_is_enough_and_stays_when_it_is_asked_again(found: list[Backup], rule: Backups) -> None:
    stays = left(found, rule)
    assert left(stays, rule) == stays
    for group in groups(found):
        assert group[: rule.keep_last] == [one for one in group if one in stays][: rule.keep_last]
    newest = next((one for one in found if one.proven), None)
    assert newest is None or newest in stays
    assert all(one.proven or one.name.endswith(OTHER) for one in stays)


@given(stores(), policies, st.randoms())
def test_in_which_order_they_are_listed_does_not_matter(found: list[Backup], rule: Backups, dice: Any) -> None:
    shuffled = dice.sample(found, len(found))
    assert {one.name for one in left(shuffled, rule)} == {one.name for one in left(found, rule)}


@given(stores(proven=st.just(True)), policies, st.data())
def test_on_which_nights_it_was_run_does_not_matter(found: list[Backup], rule: Backups, data: st.DataObject) -> None:
    there: list[Backup] = []
    for one in reversed(found):
        if data.draw(st.booleans()):
            there = left(there, rule, one.taken)
        there = [one, *there]
    assert left(there, rule) == left(found, rule)
