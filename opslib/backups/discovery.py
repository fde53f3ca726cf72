"""What an environment's file says of backups: where some lie already, and where there is room for them."""

import json
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

from opslib.aws import aws
from opslib.aws.key_pair import Pair
from opslib.backups.folder import MANIFEST, NAME
from opslib.database import admin, schema
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line
from opslib.runbook.errors import RunbookError
from opslib.runbook.progress import Bytes

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "S3_ENDPOINT", "AWS_S3_ENDPOINT", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")
"""What a variable of the `.env` is called that has the address of S3."""
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION")
FIRST = "us-east-1"
"""The region of AWS's that need not be said."""
ROOM = 1.5
"""Of the database's size: what a folder needs besides the archives that are kept."""
EXAMPLE = "propertypulse-backups"
FOLDERS = 20
"""How many folders of a bucket are looked into."""
NOT_ITS_OWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId")
"""What an S3 answers that never gave out these credentials."""
DENIED = "AccessDenied"
"""What it answers to credentials that it knows, and that may not do this."""
CREDENTIALS = (
    "Where the credentials are that may list the bucket of backups, and get, put and delete there: JSON with "
    "AccessKeyId and SecretAccessKey, in a file of mode 0600. Not the API's own."
)
_DUMP = re.compile(r"[^/]+\.(dump|pgdump|backup|sql)(\.(gz|zst|bz2|xz|lz4|zip|gpg|age|enc))*", re.I)
_DATE = re.compile(r"\d{2}|\d{4}(-?\d{2}.*)?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True)
class Where:
    """Where S3 answers, as a client is told."""

    region: str
    endpoint: str | None


@dataclass(frozen=True)
class Find:
    """A folder of a bucket with backups; `manifest` is the newest that is seen, if procedures made them."""

    bucket: str
    prefix: str
    manifest: str = ""

    @property
    def what(self) -> str:
        """What lies there, for people."""
        return "backups of this database" if self.manifest else "dumps"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def discover(environment: Deployment, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Give what was found of backups, and what is to be asked. It reads, and raises nothing for an S3 that is down."""
    yield _folder(environment)
    named, example = str(given.get("backups.credentials", "")), f"{_place(environment)}.json"
    reference = named or f"file:{example}"
    try:
        held = env_file.read(environment.api.env_file)
        if not named and not Path(example).expanduser().exists():
            raise RunbookError("With them the bucket is looked for.")
        pair = aws.credentials(reference, "backups.credentials", "BACKUP_CREDENTIALS")
    except (RunbookError, OSError) as error:
        yield Asked("backups.credentials", f"{CREDENTIALS} {error}", f"file:{example}")
        yield from _unknown("Nobody knows without backups.credentials.")
        return
    endpoint, region = _first(held, ENDPOINTS), held.get(_first(held, REGIONS), FIRST)
    places = [Where(region, held[endpoint])] if endpoint and not _amazon(held[endpoint]) else []
    yield from _at_s3(environment, pair, [*places, Where(region, None)], endpoint, str(given.get("backups.bucket", "")))


def _unknown(why: str) -> Iterator[Asked]:
    yield Asked("backups.bucket", f"The bucket that backups are streamed to. {why}", EXAMPLE)
    yield Asked("backups.region", f"The region of that bucket. {why}", FIRST)


def _at_s3(
    environment: Deployment, pair: Pair, places: Sequence[Where], variable: str, named: str
) -> Iterator[Line | Asked]:
    """Ask each S3 until one knows the credentials, then for its buckets, or for the one that was named."""
    buckets: list[str] = []
    for where in places:
        said = ""
        s3 = aws.client(environment, "s3", pair, where=where, attempts=2)
        try:
            buckets = [str(one["Name"]) for one in s3.list_buckets()["Buckets"]]
        except (BotoCoreError, ClientError) as error:
            said = f"S3 at {where.endpoint or 'AWS'} did not list its buckets: {aws.said(error)}."
            if aws.said(error) in NOT_ITS_OWN:
                continue
        if where.endpoint and (not said or DENIED in said):
            yield Line("backups.endpoint", where.endpoint, f"{variable} of the .env, where backups.credentials work")
        break
    if named and not (said and DENIED not in said):
        yield from _of_bucket(s3, named, _in_it(environment, s3, [named]))
    elif buckets:
        yield from _bucket(environment, s3, buckets)
    else:
        yield from _unknown(said or "No bucket is to be seen.")


def _bucket(environment: Deployment, s3: Any, buckets: Sequence[str]) -> Iterator[Line | Asked]:
    """Choose the bucket with backups."""
    finds = _in_it(environment, s3, buckets)
    names = {find.bucket for find in finds}
    if len(names) == 1:
        (name,) = names
        yield Line(
            "backups.bucket", name, f"of {len(buckets)} buckets that are to be seen it alone has {finds[0].what}"
        )
        yield from _of_bucket(s3, name, finds)
        return
    called = [bucket for bucket in buckets if "backup" in bucket.lower()]
    likely = ", ".join(map(str, finds)) or ", ".join(called) or "none"
    what = f"The bucket that backups are streamed to. Of {len(buckets)} that are to be seen, these may be it: {likely}."
    yield Asked("backups.bucket", what, (called or [EXAMPLE])[0])
    region = _region(s3, called[0]) if len(called) == 1 else None
    yield Asked("backups.region", "The region of that bucket.", region.value if isinstance(region, Line) else FIRST)


def _of_bucket(s3: Any, name: str, finds: Sequence[Find]) -> Iterator[Line | Asked]:
    """Say below which prefix of a bucket backups lie already, and its region."""
    if len(finds) == 1 and _PREFIX.fullmatch(finds[0].prefix):
        yield Line("backups.prefix", finds[0].prefix, f"{finds[0].what} lie there")
    elif len(finds) > 1:
        yield Asked("backups.prefix", f"Below which prefix; {finds[0].what} lie at {', '.join(map(str, finds))}.")
    yield _region(s3, name)


def _in_it(environment: Deployment, s3: Any, buckets: Sequence[str]) -> list[Find]:
    """Find backups of this database in these buckets, or where there are none, dumps."""
    finds = [find for bucket in buckets for find in _finds(s3, bucket)]
    ours = [find for find in finds if find.manifest and _database(s3, find) == _own(environment)]
    return ours or [find for find in finds if not find.manifest]


def _region(s3: Any, bucket: str) -> Line | Asked:
    try:
        return Line(
            "backups.region",
            s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or FIRST,
            "S3 says so of the bucket",
        )
    except (BotoCoreError, ClientError) as error:
        return Asked("backups.region", f"The region of {bucket}. S3 does not say: {aws.said(error)}.", FIRST)


def _finds(s3: Any, bucket: str) -> list[Find]:
    """Look into the first folders of a bucket; nothing of one that may not be listed."""
    found: dict[str, Find] = {}
    try:
        top = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
        pages = [top]
        pages += [
            s3.list_objects_v2(Bucket=bucket, Prefix=one["Prefix"]) for one in top.get("CommonPrefixes", [])[:FOLDERS]
        ]
    except (BotoCoreError, ClientError):
        return []
    for key in (str(one["Key"]) for page in pages for one in page.get("Contents", [])):
        *folders, name = key.split("/")
        undated = next((n for n, one in enumerate(folders) if _DATE.fullmatch(one)), len(folders))
        prefix = "/".join(folders[:undated])
        if NAME.fullmatch(name) and name.endswith(MANIFEST):
            found[prefix] = Find(bucket, prefix, key)
        elif _DUMP.fullmatch(name) and not NAME.fullmatch(name):
            found.setdefault(prefix, Find(bucket, prefix))
    return [*found.values()]


def _database(s3: Any, find: Find) -> str:
    """Give the database that a manifest is of; nothing if it cannot be read."""
    try:
        return str(json.load(s3.get_object(Bucket=find.bucket, Key=find.manifest)["Body"])["manifest"]["database"])
    except (BotoCoreError, ClientError, ValueError, LookupError, TypeError):
        return ""


def _own(environment: Deployment) -> str | None:
    try:
        return admin.database(environment)
    except (RunbookError, OSError):
        return None


def _folder(environment: Deployment) -> Asked:
    """Ask for a folder, and say which disks have room for it."""
    what = "A folder of this machine where each backup lies too, best on another disk than the database."
    try:
        with schema.reading(environment) as connection:
            size = admin.size(connection)
    except (RunbookError, OSError, psycopg.Error):
        size, said = 0, "How large the database is, is not known"
    else:
        said = f"The database has {Bytes(size)}"
    disks = {os.stat(disk.mountpoint).st_dev: disk.mountpoint for disk in reversed(psutil.disk_partitions())}
    free = {place: psutil.disk_usage(place).free for place in sorted(disks.values())}
    room = [f"{place} ({Bytes(bytes)} free)" for place, bytes in free.items() if bytes > size * ROOM]
    there = ", ".join(room) or "none that this machine lists"
    return Asked("backups.folder", f"{what} {said}; disks with room for it: {there}.", _place(environment))


def _place(environment: Deployment) -> str:
    return f"~/.runbook/{environment.name or 'NAME'}/backups"


def _first(held: Mapping[str, str], names: Sequence[str]) -> str:
    return next((name for name in names if held.get(name)), "")


def _amazon(address: str) -> bool:
    return (urlsplit(address).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
