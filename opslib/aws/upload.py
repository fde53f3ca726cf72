"""Uploads: whether an access key does for the API what it must, and no more, asked of AWS and of the API itself."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from opslib.api import health, poll
from opslib.aws import aws
from opslib.aws.key_pair import Pair, short
from opslib.aws.settings import SignIn, Signing
from opslib.deployment.deployment import Deployment
from opslib.deployment.secret_reference import resolve
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, RunbookError
from opslib.runbook.mask import mask

PREFIX = "_rotation_probe"
DENIED = "AccessDenied"
UNKNOWN = ("InvalidAccessKeyId", "InvalidClientTokenId", "HTTP 403")
"""How S3, STS and a signed URL refuse a key that is not there; the first is S3's code, the second that of STS."""
_BODY = b"rotation probe"
_FIRST_PAUSE = 0.5  # doubled each time: a new key takes some seconds to be known everywhere


@dataclass(frozen=True)
class Probe:
    """One thing asked: what was expected, and what was found: a text, `done`, or the code of what was raised."""

    asked: str
    expected: str
    found: str

    @property
    def well(self) -> bool:
        """Whether it is as expected."""
        return self.found == self.expected


class Unanswered(RunbookError):
    """A sign-in that gave no token; `status` is what it was answered instead, 0 where nobody answered."""

    def __init__(self, asked: str, said: str, status: int) -> None:
        super().__init__(f"{asked}: {said}")
        self.asked, self.said, self.status = asked, said, status


def proven(environment: Deployment, arn: str, pair: Pair, *, within: float = 60) -> Answer:
    """Whether the key belongs to this user, reads, writes and signs in its bucket, and may not touch the other one.

    Whose it is is not asked where there is no STS (`arn` is empty then), nor about another bucket where none is named.

    AWS lets some seconds pass before a new key is known everywhere, so a refusal is asked again, after ever longer
    pauses, for `within` seconds. A key that may do more than it should is never asked again.
    """
    ends, pause = time.monotonic() + within, _FIRST_PAUSE
    while True:
        probes = _ask(environment, arn, pair)
        wrong = [probe for probe in probes if not probe.well]
        definite = any(probe.found == "done" or probe.found.startswith("arn:") for probe in wrong)
        if not wrong or definite or time.monotonic() + pause > ends:
            return Answer(not wrong, probes, "See the policies of the user; the API goes on with the key that it has.")
        time.sleep(pause)
        pause = min(2 * pause, 8)


def refused(environment: Deployment, pair: Pair) -> Answer:
    """Whether AWS knows this key no more, neither in a call nor in a signed URL."""
    s3, sts = aws.client(environment, "s3", pair), aws.client(environment, "sts", pair)
    bucket, name = aws.settings(environment).bucket, _name(pair)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": name}, ExpiresIn=60)
    asked = {
        "S3 GetObject": lambda: s3.get_object(Bucket=bucket, Key=name),
        "STS GetCallerIdentity": sts.get_caller_identity,
        "GET of a signed URL": lambda: _send("GET", url),
    }
    return _all([_probe(what, call, expected) for (what, call), expected in zip(asked.items(), UNKNOWN, strict=True)])


def asked(environment: Deployment) -> Signing | None:
    """Give how the API is asked to sign an upload; None if the environment's file does not say all of it."""
    settings = aws.settings(environment)
    return settings.signing if settings.login else None


def told(environment: Deployment) -> dict[str, str]:
    """Say by what a key is proven: by the API too, or alone."""
    if (how := asked(environment)) is None:
        alone = "the key alone is proven, not that the API signs with it: the environment's file has no `s3.signing`"
        return {"the API": f"is not asked; {alone} or no `s3.login`"}
    person = urlsplit(how.sign_in.url)
    return {"the API": f"POST {how.route}, once for each worker", "as whom": f"POST {person.netloc}{person.path}, once"}


