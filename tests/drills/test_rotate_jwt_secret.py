"""Drills of `rotate_jwt_secret` on the stand-in: under traffic, with releases that do not go along, and killed."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opslib import env_file, signing, token
from tests import crash_matrix, sandbox
from tests.crash_matrix import SUBJECTS, Case
from tests.drills import jwt_secret
from tests.sandbox.layout import STATE

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

ODD = "%41 @:/#'\" $HOME ${x} \\d ümläut ✓ " + "0123456789" * 17


@pytest.fixture(scope="module", autouse=True)
def _leave_no_rotation(sandbox: None) -> Iterator[None]:
    """Other tests compare the plan of a rotation that has not begun."""
    yield
    jwt_secret.idle()


def rotate(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the procedure with --apply; give its exit code, its record, and what the terminal showed."""
    command = [sys.executable, "-m", "opslib.cli", "run", "rotate_jwt_secret", "--apply", "-p", "settle_seconds", "1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    file = Path(done.stdout.splitlines()[-1])
    return done.returncode, json.loads(file.read_text()), done.stdout + done.stderr


def outcome(made: dict[str, Any]) -> str:
    """How the run ended, as its record says it."""
    return str(made["metadata"]["opslib"]["outcome"])


class Cmdlines:
    """The command lines of all processes that are seen while the block runs."""

    def __enter__(self) -> "Cmdlines":
        self.seen = set[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.process_iter():
                try:
                    self.seen.add("\0".join(process.cmdline()))
                except psutil.Error:
                    continue


def test_nobody_notices_a_rotation_nor_its_end_and_no_secret_gets_out() -> None:
    jwt_secret.idle(ODD)
    env = jwt_secret.sandbox()
    with Cmdlines() as cmdlines:
        with sandbox.Traffic(rate=100) as traffic:
            code, made, shown = rotate("--reason", "drill")
        assert (code, outcome(made)) == (0, "applied"), shown
        assert traffic.result.asked > 2000
        assert traffic.result.failed == 0, traffic.result
        new = env_file.read(env.api.env_file)[signing.KEY]
        assert new != ODD
        assert jwt_secret.problem() == ""
        assert signing.found(env) == "overlap"
        code, _, early = rotate("-p", "stage", "retire")
        assert code == 1
        assert "s to go, 7.0 days" in early
        jwt_secret.stage({"JWT_SECRET_SINCE": "2026-01-01T00:00:00Z"})
        with sandbox.Traffic(rate=100) as traffic:
            code, retired, ended = rotate("-p", "stage", "retire")
        assert (code, outcome(retired)) == (0, "applied"), ended
        assert traffic.result.failed == 0, traffic.result
    assert signing.PREVIOUS not in env_file.read(env.api.env_file)
    assert set(token.answers(env, ODD)) == {401}
    assert set(token.answers(env, new)) == {200}
    assert not signing.staged(env).previous
    places = [shown, early, ended, json.dumps([made, retired], ensure_ascii=False), *cmdlines.seen]
    folders = [(STATE / folder).resolve() for folder in ("pm2", "logs", "postgres", "app/logs")]  # some are links
    logs = [file for folder in folders for file in folder.rglob("*")]
    assert [file for file in logs if file.parent.parts[-2:] == ("data", "log")]  # PostgreSQL's own
    places += [file.read_text(errors="replace") for file in logs if file.is_file()]
    assert len(places) > 20
    assert not [place[:80] for place in places for secret in (new, ODD[:40], json.dumps(ODD)[1:40]) if secret in place]


def test_an_api_that_knows_one_secret_is_left_as_it_was_unless_a_mass_logout_is_accepted() -> None:
    jwt_secret.idle()
    sandbox.break_("no-previous-secret")
    try:
        file = jwt_secret.sandbox().api.env_file
        before = file.read_bytes()
        with sandbox.Traffic(rate=100) as traffic:
            code, made, shown = rotate()
        assert (code, outcome(made)) == (2, "undone")
        assert "EVERYBODY WOULD BE LOGGED OUT" in shown
        assert "accept_mass_logout True" in shown
        assert "Sign with the new secret — under way" not in shown
        assert file.read_bytes() == before
        assert traffic.result.failed == 0, traffic.result
        assert jwt_secret.problem() == ""
        code, made, shown = rotate("-p", "accept_mass_logout", "True")
        assert (code, outcome(made)) == (0, "applied"), shown
        assert set(token.answers(jwt_secret.sandbox(), signing.old(jwt_secret.sandbox()))) == {401}
    finally:
        sandbox.mend("no-previous-secret")


def test_a_release_that_does_not_start_is_undone_byte_for_byte() -> None:
    jwt_secret.idle()
    file = jwt_secret.sandbox().api.env_file
    before = file.read_bytes()
    sandbox.break_("bad-release")
    try:
        with sandbox.Traffic(rate=100) as traffic:
            code, made, shown = rotate()
        assert (code, outcome(made)) == (2, "undone"), shown
        assert file.read_bytes() == before
        assert traffic.result.failed == 0, traffic.result
        assert jwt_secret.problem() == ""
    finally:
        sandbox.mend("bad-release")


def test_an_env_file_that_is_read_only_is_refused_before_anything_changes() -> None:
    env = jwt_secret.sandbox()
    file = env.api.env_file.resolve()
    staged, before = signing.staged(env), file.read_bytes()
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


def test_a_compromised_secret_is_refused_at_once() -> None:
    jwt_secret.overlap(days=1)
    env = jwt_secret.sandbox()
    values = env_file.read(env.api.env_file)
    code, made, shown = rotate("-p", "compromised", "True")
    assert (code, outcome(made)) == (0, "applied"), shown
    assert jwt_secret.problem() == ""
    assert all(set(token.answers(env, values[key])) == {401} for key in (signing.KEY, signing.PREVIOUS))
    assert signing.found(env) == "idle"


def test_killed_in_the_middle_it_is_run_again() -> None:
    # One case of the crash matrix: one worker signs with the new secret, the other is being replaced.
    case = Case(SUBJECTS[0], "runner", "Sign with the new secret", 7.0, "in the middle")
    assert crash_matrix.survive(case) == ""
