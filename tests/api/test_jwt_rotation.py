"""Tests of opslib.api.jwt_rotation: what it finds in each state that a run may leave behind."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib.api import jwt_rotation, pm2
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.mask import mask

A, B = "old-secret-of-the-API", "new-secret-of-the-API"


def place(folder: Path, values: dict[str, str], staged: dict[str, str]) -> PropertyPulse:
    """An environment with these values in its `.env` and in the staging file."""
    for name, content in ((".env", values), (".env.staged", staged)):
        (folder / name).write_text("".join(f"{key}={value}\n" for key, value in content.items()))
        (folder / name).chmod(0o600)
    api = {"name": "api", "url": "http://127.0.0.1:9", "pm2_home": folder, "env_file": folder / ".env"}
    tokens = {"route": "/api", "claims": {}, "longest": 1000}
    known = {"title": "t", "approval": "none", "api": {**api, "release": folder}, "secrets": ["JWT_SECRET"]}
    return PropertyPulse.model_validate({**known, "tokens": tokens})


@pytest.mark.parametrize(
    ("values", "staged", "found", "old"),
    [
        ({"JWT_SECRET": A}, {}, "idle", ""),
        ({"JWT_SECRET": A}, {"JWT_SECRET_PENDING": B}, "idle", ""),
        ({"JWT_SECRET": A, "JWT_SECRET_PREVIOUS": B}, {"JWT_SECRET_PENDING": B}, "offered", ""),
        (
            {"JWT_SECRET": A, "JWT_SECRET_PREVIOUS": B},
            {"JWT_SECRET_PENDING": B, "JWT_SECRET_PREVIOUS": A},
            "offered",
            "",
        ),
        (
            {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A},
            {"JWT_SECRET_PENDING": B, "JWT_SECRET_PREVIOUS": A},
            "signing",
            A,
        ),
        ({"JWT_SECRET": B}, {"JWT_SECRET_PENDING": B, "JWT_SECRET_PREVIOUS": A}, "signing", A),
        ({"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A}, {"JWT_SECRET_PREVIOUS": A}, "overlap", A),
        ({"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A}, {}, "overlap", A),
        ({"JWT_SECRET": B}, {"JWT_SECRET_PREVIOUS": A}, "idle", A),
    ],
)
def test_where_a_rotation_stands(
    tmp_path: Path, values: dict[str, str], staged: dict[str, str], found: str, old: str
) -> None:
    environment = place(tmp_path, values, staged)
    assert jwt_rotation.found(environment) == found
    assert jwt_rotation.old(environment) == old
    assert A not in mask.text(f"{A} {B}") or found == "idle"


def test_the_old_secret_is_kept_for_the_longest_life_of_a_token(tmp_path: Path) -> None:
    values = {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A}
    for seconds, ok, said in ((400, False, r"(600|599) s to go, 0.0 days"), (1001, True, "")):
        ago = datetime.now(UTC) - timedelta(seconds=seconds)
        environment = place(tmp_path, values, {"JWT_SECRET_PREVIOUS": A, "JWT_SECRET_SINCE": ago.isoformat()})
        assert jwt_rotation.due(environment) == ago + timedelta(seconds=1000)
        assert jwt_rotation.unneeded(environment).ok is ok
        assert re.search(said, jwt_rotation.unneeded(environment).otherwise)


def test_since_when_nobody_knows_cannot_be_told(tmp_path: Path) -> None:
    environment = place(tmp_path, {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A}, {})
    assert jwt_rotation.due(environment) is None
    assert jwt_rotation.unneeded(environment).ok is None
    assert "once you know that no valid token" in jwt_rotation.ended(environment).otherwise
    left = jwt_rotation.due(place(tmp_path, {"JWT_SECRET": B}, {}))
    assert left and timedelta(seconds=995) < left - datetime.now(UTC) <= timedelta(seconds=1000)


@pytest.mark.parametrize(
    ("standing", "changes"),
    [
        ("idle", ["Make the new secret", "Accept the new secret everywhere"]),
        ("made", ["Accept the new secret everywhere"]),
        ("offered", ["Accept the new secret everywhere"]),
        ("signing", []),
    ],
)
def test_a_rotation_that_was_cut_short_is_carried_on(
    tmp_path: Path, standing: str, changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pm2, "workers", lambda environment: [])
    values = {"JWT_SECRET": A} | ({"JWT_SECRET_PREVIOUS": B} if standing == "offered" else {})
    if standing == "signing":
        values = {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A}
    environment = place(tmp_path, values, {} if standing == "idle" else {"JWT_SECRET_PENDING": B})
    assert [one.title for one in jwt_rotation.offers(environment, settle=1)] == changes
    said = [line.partition(" in ")[0] for line in jwt_rotation.sign(environment, settle=1).describe()["does"]]
    before = [] if standing == "signing" else ["set JWT_SECRET_PREVIOUS"]
    assert said == ["keep the secret", "set JWT_SECRET", *before]
    assert bool(jwt_rotation.finished(environment)) == (standing in ("idle", "made"))


def test_a_rotation_begins_only_when_the_last_one_has_ended(tmp_path: Path) -> None:
    ago = (datetime.now(UTC) - timedelta(seconds=400)).isoformat()
    staged = {"JWT_SECRET_PREVIOUS": A, "JWT_SECRET_SINCE": ago}
    assert not jwt_rotation.ended(place(tmp_path, {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A}, staged))
    assert jwt_rotation.ended(place(tmp_path, {"JWT_SECRET": B}, {}))


def test_closing_notes_the_new_secret_and_drops_the_backups(tmp_path: Path) -> None:
    environment = place(
        tmp_path,
        {"JWT_SECRET": A, "JWT_SECRET_PREVIOUS": B},
        {"JWT_SECRET_PENDING": B, "JWT_SECRET_PREVIOUS": A},
    )
    env_file.edit(environment.api.env_file, {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A})
    change = jwt_rotation.close(environment)
    change.do()
    change.do()
    staged = jwt_rotation.staged(environment)
    assert (staged.current, staged.pending, staged.previous) == (B, "", A)
    assert staged.age < 5
    assert not env_file.edits(environment.api.env_file)
    env_file.edit(environment.api.env_file, {"JWT_SECRET_PREVIOUS": None}, backup=False)
    change.do()
    assert (staged.previous, staged.since) == ("", None)
