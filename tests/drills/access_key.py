"""The API's access keys on the stand-in: the states that their rotation starts from, and what must hold at its end."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from opslib.aws import aws, upload
from opslib.aws.access_key import AccessKeys
from opslib.aws.key_pair import ID, SECRET
from opslib.runbook.answer import Answer
from tests.drills import standing
from tests.drills.standing import nothing, sandbox
from tests.sandbox.credentials import BACKUP_BUCKET, BUCKET

NOTHING = {**nothing(ID, SECRET), **dict.fromkeys([f"{ID}_INACTIVE_SINCE", f"{ID}_ASKED", f"{ID}_ASKED_SINCE"])}


def keys() -> AccessKeys:
    """The keys of the API's user, as they are."""
    return AccessKeys(sandbox())


def one() -> None:
    """The user has one key, the one in force."""
    found = keys()
    current = found.staged.current
    for key in found.listed():
        if not current or key.id != current.id:
            found.deletion(key.id).run()
    standing.stage(NOTHING)
    if problems():
        for key in found.listed():
            found.deletion(key.id).run()
        iam = aws.client(sandbox(), "iam", aws.administrator(sandbox()))
        made = iam.create_access_key(UserName=found.settings.user)["AccessKey"]
        standing.put({ID: made["AccessKeyId"], SECRET: made["SecretAccessKey"]}, NOTHING)


def two() -> None:
    """A key is in force, and the one before it is still active."""
    if _before() != "Active" or problems():
        one()
        standing.run("rotate_s3_credentials")


def inactive() -> None:
    """A key is in force, and the one before it is inactive."""
    if _before() != "Inactive" or problems():
        two()
        found = keys()
        found.turning(found.old.id, "Inactive").run()
        found.staged.deactivated(True)


@contextmanager
def rested() -> Iterator[None]:
    """The old key of a rotation has been inactive for a day; afterwards there is one key."""
    inactive()
    standing.stage({f"{ID}_INACTIVE_SINCE": (datetime.now(UTC) - timedelta(days=1)).isoformat()})
    try:
        yield
    finally:
        one()


def problems() -> list[str]:
    """Say where the API, its `.env`, the staging file and IAM disagree between runs; nothing if all is well."""
    found, env = keys(), sandbox()
    staged, listed = found.staged, {key.id: key.status for key in found.listed()}
    current, before = staged.current, staged.previous
    ours = {pair.id for pair in (current, before) if pair}
    signs = upload.signs(env, current) if current else Answer(False)
    probes = _probes()
    wrong = {
        f"the API does not sign with the key of the .env: {signs.evidence}": bool(signs),
        "the key of the .env is not active": current is not None and listed.get(current.id) == "Active",
        "a key is staged that is not in force": staged.pending is None,
        f"IAM has a stray key: {len(listed)} keys": set(listed) <= ours,
        "a call for a key is noted as not answered": staged.asked is None,
        f"probes are left in the bucket: {probes}": not probes,
    }
    return standing.problems() + [problem for problem, well in wrong.items() if not well]


def _before() -> str:
    """The status of the key that is kept as the one before; empty if there is none."""
    found = keys()
    before = found.staged.previous
    return next((key.status for key in found.listed() if before and key.id == before.id), "")


def _probes() -> list[str]:
    env = sandbox()
    s3 = aws.client(env, "s3", aws.administrator(env))
    return [
        one["Key"]
        for bucket in (BUCKET, BACKUP_BUCKET)
        for one in s3.list_objects_v2(Bucket=bucket, Prefix=upload.PREFIX).get("Contents", [])
    ]
