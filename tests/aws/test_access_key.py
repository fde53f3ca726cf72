"""Access keys of a user of their own, asked of the stand-in's AWS through a front that fails as told."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib import propertypulse
from opslib.aws import access_key, aws, key_rotation, key_standing, upload
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import ID, SECRET, Pair, StagedPair
from opslib.aws.settings import S3
from opslib.aws.upload import Probe
from opslib.deployment import env_file
from opslib.propertypulse import PropertyPulse
from opslib.runbook.errors import BadEnvironment, BadParameter, RunbookError, UndoFailed
from opslib.runbook.mask import mask
from tests import aws_front
from tests.aws_front import Front, How
from tests.sandbox.credentials import BACKUP_BUCKET, BUCKET

pytestmark = pytest.mark.usefixtures("sandbox")


@pytest.fixture
def front() -> Iterator[Front]:
    with Front() as front:
        yield front


@pytest.fixture
def iam() -> Any:
    env = propertypulse.load("sandbox")
    return aws.client(env, "iam", aws.administrator(env))


@pytest.fixture
def keys(tmp_path: Path, front: Front, iam: Any, monkeypatch: pytest.MonkeyPatch) -> AccessKeys:
    """The keys of a new user, who may do what the API's may; its one key is in an `.env` of its own."""
    monkeypatch.setattr(access_key, "CONSISTENT", 2)
    env, user = propertypulse.load("sandbox"), f"test-{uuid.uuid4().hex}"
    assert env.s3
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName=user, PolicyDocument=policy(BUCKET))
    made = iam.create_access_key(UserName=user)["AccessKey"]
    file = tmp_path / ".env"
    file.write_text(f"# a comment\n{ID}={made['AccessKeyId']}\n{SECRET}='{made['SecretAccessKey']}'\nOTHER=1\n")
    file.chmod(0o600)
    s3 = env.s3.model_copy(update={"user": user, "endpoint": front.url})
    api = env.api.model_copy(update={"env_file": file})
    return AccessKeys(env.model_copy(update={"s3": s3, "api": api}))


def policy(*buckets: str) -> str:
    actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"]
    resources = [arn for bucket in buckets for arn in (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*")]
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}]}
    )


def again(keys: AccessKeys) -> AccessKeys:
    """What a new process finds."""
    return AccessKeys(keys.environment)


def put_in_force(keys: AccessKeys) -> None:
    """What the rollout does, without an API."""
    keys.staged.keep()
    pending = keys.staged.pending
    assert pending
    env_file.edit(keys.environment.api.env_file, {ID: pending.id, SECRET: pending.secret})


def ids(keys: AccessKeys) -> list[str]:
    return [key.id for key in keys.listed()]


def test_both_halves_are_staged_at_once_and_for_the_owner_only(keys: AccessKeys) -> None:
    before = keys.environment.api.env_file.read_bytes()
    keys.make()
    assert keys.staged.pending
    assert keys.staged.pending.id in ids(keys)
    assert keys.staged.file.stat().st_mode & 0o777 == 0o600
    assert keys.staged.asked is None
    assert keys.environment.api.env_file.read_bytes() == before
    assert sorted(p.name for p in keys.staged.file.parent.iterdir()) == [".env", ".env.staged"]
    keys.make()
    assert len(ids(keys)) == 2


@pytest.mark.parametrize("how", ["drop", "lost", "500", "late 500", "throttle", "slow"])
def test_a_key_is_made_in_spite_of_one_failure(keys: AccessKeys, front: Front, how: How) -> None:
    front.fail("CreateAccessKey", how)
    keys.make()
    assert keys.staged.pending
    assert set(ids(keys)) == {keys.staged.pending.id, keys.staged.current.id}  # type: ignore[union-attr]  # there is one
    assert keys.staged.asked is None