def signs(environment: Deployment, pair: Pair) -> Answer:
    """Whether every worker of the API signs upload URLs with this key, and one of them takes an upload.

    It cannot be told where the API was asked too often, or nobody said how it is asked.
    """
    how = asked(environment)
    if how is None:
        return Answer(None, told(environment), "Put how the API signs an upload into the environment's file.")
    said = f"POST {how.route}"
    try:
        token = {"Authorization": f"Bearer {signed_in(environment, how.sign_in)}"}
        found = poll.ask(environment, how.route, lambda: token, content=how.body)
        if limited := [got for got in found.answers if got.status == poll.TOO_OFTEN]:
            again = f"The API was asked too often (429) and answers again in {found.again:.0f} s."
            return Answer(None, [Probe(said, "200", limited[-1].problem)], again)
        if found.statuses != {200}:
            return _all([Probe(said, "200", ", ".join(map(str, sorted(found.statuses))))])
        urls = [str(field(got.body, how.url)) for got in found.answers]
        ids = [parse_qs(urlsplit(url).query)["X-Amz-Credential"][0].split("/")[0] for url in urls]
        name = str(field(found.answers[-1].body, how.key))
    except Unanswered as error:
        often = error.status == poll.TOO_OFTEN
        return Answer(None if often else False, [Probe(error.asked, "200", error.said)])
    except (urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
        return _all([Probe(said, "200", type(error).__name__)])
    others = {f"URLs signed with {short(id)}" for id in ids if id != pair.id}
    s3, bucket = aws.client(environment, "s3", pair), aws.settings(environment).bucket
    return _all(
        [
            Probe(f"every worker signs with {pair}", "yes", ", ".join(sorted(others)) or "yes"),
            _probe("upload with one", lambda: _send("PUT", urls[-1], b"probe"), "done"),
            _probe("delete it", lambda: s3.delete_object(Bucket=bucket, Key=name), "done"),
        ]
    )


def signed_in(environment: Deployment, how: SignIn) -> str:
    """Give a token of the person whose login the environment's reference points at. Raise Unanswered if none comes."""
    reference = str(aws.settings(environment).login)
    text = resolve(reference, "API_LOGIN")
    try:
        login = {name: str(value) for name, value in json.loads(text).items()}
        person = {name: login[name] for name in ("email", "password")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadEnvironment(f"s3.login: {reference} is not JSON with email and password") from None
    mask.add("API_LOGIN", login["password"])
    try:
        url = how.url.format_map(login)
    except (KeyError, ValueError, IndexError):
        raise BadEnvironment(f"s3.signing.sign_in.url: {reference} has not all that {how.url} names") from None
    url = url if "://" in url else f"{environment.api.url}{url}"
    got = health.ask(url, content={**person, **how.body})
    if got.status != 200:
        raise Unanswered(f"POST {urlsplit(url).path}", got.problem.partition(":")[0], got.status)
    try:
        token = str(field(got.body, how.token))
    except KeyError:
        raise Unanswered(f"POST {urlsplit(url).path}", f"no {how.token}", got.status) from None
    mask.add("API_TOKEN", token)
    return token


def field(body: Mapping[str, Any], path: str) -> Any:
    """Give a field of an answer, one inside another after a point. Raise KeyError."""
    found: Any = body
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            raise KeyError(path)
        found = found[name]
    return found


def _ask(environment: Deployment, arn: str, pair: Pair) -> list[Probe]:
    s3, sts = aws.client(environment, "s3", pair), aws.client(environment, "sts", pair)
    where = aws.settings(environment)
    mine, other = ({"Bucket": bucket, "Key": _name(pair)} for bucket in (where.bucket, where.other_bucket or ""))
    put, get = (s3.generate_presigned_url(f"{verb}_object", Params=mine, ExpiresIn=60) for verb in ("put", "get"))
    probes = [
        *([_probe("STS GetCallerIdentity", lambda: sts.get_caller_identity()["Arn"], arn)] if arn else []),
        _probe("S3 PutObject", lambda: s3.put_object(**mine, Body=_BODY), "done"),
        _probe("S3 GetObject", lambda: _same(s3.get_object(**mine)["Body"].read()), "done"),
        _probe("PUT of a signed URL", lambda: _send("PUT", put, _BODY), "done"),
        _probe("GET of a signed URL", lambda: _same(_send("GET", get)), "done"),
        _probe("S3 DeleteObject", lambda: s3.delete_object(**mine), "done"),
    ]
    if not where.other_bucket:
        return probes
    probes += [
        _probe(f"S3 ListObjects in {other['Bucket']}", lambda: s3.list_objects_v2(Bucket=other["Bucket"]), DENIED),
        _probe(f"S3 PutObject in {other['Bucket']}", lambda: s3.put_object(**other, Body=_BODY), DENIED),
    ]
    if probes[-1].found == "done":
        probes.append(_probe("and delete it again", lambda: s3.delete_object(**other), "done"))
    return probes


def _all(probes: list[Probe]) -> Answer:
    return Answer(all(probe.well for probe in probes), probes)


def _probe(asked: str, call: Callable[[], Any], expected: str) -> Probe:
    """Make one call; what was found is a text that the call gives, `done`, or the code of what it raised."""
    try:
        answer = call()
        found = answer if isinstance(answer, str) else "done"
    except (BotoCoreError, ClientError) as error:
        found = aws.said(error)
    except (RunbookError, OSError) as error:
        found = str(error)
    except urllib3.exceptions.HTTPError as error:
        found = type(error).__name__  # the text of it has the signed URL in it
    return Probe(asked, expected, found)


def _same(body: bytes) -> None:
    if body != _BODY:
        raise RunbookError("another content than was put")


def _send(method: str, url: str, body: bytes | None = None) -> bytes:
    answer = urllib3.request(method, url, body=body, timeout=10, retries=False, redirect=False)
    if answer.status != 200:
        raise RunbookError(f"HTTP {answer.status}")
    return answer.data


def _name(pair: Pair) -> str:
    """Name the probe's object: the same for a run that is run again, which then removes what a dead one left."""
    return f"{PREFIX}/{uuid.uuid5(uuid.NAMESPACE_OID, pair.id)}"
