"""AWS failing at each call of the S3 rotation: made again where that is safe, and never taken for a yes."""

# ruff: noqa: F811 – a fixture that is imported is a parameter too

import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from opslib.aws import aws, key_rotation, key_standing, upload
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import Pair
from opslib.runbook.act import Act
from opslib.runbook.errors import RunbookError
from tests import aws_front
from tests.aws.test_access_key import again, front, iam, keys, put_in_force  # noqa: F401
from tests.aws_front import Front, How
from tests.sandbox.credentials import BACKUP_BUCKET, BUCKET

pytestmark = pytest.mark.usefixtures("sandbox", "quick")

PASSING: list[How] = ["drop", "lost", "500", "late 500", "throttle", "throttle 1 s", "slow", "hang"]
LASTING: list[How] = ["drop", "500", "throttle"]
# Of a probe, each call that goes by one name; the signed URLs are the second PUT and GET.
PROBE = [
    ("GetCallerIdentity", 0), (f"PUT {BUCKET}", 0), (f"GET {BUCKET}", 0), (f"PUT {BUCKET}", 1), (f"GET {BUCKET}", 1),
    (f"DELETE {BUCKET}", 0), (f"GET {BACKUP_BUCKET}", 0), (f"PUT {BACKUP_BUCKET}", 0),
]  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 does not wait between its attempts, an answer is waited for half a second, and slow is less than that."""
    patient = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    monkeypatch.setattr("botocore.endpoint.time", patient)
    monkeypatch.setattr(aws, "READ_SECONDS", 1)
    monkeypatch.setattr(aws_front, "SLOW", 0.3)
    monkeypatch.setattr(aws_front, "HANG", 1.5)
    monkeypatch.setattr(upload, "_FIRST_PAUSE", 0.05)


@pytest.mark.parametrize(("call", "after"), PROBE, ids=str)
def test_a_probe_is_asked_again(keys: AccessKeys, front: Front, call: str, after: int) -> None:
    for how in PASSING:
        front.fail(call, how, after=after)
        proven = upload.proven(keys.environment, keys.arn, keys.pair, within=30)
        assert proven, (how, proven)


@pytest.mark.parametrize(("call", "after"), PROBE, ids=str)
def test_a_probe_without_an_answer_proves_nothing(
    keys: AccessKeys,
    front: Front,
    call: str,
    after: int,
) -> None:
    for how in LASTING:
        front.fail(call, how, 999, after=after)
        proven = upload.proven(keys.environment, keys.arn, keys.pair, within=0.2)
        assert not proven and any(one.found != "done" and not one.well for one in proven.evidence), (how, proven)
    front.fail(call, "slow", 0)
    assert upload.proven(keys.environment, keys.arn, keys.pair, within=30)


@pytest.mark.parametrize("call", ["GetCallerIdentity", f"GET {BUCKET}"])
def test_only_a_refusal_is_a_refusal(keys: AccessKeys, front: Front, iam: Any, call: str) -> None:
    made = iam.create_access_key(UserName=keys.settings.user)["AccessKey"]
    gone = Pair(made["AccessKeyId"], made["SecretAccessKey"])
    keys.deletion(gone.id).run()
    assert upload.refused(keys.environment, gone)
    for how in LASTING:
        front.fail(call, how, 999)
        assert not upload.refused(keys.environment, gone)
    front.fail(call, "drop", 0)
    assert upload.refused(keys.environment, gone)


def rotated(keys: AccessKeys) -> None:
    """A rotation has ended, and the old key is still there."""
    keys.make()
    put_in_force(keys)
    key_rotation.close(keys).do()


ACTS: dict[str, Callable[[AccessKeys], Act]] = {
    "UpdateAccessKey": lambda keys: keys.turning(keys.old.id, "Inactive"),
    "DeleteAccessKey": lambda keys: keys.deletion(keys.old.id),
}


@pytest.mark.parametrize("call", ACTS)
def test_a_change_of_the_old_key_is_made_in_spite_of_one_failure(
    keys: AccessKeys,
    front: Front,
    call: str,
) -> None:
    rotated(keys)
    for how in PASSING:
        front.fail(call, how)
        ACTS[call](keys).run()
        assert key_standing.as_left(keys, "Inactive" if call == "UpdateAccessKey" else ""), how


@pytest.mark.parametrize("how", [*LASTING, "late 500", "denied"])
def test_a_key_that_may_have_been_turned_is_turned_back(keys: AccessKeys, front: Front, how: How) -> None:
    rotated(keys)
    change = key_rotation.turn(keys, "Inactive")
    front.fail("UpdateAccessKey", how, 999)
    with pytest.raises(RunbookError, match=r"IAM UpdateAccessKey was not answered: \w+. See whether AWS is well"):
        change.do()
    assert keys.staged.inactive is None
    with pytest.raises(RunbookError, match="IAM UpdateAccessKey was not answered"):
        change.put_back()
    front.fail("UpdateAccessKey", how, 0)
    change.put_back()
    assert key_standing.as_left(keys, "Active")
    assert keys.staged.inactive is None


@pytest.mark.parametrize("call", ["ListAccessKeys", "GetAccessKeyLastUsed", "DeleteAccessKey"])
@pytest.mark.parametrize("how", LASTING)
def test_an_undo_without_an_answer_can_be_made_again(
    keys: AccessKeys,
    front: Front,
    how: How,
    call: str,
) -> None:
    before = keys.environment.api.env_file.read_bytes()
    change = key_rotation.create(keys)
    change.do()
    made, asks = keys.pair, call != "DeleteAccessKey"
    if asks:
        keys.staged.ask(keys._list()[0], [key.id for key in keys.listed()])  # as of a call that was not answered
    front.fail(call, how, 999)
    with pytest.raises(RunbookError, match=f"IAM {call} was not answered"):
        change.put_back()
    assert keys.staged.pending == made  # so that it is not forgotten
    front.fail(call, how, 0)
    key_rotation.create(again(keys)).put_back()
    assert [key.id for key in keys.listed()] == [keys.pair.id] != [made.id]
    assert keys.environment.api.env_file.read_bytes() == before


@pytest.mark.parametrize("how", LASTING)
@pytest.mark.parametrize("call", ["ListAccessKeys", "GetAccessKeyLastUsed"])
def test_keys_that_iam_does_not_list_are_not_as_they_should_be(
    keys: AccessKeys,
    front: Front,
    how: How,
    call: str,
) -> None:
    rotated(keys)
    front.fail(call, how, 999)
    left = key_standing.as_left(keys, "Active")
    assert left.ok is None and "was not answered" in str(left.evidence)
    with pytest.raises(RunbookError, match="See whether AWS is well, then run again"):
        key_standing.unneeded(keys, 0)


def test_aws_that_cannot_be_reached_changes_nothing(keys: AccessKeys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    s3 = keys.settings.model_copy(update={"endpoint": f"http://127.0.0.1:{port}"})
    gone = AccessKeys(keys.environment.model_copy(update={"s3": s3}))
    for ask in (lambda: gone.arn, lambda: gone.caller, gone.listed, gone.make):
        with pytest.raises(RunbookError, match=r"was not answered: EndpointConnectionError. See whether AWS is well"):
            ask()
    assert gone.staged.asked is None and gone.staged.pending is None
    proven = upload.proven(gone.environment, "arn", keys.pair, within=0)
    assert not proven and {one.found for one in proven.evidence} <= {"EndpointConnectionError", "NewConnectionError"}
    assert not upload.refused(gone.environment, keys.pair)