def test_an_answer_that_does_not_come_in_time_leaves_no_stray_key(
    keys: AccessKeys, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    monkeypatch.setattr(aws_front, "HANG", 2)
    keys = again(keys)
    front.fail("CreateAccessKey", "hang")
    keys.make()
    assert len(ids(keys)) == 2
    assert front.calls["DeleteAccessKey"] == 1


@pytest.mark.parametrize(("how", "times"), [("denied", 1), ("throttle", 9), ("drop", 9), ("late 500", 9)])
def test_a_lasting_failure_is_undone(
    keys: AccessKeys, front: Front, how: How, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(access_key, "CONSISTENT", 0.1)
    front.fail("CreateAccessKey", how, times)
    change = key_rotation.create(keys)
    with pytest.raises(RunbookError, match="CreateAccessKey"):
        change.do()
    change.put_back()
    assert ids(keys) == [keys.staged.current.id]  # type: ignore[union-attr]  # there is one
    assert keys.staged.pending is None


@pytest.mark.parametrize("how", ["drop", "500", "throttle", "slow"])
def test_calls_that_may_be_repeated_are(keys: AccessKeys, front: Front, how: How) -> None:
    keys.make()
    calls = ("ListAccessKeys", "GetAccessKeyLastUsed", "DeleteAccessKey", "UpdateAccessKey", "GetUser")
    for call in calls:
        front.fail(call, how)
    assert keys.arn.endswith(keys.settings.user)
    assert len(ids(keys)) == 2
    keys.turning(keys.pair.id, "Inactive").run()
    keys.deletion(keys.pair.id).run()
    keys.deletion(keys.pair.id).run()
    assert len(ids(keys)) == 1
    assert how == "slow" or all(front.calls[call] > 1 for call in calls)


def test_iam_down_changes_nothing_and_is_named(keys: AccessKeys, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    front.fail("*", "drop", 999)
    with pytest.raises(RunbookError, match=r"IAM ListAccessKeys was not answered: \w+. See whether AWS is well"):
        keys.make()
    assert keys.staged.asked is None
    assert keys.staged.pending is None


@pytest.mark.parametrize("dies", ["ask", "call", "stage"])
def test_a_run_that_died_while_it_made_the_key_is_run_again(
    keys: AccessKeys, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if dies == "call":
            patch.setattr(keys._once, "create_access_key", die)
        else:
            patch.setattr(StagedPair, dies, die)
        with pytest.raises(Killed):
            keys.make()
    left = len(ids(keys))
    assert left == (2 if dies == "stage" else 1)
    found = again(keys)
    assert len(found.lost()) == left - 1
    assert key_standing.room(found)
    assert ("whose secret got lost" in "; ".join(key_rotation.create(found).describe()["does"])) == (left == 2)
    found.make()
    assert len(ids(found)) == 2
    assert found.staged.pending
    assert upload.proven(found.environment, found.arn, found.pair, within=5)


def test_a_key_of_somebody_else_is_never_taken_for_a_lost_one(keys: AccessKeys, iam: Any) -> None:
    theirs = iam.create_access_key(UserName=keys.settings.user)["AccessKey"]["AccessKeyId"]
    for at, known in ((timedelta(), [theirs]), (timedelta(minutes=-10), []), (timedelta(minutes=10), [])):
        keys.staged.ask(datetime.now(UTC) + at, known)
        assert keys.lost() == []
    keys.staged.answered()
    assert keys.lost() == []
    said = key_standing.room(keys).otherwise
    assert f"…{theirs[-4:]} was used least recently (never used" in said
    assert "never does that to make room" in said
    with pytest.raises(RunbookError, match="AWS allows 2"):
        keys.make()
    assert theirs in ids(keys)


def test_a_used_key_is_not_a_lost_one(keys: AccessKeys, iam: Any) -> None:
    keys.staged.ask(datetime.now(UTC) - timedelta(seconds=1), [keys.pair.id])
    made = iam.create_access_key(UserName=keys.settings.user)["AccessKey"]
    assert len(keys.lost()) == 1
    aws.client(keys.environment, "sts", Pair(made["AccessKeyId"], made["SecretAccessKey"])).get_caller_identity()
    assert keys.lost() == []


def test_a_key_that_iam_lists_late_is_found_all_the_same(
    keys: AccessKeys, front: Front, iam: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, early = AccessKeys._list, iter(range(5))

    def late(self: AccessKeys) -> tuple[datetime, list[access_key.Key]]:
        at, found = real(self)
        return at, found if next(early, None) is None else found[:1]

    monkeypatch.setattr(access_key, "CONSISTENT", 0.1)
    monkeypatch.setattr(AccessKeys, "_list", late)
    front.fail("CreateAccessKey", "late 500")
    keys.make()
    monkeypatch.undo()
    assert set(ids(keys)) == {pair.id for pair in (keys.staged.current, keys.staged.pending) if pair}
    assert front.calls["CreateAccessKey"] > 1


def test_staged_key_that_iam_has_not_is_made_anew(keys: AccessKeys) -> None:
    keys.make()
    first = keys.pair.id
    keys.deletion(first).run()
    keys.make()
    assert keys.pair.id != first
    assert keys.pair.id in ids(keys)


def test_key_in_force_is_never_deleted_by_an_undo(keys: AccessKeys) -> None:
    change = key_rotation.create(keys)
    change.do()
    put_in_force(keys)
    with pytest.raises(UndoFailed, match="is in force, so it stays"):
        change.put_back()
    assert len(ids(keys)) == 2


def test_procedures_follow_each_other(keys: AccessKeys) -> None:
    old = keys.pair
    assert key_standing.in_force(keys) and key_standing.room(keys) and not key_standing.left(keys)
    keys.make()
    put_in_force(keys)
    assert key_standing.room(keys) and not key_standing.left(keys)  # it is carried on
    key_rotation.close(keys).do()
    assert keys.old == old
    assert key_standing.left(keys)
    assert key_standing.as_left(keys, "Active")
    assert "run deactivate_s3_key first" in key_standing.rested(keys, 0).otherwise
    assert "are good until" in key_standing.unneeded(keys, 0).otherwise
    assert "run deactivate_s3_key and delete_s3_key first" in key_standing.room(keys).otherwise
    turned = key_rotation.turn(keys, "Inactive")
    assert turned.describe()["does"][0].endswith(f"AccessKeyId=‹{old}›, Status='Inactive')")
    turned.do()
    assert key_standing.as_left(keys, "Inactive")
    turned.put_back()
    assert key_standing.as_left(keys, "Active")
    turned.do()
    assert key_standing.unneeded(keys, 0)
    assert "3600 s are asked for" in key_standing.rested(keys, 3600).otherwise
    assert key_standing.rested(keys, 0)
    delete = keys.deletion(old.id)
    delete.run()
    refused = upload.refused(keys.environment, old)
    assert refused, refused
    delete.run()
    assert key_standing.rested(keys, 3600)  # there is nothing to wait for
    assert "run delete_s3_key, which forgets it" in key_standing.unneeded(keys, 0).otherwise
    keys.staged.forget()
    assert not key_standing.left(keys)
    assert key_standing.as_left(keys, "")


def test_somebody_who_still_uses_the_old_key_is_found(keys: AccessKeys) -> None:
    old = keys.pair
    keys.make()
    put_in_force(keys)
    key_rotation.close(keys).do()
    env = keys.environment
    keys.settings = env.part(S3).model_copy(update={"presigned": 1})
    time.sleep(2.2)
    assert key_standing.unneeded(keys, 0)
    aws.client(env, "s3", old).list_objects_v2(Bucket=BUCKET)
    why = key_standing.unneeded(keys, 0).otherwise
    assert "for s3, and the API signs with another since" in why
    assert "60 s without use" in key_standing.unneeded(keys, 60).otherwise


def test_key_of_another_user_is_told_at_once(keys: AccessKeys) -> None:
    began = time.monotonic()
    proven = upload.proven(keys.environment, "arn:aws:iam::123456789012:user/somebody", keys.pair, within=60)
    assert not proven
    assert proven.evidence[0].found == keys.arn
    assert time.monotonic() - began < 10


def test_key_that_may_touch_another_bucket_is_not_proven(keys: AccessKeys, iam: Any) -> None:
    user = keys.settings.user
    iam.put_user_policy(UserName=user, PolicyName=user, PolicyDocument=policy(BUCKET, BACKUP_BUCKET))
    proven = upload.proven(keys.environment, keys.arn, keys.pair, within=60)
    assert not proven
    assert Probe(f"S3 PutObject in {BACKUP_BUCKET}", "AccessDenied", "done") in proven.evidence
    assert Probe("and delete it again", "done", "done") in proven.evidence


def test_new_key_that_is_not_known_everywhere_yet_is_waited_for(keys: AccessKeys, front: Front) -> None:
    front.fail(f"PUT {BUCKET}", "denied", 3)
    proven = upload.proven(keys.environment, keys.arn, keys.pair, within=20)
    assert proven, proven
    front.fail(f"PUT {BUCKET}", "denied", 999)
    proven = upload.proven(keys.environment, keys.arn, keys.pair, within=1)
    assert not proven
    assert "X-Amz" not in str(proven)


def test_probe_leaves_nothing_behind(keys: AccessKeys) -> None:
    upload.proven(keys.environment, keys.arn, keys.pair, within=1)
    s3 = aws.client(keys.environment, "s3", keys.pair)
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix=upload.PREFIX)["KeyCount"] == 0


def test_clients_know_nothing_of_the_machine(keys: AccessKeys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, value in {
        "AWS_PROFILE": "nobody", "AWS_ACCESS_KEY_ID": "AKIAAMBIENT", "AWS_SECRET_ACCESS_KEY": "ambient",
        "AWS_SESSION_TOKEN": "ambient", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "eu-west-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    sts = aws.client(keys.environment, "sts", keys.pair)
    assert sts.meta.region_name == "us-east-1"
    assert sts.get_caller_identity()["Arn"] == keys.arn


def test_no_secret_can_be_printed(keys: AccessKeys) -> None:
    keys.make()
    pair = keys.pair
    shown = f"{pair} {pair!r} {keys.staged!r} {keys.listed()!r} {keys.rows()} {keys.describe()} {keys.staged.asked!r}"
    assert pair.secret not in shown
    assert pair.id not in shown
    assert mask.text(f"{pair.id} {pair.secret}") == f"[{ID} masked] [{SECRET} masked]"


@pytest.mark.parametrize("content", ["AKIA:secret", "[]", '{"AccessKeyId": "x"}', "7"])
def test_administrator_that_is_no_key_is_told_without_its_content(tmp_path: Path, content: str) -> None:
    file = tmp_path / "aws.json"
    file.write_text(content)
    file.chmod(0o600)
    env = propertypulse.load("sandbox")
    assert env.s3
    wrong: PropertyPulse = env.model_copy(update={"s3": env.s3.model_copy(update={"administrator": f"file:{file}"})})
    with pytest.raises(BadEnvironment, match="is not JSON with AccessKeyId"):
        aws.administrator(wrong)
    file.chmod(0o644)
    with pytest.raises(BadParameter, match="0600"):
        aws.administrator(wrong)
    with pytest.raises(BadEnvironment, match="has no `s3:`"):
        aws.settings(env.model_copy(update={"s3": None}))
