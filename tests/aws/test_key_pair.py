"""A key pair in the staging file: whole or not at all, for its owner only, and gone when it is not needed any more."""

import os
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pytest

from opslib.aws.key_pair import ID, SECRET, Pair, StagedPair
from opslib.deployment import env_file
from opslib.deployment.deployment import Api
from opslib.propertypulse import PropertyPulse

OLD, NEW = Pair("AKIAOLDOLDOLDOLD0001", "old/secret+" * 3), Pair("AKIANEWNEWNEWNEW0002", "new/secret+" * 3)


@pytest.fixture
def staged(tmp_path: Path) -> StagedPair:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/.env").write_text(f"{ID}={OLD.id}\n{SECRET}={OLD.secret}\n")
    (tmp_path / ".env").symlink_to("shared/.env")
    api = Api(name="api", url="http://127.0.0.1:9", pm2_home=tmp_path, env_file=tmp_path / ".env", release=tmp_path)
    return StagedPair(PropertyPulse(title="t", approval={"default": "none"}, api=api, secrets=frozenset({ID, SECRET})))


def held(staged: StagedPair) -> tuple[Pair | None, Pair | None, Pair | None, datetime | None]:
    """What it says now of the pair in force, the next one, the last one, and since when."""
    return staged.current, staged.pending, staged.previous, staged.since


def test_it_goes_from_pending_to_in_force_to_forgotten(staged: StagedPair) -> None:
    assert held(staged) == (OLD, None, None, None)
    staged.stage(NEW)
    staged.keep()
    assert (staged.pending, staged.previous) == (NEW, OLD)
    staged.finish()
    assert staged.pending == NEW  # for the `.env` does not have it yet
    env_file.edit(staged.environment.api.env_file, {ID: NEW.id, SECRET: NEW.secret})
    staged.keep()
    assert staged.previous == OLD
    staged.finish()
    assert held(staged)[:3] == (NEW, None, OLD) and staged.since
    staged.deactivated(True)
    assert staged.inactive
    staged.forget()
    assert staged.file.read_text() == ""


class Killed(BaseException):
    """Stands for SIGKILL, which nothing that is being done handles."""


def die(*_: object) -> NoReturn:
    raise Killed


def test_a_process_that_dies_while_it_writes_leaves_a_whole_pair_or_none(
    staged: StagedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(Killed):
        staged.stage(NEW)
    assert staged.pending is None
    monkeypatch.setattr(os, "replace", lambda a, b: (real(a, b), die()))
    with pytest.raises(Killed):
        staged.stage(NEW)
    assert staged.pending == NEW


def test_it_is_for_the_owner_only_beside_the_real_file_and_alone(
    staged: StagedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged.stage(NEW)
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (real(a, b), die()))
    with pytest.raises(Killed):
        staged.keep()
    assert staged.file.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in staged.file.parent.iterdir()) == [".env", ".env.staged"]


def test_half_a_pair_is_none(staged: StagedPair) -> None:
    env_file.edit(staged.environment.api.env_file, {SECRET: None})
    assert staged.current is None
