"""What is found of uploads for an environment's file: in the `.env` and the code, at S3 and STS by the API's key."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from opslib.api import release, variable
from opslib.api.variable import Variable
from opslib.aws import aws, signing_discovery
from opslib.aws.aws import DENIED, MISSING, REFUSED
from opslib.aws.key_pair import ID, Pair, StagedPair
from opslib.aws.settings import S3
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line, private
from opslib.runbook.errors import RunbookError

BUCKETS = ("S3_BUCKET", "AWS_S3_BUCKET", "S3_BUCKET_NAME", "AWS_S3_BUCKET_NAME", "AWS_BUCKET_NAME", "AWS_BUCKET")
REGIONS = ("AWS_REGION", "AWS_S3_REGION", "S3_REGION", "AWS_DEFAULT_REGION")
ENDPOINTS = ("S3_ENDPOINT", "AWS_S3_ENDPOINT", "S3_ENDPOINT_URL", "AWS_ENDPOINT", "R2_ENDPOINT", "MINIO_ENDPOINT")
SDK_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""What AWS's SDK reads by itself, the first before the second: the code need not name it."""
ANYWHERE = "us-east-1"
"""The region that requests are signed for where none is known yet."""
ATTEMPTS = 2
Found = Iterator[Line | Asked]


@dataclass(frozen=True)
class _Said:
    """What S3 says of the bucket to the API's key, and what STS says of the key: the code of an error, or nothing."""

    s3: str
    region: str
    """The bucket's, where S3 tells it."""
    sts: bool | None
    """Whether there is an STS; None where that is not known."""
    arn: str
    problem: str
    """Why nothing is known; empty if the key was taken."""


@dataclass(frozen=True)
class _Uploads:
    """What the variables say of where uploads go, the key that signs them, and what a person has said."""

    environment: Deployment
    given: Mapping[str, Any]
    pair: Pair
    buckets: Sequence[Variable]
    regions: Sequence[Variable]
    endpoints: Sequence[Variable]
    keys: Sequence[str]
    """The variables for an endpoint that the code names."""

    @property
    def named(self) -> str:
        """The address that is named instead of AWS's own; empty if none is."""
        address = self.given.get("s3.endpoint") or (self.endpoints[0].value if self.endpoints else "")
        return "" if aws.is_amazon(address) else address

    @property
    def where(self) -> S3:
        """Where requests go."""
        bucket, region = (
            self.given.get(f"s3.{key}") or (found[0].value if found else "")
            for key, found in (("bucket", self.buckets), ("region", self.regions))
        )
        return S3.model_construct(bucket=bucket, region=region or ANYWHERE, endpoint=self.named or None)


def discover(environment: Deployment, given: Mapping[str, Any]) -> Found:
    """Give each line of `s3` that the `.env`, the code and AWS tell, and ask for the rest; nothing without a key."""
    pair = StagedPair(environment).current
    if pair is None:
        return
    if token := env_file.read(environment.api.env_file).get("AWS_SESSION_TOKEN"):
        pair = Pair(pair.id, pair.secret, token)
    found = variable.read(environment, (*BUCKETS, *REGIONS, *ENDPOINTS), unnamed=SDK_ENDPOINTS)
    buckets, regions, endpoints, own = (
        [one for one in found if one.name in names] for names in (BUCKETS, REGIONS, ENDPOINTS, SDK_ENDPOINTS)
    )
    uploads = _Uploads(
        environment,
        given,
        pair,
        variable.values(buckets),
        variable.values(regions) or _literal(environment),
        variable.values(endpoints) or variable.values(own)[:1],
        [one.name for one in endpoints],
    )
    said = _ask(uploads)
    yield _bucket(uploads, said)
    yield _region(uploads, said)
    yield from _endpoint(uploads, said)
    yield from _keys(uploads, said)
    yield from signing_discovery.discover(environment)


def _literal(environment: Deployment) -> list[Variable]:
    """Give the region that the code itself says, as `auto` for R2."""
    lines = release.search(environment.api.release, r"""\bregion\s*:\s*["']([a-z0-9-]+)["']""")
    return variable.values(Variable("region", m[1], f"the code says it ({at})") for at, m in lines)


