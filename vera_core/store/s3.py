"""`S3Store`: the `ObjectStore` protocol over a real S3 service.

boto3 for control and locked writes, obstore for range reads, which it makes at a sixth of the CPU cost. Only the
modules s3*.py know either: s3_connect.py (settings, clients), s3_errors.py (retries, errors), s3_ranges.py (range
reads), s3_upload.py (files), s3_listing.py (pages), s3_bucket.py (bucket settings). What the answers mean for the
archive belongs to the callers.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from vera_core.errors import RestrictedError, UsageError, VeraError
from vera_core.model import Lock, LockMode
from vera_core.store.base import (
    SINGLE_PUT_LIMIT,
    Blob,
    BucketState,
    Condition,
    MissingObjectError,
    Stored,
    VersionInfo,
    locked_version,
    no_lock,
    whole_second,
    write_new_file,
)
from vera_core.store.s3_bucket import NO_HOLD, NO_LOCK, read_bucket_state
from vera_core.store.s3_connect import S3Options, connect
from vera_core.store.s3_errors import Caller, Place, error_code
from vera_core.store.s3_listing import object_pages, prefix_pages, version_pages, watch_version_order
from vera_core.store.s3_ranges import RangeReader, version_arguments
from vera_core.store.s3_upload import Upload, upload_multipart, upload_single

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

CHUNK = 1 << 20
DELETE_BATCH = 1000  # S3's limit of DeleteObjects


def parse_uri(uri: str) -> tuple[str, str]:
    """Splits `s3://bucket/prefix` into bucket and prefix (without slashes at its ends; may be empty).

    Raises:
        UsageError: it is no such URI.
    """
    scheme, separator, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not separator or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise UsageError(f"{uri!r} names no bucket", todo="Write it like s3://bucket/prefix.")
    return bucket, prefix.strip("/")


class S3Store:
    """One bucket of an S3 service; implements `ObjectStore`. Share it between threads, not across a fork.

    Args:
        bucket: its name.
        options: timeouts, retries, pool and part sizes.

    Raises:
        UsageError: the AWS settings are incomplete or wrong. Nothing is sent yet.
    """

    def __init__(self, bucket: str, *, options: S3Options | None = None) -> None:
        self._bucket = bucket
        self._options = options or S3Options()
        self._connection = connect(self._options)
        self._client = self._connection.client
        tells = self._options.tells_markers
        self._call = Caller(
            attempts=self._options.attempts,
            seconds=self._options.retry_seconds,
            backoff=self._options.backoff_seconds,
            tells_markers=self._connection.is_aws if tells is None else tells,
        )
        self._ranges = RangeReader(bucket, self._connection, self._call, self._options)
        watch_version_order(self._client)

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._bucket

    # ------------------------------------------------------------------ writing

    def put(
        self,
        key: str,
        data: bytes,
        *,
        condition: Condition | None = None,
        lock: Lock | None = None,
        content_type: str = "application/octet-stream",
    ) -> Stored:
        """See `ObjectStore.put`."""
        arguments: dict[str, Any] = {
            "Body": data,
            "ContentType": content_type,
            "ChecksumAlgorithm": "SHA256",  # AWS wants it named wherever a lock is set
            "ChecksumSHA256": b64encode(hashlib.sha256(data).digest()).decode(),
            **_condition_arguments(condition),
            **_lock_arguments(lock),
        }
        reply = self._call(
            Place(self._bucket, key), lambda: self._client.put_object(Bucket=self._bucket, Key=key, **arguments)
        )
        return Stored(key, reply.get("VersionId", "null"), reply["ETag"], len(data))

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        sha256: bytes,
        condition: Condition | None = None,
        lock: Lock | None = None,
        multipart: bool = False,
    ) -> Stored:
        """See `ObjectStore.put_file`."""
        size = path.stat().st_size
        upload = Upload(self._bucket, key, path, size, sha256, _lock_arguments(lock))
        if size == 0 or (size <= SINGLE_PUT_LIMIT and not multipart):  # an upload has at least one part
            return upload_single(self._client, self._call, upload, _condition_arguments(condition))
        if condition is not None:
            raise ValueError("a multipart upload (above SINGLE_PUT_LIMIT bytes) takes no condition")
        return upload_multipart(self._client, self._call, upload, self._options)

    def delete(self, key: str, *, version_id: str | None = None, bypass_governance: bool = False) -> None:
        """See `ObjectStore.delete`."""
        arguments = version_arguments(version_id)
        if bypass_governance:
            arguments["BypassGovernanceRetention"] = True
        try:
            self._call(
                Place(self._bucket, key, version_id),
                lambda: self._client.delete_object(Bucket=self._bucket, Key=key, **arguments),
            )
        except MissingObjectError:
            return
        except RestrictedError as error:
            raise self._lock_or_policy(error, key, version_id, "the version is locked, or under legal hold") from error

    def delete_batch(
        self, versions: Iterable[tuple[str, str]], *, bypass_governance: bool = False
    ) -> list[tuple[str, str, str]]:
        """See `ObjectStore.delete_batch`."""
        pairs = list(versions)
        extra: dict[str, Any] = {"BypassGovernanceRetention": True} if bypass_governance else {}
        refused: list[tuple[str, str, str]] = []
        for start in range(0, len(pairs), DELETE_BATCH):
            batch = [{"Key": key, "VersionId": version_id} for key, version_id in pairs[start : start + DELETE_BATCH]]
            extra["Delete"] = {"Objects": batch, "Quiet": True}
            reply = self._call(Place(self._bucket), lambda: self._client.delete_objects(Bucket=self._bucket, **extra))
            refused += [
                (error.get("Key", ""), error.get("VersionId", ""), f"{error.get('Code')}: {error.get('Message')}")
                for error in reply.get("Errors", [])
                if error.get("Code") not in {"NoSuchKey", "NoSuchVersion"}
            ]
        return refused

    # ------------------------------------------------------------------ reading

    def get(self, key: str, *, version_id: str | None = None) -> Blob:
        """See `ObjectStore.get`."""

        def request() -> Blob:
            reply = self._client.get_object(Bucket=self._bucket, Key=key, **version_arguments(version_id))
            return Blob(
                key,
                reply["Body"].read(),
                reply.get("VersionId", "null"),
                reply["ETag"],
                _utc(reply["LastModified"]),
                _stated_lock(reply),
            )

        return self._call(Place(self._bucket, key, version_id), request)

    def get_range(self, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """See `ObjectStore.get_range`."""
        return self._ranges.get_range(key, start, length, version_id)

    def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, version_id: str | None = None
    ) -> Sequence[bytes]:
        """See `ObjectStore.get_ranges`."""
        return self._ranges.get_ranges(key, ranges, version_id)

    def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
        """See `ObjectStore.get_suffix`."""
        return self._ranges.get_suffix(key, length, version_id)

    def download(self, key: str, path: Path, *, version_id: str | None = None) -> None:
        """See `ObjectStore.download`."""

        def request() -> None:
            reply = self._client.get_object(Bucket=self._bucket, Key=key, **version_arguments(version_id))
            write_new_file(path, reply["Body"].iter_chunks(CHUNK))

        self._call(Place(self._bucket, key, version_id), request)

    def head(self, key: str, *, version_id: str | None = None) -> VersionInfo:
        """See `ObjectStore.head`."""
        reply = self._call(
            Place(self._bucket, key, version_id),
            lambda: self._client.head_object(Bucket=self._bucket, Key=key, **version_arguments(version_id)),
        )
        return VersionInfo(
            key, reply.get("VersionId", "null"), reply["ContentLength"], _utc(reply["LastModified"]), reply["ETag"]
        )

    # ------------------------------------------------------------------ listing

    def list_objects(self, prefix: str, *, start_after: str = "") -> Iterator[VersionInfo]:
        """See `ObjectStore.list_objects`."""
        place = Place(self._bucket, prefix)
        return object_pages(self._client, self._call, place, start_after, trusted=self._connection.is_aws)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """See `ObjectStore.list_prefixes`."""
        return prefix_pages(self._client, self._call, Place(self._bucket, prefix))

    def list_versions(self, prefix: str) -> Iterator[VersionInfo]:
        """See `ObjectStore.list_versions`."""
        return version_pages(self._client, self._call, Place(self._bucket, prefix))

    # ------------------------------------------------------------------ locks

    def get_lock(self, key: str, version_id: str) -> Lock | None:
        """See `ObjectStore.get_lock`."""

        def request() -> Lock | None:
            try:
                reply = self._client.get_object_retention(Bucket=self._bucket, Key=key, VersionId=version_id)
            except ClientError as error:
                if error_code(error) in NO_LOCK:
                    return None
                raise
            retention = reply.get("Retention", {})
            if "Mode" not in retention or "RetainUntilDate" not in retention:
                return None
            return Lock(LockMode(retention["Mode"]), _utc(retention["RetainUntilDate"]))

        return self._call(Place(self._bucket, key, version_id), request)

    def set_lock(self, key: str, version_id: str, lock: Lock, *, bypass_governance: bool = False) -> None:
        """See `ObjectStore.set_lock`."""
        if lock.mode is LockMode.NONE:
            raise no_lock(self._bucket, lock)
        arguments: dict[str, Any] = {"Retention": {"Mode": str(lock.mode), "RetainUntilDate": whole_second(lock.until)}}
        if bypass_governance:
            arguments["BypassGovernanceRetention"] = True
        try:
            self._call(
                Place(self._bucket, key, version_id),
                lambda: self._client.put_object_retention(
                    Bucket=self._bucket, Key=key, VersionId=version_id, **arguments
                ),
            )
        except RestrictedError as error:
            raise self._lock_or_policy(error, key, version_id, "the lock can't be weakened") from error

    def get_hold(self, key: str, version_id: str) -> bool:
        """See `ObjectStore.get_hold`."""

        def request() -> bool:
            try:
                reply = self._client.get_object_legal_hold(Bucket=self._bucket, Key=key, VersionId=version_id)
            except ClientError as error:
                if error_code(error) in NO_HOLD:
                    return False
                raise
            return reply.get("LegalHold", {}).get("Status") == "ON"

        return self._call(Place(self._bucket, key, version_id), request)

    def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
        """See `ObjectStore.set_hold`."""
        status: Any = {"Status": "ON" if held else "OFF"}
        self._call(
            Place(self._bucket, key, version_id),
            lambda: self._client.put_object_legal_hold(
                Bucket=self._bucket, Key=key, VersionId=version_id, LegalHold=status
            ),
        )

    # ------------------------------------------------------------------ tags

    def get_tags(self, key: str, version_id: str) -> dict[str, str]:
        """See `ObjectStore.get_tags`."""
        reply = self._call(
            Place(self._bucket, key, version_id),
            lambda: self._client.get_object_tagging(Bucket=self._bucket, Key=key, VersionId=version_id),
        )
        return {tag["Key"]: tag["Value"] for tag in reply["TagSet"]}

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        """See `ObjectStore.set_tags`."""
        tagging: Any = {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}
        self._call(
            Place(self._bucket, key, version_id),
            lambda: self._client.put_object_tagging(
                Bucket=self._bucket, Key=key, VersionId=version_id, Tagging=tagging
            ),
        )

    # ------------------------------------------------------------------ bucket

    def now(self) -> datetime:
        """See `ObjectStore.now`."""
        reply = self._call(Place(self._bucket), lambda: self._client.head_bucket(Bucket=self._bucket))
        return _utc(parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"]))

    def bucket_state(self) -> BucketState:
        """See `ObjectStore.bucket_state`."""
        return read_bucket_state(self._client, self._call, Place(self._bucket))

    def create_bucket(self) -> None:
        """See `ObjectStore.create_bucket`."""
        region = self._client.meta.region_name
        arguments: dict[str, Any] = {"ObjectLockEnabledForBucket": True}
        if self._connection.is_aws and region != "us-east-1":
            arguments["CreateBucketConfiguration"] = {"LocationConstraint": region}
        self._call(Place(self._bucket), lambda: self._client.create_bucket(Bucket=self._bucket, **arguments))

    # ------------------------------------------------------------------ inside

    def _lock_or_policy(self, error: RestrictedError, key: str, version_id: str | None, why: str) -> RestrictedError:
        """S3 answers AccessDenied both to a locked version and to a missing permission; lock and hold tell which."""
        try:
            kept = version_id is not None and (
                self.get_lock(key, version_id) is not None or self.get_hold(key, version_id)
            )
        except VeraError:
            return error
        return locked_version(self._bucket, key, version_id, why) if kept else error


def _condition_arguments(condition: Condition | None) -> dict[str, Any]:
    if condition is None:
        return {}
    return {"IfNoneMatch": "*"} if condition.etag is None else {"IfMatch": condition.etag}


def _lock_arguments(lock: Lock | None) -> dict[str, Any]:
    if lock is None or lock.mode is LockMode.NONE:
        return {}
    return {"ObjectLockMode": str(lock.mode), "ObjectLockRetainUntilDate": whole_second(lock.until)}


def _stated_lock(reply: Mapping[str, Any]) -> Lock | None:
    """The retention in the answer of a GET."""
    mode, until = reply.get("ObjectLockMode"), reply.get("ObjectLockRetainUntilDate")
    return Lock(LockMode(mode), _utc(until)) if mode and until else None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
