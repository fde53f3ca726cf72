"""Drills of a JWT secret's rotation, its end and its revocation: under traffic, and with releases that fall short."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opslib.api import jwt, jwt_rotation
from opslib.deployment import env_file
from opslib.runbook import record
from tests import leaks, sandbox
from tests.drills import jwt_secret, standing
from tests.sandbox.layout import LOGS, STATE

pytestmark = pytest.mark.usefixtures("sandbox")

ODD = "%41 @:/#'\" $HOME ${x} \\d ümläut ✓ " + "0123456789" * 17


@pytest.fixture(scope="module", autouse=True)
def _leave_no_rotation(sandbox: None) -> Iterator[None]:
    """Other tests compare the plan of a rotation that has not begun."""
    yield
    jwt_secret.first()


def rotate(*arguments: str, name: str = "rotate_jwt_secret") -> tuple[int, dict[str, Any], str]:
    """Run the procedure with --apply; give its exit code, its record, and what the terminal showed."""
    command = [sys.executable, "-m", "opslib.runbook.cli", "run", name, "--apply", "-p", "settle_seconds", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    file = Path(done.stdout.splitlines()[-1])
    return done.returncode, json.loads(file.read_text()), done.stdout + done.stderr


def begin() -> None:
    """No rotation is under way."""
    if jwt_rotation.found(standing.sandbox()) != "idle":
        jwt_secret.idle()


def outcome(made: dict[str, Any]) -> str:
    """How the run ended, as its record says it."""
    return str(made["metadata"]["opslib"]["outcome"])


@pytest.mark.long
def test_nobody_notices_a_rotation_nor_its_end_and_no_secret_gets_out() -> None:
    jwt_secret.idle(ODD)
    env = standing.sandbox()
    with leaks.command_lines() as lines:
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, shown = rotate("--reason", "drill")
        assert (code, outcome(made)) == (0, "applied"), shown
        assert traffic.result.asked > 300
        assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
        new = env_file.read(env.api.env_file)[jwt_rotation.KEY]
        assert new != ODD
        assert jwt_secret.problems() == []
        assert jwt_rotation.found(env) == "overlap"
        code, _, again = rotate()
        assert code == 1
        assert "✗ The last rotation has ended" in again and "Run retire_jwt_secret, from " in again
        code, _, early = rotate(name="retire_jwt_secret")
        assert code == 1
        assert "s to go, 7.0 days" in early
        standing.stage({"JWT_SECRET_SINCE": "2026-01-01T00:00:00Z"})
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, retired, ended = rotate(name="retire_jwt_secret")
        assert (code, outcome(retired)) == (0, "applied"), ended
        assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert jwt_rotation.PREVIOUS not in env_file.read(env.api.env_file)
    assert set(jwt.answers(env, ODD)) == {401}
    assert set(jwt.answers(env, new)) == {200}
    assert not jwt_rotation.staged(env).previous
    secrets = {"new": new, "old": ODD, "the old one's beginning": ODD[:40]}
    texts = [shown, early, ended, json.dumps([made, retired], ensure_ascii=False), *lines]
    assert leaks.shown(secrets, {text[:80]: text for text in texts}) == []
    places = [record.folder(), LOGS, *((STATE / name).resolve() for name in ("pm2", "logs", "postgres"))]
    assert [file for file in places[-1].rglob("data/log/*") if file.stat().st_size]  # PostgreSQL's own
    assert leaks.found(secrets, places) == []


@pytest.mark.long
def test_an_api_that_knows_one_secret_is_left_as_it_was_unless_a_mass_logout_is_accepted() -> None:
    begin()
    sandbox.break_("no-previous-secret")
    try:
        file = standing.sandbox().api.env_file
        before = file.read_bytes()
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, shown = rotate()
        assert (code, outcome(made)) == (2, "undone")
        assert "EVERYBODY WOULD BE LOGGED OUT" in shown
        assert "accept_mass_logout True" in shown
        assert "Sign with the new secret — under way" not in shown
        assert file.read_bytes() == before
        assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
        assert jwt_secret.problems() == []
        code, made, shown = rotate("-p", "accept_mass_logout", "True")
        assert (code, outcome(made)) == (0, "applied"), shown
        assert "✗ Every worker still accepts the one before — accepted by the operator" in shown.replace("!", "✗")
        assert set(jwt.answers(standing.sandbox(), jwt_rotation.old(standing.sandbox()))) == {401}
    finally:
        sandbox.mend("no-previous-secret")


@pytest.mark.long
def test_workers_that_come_up_late_are_never_all_away_in_the_undo_of_both() -> None:
    begin()
    sandbox.break_("slow-release")
    try:
        sandbox.break_("no-previous-secret")
        file = standing.sandbox().api.env_file
        before = file.read_bytes()
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, shown = rotate()
        assert (code, outcome(made)) == (2, "undone"), shown
        assert len(traffic.result.workers) == 6, traffic.result  # those before, those replaced, those put back
        assert file.read_bytes() == before
        assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    finally:
        sandbox.mend()


def test_a_release_that_does_not_start_is_undone_byte_for_byte() -> None:
    begin()
    file = standing.sandbox().api.env_file
    before = file.read_bytes()
    sandbox.break_("bad-release")
    try:
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, shown = rotate()
        assert (code, outcome(made)) == (2, "undone"), shown
        assert file.read_bytes() == before
        assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
        assert jwt_secret.problems() == []
    finally:
        sandbox.mend("bad-release")


def test_an_env_file_that_is_read_only_is_refused_before_anything_changes() -> None:
    env = standing.sandbox()
    file = env.api.env_file.resolve()
    staged, before = jwt_rotation.staged(env), file.read_bytes()
    pending = staged.pending
    file.chmod(0o400)
    try:
        code, made, shown = rotate()
    finally:
        file.chmod(0o600)
    assert (code, outcome(made)) == (1, "failed")
    assert "is read-only" in shown
    assert file.read_bytes() == before
    assert staged.pending == pending


def test_a_revoked_secret_is_refused_at_once() -> None:
    jwt_secret.overlap(days=1)
    env = standing.sandbox()
    values = env_file.read(env.api.env_file)
    code, made, shown = rotate(name="revoke_jwt_secret")
    assert (code, outcome(made)) == (0, "applied"), shown
    assert jwt_secret.problems() == []
    assert all(set(jwt.answers(env, values[key])) == {401} for key in (jwt_rotation.KEY, jwt_rotation.PREVIOUS))
    assert jwt_rotation.found(env) == "idle"
