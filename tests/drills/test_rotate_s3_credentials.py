"""Drills of `rotate_s3_credentials`: under traffic that signs and uploads, with AWS failing, undone, and killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opslib import propertypulse
from opslib.aws import aws, upload
from opslib.runbook import listing, procedure, record
from tests import leaks, sandbox
from tests.aws_front import Front
from tests.drills import access_key
from tests.drills.access_key import keys, problems
from tests.place import elsewhere, states
from tests.sandbox.credentials import BACKUP_BUCKET, BUCKET, Credentials
from tests.sandbox.layout import LOGS, PM2_HOME, STATE

pytestmark = pytest.mark.usefixtures("sandbox")

ROTATE = "rotate_s3_credentials"
SETTLE = ("-p", "settle_seconds", "2")
ROOT = procedure.root()


@pytest.fixture(autouse=True)
def one_key() -> Iterator[None]:
    """Begin and end with the one key that is in force."""
    access_key.one()
    yield
    access_key.one()


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "opslib.runbook.cli", "run", name, "--apply", *arguments]


def rotate(root: Path = ROOT) -> tuple[int, dict[str, Any], str]:
    return apply(ROTATE, *SETTLE, root=root)


def apply(name: str, *arguments: str, root: Path = ROOT) -> tuple[int, dict[str, Any], str]:
    """Run the procedure with --apply; give its exit code, its record, and what the terminal showed."""
    variables = {**os.environ, "RUNBOOK_ROOT": str(root)}
    done = subprocess.run(command(name, *arguments), capture_output=True, text=True, timeout=300, env=variables)
    assert "Traceback" not in done.stderr, done.stderr
    file = Path(done.stdout.splitlines()[-1])
    return done.returncode, json.loads(file.read_text()), done.stdout + done.stderr


def may_touch(*buckets: str) -> None:
    """Set what the API's user may do."""
    env = propertypulse.load("sandbox")
    assert env.s3
    user = env.s3.user
    resources = [arn for bucket in buckets for arn in (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*")]
    actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"]
    content = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}]}
    iam = aws.client(env, "iam", aws.administrator(env))
    iam.put_user_policy(UserName=user, PolicyName=user, PolicyDocument=json.dumps(content))


@pytest.mark.long
def test_whole_rotation_costs_no_request_and_shows_no_secret() -> None:
    old = keys().pair
    shown = []
    with leaks.command_lines() as lines, sandbox.Traffic(rate=50, writes=True) as traffic:
        for words in (
            [ROTATE, *SETTLE],
            ["deactivate_s3_key", "-p", "accept_broken_uploads", "True"],
            ["delete_s3_key", "-p", "quiet_seconds", "0"],
        ):
            code, made, text = apply(*words)
            assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), text
            assert set(states(made)) == {"completed"}
            assert problems() == []
            shown += [text, json.dumps(made)]
            if words[0] == ROTATE:
                assert "✗ The user may get another key" in rotate()[2]
                early = apply("deactivate_s3_key")
                assert early[0] == 1
                assert "URLs that were signed with it are good until" in early[2]
    assert traffic.result.asked > 300
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    new = keys().pair
    assert new.id != old.id
    assert [key.id for key in keys().listed()] == [new.id]
    assert upload.refused(propertypulse.load("sandbox"), old)
    secrets = {"old": old.secret, "new": new.secret, "administrator": Credentials.load().aws_admin_secret_access_key}
    secrets |= {"old id": old.id, "new id": new.id}
    assert leaks.shown(secrets, {text[:80]: text for text in (*shown, *lines)}) == []
    logs = [file for file in (STATE / "logs").iterdir() if file.name != "aws_server.log"]  # AWS may know a key's id
    assert leaks.found(secrets, [*logs, LOGS, PM2_HOME, record.folder()]) == []


def test_workers_that_do_not_come_up_undo_it() -> None:
    file = propertypulse.load("sandbox").api.env_file
    before, old = file.read_bytes(), keys().pair
    sandbox.break_("bad-release")
    try:
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, text = rotate()
        assert (code, made["metadata"]["opslib"]["outcome"]) == (2, "undone"), text
        assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    finally:
        sandbox.mend("bad-release")
    assert file.read_bytes() == before
    assert [key.id for key in keys().listed()] == [old.id]
    assert problems() == []


def test_iam_that_fails_in_the_undo_needs_a_person_and_is_run_again(tmp_path: Path) -> None:
    before = propertypulse.load("sandbox").api.env_file.read_bytes()
    may_touch(BUCKET, BACKUP_BUCKET)
    try:
        with Front() as front:
            front.fail("DeleteAccessKey", "500", 99)
            code, made, text = rotate(root=elsewhere(tmp_path, s3={"endpoint": front.url}))
    finally:
        may_touch(BUCKET)
    assert (code, made["metadata"]["opslib"]["outcome"]) == (3, "needs-person"), text
    assert "IAM DeleteAccessKey was not answered" in text
    assert propertypulse.load("sandbox").api.env_file.read_bytes() == before
    assert problems() == ["a key is staged that is not in force", "IAM has a stray key: 2 keys"]
    code, made, text = rotate()
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), text
    assert "which is staged" in text
    assert problems() == []


def test_wrong_user_and_wrong_administrator_change_nothing(tmp_path: Path) -> None:
    for name, value, said in (
        ("user", "nobody", "NoSuchEntity"),
        ("user", "propertypulse-admin", "Whoever asks is not the user"),
        ("administrator", "file:/nowhere/aws.json", "cannot be read"),
    ):
        (folder := tmp_path / name / value.replace("/", "-")).mkdir(parents=True)
        code, _, text = rotate(root=elsewhere(folder, s3={name: value}))
        assert code in (1, 4)
        assert said in text
    assert problems() == []


@pytest.mark.long
def test_killed_between_two_workers_it_is_run_again() -> None:
    old = keys().pair
    kill("runner", "· Put the new key in force — under way", 4)
    code, made, text = rotate()
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), text
    assert problems() == []
    assert keys().staged.previous == old


@pytest.mark.long
def test_killed_and_run_again_in_vain_it_is_undone_to_what_was_before_both() -> None:
    file = propertypulse.load("sandbox").api.env_file
    before, old = file.read_bytes(), keys().pair
    kill("kernel", "✓ Put the new key in force", 0)
    assert file.read_bytes() != before
    sandbox.break_("bad-release")
    try:
        with sandbox.Traffic(rate=50, writes=True) as traffic:
            code, made, text = rotate()
    finally:
        sandbox.mend("bad-release")
    assert (code, made["metadata"]["opslib"]["outcome"]) == (2, "undone"), text
    assert traffic.result.failed == 0 and traffic.result.lossless, traffic.result
    assert file.read_bytes() == before
    assert [key.id for key in keys().listed()] == [old.id]
    assert problems() == []


def kill(whom: str, line: str, later: float) -> None:
    """Begin a run, and kill it so many seconds after it has shown this line."""
    with subprocess.Popen(command(ROTATE, *SETTLE), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(line in shown for shown in iter(process.stdout.readline, "")), line
        time.sleep(later)
        if whom == "runner":
            process.send_signal(signal.SIGKILL)
        else:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "ipykernel_launcher" in " ".join(child.cmdline()):
                        child.kill()
        process.stdout.read()
    newest = next(listing.records(procedure="rotate_s3_credentials"))
    assert newest.outcome in ("interrupted", "needs-person", "failed")
