"""Tests of opslib.api.jwt_rotation: what it finds in each state that a run may leave behind."""

from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

import pytest

from opslib.api import jwt_rotation
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import CheckFailed
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
    ago = (datetime.now(UTC) - timedelta(seconds=400)).isoformat()
    environment = place(tmp_path, values, {"JWT_SECRET_PREVIOUS": A, "JWT_SECRET_SINCE": ago})
    assert 595 < jwt_rotation.left(environment) <= 600
    assert jwt_rotation.left(place(tmp_path, values, {})) == inf
    assert jwt_rotation.left(place(tmp_path, {"JWT_SECRET": B}, {})) == 0


def test_a_rotation_that_is_not_finished_is_not_retired(tmp_path: Path) -> None:
    environment = place(tmp_path, {"JWT_SECRET": A, "JWT_SECRET_PREVIOUS": B}, {"JWT_SECRET_PENDING": B})
    with pytest.raises(CheckFailed, match="Run stage rotate first"):
        jwt_rotation.retirement(environment, settle=1)


def test_closing_notes_the_new_secret_and_drops_the_backups(tmp_path: Path) -> None:
    environment = place(
        tmp_path,
        {"JWT_SECRET": A, "JWT_SECRET_PREVIOUS": B},
        {"JWT_SECRET_PENDING": B, "JWT_SECRET_PREVIOUS": A},
    )
    env_file.edit(environment.api.env_file, {"JWT_SECRET": B, "JWT_SECRET_PREVIOUS": A})
    change = jwt_rotation.close(environment, retire=False)
    change.do()
    change.do()
    staged = jwt_rotation.staged(environment)
    assert (staged.current, staged.pending, staged.previous) == (B, "", A)
    assert staged.age < 5
    assert not env_file.edits(environment.api.env_file)
    jwt_rotation.close(environment, retire=True).do()
    assert (staged.previous, staged.since) == ("", None)
