"""Local files to S3 in bounded memory: one PUT, or a multipart upload with a full-object CRC64NVME."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from logging import getLogger
from typing import TYPE_CHECKING, Any

from awscrt.checksums import crc64nvme
from botocore.exceptions import ClientError

from vera_core.errors import IntegrityError, VeraError
from vera_core.store.base import Stored
from vera_core.store.s3_errors import Place, error_code

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

    from vera_core.store.s3_connect import S3Options
    from vera_core.store.s3_errors import Caller

log = getLogger(__name__)

FILE_TYPE = "application/vnd.vera.shard"
"""Content type of uploaded files. One of our own: stores that compress by type leave it alone, so ranges stay cheap."""
MAX_PARTS = 10_000  # S3's limit


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way: where to, from where, its bytes, their SHA-256, and the lock as SDK arguments."""

    bucket: str
    key: str
    path: Path
    size: int
    sha256: bytes
    lock: dict[str, Any]

    @property
    def place(self) -> Place:
        """For errors."""
        return Place(self.bucket, self.key)


def upload_single(client: S3Client, call: Caller, upload: Upload, condition: dict[str, Any]) -> Stored:
    """One PUT that the store checks against the SHA-256."""

    def request() -> Stored:
        with upload.path.open("rb") as body:
            reply = client.put_object(
                Bucket=upload.bucket,
                Key=upload.key,
                Body=body,
                ContentLength=upload.size,
                ContentType=FILE_TYPE,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=b64encode(upload.sha256).decode(),
                **condition,
                **upload.lock,
            )
        return Stored(upload.key, reply.get("VersionId", "null"), reply["ETag"], upload.size)

    return call(upload.place, request)


def upload_multipart(client: S3Client, call: Caller, upload: Upload, options: S3Options) -> Stored:
    """Parts in parallel; the store checks the CRC64NVME of each and of the whole, we the SHA-256 of what was read.

    A failure aborts the upload, so that nothing of it stays.
    """
    begun = call(
        upload.place,
        lambda: client.create_multipart_upload(
            Bucket=upload.bucket,
            Key=upload.key,
            ContentType=FILE_TYPE,
            ChecksumAlgorithm="CRC64NVME",
            ChecksumType="FULL_OBJECT",
            **upload.lock,
        ),
    )
    parts = _Parts(client, call, upload, begun["UploadId"])
    try:
        return parts.complete(parts.send(options))
    except BaseException:
        _abort(client, call, upload, begun["UploadId"])
        raise


def _abort(client: S3Client, call: Caller, upload: Upload, upload_id: str) -> None:
    try:
        call(
            upload.place,
            lambda: client.abort_multipart_upload(Bucket=upload.bucket, Key=upload.key, UploadId=upload_id),
        )
    except VeraError as error:  # the failure that led here is the one to raise
        log.warning("multipart upload %s is left unfinished; a lifecycle rule can remove it: %s", upload_id, error)


class _Parts:
    """One multipart upload under way."""

    def __init__(self, client: S3Client, call: Caller, upload: Upload, upload_id: str) -> None:
        self._client = client
        self._call = call
        self._upload = upload
        self._upload_id = upload_id
        self._crc = 0

    def send(self, options: S3Options) -> list[CompletedPartTypeDef]:
        """Sends all parts, at most `parts_in_flight` of them in memory; returns them in order."""
        part_size = max(options.part_size, -(-self._upload.size // MAX_PARTS))
        done: list[CompletedPartTypeDef] = []
        waiting: deque[Future[CompletedPartTypeDef]] = deque()
        with ThreadPoolExecutor(options.parts_in_flight, thread_name_prefix="vera-upload") as pool:
            try:
                for number, data in enumerate(self._read(part_size), start=1):
                    while len(waiting) >= options.parts_in_flight:
                        done.append(waiting.popleft().result())
                    waiting.append(pool.submit(self._send_part, number, data))
                done += [part.result() for part in waiting]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return done

    def complete(self, parts: list[CompletedPartTypeDef]) -> Stored:
        """Makes the object of its parts."""
        upload = self._upload
        checksum = b64encode(self._crc.to_bytes(8, "big")).decode()

        def request() -> Stored:
            try:
                reply = self._client.complete_multipart_upload(
                    Bucket=upload.bucket,
                    Key=upload.key,
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": parts},
                    ChecksumCRC64NVME=checksum,
                    ChecksumType="FULL_OBJECT",
                    MpuObjectSize=upload.size,
                )
            except ClientError as error:
                if error_code(error) == "NoSuchUpload":
                    return self._completed_before(checksum, error)
                raise
            return Stored(upload.key, reply.get("VersionId", "null"), reply["ETag"], upload.size)

        return self._call(upload.place, request)

    def _completed_before(self, checksum: str, error: ClientError) -> Stored:
        """The upload is gone: an attempt whose reply was lost has completed it, if these very bytes are there."""
        upload = self._upload
        reply = self._client.head_object(Bucket=upload.bucket, Key=upload.key, ChecksumMode="ENABLED")
        if (reply["ContentLength"], reply.get("ChecksumCRC64NVME")) != (upload.size, checksum):
            raise error
        return Stored(upload.key, reply.get("VersionId", "null"), reply["ETag"], upload.size)

    def _send_part(self, number: int, data: bytes) -> CompletedPartTypeDef:
        upload = self._upload
        checksum = b64encode(crc64nvme(data).to_bytes(8, "big")).decode()
        reply = self._call(
            upload.place,
            lambda: self._client.upload_part(
                Bucket=upload.bucket,
                Key=upload.key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=data,
                ChecksumAlgorithm="CRC64NVME",
                ChecksumCRC64NVME=checksum,
            ),
        )
        return {"PartNumber": number, "ETag": reply["ETag"], "ChecksumCRC64NVME": checksum}

    def _read(self, part_size: int) -> Iterator[bytes]:
        """The file's parts; at the end it is certain that they are the bytes of `upload.sha256`."""
        digest = hashlib.sha256()
        with self._upload.path.open("rb") as file:
            while data := file.read(part_size):
                digest.update(data)
                self._crc = crc64nvme(data, self._crc)
                yield data
        if digest.digest() != self._upload.sha256:
            raise IntegrityError(
                "the local file is not what it was when it was written",
                todo="Nothing was stored. Check the local disk, then run it again.",
                bucket=self._upload.bucket,
                key=self._upload.key,
                path=self._upload.path,
            )
