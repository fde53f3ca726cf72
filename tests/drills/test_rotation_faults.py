"""Whole runs of the rotations while PostgreSQL, Stripe or AWS fails, with approvals, and stage by stage.

What fails at each single call is in tests/test_login_faults.py, test_stripe_faults.py and test_aws_faults.py.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib import propertypulse
from opslib.api import jwt
from opslib.deployment import env_file
from opslib.runbook import procedure
from tests.aws_front import Front as AwsFront, How as AwsHow
from tests.drills import access_key as s3, database, jwt_secret, stripe_agreement as stripe
from tests.drills.database import Saved
from tests.place import elsewhere
from tests.postgres_front import Front, How
from tests.sandbox import postgres as cluster
from tests.sandbox.credentials import BUCKET, Credentials
from tests.sandbox.layout import DOTENV

pytestmark = [pytest.mark.usefixtures("sandbox"), pytest.mark.long]

ROOT = procedure.root()


def runbook(root: Path, *words: str) -> tuple[int, str]:
    """Run the command with that root; give its exit code and what the terminal showed."""
    done = subprocess.run(
        [sys.executable, "-m", "opslib.runbook.cli", *words],
        env={**os.environ, "RUNBOOK_ROOT": str(root)}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def apply_to(root: Path, name: str, **given: object) -> tuple[int, str]:
    """Apply a procedure; give its exit code and what the terminal showed."""
    words = [word for key, value in given.items() for word in ("-p", key, str(value))]
    return runbook(root, "run", name, "--apply", *words)


def rotate(root: Path, name: str, **given: object) -> tuple[int, str]:
    """Apply a rotation, which reloads the workers."""
    return apply_to(root, name, settle_seconds=2, **given)


# PostgreSQL


@pytest.fixture
def saved() -> Iterator[None]:
    one = Saved.now()
    yield
    one.put_back()


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("at", "how", "seconds", "code", "says"),
    [
        ("LOGIN PASSWORD", "lost", 0, 0, "applied: all checks held"),
        ("COMMIT", "down", 25, 2, "✓ Undo: Give the role propertypulse_clone a new password"),
        ("clock_timestamp", "cut", 0, 1, "server closed the connection unexpectedly"),
        ("login", "down", 25, 1, "server closed the connection unexpectedly"),
    ],
)
def test_postgresql_fails_for_the_administrator(
    tmp_path: Path, at: str, how: How, seconds: float, code: int, says: str
) -> None:
    before = DOTENV.read_bytes()
    with Front() as front:
        (admin := tmp_path / "admin").write_text(front.url(Credentials.load().postgres_url))
        admin.chmod(0o600)
        root = elsewhere(tmp_path / "root", database={"admin": f"file:{admin}"})
        front.fail(at, how)
        over = threading.Event()

        def mend() -> None:
            while not over.wait(0.2):
                if front.failed:
                    time.sleep(seconds)
                    front.mend()
                    return

        mending = threading.Thread(target=mend)
        mending.start()
        found, said = rotate(root, "rotate_database_password")
        over.set()
        mending.join()
    assert front.failed, said
    assert found == code, said
    assert says in said, said
    assert (DOTENV.read_bytes() == before) == (code != 0), said
    assert database.problems() == []


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("where", ["url", "userlist"])
def test_pgbouncer_that_has_passwords_of_its_own_is_not_left_behind(tmp_path: Path, where: str) -> None:
    root = ROOT
    if where == "url":
        url = env_file.read(DOTENV)["DATABASE_URL"]
        env_file.drop(env_file.edit(DOTENV, {"DATABASE_URL": f"{url}&pgbouncer=true"}))  # type: ignore[arg-type]  # it differs
    else:
        (file := tmp_path / "userlist.txt").write_text(f'"{cluster.ROLE}" "SCRAM-SHA-256$4096:x"\n')
        root = elsewhere(tmp_path / "root", database={"userlist": str(file)})
    before = DOTENV.read_bytes()
    code, said = rotate(root, "rotate_database_password")
    assert code == 1
    assert "✗ PgBouncer holds no password of it" in said
    assert "Change its list too, then go on with -p accept_others True" in said
    assert DOTENV.read_bytes() == before
    assert database.problems() == []


# Stripe


def test_stripe_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    given = stripe.put(tmp_path, key := stripe.create_key())
    for path in ("account", "balance", "charges", "events", "webhook_endpoints"):
        for fault in ({"status": 429, "retry_after": 1}, {"status": 500}, {"status": 0}):
            stripe.dashboard("faults", path=f"/v1/{path}", **fault)
    try:
        code, said = rotate(ROOT, "rotate_stripe_key", new_key=given, wait_seconds=20)
    finally:
        stripe.dashboard("faults")
    assert code == 0, said
    assert stripe.held("STRIPE_SECRET_KEY") == key
    assert stripe.problems() == []
    staged = propertypulse.load("sandbox").api.env_file.resolve().with_name(".env.staged")
    kept = {f"STRIPE_SECRET_KEY_{what}": None for what in ("PENDING", "PREVIOUS", "SINCE")}
    env_file.drop(env_file.edit(staged, kept))  # type: ignore[arg-type]  # it differs


# AWS


@pytest.fixture
def one_key() -> Iterator[None]:
    s3.one()
    yield
    s3.one()


@pytest.mark.usefixtures("one_key")
@pytest.mark.parametrize(
    ("faults", "code", "says"),
    [
        (
            {"CreateAccessKey": ("late 500", 1), "ListAccessKeys": ("throttle", 2), f"PUT {BUCKET}": ("drop", 2)},
            0,
            "applied: all",
        ),
        ({f"GET {BUCKET}": ("500", 999)}, 2, "✗ The key does what the API needs"),
        ({"GetUser": ("throttle", 999)}, 1, "GetUser was not answered: Throttling. See"),
    ],
    ids=["passes", "S3 lasts", "IAM lasts"],
)
def test_aws_fails(tmp_path: Path, faults: dict[str, tuple[AwsHow, int]], code: int, says: str) -> None:
    file = propertypulse.load("sandbox").api.env_file
    before = file.read_bytes()
    with AwsFront() as front:
        for call, (how, times) in faults.items():
            front.fail(call, how, times)
        found, said = rotate(elsewhere(tmp_path / "root", s3={"endpoint": front.url}), "rotate_s3_credentials")
    assert found == code, said
    assert (file.read_bytes() == before) == (code != 0)
    assert s3.problems() == []
    assert says in said, said


@pytest.mark.usefixtures("one_key")
def test_old_key_goes_only_after_its_quiet_time_and_may_come_back(tmp_path: Path) -> None:
    root = elsewhere(tmp_path / "root", s3={"presigned": 1})
    old = s3.keys().pair
    assert rotate(root, "rotate_s3_credentials")[0] == 0
    code, said = apply_to(root, "deactivate_s3_key", quiet_seconds=3600)
    assert code == 1 and "3600 s without use are asked for" in said, said
    code, said = apply_to(root, "delete_s3_key", quiet_seconds=0)
    assert code == 1 and "is still active: run deactivate_s3_key first" in said, said
    assert [key.status for key in s3.keys().listed()] == ["Active", "Active"]
    time.sleep(3)
    off = {"quiet_seconds": 2}
    for verb, given, status in (
        ("deactivate", off, "Inactive"), ("reactivate", {}, "Active"), ("deactivate", off, "Inactive")
    ):  # fmt: skip
        code, said = apply_to(root, f"{verb}_s3_key", **given)
        assert code == 0, said
        assert {key.id: key.status for key in s3.keys().listed()}[old.id] == status
        assert s3.problems() == []
    code, said = apply_to(root, "delete_s3_key", quiet_seconds=3600)
    assert code == 1 and "Inactive for 3600 s are asked for, which is at" in said, said
    time.sleep(2)
    code, said = apply_to(root, "delete_s3_key", quiet_seconds=2)
    assert code == 0, said
    assert old.id not in [key.id for key in s3.keys().listed()]
    assert s3.problems() == []


# Approvals


def plan(root: Path) -> str:
    """The digest of the plan as it is now."""
    code, said = runbook(root, "run", "rotate_jwt_secret", "-p", "settle_seconds", "1")
    found = re.search(r"Plan ([0-9a-f]{16})", said)
    assert code == 0 and found, said
    return found[1]


def apply(root: Path, digest: str) -> tuple[int, str]:
    """Apply with that approval."""
    return runbook(root, "run", "rotate_jwt_secret", "--apply", "--approval", digest, "-p", "settle_seconds", "1")


def test_only_the_plan_that_was_approved_is_applied(tmp_path: Path) -> None:
    root = elsewhere(tmp_path / "root", approval="digest")
    jwt_secret.idle()
    yesterday = plan(root)
    jwt_secret.idle(jwt.make())  # somebody has replaced the secret meanwhile, and every process is another one
    before = DOTENV.read_bytes()
    code, said = apply(root, yesterday)
    assert code == 4 and f"the approval is for plan '{yesterday}'" in said, said
    assert DOTENV.read_bytes() == before and jwt_secret.problems() == []
    today = plan(root)
    assert today != yesterday
    code, said = apply(root, today)
    assert code == 0, said
    assert DOTENV.read_bytes() != before and jwt_secret.problems() == []
    code, said = apply(root, today)
    assert code == 1 and "Run retire_jwt_secret" in said, said
    jwt_secret.idle()
    code, said = apply(root, today)
    assert code == 4, said  # it was for one rotation


def test_a_second_person_s_signature_lets_a_rotation_go_ahead(tmp_path: Path) -> None:
    key = tmp_path / "bob"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (signers := tmp_path / "signers").write_text(f'bob namespaces="runbook" {key.with_suffix(".pub").read_text()}')
    approval = {"default": "none", "rotate_jwt_secret": "second-person"}
    root = elsewhere(tmp_path / "root", signers=str(signers), approval=approval)
    jwt_secret.idle()
    digest, before = plan(root), DOTENV.read_bytes()
    code, said = apply(root, digest)
    assert code == 4 and "runbook approve" in said, said
    assert DOTENV.read_bytes() == before
    code, said = runbook(root, "approve", digest, "--by", "bob", "--key", str(key))
    assert code == 0, said
    code, said = apply(root, digest)
    assert code == 0 and "is approved — by bob" in said, said
    assert jwt_secret.problems() == []
    jwt_secret.idle()
