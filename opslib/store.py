"""A store of backups: a folder of this machine, or a bucket of S3. What it holds has flat names, one backup's together.

| name | is |
| --- | --- |
| `TIME-RUN.dump.zst` | the archive: pg_dump's custom format, in frames of zstd |
| `TIME-RUN.json` | its manifest. A backup exists from the moment that this is there, and it is written last |
| `TIME-RUN.proven` | that the backup was fetched back, restored and compared |
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from opslib import aws
from opslib.environment import Backups, Environment
from opslib.errors import BadEnvironment, RunbookError
from opslib.procedure import located

ARCHIVE, MANIFEST, PROVEN, PART = ".dump.zst", ".json", ".proven", ".part"
NAME = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{8})(\.dump\.zst|\.json|\.proven)")
"""Nothing else is ever read or deleted."""
PIECE = 4 << 20  # bytes that are fetched at once
_AHEAD = 2  # pieces fetched meanwhile
_READS = 5
_PATIENCE = 300  # seconds


def settings(environment: Environment) -> Backups:
    """Give the part of the environment that says where backups are kept. Raise BadEnvironment if there is none."""
    if environment.backups is None:
        raise BadEnvironment(
            f"parameters/{environment.name}.yaml has no `backups:`; parameters/production.example.yaml explains it"
        )
    return environment.backups


class Folder:
    """A folder of this machine. A file is there whole or not at all, and its owner alone reads it."""

    def __init__(self, environment: Environment) -> None:
        self.path = settings(environment).folder

    def __str__(self) -> str:
        return located(self.path)

    def address(self, name: str) -> str:
        """Say where this is."""
        return located(self.path / name)

    def names(self) -> list[str]:
        """Give what is there, sorted."""
        return sorted(f.name for f in self.path.glob("*") if NAME.fullmatch(f.name))

    def size(self, name: str) -> int:
        """Give the bytes of a file."""
        return (self.path / name).stat().st_size

    def read(self, name: str) -> bytes:
        """Give the content of a small file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        part = self.part(name)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        self.keep(name)

    def part(self, name: str) -> Path:
        """Give the path of a file that is not whole yet; the folder is there afterwards."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.path / f"{name}{PART}"

    def keep(self, name: str) -> None:
        """Have a whole part there under its name, also after a power cut."""
        part = self.path / f"{name}{PART}"
        for place, mode in ((part, os.O_RDWR), (self.path, os.O_RDONLY)):
            file = os.open(place, mode)
            os.fsync(file)
            os.close(file)
            if place == part:
                part.replace(self.path / name)

    def delete(self, name: str) -> None:
        """Delete a file; well if there is none."""
        (self.path / name).unlink(missing_ok=True)

    def pieces(self, name: str) -> Iterator[bytes]:
        """Give a file piece by piece."""
        with (self.path / name).open("rb") as file:
            while piece := file.read(PIECE):
                yield piece

    def unfinished(self) -> list[str]:
        """Give the parts that nobody will finish any more, as addresses."""
        return sorted(located(file) for file in self.path.glob(f"*{PART}"))

    def abort(self) -> None:
        """Remove them."""
        for file in self.path.glob(f"*{PART}"):
            file.unlink(missing_ok=True)


class Bucket:
    """A bucket of S3, below a prefix. Raise RunbookError, which names the call, where S3 does not answer."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._where = settings(environment)
        self.name = self._where.bucket

    def __str__(self) -> str:
        return f"s3://{self.name}/{self._where.prefix}"

    @cached_property
    def client(self) -> Any:
        """A client of S3 with the credentials of the environment's part `backups`."""
        return self._client()

    @cached_property
    def patient(self) -> Any:
        """A client that waits for an answer as long as S3 may take to put many parts together."""
        return self._client(seconds=_PATIENCE)

    def key(self, name: str) -> str:
        """Give the key of an object."""
        return f"{self._where.prefix}/{name}"

    def address(self, name: str) -> str:
        """Say where this is."""
        return f"{self}/{name}"

    def problem(self) -> str:
        """Say why the bucket cannot be used now; empty if it can."""
        try:
            self.client.head_bucket(Bucket=self.name)
        except (BotoCoreError, ClientError) as error:
            return f"s3://{self.name}: {aws.said(error)}"
        return ""

    def protection(self) -> dict[str, str]:
        """Give what protects the bucket: versioning, object lock, encryption."""
        s3, bucket = self.client, {"Bucket": self.name}
        return {
            "bucket": self.name,
            "versioning": _asked(lambda: s3.get_bucket_versioning(**bucket).get("Status", "off")),
            "object lock": _asked(
                lambda: s3.get_object_lock_configuration(**bucket)["ObjectLockConfiguration"]["ObjectLockEnabled"]
            ),
            "encryption": _asked(
                lambda: s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"][0][
                    "ApplyServerSideEncryptionByDefault"
                ]["SSEAlgorithm"]
            ),
        }

    def names(self) -> list[str]:
        """Give what is there, sorted."""
        prefix = self.key("")
        with aws.asking(f"S3 ListObjects of {self}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            found = [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", [])]
        return sorted(name for name in found if NAME.fullmatch(name))

    def size(self, name: str) -> int:
        """Give the bytes of an object."""
        with aws.asking(f"S3 HeadObject of {self.address(name)}"):
            return int(self.client.head_object(Bucket=self.name, Key=self.key(name))["ContentLength"])

    def read(self, name: str) -> bytes:
        """Give the content of a small object."""
        with aws.asking(f"S3 GetObject of {self.address(name)}"):
            content: bytes = self.client.get_object(Bucket=self.name, Key=self.key(name))["Body"].read()
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small object."""
        given = {"Bucket": self.name, "Key": self.key(name), "ChecksumAlgorithm": "SHA256"}
        with aws.asking(f"S3 PutObject of {self.address(name)}"):
            self.client.put_object(**given, Body=content, ContentType="application/json")

    def delete(self, name: str) -> None:
        """Delete an object; well if there is none."""
        with aws.asking(f"S3 DeleteObject of {self.address(name)}"):
            self.client.delete_object(Bucket=self.name, Key=self.key(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Give an object piece by piece, two ahead of whoever takes them, and of one version only."""
        with aws.asking(f"S3 GetObject of {self.address(name)}"):
            head = self.client.head_object(Bucket=self.name, Key=self.key(name))
        size, etag = head["ContentLength"], head["ETag"]
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting: deque[Future[bytes]] = deque()
            for at in range(0, size, PIECE):
                waiting.append(pool.submit(self._piece, name, at, min(at + PIECE, size), etag))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def unfinished(self) -> list[str]:
        """Give the multipart uploads that nobody will finish any more, as addresses."""
        return [f"{self.address(name)} (multipart upload)" for name, _ in self._uploads()]

    def abort(self) -> None:
        """Abort them: S3 keeps their parts, and bills them, until then."""
        for name, upload in self._uploads():
            with aws.asking(f"S3 AbortMultipartUpload of {self.address(name)}"):
                self.client.abort_multipart_upload(Bucket=self.name, Key=self.key(name), UploadId=upload)

    def _client(self, **options: float) -> Any:
        pair = aws.credentials(self._where.credentials, "backups.credentials", "BACKUP_CREDENTIALS")
        return aws.client(self._environment, "s3", pair, where=self._where, **options)  # type: ignore[arg-type]

    def _uploads(self) -> list[tuple[str, str]]:
        prefix = self.key("")
        with aws.asking(f"S3 ListMultipartUploads of {self}"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix)
            found = [
                (one["Key"].removeprefix(prefix), one["UploadId"]) for page in pages for one in page.get("Uploads", [])
            ]
        return [(name, upload) for name, upload in found if NAME.fullmatch(name)]

    def _piece(self, name: str, start: int, end: int, etag: str) -> bytes:
        given = {"Bucket": self.name, "Key": self.key(name), "Range": f"bytes={start}-{end - 1}", "IfMatch": etag}
        for attempt in range(1, _READS + 1):
            with aws.asking(f"S3 GetObject of {self.address(name)}"):
                try:
                    content: bytes = self.client.get_object(**given)["Body"].read()
                    return content
                except BotoCoreError:  # boto3 repeats a call, but not the reading of its body
                    if attempt == _READS:
                        raise
        raise AssertionError


Store = Folder | Bucket


def stores(environment: Environment) -> tuple[list[Store], str]:
    """Give the stores that can be used now, the bucket first, and why the bucket cannot be, if so."""
    bucket, folder = Bucket(environment), Folder(environment)
    problem = bucket.problem()
    return ([folder] if problem else [bucket, folder]), problem


def _asked(call: Any) -> str:
    try:
        return str(call())
    except ClientError as error:
        code = aws.said(error)
        return "off" if "NotFound" in code or code.startswith("NoSuch") else f"not known: {code}"
    except (BotoCoreError, LookupError, RunbookError) as error:
        return f"not known: {type(error).__name__}"