def _ask(uploads: _Uploads) -> _Said:
    """Ask S3 about the bucket, and STS whose key it is."""
    where, at = uploads.where, uploads.named or "AWS"
    if len(uploads.endpoints) > 1 and "s3.endpoint" not in uploads.given:
        return _Said("", "", None, "", "the .env names more than one address")
    if uploads.named and urlsplit(uploads.named).scheme not in ("http", "https"):
        return _Said("", "", None, "", f"{uploads.endpoints[0].source} says {uploads.named}, which is no address")
    s3, region, reached = _head(uploads, where) if where.bucket else ("not asked", "", True)
    try:
        asked = aws.client(uploads.environment, "sts", uploads.pair, where=where, attempts=ATTEMPTS)
        arn, sts = (str(asked.get_caller_identity()["Arn"]), "") if reached else ("", "")
    except (ClientError, ResponseParserError) as error:
        arn, sts = "", aws.said(error)
    except BotoCoreError as error:
        arn, sts, reached = "", aws.said(error), False
    if s3 in REFUSED or (s3 == "not asked" and sts in REFUSED):
        return _Said(s3, region, None, "", f"the API's key is refused at {at} ({s3 if s3 in REFUSED else sts})")
    if not reached:
        return _Said(s3, region, None, "", f"there was no answer from {at} ({sts or s3})")
    # A key that S3 takes and this address does not know is asked after where nobody knows of keys.
    there = True if arn or not uploads.named else None if s3 == "not asked" else False
    return _Said(s3, region, there, arn, "")


def _head(uploads: _Uploads, where: S3) -> tuple[str, str, bool]:
    """Give what S3 says of the bucket, its region, and whether S3 was reached."""
    s3 = aws.client(uploads.environment, "s3", uploads.pair, where=where, attempts=ATTEMPTS)
    try:
        answer = s3.head_bucket(Bucket=where.bucket)
        return "", _told(answer), True
    except ClientError as error:
        region = _told(error.response)
    except (BotoCoreError, ResponseParserError) as error:
        return aws.said(error), "", False
    try:  # what is said to a HEAD has no words
        return "", region or _told(s3.list_objects_v2(Bucket=where.bucket, MaxKeys=0)), True
    except ClientError as error:
        return aws.said(error), region or _told(error.response), True
    except (BotoCoreError, ResponseParserError) as error:
        return aws.said(error), region, False


