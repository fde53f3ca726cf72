"""A bucket of backups in S3, below a prefix. Its names are those of a folder of backups."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from opslib.aws import aws
from opslib.backups.folder import NAME, PIECE, owner, settings
from opslib.deployment.deployment import Deployment
from opslib.runbook.act import Act, call
from opslib.runbook.errors import RunbookError

_AHEAD = 2  # pieces fetched meanwhile
_READS = 5
_PATIENCE = 300  # seconds


class Bucket:
    """A bucket of S3, below a prefix. Raise RunbookError, which names the call, where S3 does not answer."""

    def __init__(self, environment: Deployment) -> None:
        self._environment = environment
        self._where = settings(environment)
        self.name = self._where.bucket
        self._owner = owner(environment)

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

    def unfinished(self) -> list[Act]:
        """Give the acts that abort the multipart uploads of one's own, whose parts S3 keeps, and bills, until then."""
        return [
            call("s3.abort_multipart_upload", self._abort, Key=self.key(name), UploadId=upload)
            for name, upload in self._uploads()
            if f"-{self._owner}." in name
        ]

    def _abort(self, **upload: str) -> None:
        with aws.asking(f"S3 AbortMultipartUpload of {upload['Key']}"):
            self.client.abort_multipart_upload(Bucket=self.name, **upload)

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


def _asked(call: Any) -> str:
    try:
        return str(call())
    except ClientError as error:
        code = aws.said(error)
        return "off" if "NotFound" in code or code.startswith("NoSuch") else f"not known: {code}"
    except (BotoCoreError, LookupError, RunbookError) as error:
        return f"not known: {type(error).__name__}"
