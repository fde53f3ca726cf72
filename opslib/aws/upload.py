"""Uploads: whether an access key does for the API what it must, and no more, asked of AWS and of the API itself."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from opslib.aws import aws
from opslib.aws.key_pair import Pair
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


def proven(environment: Deployment, arn: str, pair: Pair, *, within: float = 60) -> Answer:
    """Whether the key belongs to this user, reads, writes and signs in its bucket, and may not touch the other one.

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


def signs(environment: Deployment, pair: Pair, *, times: int = 20) -> Answer:
    """Whether the API signs upload URLs with this key, on every connection, and one of them takes an upload."""
    api = environment.api.url
    try:
        token = {"Authorization": f"Bearer {_log_in(environment)}"}
        signed = [_post(f"{api}/api/uploads/signed-url", {"fileName": "probe.txt"}, token) for _ in range(times)]
    except (urllib3.exceptions.HTTPError, ValueError, KeyError) as error:
        return _all([Probe("POST /api/uploads/signed-url", "200", type(error).__name__)])
    right = sum(parse_qs(urlsplit(one["url"]).query)["X-Amz-Credential"][0].split("/")[0] == pair.id for one in signed)
    s3, bucket = aws.client(environment, "s3", pair), aws.settings(environment).bucket
    return _all(
        [
            Probe(f"URLs signed with {pair}", str(times), str(right)),
            _probe("upload with one", lambda: _send("PUT", signed[-1]["url"], b"probe"), "done"),
            _probe("delete it", lambda: s3.delete_object(Bucket=bucket, Key=signed[-1]["key"]), "done"),
        ]
    )


def _ask(environment: Deployment, arn: str, pair: Pair) -> list[Probe]:
    s3, sts = aws.client(environment, "s3", pair), aws.client(environment, "sts", pair)
    where = aws.settings(environment)
    mine, other = ({"Bucket": bucket, "Key": _name(pair)} for bucket in (where.bucket, where.other_bucket))
    put, get = (s3.generate_presigned_url(f"{verb}_object", Params=mine, ExpiresIn=60) for verb in ("put", "get"))
    probes = [
        _probe("STS GetCallerIdentity", lambda: sts.get_caller_identity()["Arn"], arn),
        _probe("S3 PutObject", lambda: s3.put_object(**mine, Body=_BODY), "done"),
        _probe("S3 GetObject", lambda: _same(s3.get_object(**mine)["Body"].read()), "done"),
        _probe("PUT of a signed URL", lambda: _send("PUT", put, _BODY), "done"),
        _probe("GET of a signed URL", lambda: _same(_send("GET", get)), "done"),
        _probe("S3 DeleteObject", lambda: s3.delete_object(**mine), "done"),
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


def _post(url: str, content: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    # A connection of its own for each, so that every worker is asked.
    headers = {**headers, "Connection": "close"}
    answer = urllib3.request("POST", url, json=content, headers=headers, timeout=10, retries=False, redirect=False)
    if answer.status != 200:
        raise ValueError(f"HTTP {answer.status}")
    found: dict[str, Any] = answer.json()
    return found


def _log_in(environment: Deployment) -> str:
    reference = aws.settings(environment).login
    text = resolve(reference, "API_LOGIN")
    try:
        login = {name: str(json.loads(text)[name]) for name in ("email", "password")}
    except (ValueError, KeyError, TypeError):
        raise BadEnvironment(f"s3.login: {reference} is not JSON with email and password") from None
    mask.add("API_LOGIN", login["password"])
    token = str(_post(f"{environment.api.url}/api/auth/login", login, {})["accessToken"])
    mask.add("API_TOKEN", token)
    return token


def _name(pair: Pair) -> str:
    """Name the probe's object: the same for a run that is run again, which then removes what a dead one left."""
    return f"{PREFIX}/{uuid.uuid5(uuid.NAMESPACE_OID, pair.id)}"