def _told(answer: Mapping[str, Any]) -> str:
    return str(answer["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


def _bucket(uploads: _Uploads, said: _Said) -> Line | Asked:
    key, found = "s3.bucket", uploads.buckets
    if not found:
        return Asked(key, "No variable that is usual for it and that the code reads names the bucket.", "uploads")
    value, source = found[0].value, found[0].source
    if len(found) > 1:
        return _choice(key, "bucket", found)
    if said.problem:
        return Asked(key, f"{source} says {value}; whether that is so is not known: {said.problem}.", value)
    if said.s3 in MISSING:
        return Asked(key, f"{source} says {value}, and there is no such bucket.", value)
    seen = {"": "the API's key may list it"}.get(said.s3, f"S3 says {said.s3} to the API's key")
    return Line(key, value, f"{source}; {seen}")


def _region(uploads: _Uploads, said: _Said) -> Line | Asked:
    key, found = "s3.region", uploads.regions
    if said.region:
        if found and said.region not in [one.value for one in found]:
            what = f"{found[0].source} says {found[0].value}, and S3 says of the bucket {said.region}."
            return Asked(key, what, said.region)
        return Line(key, said.region, "S3 says it of the bucket")
    if not found:
        return Asked(key, "Neither a variable nor S3 says in which region the bucket is.", ANYWHERE)
    if len(found) > 1:
        return _choice(key, "region", found)
    if said.problem or said.s3 not in ("", *DENIED):
        why = said.problem or f"S3 says {said.s3} of the bucket"
        return Asked(key, f"{found[0].source} says {found[0].value}, which was not tried: {why}.", found[0].value)
    return Line(key, found[0].value, f"{found[0].source}; S3 takes what is signed for it")


def _endpoint(uploads: _Uploads, said: _Said) -> Found:
    """Give where S3 answers, if that is not at AWS, and whether IAM and STS do there too."""
    if len(uploads.endpoints) > 1:
        yield _choice("s3.endpoint_key", "S3", uploads.endpoints, names=True)
        return
    named = uploads.endpoints[0] if uploads.endpoints else None
    by_code = named is not None and named.name in uploads.keys
    if named and (by_code or said.sts is False):
        yield Line("s3.endpoint_key", named.name, f"the code reads {named.name}" if by_code else named.source)
    elif len(uploads.keys) == 1:
        yield Line("s3.endpoint_key", uploads.keys[0], f"the code reads {uploads.keys[0]}; the .env has none")
    if not named or not uploads.named:
        return
    if said.sts:
        yield Line("s3.endpoint", named.value, f"{named.source}; STS answers there too")
    if by_code and said.sts is not None:
        yield Line("s3.iam", said.sts, "STS says there whose the key is" if said.sts else "STS does not answer there")
    if said.sts is None:
        why = said.problem or "no bucket is known to try the key on"
        what = f"{named.source} says {named.value}; whether IAM and STS answer there is not known: {why}."
        yield Asked("s3.iam", what) if by_code else Asked("s3.endpoint", what, named.value)


def _keys(uploads: _Uploads, said: _Said) -> Found:
    """Give whose the access key is, and who may change that user's keys."""
    pair_file = f"file:{private(uploads.environment, 'new_s3_pair.json')}"
    if (said.sts is None and uploads.named) or said.problem:
        yield Asked("s3.user", f"Whose the key in {ID} is, is not known: {said.problem or 'nobody could be asked'}.")
        yield Asked(
            "s3.administrator", "A reference to credentials that may change that user's keys, where there is IAM."
        )
        yield Asked("s3.new_pair", "A reference to a new pair that was made in a console, where there is no IAM.")
        return
    if said.sts is False:
        yield Asked("s3.user", f"{uploads.named} has no STS to say whose the key is, and no procedure needs it there.")
        made = (
            "There is no IAM: a new pair is made in the console. A reference to where you put it, mode 0600, as JSON."
        )
        yield Asked("s3.new_pair", made, pair_file)
        return
    kind, _, name = said.arn.rpartition(":")[2].partition("/")
    if kind != "user":
        what = f"STS says that the key {uploads.pair} is no IAM user's but {kind or 'nobody'}'s."
        yield Asked("s3.user", what)
        return
    user = name.rpartition("/")[2]
    yield Line("s3.user", user, "STS says that the API's key is this user's")
    yield from _administrator(uploads, user)


def _administrator(uploads: _Uploads, user: str) -> Found:
    key, example = "s3.administrator", f"file:{private(uploads.environment, 'aws.json')}"
    what = f"A reference to credentials that may list, make and delete the access keys of {user}"
    other = "A bucket of the account that the API's key must not be able to touch, to try that"
    if not (reference := uploads.given.get(key)):
        yield Asked(key, f"{what}: JSON with AccessKeyId and SecretAccessKey.", example)
        yield Asked("s3.other_bucket", f"{other}.")
        return
    try:
        pair = aws.credentials(str(reference), key, "AWS_ADMINISTRATOR")
        asked = [
            aws.client(uploads.environment, service, pair, where=uploads.where, attempts=ATTEMPTS)
            for service in ("iam", "s3")
        ]
        listed = asked[0].list_access_keys(UserName=user)["AccessKeyMetadata"]
    except (RunbookError, BotoCoreError, ClientError, ResponseParserError) as error:
        why = str(error) if isinstance(error, RunbookError) else aws.said(error)
        yield Asked(key, f"{what}; that which was given may not ({why}).", example)
        return
    if uploads.pair.id not in [one["AccessKeyId"] for one in listed]:
        yield Asked(key, f"{what}; that which was given sees another {user} who has no key {uploads.pair}.", example)
        return
    yield Line(key, reference, f"given; it lists the {len(listed)} access key(s) of {user}")
    try:
        buckets = [one["Name"] for one in asked[1].list_buckets()["Buckets"] if one["Name"] != uploads.where.bucket]
    except (BotoCoreError, ClientError, ResponseParserError):
        buckets = []
    yield Asked("s3.other_bucket", f"{other}{': of ' + ', '.join(buckets[:9]) if buckets else ''}.")


def _choice(key: str, what: str, found: Sequence[Variable], *, names: bool = False) -> Asked:
    example = found[0].name if names else found[0].value
    return Asked(key, f"Which is the one of {what}: {variable.said(found)}.", example)
