"""AWS: boto3 clients that know the keys they are given, and nothing else that this machine has configured."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader

from opslib.aws.key_pair import Pair
from opslib.aws.settings import S3, Endpoint
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.secret_reference import resolve
from opslib.runbook.errors import BadEnvironment, RunbookError
from opslib.runbook.mask import mask

CONNECT_SECONDS, READ_SECONDS = 5, 10
ATTEMPTS = 5
"""How often a call is made in all when it times out, is throttled or answered 500; boto3 waits ever longer between."""

REFUSED = ("InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
"""How AWS says that it does not take a key, whatever is asked."""
DENIED = ("AccessDenied", "403")
MISSING = ("NoSuchBucket", "404")


def settings(environment: Deployment) -> S3:
    """Give the part of the environment that says where uploads go. Raise BadEnvironment if there is none."""
    return environment.part(S3)


def client(
    environment: Deployment,
    service: str,
    pair: Pair,
    *,
    attempts: int = ATTEMPTS,
    where: Endpoint | None = None,
    seconds: float = READ_SECONDS,
) -> Any:
    """Make a client of a fresh session: no profile, no configuration file, no credentials of the machine.

    `where` has another region and endpoint than the uploads; `seconds` is how long an answer may take.
    """
    own = {
        "profile": (None, None, None, None),
        "config_file": (None, None, os.devnull, None),
        "credentials_file": (None, None, os.devnull, None),
    }
    s3 = where or settings(environment)
    endpoint = s3.endpoint or ("" if where else other_maker(environment)) or None
    core = botocore.session.Session(session_vars=own)
    core.register_component("data_loader", _loader())
    session = boto3.Session(
        aws_access_key_id=pair.id,
        aws_secret_access_key=pair.secret,
        aws_session_token=pair.token or None,
        region_name=s3.region,
        botocore_session=core,
    )
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        signature_version="s3v4" if service == "s3" else None,
        s3={"addressing_style": "path" if endpoint else "auto"},
        ignore_configured_endpoint_urls=True,
    )
    return session.client(service, endpoint_url=endpoint, config=config)


@functools.cache
def _loader() -> Loader:
    """Read the descriptions of the services once, not for each client."""
    return Loader()


def other_maker(environment: Deployment) -> str:
    """Give the address of the S3 that the `.env` names instead of AWS's, which has no IAM nor STS; else nothing."""
    if settings(environment).iam:
        return ""
    named = env_file.read(environment.api.env_file).get(settings(environment).endpoint_key, "")
    return "" if is_amazon(named) else named


def is_amazon(address: str) -> bool:
    """Whether an address is one of AWS's own."""
    return (urlsplit(address).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def new_pair(environment: Deployment) -> Pair:
    """Give the pair that was made in the console of another maker. Raise BadEnvironment if nobody said where it is."""
    if (reference := settings(environment).new_pair) is None:
        raise BadEnvironment(
            f"s3.new_pair: there is no IAM at {other_maker(environment)}. Make a new pair in its console, put it into "
            "a file of mode 0600 as JSON with AccessKeyId and SecretAccessKey, and name that here: file:PATH"
        )
    return credentials(reference, "s3.new_pair", "NEW_S3_PAIR")


def administrator(environment: Deployment) -> Pair:
    """Give the credentials that the environment's reference points at. Raise BadEnvironment if they are not some."""
    if not (settings(environment).administrator and settings(environment).user):
        raise BadEnvironment("s3: expected `user` and `administrator`, as AWS's IAM is asked about that user's keys")
    return credentials(settings(environment).administrator, "s3.administrator", "AWS_ADMINISTRATOR")


def credentials(reference: str, setting: str, name: str) -> Pair:
    """Give the credentials that a reference in this setting points at, masked as `name`. Raise BadEnvironment."""
    text = resolve(reference, name)
    try:
        found = json.loads(text)
        pair = Pair(found["AccessKeyId"], found["SecretAccessKey"], found.get("SessionToken", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadEnvironment(f"{setting}: {reference} is not JSON with AccessKeyId and SecretAccessKey") from None
    for half in (pair.id, pair.secret, pair.token):
        if half:
            mask.add(name, half)
    return pair


@contextlib.contextmanager
def asking(call: str) -> Iterator[None]:
    """Name the call in what it raises: RunbookError for whatever boto3 gives up on."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise RunbookError(
            f"{call} was not answered: {said(error)}. See whether AWS is well, then run again."
        ) from error


def said(error: Exception) -> str:
    """Give the code of an AWS error, or the kind of the failure that kept AWS from answering."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code") or error.response["ResponseMetadata"]["HTTPStatusCode"])
    return type(error).__name__
