"""Proofs of how the API is asked to sign an upload: it signs one, and nobody uploads."""

from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import SplitResult, parse_qs, urlsplit

from opslib.api import health, poll
from opslib.api.health import Response
from opslib.aws import upload
from opslib.aws.key_pair import ID, Pair, StagedPair, short
from opslib.aws.settings import S3, Signing
from opslib.aws.upload import Unanswered
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter, RunbookError

_UNKNOWN = (400, 401, 403)
"""What a person is answered whose login is not known; the first is Firebase's."""

Url = Callable[[], SplitResult]


class _Unsigned(RunbookError):
    """What the API answered has no signed URL where the file says."""


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs. The API, which may count how often it is asked, is asked once to sign in, and once to sign."""
    s3, how, api = environment.part(S3), upload.asked(environment), environment.api.url
    if how is None:
        return
    token = once(lambda: upload.signed_in(environment, how.sign_in))
    signed = once(lambda: _sign(environment, how, token()))
    url = once(lambda: _url(how, signed()))
    yield Proof("s3.login", how.sign_in.url, partial(_login, token))
    yield Proof("s3.signing.sign_in", how.sign_in.url, partial(_sign_in, how, token))
    yield Proof("s3.signing.route", api, partial(_route, how, signed))
    yield Proof("s3.signing.url", api, lambda: _signs(url, pair(environment)))
    yield Proof("s3.signing.key", api, partial(_key, how, signed))
    yield Proof("s3.bucket", api, partial(_bucket, s3.bucket, url))
    yield Proof("s3.region", api, partial(_region, s3.region, url))
    yield Proof("s3.presigned", api, partial(_presigned, s3.presigned, url))


def pair(environment: Deployment) -> Pair:
    """Give the pair in force. Raise RunbookError if the `.env` has none."""
    if (found := StagedPair(environment).current) is None:
        raise RunbookError(f"the .env has no {ID} with its secret")
    return found


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
    return Answer(True, "the API's users are signed in with it")


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


def _route(how: Signing, signed: Callable[[], Response]) -> Answer:
    status = signed().status
    if status in (0, poll.TOO_OFTEN) or status >= 500:
        raise RunbookError(f"POST {how.route} was answered {status}" if status else "nobody answered")
    mend = "Name the route that signs an upload, and what it wants, as `body`."
    return Answer(status == 200, f"POST {how.route} is answered {status}", mend)


def _field(how: Signing, answer: Response, name: str) -> str:
    """Give a field of the answer. Raise _Unsigned if it has none, or RunbookError if it is no answer."""
    if not answer.well:
        raise RunbookError(f"POST {how.route} gave no signed URL")
    try:
        return str(upload.field(answer.body, name))
    except KeyError:
        raise _Unsigned(f"the answer has no {name}") from None


def _url(how: Signing, answer: Response) -> SplitResult:
    url = urlsplit(_field(how, answer, how.url))
    query = parse_qs(url.query)
    credential = query.get("X-Amz-Credential", [""])[0]
    if credential.count("/") != 4 or not query.get("X-Amz-Expires", [""])[0].isdigit():
        raise _Unsigned(f"{how.url} of the answer is no URL that is signed as AWS does")
    return url


def _signs(url: Url, used: Pair) -> Answer:
    try:
        id = _credential(url())[0]
    except _Unsigned as error:
        return Answer(False, str(error), "Name the field that has the signed URL.")
    mend = "The API runs with another key than the .env has: open restart_api."
    return Answer(id == used.id, f"it has a URL that the key {short(id)} signed", mend)


def _key(how: Signing, signed: Callable[[], Response]) -> Answer:
    try:
        _field(how, signed(), how.key)
    except _Unsigned as error:
        return Answer(False, str(error), "Name the field that has the name of the object.")
    return Answer(True, "it has the name of the object")


def _bucket(bucket: str, url: Url) -> Answer:
    found = url()
    if found.netloc.startswith(f"{bucket}.") or found.path.startswith(f"/{bucket}/"):
        return Answer(True, "the API signs uploads to it")
    return Answer(False, "the API signs uploads to another bucket", "Name the one that the API uploads to.")


def _region(region: str, url: Url) -> Answer:
    used = _credential(url())[2]
    return Answer(used == region, f"the API signs for {used}", "Name the region that the API signs for.")


def _presigned(longest: int, url: Url) -> Answer:
    seconds = int(parse_qs(url().query)["X-Amz-Expires"][0])
    mend = "An old key must stay for as long as a URL lives: name that."
    return Answer(seconds <= longest, f"a URL that the API signs lives {seconds} s", mend)


def _credential(url: SplitResult) -> list[str]:
    """Give the key, day, region and service that a URL was signed with."""
    return parse_qs(url.query)["X-Amz-Credential"][0].split("/")
