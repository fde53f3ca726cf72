"""Which backup a word, a name or a time means."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from opslib import propertypulse
from opslib.backups.backup import Backup
from opslib.backups.manifest import Manifest
from opslib.backups.restore_point import fresh, known, pending, pick
from opslib.runbook.errors import BadParameter

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MANIFEST = Manifest(
    *(NOON, "18.1", "rent", "rent", "2_two", "0/0", "UTF8", "C", "C", "c", None),
    tables=(),
    extensions=(),
    roles=("rent",),
)


def made(name: str, hours: int, *, proven: bool = True) -> Backup:
    at = NOON + timedelta(hours=hours)
    return Backup(name, at, 1, "0" * 64, 1, replace(MANIFEST, taken=at), at if proven else None, ("s3://b/" + name,))


BACKUPS = [made("unproven", 3, proven=False), made("late", 2), made("noon", 0), made("early", -24)]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("latest proven", "late"),
        ("unproven", "unproven"),
        ("early", "early"),
        ("2026-05-01T12:00:00+00:00", "noon"),
        ("2026-05-01T14:00+02:00", "noon"),
        ("2026-05-01T11:59:59Z", "early"),
        ("2026-05-01T23:00Z", "late"),
        ("2026-05-01 13:00Z", "noon"),
    ],
)
def test_a_name_a_time_or_the_latest(wanted: str, name: str) -> None:
    assert pick(BACKUPS, wanted).name == name


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("tomorrow", "there is none named"),
        ("2026-05-01T12:00:00", "says no zone"),
        ("2026-04-01T00:00Z", "nothing is proven for .*3 of 4 are, the oldest was taken at 2026-04-30T12:00:00Z"),
        ("", "there is none named"),
        ("x" * 5000, "there is none named 'x{80}'"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(wanted: str, said: str) -> None:
    with pytest.raises(BadParameter, match=said):
        pick(BACKUPS, wanted)


def test_none_proven_is_none() -> None:
    with pytest.raises(BadParameter, match=r"0 of 1 are, none of them\. backup_database makes"):
        pick(BACKUPS[:1], "latest proven")


def test_only_the_latest_is_held_to_the_rpo(monkeypatch: pytest.MonkeyPatch) -> None:
    env = propertypulse.load("sandbox")
    now = datetime.now(UTC)
    new, old = (replace(BACKUPS[1], taken=now - timedelta(hours=h)) for h in (1, 25))
    assert fresh(env, new, "latest proven")
    assert not fresh(env, old, "latest proven")
    assert fresh(env, old, old.name)


@pytest.mark.parametrize(
    ("last", "is_known", "to_come"),
    [
        ("", True, ["1_one", "2_two", "3_three"]),
        ("2_two", True, ["3_three"]),
        ("3_three", True, []),
        ("9_x", False, None),
    ],
)
def test_migrations_are_those_of_the_release(
    monkeypatch: pytest.MonkeyPatch, last: str, is_known: bool, to_come: list[str] | None
) -> None:
    monkeypatch.setattr("opslib.database.prisma.released", lambda env: ["1_one", "2_two", "3_three"])
    env = propertypulse.load("sandbox")
    one = replace(BACKUPS[1], manifest=replace(MANIFEST, migration=last))
    assert bool(known(env, one)) is is_known
    if to_come is not None:
        assert pending(env, one) == to_come
