"""A multipart upload to S3 of a file that is still being written: a part goes once it is there, none is in memory."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.utils import ReadFileChunk

from opslib.aws import aws
from opslib.backups.bucket import Bucket

SMALLEST = 8 << 20
"""Bytes of a part, at the least."""
MOST = 9_000
"""Parts, at the most; S3 takes 10,000 of up to 5 GiB each."""
_SENDERS = 2


class Upload:
    """One upload. It fails without a sound until it is asked: what reads the database must not wait for S3.

    `problem` says why it failed; empty while it goes well.
    """

    def __init__(self, bucket: Bucket, name: str, file: Path, expected: int) -> None:
        self.problem = ""
        self.sent = 0
        self.part = max(SMALLEST, expected // MOST)
        self._file = file
        self._given = {"Bucket": bucket.name, "Key": bucket.key(name)}
        self._s3, self._patient = bucket.client, bucket.patient
        self._parts: list[Future[dict[str, Any]]] = []
        self._pool = ThreadPoolExecutor(_SENDERS)
        self._id = ""
        try:
            began = self._s3.create_multipart_upload(
                **self._given, ChecksumAlgorithm="SHA256", ContentType="application/zstd"
            )
            self._id = began["UploadId"]
        except (BotoCoreError, ClientError) as error:
            self.problem = f"S3 CreateMultipartUpload: {aws.said(error)}"

    def grown(self, size: int) -> None:
        """Send the parts that are whole now that the file has so many bytes."""
        while not self.problem and (len(self._parts) + 1) * self.part <= size:
            self._send(self.part)

    def complete(self, size: int) -> bool:
        """Send the rest, wait for all of it, and have the object exist. False if that failed; nothing is left then."""
        self.grown(size)
        if not self.problem and (rest := size - len(self._parts) * self.part):
            self._send(rest)
        sent = [part.result() for part in self._parts]
        if not self.problem:
            try:
                self._patient.complete_multipart_upload(
                    **self._given, UploadId=self._id, MultipartUpload={"Parts": sent}
                )
            except (BotoCoreError, ClientError) as error:
                if not self._there(size):  # the answer may have been lost, and not the call
                    self.problem = f"S3 CompleteMultipartUpload: {aws.said(error)}"
        if self.problem:
            self.abort()
        self._pool.shutdown()
        return not self.problem

    def abort(self) -> None:
        """Have S3 forget the parts; what fails here is found by the next run. Well if there is no upload."""
        self.problem = self.problem or "it was given up"
        self._pool.shutdown(cancel_futures=True)  # a part that arrives after the abort would stay
        if self._id:
            try:
                self._s3.abort_multipart_upload(**self._given, UploadId=self._id)
            except (BotoCoreError, ClientError) as error:
                self.problem += f"; S3 AbortMultipartUpload: {aws.said(error)}"
            self._id = ""

    def _send(self, size: int) -> None:
        at = len(self._parts) * self.part
        self._parts.append(self._pool.submit(self._send_part, len(self._parts) + 1, at, size))

    def _send_part(self, number: int, at: int, size: int) -> dict[str, Any]:
        if self.problem:
            return {}
        try:
            with ReadFileChunk.from_filename(str(self._file), at, size) as body:
                answer = self._s3.upload_part(
                    **self._given, UploadId=self._id, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256"
                )
        except (BotoCoreError, ClientError) as error:
            self.problem = self.problem or f"S3 UploadPart {number}: {aws.said(error)}"
            return {}
        self.sent += size
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]}

    def _there(self, size: int) -> bool:
        try:
            return bool(self._s3.head_object(**self._given)["ContentLength"] == size)
        except (BotoCoreError, ClientError):
            return False
