"""Drills of the rotations of what signs tokens and uploads, on an API that nobody has prepared."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.api import jwt_rotation
from opslib.aws import aws
from opslib.aws.key_pair import ID, Pair
from opslib.deployment import env_file
from tests import leaks
from tests.sandbox.credentials import write_private
from tests.sandbox.plain import api, deployment, fault, pm2
from tests.sandbox.plain.credentials import IAM_USER
from tests.sandbox.plain.layout import ADMIN, DOTENV

pytestmark = pytest.mark.usefixtures("mended")

UNREAD = ("-p", "accept_unread_secret", "True")


@pytest.fixture
def unlimited() -> None:
    """An API that counts anew: each process counts for itself."""
    pm2.begin()


def run(name: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the procedure; give its exit code, its record, and what the terminal showed."""
    words = ["-m", "opslib.runbook.cli", "run", name, "-e", "plain", "-p", "accept_downtime", "True"]
    done = subprocess.run([sys.executable, *words, *arguments], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(Path(done.stdout.splitlines()[-1]).read_text()), done.stdout


def spent() -> int:
    """How many requests the API has counted of this address, this one left out."""
    headers = api.ask("/api/properties")[2]
    return int(headers["ratelimit-limit"]) - int(headers["ratelimit-remaining"]) - 1


@pytest.mark.parametrize("name", ["rotate_jwt_secret", "revoke_jwt_secret"])
def test_a_secret_that_nothing_reads_is_said_so_with_three_requests(name: str, unlimited: None) -> None:
    code, _, said = run(name)
    assert spent() == 3
    assert code == 1 and "✗ The API accepts tokens signed with the secret in force" in said, said
    assert "does not seem to check tokens with JWT_SECRET" in said and "-p accept_unread_secret True" in said
    assert "no code of the API's own names JWT_SECRET" in said
    assert [line.split()[-1] for line in said.splitlines() if "garbage" in line or "no token" in line] == ["401"] * 2


@pytest.mark.long
@pytest.mark.parametrize("name", ["rotate_jwt_secret", "revoke_jwt_secret"])
def test_a_secret_that_nothing_reads_is_rotated_if_that_is_accepted(name: str, unlimited: None) -> None:
    old = env_file.read(DOTENV)[jwt_rotation.KEY]
    code, made, said = run(name, *UNREAD, "--apply", "-p", "settle_seconds", "1")
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), said
    new = env_file.read(DOTENV)
    assert new[jwt_rotation.KEY] != old and jwt_rotation.PREVIOUS not in new
    environment = propertypulse.load("plain")
    staged = jwt_rotation.staged(environment)
    assert (staged.pending, staged.previous, jwt_rotation.found(environment)) == ("", "", "idle")
    assert pm2.problem() is None
    assert leaks.shown({"old": old, "new": new[jwt_rotation.KEY]}, {"run": said, "record": json.dumps(made)}) == []


def test_nothing_is_told_of_an_api_that_was_asked_too_often(unlimited: None) -> None:
    while api.ask("/api/properties")[0] != 429:
        pass
    code, _, said = run("rotate_jwt_secret", *UNREAD)
    assert code == 1 and "The API was asked too often (429) and answers again in" in said, said
    assert "cannot tell: The API accepts tokens signed with the secret in force" in said
    assert "does not seem to check" not in said


def test_a_run_that_would_be_asked_too_often_is_not_begun(unlimited: None) -> None:
    while int(api.ask("/api/properties")[2]["ratelimit-remaining"]) > 6:
        pass
    code, _, said = run("rotate_jwt_secret", *UNREAD)
    assert code == 1 and "✗ The API may be asked as often as this takes" in said, said
    assert "Run this again in" in said


@pytest.mark.long
def test_each_of_two_workers_is_asked_once() -> None:
    deployment.stop()
    deployment.start(instances=2)
    try:
        code, _, said = run("rotate_jwt_secret")
        assert code == 1 and "does not seem to check tokens with JWT_SECRET" in said, said
        assert "6     12     200" in said, said
    finally:
        deployment.stop()
        deployment.start()


@pytest.fixture
def new_pair() -> Iterator[Pair]:
    """A pair that was made in the console of another maker, and lies where the environment's file says."""
    env, file = propertypulse.load("plain"), ADMIN / "new_aws.json"
    iam = aws.client(env, "iam", aws.administrator(env))
    for key in iam.list_access_keys(UserName=IAM_USER)["AccessKeyMetadata"]:
        if key["AccessKeyId"] != env_file.read(DOTENV)[ID]:
            iam.delete_access_key(UserName=IAM_USER, AccessKeyId=key["AccessKeyId"])
    made = iam.create_access_key(UserName=IAM_USER)["AccessKey"]
    write_private(file, json.dumps({name: made[name] for name in ("AccessKeyId", "SecretAccessKey")}))
    yield Pair(made["AccessKeyId"], made["SecretAccessKey"])
    file.unlink()


@pytest.mark.long
def test_a_key_is_rotated_and_the_api_signs_with_it_for_whoever_signs_in_at_firebase(unlimited: None) -> None:
    old = env_file.read(DOTENV)[ID]
    code, made, said = run("rotate_s3_credentials", "--apply", "-p", "settle_seconds", "2")
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), said
    assert "✓ The API signs with the key in force" in said and "signInWithPassword, once" in said
    assert env_file.read(DOTENV)[ID] != old and pm2.problem() is None


@pytest.mark.long
def test_without_iam_the_pair_comes_by_reference(unlimited: None, new_pair: Pair) -> None:
    fault.break_("other-s3")
    code, made, said = run("rotate_s3_credentials", "--apply", "-p", "settle_seconds", "2")
    assert (code, made["metadata"]["opslib"]["outcome"]) == (0, "applied"), said
    assert "cannot tell here which there are: no IAM at http" in said and "iam." not in said
    assert "✓ The API signs with the key in force" in said and "in the console of http" in said
    assert env_file.read(DOTENV)[ID] == new_pair.id
    code, _, said = run("rotate_s3_credentials")
    assert code == 1 and "it has the one in force" in said, said
    assert leaks.shown({"new": new_pair.secret}, {"run": said, "record": json.dumps(made)}) == []


@pytest.mark.long
def test_without_iam_nothing_is_asked_of_it_and_the_console_is_named(unlimited: None) -> None:
    fault.break_("other-s3")
    code, _, said = run("rotate_s3_credentials")
    assert code == 1 and "cannot be read" in said and "Make a new pair in the console of http" in said, said
    for name in ("deactivate_s3_key", "delete_s3_key", "reactivate_s3_key"):
        done = subprocess.run(
            [sys.executable, "-m", "opslib.runbook.cli", "run", name, "-e", "plain"], capture_output=True, text=True
        )
        assert done.returncode == 1 and "cannot tell: Whoever asks" in done.stdout, done.stdout
        assert "There is no IAM at http" in done.stdout and "Traceback" not in done.stdout + done.stderr
