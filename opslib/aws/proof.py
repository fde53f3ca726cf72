"""Proofs of what an environment's file says of uploads: whose key signs them, the buckets, and how the API is asked."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from opslib.api import health, poll
from opslib.api.health import Response
from opslib.aws import aws, upload
from opslib.aws.key_pair import ID, Pair, StagedPair, short
from opslib.aws.settings import S3, Signing
from opslib.aws.upload import Unanswered
from opslib.deployment import proof
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter, RunbookError

REFUSED = ("InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
"""How AWS says that it does not take a key, whatever is asked."""
Signed = Callable[[], Response]

_DENIED = ("AccessDenied", "403")
_UNKNOWN = (400, 401, 403)
"""What a person is answered whose login is not known; the first is Firebase's."""
_GONE = ("NoSuchBucket", "404")


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs. The API is asked once to sign in, and once to sign an upload, which nobody uploads."""
    if (s3 := environment.find(S3)) is None:
        return
    service = s3.endpoint or "AWS"
    listed = once(lambda: listing(aws.client(environment, "s3", _pair(environment)), s3.bucket))
    how = upload.asked(environment)
    token = once(lambda: upload.signed_in(environment, how.sign_in) if how else "")
    signed = once(lambda: _sign(environment, how, token()) if how else Response(0, 0))
    yield Proof(f"secrets.{ID}", service, lambda: taken(listed(), f"key {_pair(environment)}"))
    if s3.user:
        yield Proof("s3.user", service, partial(_user, environment, s3))
    yield Proof("s3.bucket", service, partial(_bucket, environment, s3, listed, signed if how else None))
    if s3.other_bucket:
        yield Proof("s3.other_bucket", service, partial(_other, environment, s3.other_bucket))
    if s3.administrator:
        yield Proof("s3.administrator", service, partial(_administrator, environment, s3))
    if s3.new_pair:
        rotation = "a rotation, where there is no IAM"
        yield Proof("s3.new_pair", "the disk", partial(proof.reference, s3.new_pair, "NEW_S3_PAIR", until=rotation))
    if how is None:
        return
    yield Proof("s3.login", how.sign_in.url, partial(_login, token))
    yield Proof("s3.signing.sign_in", how.sign_in.url, partial(_sign_in, how, token))
    yield Proof("s3.signing.route", environment.api.url, partial(_route, how, signed))
    yield Proof("s3.signing.url", environment.api.url, lambda: _signs(how, signed, _pair(environment)))
    yield Proof("s3.signing.key", environment.api.url, partial(_key, how, signed))
    yield Proof("s3.region", environment.api.url, lambda: _region(s3.region, _credential(how, signed)[2]))
    yield Proof("s3.presigned", environment.api.url, lambda: _presigned(s3.presigned, _query(how, signed)))


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
    if code in _GONE:
        return Answer(False, f"there is no bucket {bucket}", "Name one that is there, and its region and endpoint.")
    if code in _DENIED:
        return Answer(False, f"{bucket} may not be listed with this key ({code})", "Permit it, or name the right one.")
    if code in REFUSED:
        raise RunbookError(f"S3 does not take the key ({code})")
    raise RunbookError(f"S3 said {code} of {bucket}")


def _user(environment: Deployment, s3: S3) -> Answer:
    if maker := aws.other_maker(environment):
        return Answer(True, f"not asked: there is no IAM at {maker}")
    with aws.asking("STS GetCallerIdentity"):
        arn = str(aws.client(environment, "sts", _pair(environment)).get_caller_identity()["Arn"])
    mend = f"Name the user whose key stands in the .env as {ID}."
    return Answer(arn.endswith(f"/{s3.user}"), f"the key of the .env belongs to {arn.rpartition(':')[2]}", mend)


def _bucket(environment: Deployment, s3: S3, listed: Callable[[], str], signed: Signed | None) -> Answer:
    code, pair = listed(), _pair(environment)
    if code in _DENIED:  # whoever may read and write objects need not be able to list them
        client = aws.client(environment, "s3", pair)
        probe = {"Bucket": s3.bucket, "Key": f"{upload.PREFIX}/none"}
        found = _code("S3 GetObject", lambda: client.get_object(**probe))
        if found not in (*_DENIED, *_GONE):
            code = "" if found in ("", "NoSuchKey") else found
        elif s3.administrator:
            with suppress(RunbookError):
                code = listing(aws.client(environment, "s3", aws.administrator(environment)), s3.bucket)
    answer = there(code, s3.bucket)
    if answer and signed and (how := upload.asked(environment)):
        with suppress(RunbookError):  # its own line says so
            url = urlsplit(str(upload.field(_answered(how, signed).body, how.url)))
            if s3.bucket not in (url.netloc.split(".")[0], url.path.split("/")[1]):
                return Answer(False, "the API signs uploads to another bucket", "Name the one that the API uploads to.")
    return answer


def _other(environment: Deployment, bucket: str) -> Answer:
    code = listing(aws.client(environment, "s3", _pair(environment)), bucket)
    if not code:
        mend = "Take it from the user's policy, or name another bucket."
        return Answer(False, f"the API's key may list {bucket}", mend)
    if code in _DENIED:
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
    if code in (*REFUSED, *_DENIED):
        mend = "Put an administrator's credentials where it points."
        return Answer(False, f"IAM does not let them list the keys of {s3.user} ({code})", mend)
    if code:
        raise RunbookError(f"IAM said {code}")
    with aws.asking("STS GetCallerIdentity"):
        arn = str(sts.get_caller_identity()["Arn"])
    if arn.endswith(f"/{s3.user}"):
        return Answer(False, f"they are those of {s3.user}, who could lock themselves out", "Name somebody else's.")
    return Answer(True, f"{arn.rpartition(':')[2]} may list the keys of {s3.user}")


def _login(token: Callable[[], str]) -> Answer:
    try:
        token()
    except (BadEnvironment, BadParameter) as error:
        return Answer(False, str(error))
    except Unanswered as error:
        if error.status in _UNKNOWN:
            mend = "Put one there that may upload."
            return Answer(False, f"{error.asked} does not take this login ({error.said})", mend)
        if error.status != 200:  # else it is known, and sign_in says what is wrong
            raise
    return Answer(True, "somebody is known by it")


def _sign_in(how: Signing, token: Callable[[], str]) -> Answer:
    try:
        token()
    except Unanswered as error:
        if error.status in (0, *_UNKNOWN, poll.TOO_OFTEN) or error.status >= 500:
            raise
        mend = "Name what takes the login's email and password, and where its answer has the token."
        return Answer(False, f"{error.asked} is answered with {error.said}", mend)
    return Answer(True, f"its answer has a token in {how.sign_in.token}")


def _sign(environment: Deployment, how: Signing, token: str) -> Response:
    headers = {"Authorization": f"Bearer {token}"}
    return health.ask(f"{environment.api.url}{how.route}", headers=headers, content=how.body)


def _route(how: Signing, signed: Signed) -> Answer:
    status = signed().status
    if status == 0 or status == poll.TOO_OFTEN or status >= 500:
        raise RunbookError(f"POST {how.route} was answered {status}" if status else "nobody answered")
    mend = "Name the route that signs an upload, and what it wants, as `body`."
    return Answer(status == 200, f"POST {how.route} is answered {status}", mend)


def _signs(how: Signing, signed: Signed, pair: Pair) -> Answer:
    answer = _answered(how, signed)
    try:
        url = str(upload.field(answer.body, how.url))
    except KeyError:
        return Answer(False, f"the answer has no {how.url}", "Name the field that has the signed URL.")
    if not parse_qs(urlsplit(url).query).get("X-Amz-Credential"):
        return Answer(False, f"{how.url} of the answer is no signed URL", "Name the field that has one.")
    id = _credential(how, signed)[0]
    mend = "The API runs with another key than the .env has: open restart_api."
    return Answer(id == pair.id, f"it has a URL that the key {short(id)} signed", mend)


def _key(how: Signing, signed: Signed) -> Answer:
    answer = _answered(how, signed)
    try:
        upload.field(answer.body, how.key)
    except KeyError:
        return Answer(False, f"the answer has no {how.key}", "Name the field that has the name of the object.")
    return Answer(True, "it has the name of the object")


def _region(named: str, used: str) -> Answer:
    return Answer(named == used, f"the API signs for {used}", "Name the region that the API signs for.")


def _presigned(longest: int, query: dict[str, list[str]]) -> Answer:
    seconds = int(query["X-Amz-Expires"][0])
    mend = "An old key must stay for as long as a URL lives: name that."
    return Answer(seconds <= longest, f"a URL that the API signs lives {seconds} s", mend)


def _answered(how: Signing, signed: Signed) -> Response:
    """Give the answer to a request for a signed URL. Raise RunbookError if it is none."""
    if not (answer := signed()).well:
        raise RunbookError(f"POST {how.route} gave no signed URL")
    return answer


def _query(how: Signing, signed: Signed) -> dict[str, list[str]]:
    try:
        url = str(upload.field(_answered(how, signed).body, how.url))
    except KeyError:
        raise RunbookError(f"the answer of {how.route} has no {how.url}") from None
    query = parse_qs(urlsplit(url).query)
    if not {"X-Amz-Credential", "X-Amz-Expires"} <= query.keys():
        raise RunbookError(f"{how.url} of the answer is no signed URL")
    return query


def _credential(how: Signing, signed: Signed) -> list[str]:
    """Give the key, day and region that a URL was signed with."""
    parts = _query(how, signed)["X-Amz-Credential"][0].split("/")
    if len(parts) != 5:
        raise RunbookError(f"{how.url} of the answer is not signed as AWS does")
    return parts


def _pair(environment: Deployment) -> Pair:
    if (found := StagedPair(environment).current) is None:
        raise RunbookError(f"the .env has no {ID} with its secret")
    return found


def _code(what: str, call: Callable[[], object]) -> str:
    """Make a call; give the code of what AWS refuses, or nothing. Raise RunbookError if there is no answer."""
    try:
        call()
    except ClientError as error:
        return aws.said(error)
    except BotoCoreError as error:
        raise RunbookError(f"{what} was not answered ({aws.said(error)})") from None
    return ""
