"""What an environment's file says of backups: where some lie already, and where there is room for them."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from opslib.api import variable
from opslib.aws import aws
from opslib.aws.discovery import ANYWHERE, ENDPOINTS, REGIONS, SDK_ENDPOINTS
from opslib.aws.key_pair import Pair
from opslib.backups import trace
from opslib.backups.trace import Trace
from opslib.database import admin, schema
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line, private
from opslib.runbook.errors import RunbookError
from opslib.runbook.progress import Bytes

ROOM = 1.5
"""Of the database's size: what a folder needs besides the archives that are kept."""
FOLDER = "A folder of this machine where each backup lies too, best on another disk than the database."
CREDENTIALS = (
    "Where the credentials are that may list the bucket of backups, and get, put and delete there: JSON with "
    "AccessKeyId and SecretAccessKey, in a file of mode 0600. Not the API's own."
)
BUCKET, EXAMPLE = "The bucket that backups are streamed to.", "propertypulse-backups"
REGION = "The region of that bucket."

_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True)
class Where:
    """Where S3 answers, as a client is told, and who says so."""

    region: str
    endpoint: str | None = None
    source: str = ""


def discover(environment: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Give what was found of backups, and what is to be asked. It reads, and raises nothing for an S3 that is down."""
    yield _folder(environment)
    named, example = str(given.get("backups.credentials", "")), private(environment, "backups.json")
    try:
        places = _places(environment)
        if not named and not Path(example).expanduser().exists():
            raise RunbookError("With them the bucket is looked for.")
        pair = aws.credentials(named or f"file:{example}", "backups.credentials", "BACKUP_CREDENTIALS")
    except (RunbookError, OSError) as error:
        yield Asked("backups.credentials", f"{CREDENTIALS} {error}", f"file:{example}")
        yield from _unknown("Nobody knows without backups.credentials.")
        return
    if not named:
        yield Line("backups.credentials", f"file:{example}", "it lies there")
    yield from _at_s3(environment, pair, places, str(given.get("backups.bucket", "")))


def _places(environment: Deployment) -> list[Where]:
    """Give where S3 may answer: first where a variable says, then at AWS."""
    held = variable.values(variable.read(environment, (), unnamed=(*REGIONS, *SDK_ENDPOINTS, *ENDPOINTS)))
    region = next((one.value for one in held if one.name in REGIONS), ANYWHERE)
    for one in held:
        address = urlsplit(one.value)
        if address.scheme in ("http", "https") and address.hostname and not address.username:
            amazon = aws.is_amazon(one.value)
            return [*([] if amazon else [Where(region, one.value.rstrip("/"), one.source)]), Where(region)]
    return [Where(region)]


def _at_s3(environment: Deployment, pair: Pair, places: Sequence[Where], named: str) -> Iterator[Line | Asked]:
    """Ask each S3 until one knows the credentials, then for its buckets, or for the one that was named."""
    refused = []
    for where in places:
        s3 = aws.client(environment, "s3", pair, where=where, attempts=2)
        buckets, problem = list[str](), ""
        try:
            buckets = [str(one["Name"]) for one in s3.list_buckets()["Buckets"]]
        except (BotoCoreError, ClientError) as error:
            problem = aws.said(error)
            refused.append(f"S3 at {where.endpoint or 'AWS'} did not list its buckets: {problem}.")
            if where.endpoint and problem not in (*aws.REFUSED, *aws.DENIED):
                # Without it the bucket would be looked for at AWS.
                yield Asked("backups.endpoint", f"Where S3 answers: {refused[-1]}", where.endpoint)
        if problem in aws.REFUSED:
            continue
        if problem in ("", *aws.DENIED):
            if where.endpoint:
                yield Line("backups.endpoint", where.endpoint, f"{where.source}: it knows the credentials")
            if named or buckets:
                at = where.region if where.endpoint else ""
                yield from _of_buckets(environment, s3, at, buckets, named)
                return
        break
    yield from _unknown(" ".join(refused) or "No bucket is to be seen.")


def _unknown(why: str) -> Iterator[Asked]:
    yield Asked("backups.bucket", f"{BUCKET} {why}", EXAMPLE)
    yield Asked("backups.region", f"{REGION} {why}", ANYWHERE)


def _of_buckets(
    environment: Deployment, s3: Any, at: str, buckets: Sequence[str], named: str
) -> Iterator[Line | Asked]:
    """Choose the bucket with backups, unless one is named, and say of it what is known.

    `at` is the region for which another maker's S3 has taken a signature: what it calls a location may be none.
    """
    traces = trace.found(s3, [named] if named else buckets, _database(environment))
    there = [named] if named else sorted({one.bucket for one in traces})
    if len(there) != 1:
        called = [bucket for bucket in buckets if "backup" in bucket.lower()]
        likely = ", ".join(map(str, traces)) or ", ".join(called) or "none"
        what = f"{BUCKET} Of {len(buckets)} that are to be seen, these may be it: {likely}."
        yield Asked("backups.bucket", what, called[0] if called else EXAMPLE)
        yield Asked("backups.region", REGION, at or (_region(s3, called[0]) if len(called) == 1 else "") or ANYWHERE)
        return
    (bucket,) = there
    if not named:
        source = f"of {len(buckets)} buckets that are to be seen it alone has {traces[0].what}"
        yield Line("backups.bucket", bucket, source)
    yield from _prefix(traces)
    if at:
        yield Line("backups.region", at, "this S3 takes what is signed for it")
    elif region := _region(s3, bucket):
        yield Line("backups.region", region, f"S3 says so of {bucket}")
    else:
        yield Asked("backups.region", f"{REGION} S3 does not say.", ANYWHERE)


def _prefix(traces: Sequence[Trace]) -> Iterator[Line | Asked]:
    if len(traces) > 1:
        said = f"{traces[0].what} lie at {', '.join(map(str, traces))}"
        yield Asked("backups.prefix", f"Below which prefix of the bucket; {said}.")
    elif traces and _PREFIX.fullmatch(traces[0].prefix):
        yield Line("backups.prefix", traces[0].prefix, f"{traces[0].what} lie there")


def _region(s3: Any, bucket: str) -> str:
    """Give the region of a bucket; nothing if S3 does not say."""
    try:
        said = s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or ANYWHERE
        return "eu-west-1" if said == "EU" else str(said)  # as old buckets have it
    except (BotoCoreError, ClientError):
        return ""


def _database(environment: Deployment) -> str:
    try:
        return admin.database(environment)
    except (RunbookError, OSError):
        return ""


def _folder(environment: Deployment) -> Asked:
    """Ask for a folder, and say which disks have room for it."""
    try:
        with schema.reading(environment) as connection:
            size = admin.size(connection)
            said = f"The database has {Bytes(size)}"
    except (RunbookError, OSError, psycopg.Error):
        size, said = 0, "How large the database is, is not known"
    disks = {os.stat(disk.mountpoint).st_dev: disk.mountpoint for disk in reversed(psutil.disk_partitions())}
    free = {place: psutil.disk_usage(place).free for place in sorted(disks.values())}
    room = [f"{place} ({Bytes(bytes)} free)" for place, bytes in free.items() if bytes > size * ROOM]
    there = ", ".join(room) or "none that this machine lists"
    what = f"{FOLDER} {said}; disks with room for it: {there}."
    return Asked("backups.folder", what, private(environment, "backups"))
