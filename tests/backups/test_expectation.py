"""What is expected of the newest proven backup, by what lies in a folder."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opslib import propertypulse
from opslib.backups import backup, expectation, store
from opslib.backups.backup import Backup
from opslib.backups.expectation import Expectation, Seconds
from opslib.backups.manifest import Manifest, Table
from opslib.backups.store import Folder
from opslib.propertypulse import PropertyPulse
from opslib.runbook.finding import Severity
from tests.place import Place

NOW = datetime(2030, 1, 31, 9, tzinfo=UTC)
MINUTE, MB = 60, 1_000_000


def environment(place: Place, monkeypatch: pytest.MonkeyPatch, more: str = "", rpo: float = 24) -> PropertyPulse:
    """An environment of the database `live`, whose part on backups says this too."""
    with (place.folder / "app/.env").open("a") as dotenv:
        dotenv.write("DATABASE_URL=postgresql://app:x@127.0.0.1:9/live\n")
    file = place.folder / "parameters/test.yaml"
    backups = f"{{folder: backups, bucket: none, region: us-east-1, credentials: 'env:NONE'{more}}}"
    file.write_text(f"{file.read_text()}backups: {backups}\nrecovery: {{rpo_hours: {rpo}}}\n")
    monkeypatch.setenv("RUNBOOK_ROOT", str(place.folder))
    return propertypulse.load("test")


@pytest.fixture
def env(place: Place, monkeypatch: pytest.MonkeyPatch) -> PropertyPulse:
    """An environment that says nothing of what is expected."""
    return environment(place, monkeypatch)


def put(
    env: PropertyPulse,
    taken: datetime = NOW,
    *,
    took: float | None = 10 * MINUTE,
    size: int = 100 * MB,
    rows: int | None = 300,
    proven: bool = True,
    database: str = "live",
) -> Backup:
    """Have a backup in the folder."""
    folder = Folder(env)
    tables = (Table("public.payments", 300, taken), *([] if rows is None else [Table("public.users", rows, None)]))
    about = Manifest(taken, "18", database, "app", "", "0/0", "UTF8", "C", "C", "c", None, tables, (), ())
    one = Backup(f"{taken:%Y%m%dT%H%M%SZ}-0123abcd-{store.owner(env)}", taken, size, "0" * 64, 1, about, took=took)
    backup.write(one, folder)
    if proven:
        backup.prove(one, folder, taken)
    return one


def nights(env: PropertyPulse, *sizes: int, **more: Any) -> list[Backup]:
    """Have backups in the nights before, the newest first, of these sizes in MB."""
    return [put(env, NOW - timedelta(days=1 + i), size=size * MB, **more) for i, size in enumerate(sizes)]


def asked(env: PropertyPulse, now: datetime = NOW) -> dict[str, Expectation]:
    """Ask, of what lies in the folder."""
    found, unreadable = backup.read([Folder(env)])
    assert not unreadable
    return {one.what: one for one in expectation.asked(env, found, now)}


RECENT, QUICK, ALIKE = "It is recent", "It was taken quickly", "It has the usual size"


@pytest.mark.parametrize(
    ("taken", "now", "recent"),
    [
        ("2030-01-31T02:30", "2030-01-31T06:00", True),
        ("2030-01-30T02:30", "2030-01-31T02:29", True),  # tonight's is still to come
        ("2030-01-30T02:30", "2030-01-31T06:00", False),  # it is missing in the morning
        ("2030-01-30T02:30", "2030-01-31T02:31", False),  # older than the RPO
        ("2030-01-30T09:00", "2030-01-31T09:00", True),
        ("2030-01-30T08:59", "2030-01-31T09:00", False),
    ],
)
def test_the_newest_may_be_as_old_as_the_rpo(env: PropertyPulse, taken: str, now: str, recent: bool) -> None:
    put(env, datetime.fromisoformat(f"{taken}:00+00:00"))
    answer = asked(env, datetime.fromisoformat(f"{now}:00+00:00"))[RECENT].answer
    assert answer.ok is recent


@pytest.mark.parametrize(
    ("taken", "now", "recent"),
    [
        ("2030-01-29T20:00", "2030-01-31T05:59", True),  # at 6 of the day before it was there
        ("2030-01-29T20:00", "2030-01-31T06:00", False),
        ("2030-01-30T07:00", "2030-01-31T07:30", True),
        ("2030-01-30T06:00", "2030-01-31T06:00", True),
        ("2030-01-30T05:59", "2030-01-31T23:00", False),
        ("2030-01-30T05:59", "2030-02-01T01:00", False),
    ],
)
def test_each_days_is_due_whatever_the_rpo(
    place: Place, monkeypatch: pytest.MonkeyPatch, taken: str, now: str, recent: bool
) -> None:
    env = environment(place, monkeypatch, rpo=72)
    put(env, datetime.fromisoformat(f"{taken}:00+00:00"))
    assert asked(env, datetime.fromisoformat(f"{now}:00+00:00"))[RECENT].answer.ok is recent


def test_the_hour_and_the_age_are_the_environments(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment(place, monkeypatch, ", due_hour: 20", rpo=48)
    assert expectation.earliest(env, NOW) == datetime(2030, 1, 29, 20, tzinfo=UTC)
    assert expectation.earliest(env, NOW.replace(hour=20)) == datetime(2030, 1, 30, 20, tzinfo=UTC)


def test_what_is_not_proven_or_of_another_database_is_none(env: PropertyPulse) -> None:
    put(env, NOW - timedelta(hours=1), proven=False)
    put(env, NOW - timedelta(hours=2), database="another")
    (one,) = asked(env).values()
    assert (one.what, one.answer.ok, one.answer.evidence["found"]) == (RECENT, False, "none")
    assert one.wrong
    assert one.wrong.what == "Backups have stopped: none is proven, and there must be one since 2030-01-30T09:00:00Z"
    assert one.wrong.command("test") == "runbook run backup_database -e test"
    old = put(env, NOW - timedelta(days=3))
    one = asked(env)[RECENT]
    assert one.answer.evidence["found"] == old.taken
    assert one.wrong and "the newest that is proven was taken at 2030-01-28T09:00:00Z" in one.wrong.what


@pytest.mark.parametrize(
    ("took", "before", "quick", "most"),
    [
        (30 * MINUTE, [], True, 30 * MINUTE),  # alone it is compared with what it may take
        (30 * MINUTE + 1, [], False, 30 * MINUTE),
        (30 * MINUTE + 1, [30 * MINUTE] * 3, False, 30 * MINUTE),  # usual or not
        (20 * MINUTE, [10 * MINUTE], True, 20 * MINUTE),
        (20 * MINUTE + 1, [10 * MINUTE], False, 20 * MINUTE),
        (61.0, [1.0], True, 61.0),  # many times as long, and not a minute more
        (62.0, [1.0], False, 61.0),
        (61.0, [0.0], False, 60.0),
        (20 * MINUTE, [1 * MINUTE, 12 * MINUTE, 12 * MINUTE], True, 24 * MINUTE),  # one odd night is not usual
        (None, [10 * MINUTE], None, 20 * MINUTE),  # not said: cannot tell, not zero
        (20 * MINUTE, [None, None], True, 30 * MINUTE),
        (20 * MINUTE, [None, 5 * MINUTE, None], False, 10 * MINUTE),
        (0.0, [10 * MINUTE], True, 20 * MINUTE),
    ],
)
def test_how_long_it_took(
    env: PropertyPulse, took: float | None, before: list[float | None], quick: bool | None, most: float
) -> None:
    for i, one in enumerate(before):
        put(env, NOW - timedelta(days=1 + i), took=one)
    put(env, took=took)
    found = asked(env)[QUICK]
    assert (found.answer.ok, found.answer.evidence["at most"]) == (quick, most)


def test_what_took_too_long_says_both_times(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment(place, monkeypatch, ", longest_minutes: 15")
    nights(env, 100, took=4 * MINUTE)
    put(env, took=14 * MINUTE)
    wrong = asked(env)[QUICK].wrong
    assert wrong
    assert wrong.what == "The newest backup took 14 min; at most 8 min are expected, and it may take 15 min"
    assert wrong.command("test") == "runbook run troubleshoot_database -e test"


@pytest.mark.parametrize(
    ("size", "before", "alike"),
    [
        (100, [], None),  # nothing to compare with: cannot tell
        (100, [100], True),
        (51, [100], True),
        (50, [100], False),  # by half
        (149, [100], True),
        (150, [100], False),
        (100, [10, 100, 100], True),  # one odd night is not usual
        (100, [100, 10, 10], False),
        (100, [100] * 7 + [1] * 50, True),  # only of late
        (0, [100], False),
    ],
)
def test_size(env: PropertyPulse, size: int, before: list[int], alike: bool | None) -> None:
    nights(env, *before)
    put(env, size=size * MB)
    assert asked(env)[ALIKE].answer.ok is alike


@pytest.mark.parametrize(
    ("rows", "now", "said"),
    [
        (300, 12, "public.users: 300 rows then, 12 rows now"),
        (300, None, "public.users: 300 rows then, no such table now"),
        (None, 900, "public.users: no such table then, 900 rows now"),
        (300, 300, "no table has more rows or less"),
    ],
)
def test_another_size_names_the_table_and_the_usual_backup(
    env: PropertyPulse, rows: int | None, now: int | None, said: str
) -> None:
    usual, *_ = nights(env, 80, 400, 20, rows=rows)
    put(env, size=30 * MB, rows=now)
    wrong = asked(env)[ALIKE].wrong
    assert wrong
    assert wrong.what == f"The newest backup has 30.0 MB, and 80.0 MB is usual; {said}"
    assert wrong.command("test") == f"runbook run recover_database -e test -p backup {usual.name}"


def test_share_is_the_environments(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    env = environment(place, monkeypatch, ", size_differs: 0.1")
    nights(env, 100)
    put(env, size=111 * MB)
    assert asked(env)[ALIKE].answer.ok is False


def test_findings_are_what_is_answered_no_and_nothing_else(env: PropertyPulse) -> None:
    now = datetime.now(UTC)
    put(env, now - timedelta(minutes=1), took=None)
    assert expectation.unmet(env, [Folder(env)]) == []
    rows = expectation.rows(env, [Folder(env)])
    assert {row["expected"]: row["is it so"] for row in rows} == {
        RECENT: True,
        QUICK: "cannot tell",
        ALIKE: "cannot tell",
    }
    put(env, now, took=31 * MINUTE, size=1)
    found = expectation.unmet(env, [Folder(env)])
    assert [(one.mend, one.severity) for one in found] == [
        ("troubleshoot_database", Severity.RISK),
        ("recover_database", Severity.RISK),
    ]


def test_a_manifest_of_before_says_nothing_of_the_time(env: PropertyPulse) -> None:
    one = put(env)
    file = Folder(env).path / f"{one.name}.json"
    old = json.loads(file.read_text())
    del old["took"]
    file.write_text(json.dumps(old))
    row = asked(env)[QUICK].row()
    assert (row["is it so"], row["found"], row["usual"]) == ("cannot tell",) * 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0 s"), (0.44, "0.4 s"), (12, "12 s"), (59.9, "59.9 s"), (1824, "30.4 min"), (1800, "30 min")],
)
def test_seconds_as_people_read_them(seconds: float, text: str) -> None:
    assert str(Seconds(seconds)) == text
