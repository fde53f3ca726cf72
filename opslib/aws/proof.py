"""Proofs of what an environment's file says of uploads: whose key signs them, the buckets, and who administers it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from opslib.aws import aws, signing_proof, upload
from opslib.aws.aws import DENIED, MISSING, REFUSED
from opslib.aws.key_pair import ID
from opslib.aws.settings import S3
from opslib.deployment import proof
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter, RunbookError


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs. The API is asked once to sign in and to sign an upload: see signing_proof."""
    if (s3 := environment.find(S3)) is None:
        return
    service = s3.endpoint or "AWS"
    listed = once(lambda: listing(aws.client(environment, "s3", signing_proof.pair(environment)), s3.bucket))
    yield Proof(f"secrets.{ID}", service, lambda: taken(listed(), f"key {signing_proof.pair(environment)}"))
    if s3.user:
        yield Proof("s3.user", service, partial(_user, environment, s3))
    yield Proof("s3.bucket", service, partial(_bucket, environment, s3, listed))
    if s3.other_bucket:
        yield Proof("s3.other_bucket", service, partial(_other, environment, s3.other_bucket))
    if s3.administrator:
        yield Proof("s3.administrator", service, partial(_administrator, environment, s3))
    if s3.new_pair:
        rotation = "a rotation, where there is no IAM"
        yield Proof("s3.new_pair", "the disk", partial(proof.reference, s3.new_pair, "NEW_S3_PAIR", until=rotation))
    yield from signing_proof.prove(environment)


def listing(client: Any, bucket: str, prefix: str = "") -> str:
    """Ask for one name in a bucket; give the code of what S3 refuses, or nothing. Raise RunbookError for no answer."""
    return _code(f"S3 ListObjects of {bucket}", lambda: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1))


def taken(code: str, whose: str) -> Answer:
    """Whether S3 takes a key, by what it said."""
    if code in REFUSED:
        return Answer(False, f"S3 does not take the {whose} ({code})", "Put one there that is active, with its secret.")
    return Answer(True, f"S3 takes the {whose}")


def there(code: str, bucket: str) -> Answer:
    """Whether there is a bucket that may be used, by what S3 said. Raise RunbookError where that tells nothing."""
    if not code:
        return Answer(True, f"{bucket} answers")
    if code in MISSING:
        return Answer(False, f"there is no bucket {bucket}", "Name one that is there, and its region and endpoint.")
    if code in DENIED:
        return Answer(False, f"{bucket} may not be listed with this key ({code})", "Permit it, or name the right one.")
    if code in REFUSED:
        raise RunbookError(f"S3 does not take the key ({code})")
    raise RunbookError(f"S3 said {code} of {bucket}")


def _user(environment: Deployment, s3: S3) -> Answer:
    if maker := aws.other_maker(environment):
        return Answer(True, f"not asked: there is no IAM at {maker}")
    with aws.asking("STS GetCallerIdentity"):
        arn = str(aws.client(environment, "sts", signing_proof.pair(environment)).get_caller_identity()["Arn"])
    mend = f"Name the user whose key stands in the .env as {ID}."
    return Answer(arn.endswith(f"/{s3.user}"), f"the key of the .env belongs to {arn.rpartition(':')[2]}", mend)


def _bucket(environment: Deployment, s3: S3, listed: Callable[[], str]) -> Answer:
    code, pair = listed(), signing_proof.pair(environment)
    if code in DENIED:  # whoever may read and write objects need not be able to list them
        client = aws.client(environment, "s3", pair)
        probe = {"Bucket": s3.bucket, "Key": f"{upload.PREFIX}/none"}
        found = _code("S3 GetObject", lambda: client.get_object(**probe))
        if found not in (*DENIED, *MISSING):
            code = "" if found in ("", "NoSuchKey") else found
        elif s3.administrator:
            with suppress(RunbookError):
                code = listing(aws.client(environment, "s3", aws.administrator(environment)), s3.bucket)
    if code in DENIED:
        said = f"whether {s3.bucket} is there is not for the API's key to see ({code})"
        return Answer(None, said, "Permit it to list the bucket, or let the administrator.")
    return there(code, s3.bucket)


def _other(environment: Deployment, bucket: str) -> Answer:
    code = listing(aws.client(environment, "s3", signing_proof.pair(environment)), bucket)
    if not code:
        mend = "Take it from the user's policy, or name another bucket."
        return Answer(False, f"the API's key may list {bucket}", mend)
    if code in DENIED:
        return Answer(True, f"the API's key may not touch {bucket}")
    return there(code, bucket)


def _administrator(environment: Deployment, s3: S3) -> Answer:
    try:
        pair = aws.administrator(environment)
    except (BadEnvironment, BadParameter) as error:
        return Answer(False, str(error))
    if maker := aws.other_maker(environment):
        return Answer(True, f"credentials are there; not tried, as there is no IAM at {maker}")
    iam, sts = (aws.client(environment, service, pair) for service in ("iam", "sts"))
    code = _code("IAM ListAccessKeys", lambda: iam.list_access_keys(UserName=s3.user))
    if code == "NoSuchEntity":
        raise RunbookError(f"IAM knows no user {s3.user}")
    if code in (*REFUSED, *DENIED):
        mend = "Put an administrator's credentials where it points."
        return Answer(False, f"IAM does not let them list the keys of {s3.user} ({code})", mend)
    if code:
        raise RunbookError(f"IAM said {code}")
    with aws.asking("STS GetCallerIdentity"):
        arn = str(sts.get_caller_identity()["Arn"])
    if arn.endswith(f"/{s3.user}"):
        return Answer(False, f"they are those of {s3.user}, who could lock themselves out", "Name somebody else's.")
    return Answer(True, f"{arn.rpartition(':')[2]} may list the keys of {s3.user}")


def _code(what: str, call: Callable[[], object]) -> str:
    """Make a call; give the code of what AWS refuses, or nothing. Raise RunbookError if there is no answer."""
    try:
        call()
    except ClientError as error:
        return aws.said(error)
    except BotoCoreError as error:
        raise RunbookError(f"{what} was not answered ({aws.said(error)})") from None
    return ""
