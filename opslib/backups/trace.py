"""Traces of backups in buckets: folders in which archives of procedures lie already, or dumps of somebody else's."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from opslib.backups.folder import MANIFEST, NAME

FOLDERS = 20
"""How many folders of a bucket are looked into, a thousand objects of each."""
_DUMP = re.compile(r"[^/]+\.(dump|pgdump|backup|sql)(\.(gz|zst|bz2|xz|lz4|zip|gpg|age|enc))*", re.I)
_DATE = re.compile(r"\d{2}|\d{4}(-?\d{2}.*)?")


@dataclass(frozen=True)
class Trace:
    """A folder of a bucket with backups; `manifest` is the newest that is seen, if procedures made them."""

    bucket: str
    prefix: str
    manifest: str = ""

    @property
    def what(self) -> str:
        """What lies there, for people."""
        return "backups of a database of this name" if self.manifest else "dumps"

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def found(s3: Any, buckets: Sequence[str], database: str) -> list[Trace]:
    """Give where backups of a database lie in these buckets; where none does, where dumps lie, of whatever it be.

    A bucket that may not be listed is left out.
    """
    all = [trace for bucket in buckets for trace in _in_bucket(s3, bucket)]
    ours = [trace for trace in all if trace.manifest and database and _database(s3, trace) == database]
    return ours or [trace for trace in all if not trace.manifest]


def _in_bucket(s3: Any, bucket: str) -> list[Trace]:
    found: dict[str, Trace] = {}
    for key in _keys(s3, bucket):
        *folders, name = key.split("/")
        undated = next((n for n, one in enumerate(folders) if _DATE.fullmatch(one)), len(folders))
        prefix = "/".join(folders[:undated])
        if NAME.fullmatch(name) and name.endswith(MANIFEST):
            found[prefix] = Trace(bucket, prefix, key)
        elif _DUMP.fullmatch(name) and not NAME.fullmatch(name):
            found.setdefault(prefix, Trace(bucket, prefix))
    return [*found.values()]


def _keys(s3: Any, bucket: str) -> Iterator[str]:
    try:
        top = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
        folders = [one["Prefix"] for one in top.get("CommonPrefixes", [])[:FOLDERS]]
        for page in (top, *(s3.list_objects_v2(Bucket=bucket, Prefix=folder) for folder in folders)):
            yield from (str(one["Key"]) for one in page.get("Contents", []))
    except (BotoCoreError, ClientError):
        return


def _database(s3: Any, trace: Trace) -> str:
    """Give the database that a manifest is of; nothing if it cannot be read."""
    try:
        return str(json.load(s3.get_object(Bucket=trace.bucket, Key=trace.manifest)["Body"])["manifest"]["database"])
    except (BotoCoreError, ClientError, ValueError, LookupError, TypeError):
        return ""
