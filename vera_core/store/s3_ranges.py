"""Reading ranges of objects: by obstore, and again by boto3 wherever its answer is not exactly what was asked for.

Only s3.py uses it.
"""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError as ObstoreError

from vera_core.errors import IntegrityError
from vera_core.store.s3_connect import Connection, S3Options, range_client
from vera_core.store.s3_errors import Caller, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obstore.store import S3Store as RangeClient

log = getLogger(__name__)

_OBSTORE_KEY = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[\w.=-]+(?:/[\w.=-]+)*", re.ASCII)
"""Keys that obstore sends as they are; it rewrites others."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RangeReader:
    """Reads ranges from one bucket; see `ObjectStore` for what its methods do. Threads may share it."""

    def __init__(self, bucket: str, connection: Connection, call: Caller, options: S3Options) -> None:
        self._bucket = bucket
        self._connection = connection
        self._client = connection.client
        self._call = call
        self._options = options
        self._fast: RangeClient | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._guard = threading.Lock()

    def get_range(self, key: str, start: int, length: int, version_id: str | None) -> bytes:
        """See `ObjectStore.get_range`."""
        if start < 0 or length < 0:
            raise ValueError("start and length are not negative")
        if length == 0:
            return b""
        fast = self._fast_range(key, {"range": (start, start + length)}, version_id)
        if fast is not None and fast[0] == start and len(fast[1]) == length:
            return fast[1]
        first, data, _ = self._careful_range(key, f"bytes={start}-{start + length - 1}", version_id)
        if first != start or len(data) != length:
            raise self._wrong_range(key, version_id, f"{len(data)} bytes from {first}, not {length} from {start}")
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]], version_id: str | None) -> list[bytes]:
        """See `ObjectStore.get_ranges`."""
        if len(ranges) < 2:
            return [self.get_range(key, start, length, version_id) for start, length in ranges]
        return list(self._threads().map(lambda place: self.get_range(key, place[0], place[1], version_id), ranges))

    def get_suffix(self, key: str, length: int, version_id: str | None) -> tuple[bytes, int]:
        """See `ObjectStore.get_suffix`."""
        if length <= 0:
            raise ValueError("length is positive")
        answer = self._fast_range(key, {"range": {"suffix": length}}, version_id)
        if answer is None or not _is_suffix(answer, length):
            if self._is_empty(key, version_id):
                return b"", 0  # S3 can't express a range of nothing
            answer = self._careful_range(key, f"bytes=-{length}", version_id)
        first, data, size = answer
        if not _is_suffix(answer, length):
            raise self._wrong_range(key, version_id, f"{len(data)} bytes from {first}, not the last {length} of {size}")
        return data, size

    def _fast_range(
        self, key: str, options: obstore.GetOptions, version_id: str | None
    ) -> tuple[int, bytes, int] | None:
        """First byte, bytes and object size by obstore; None where `_careful_range` must find out what is wrong."""
        if not _OBSTORE_KEY.fullmatch(key):
            return None
        if version_id is not None:
            options["version"] = version_id
        try:
            result = obstore.get(self._range_client(), key, options=options)
            return result.range[0], bytes(result.bytes()), result.meta["size"]
        except FileNotFoundError:
            return None
        except (ObstoreError, OSError) as error:
            said = str(error).partition("\n")[0]
            log.info("range read of %s/%s is repeated with the AWS SDK: %s", self._bucket, key, said)
            return None

    def _careful_range(self, key: str, header: str, version_id: str | None) -> tuple[int, bytes, int]:
        """The same by boto3, with retries and exact errors; for whatever obstore did not answer as it should."""

        def request() -> tuple[int, bytes, int]:
            arguments = version_arguments(version_id)
            reply = self._client.get_object(Bucket=self._bucket, Key=key, Range=header, **arguments)
            match = _CONTENT_RANGE.fullmatch(reply.get("ContentRange", ""))
            if reply["ResponseMetadata"]["HTTPStatusCode"] != 206 or match is None:
                raise self._wrong_range(key, version_id, "the whole object instead of a range")
            first, last, size = map(int, match.groups())
            data = reply["Body"].read()
            if len(data) != last - first + 1:
                raise self._wrong_range(key, version_id, f"{len(data)} bytes under {match.group()!r}")
            return first, data, size

        return self._call(Place(self._bucket, key, version_id), request)

    def _wrong_range(self, key: str, version_id: str | None, got: str) -> IntegrityError:
        return IntegrityError(
            f"the store's answer is not the range that was asked for: {got}",
            todo="Verify the shard; it may be cut short. If it is whole, run `vera probe` on the store.",
            bucket=self._bucket,
            key=key,
            version_id=version_id,
        )

    def _range_client(self) -> RangeClient:
        with self._guard:
            if self._fast is None:
                self._fast = range_client(self._connection, self._bucket, self._bucket_region(), self._options)
            return self._fast

    def _bucket_region(self) -> str:
        """On AWS it may differ from the session's; boto3 follows by itself, obstore must be told."""
        region = self._client.meta.region_name
        if not self._connection.is_aws:
            return region
        reply = self._call(Place(self._bucket), lambda: self._client.head_bucket(Bucket=self._bucket))
        return reply.get("BucketRegion", region)

    def _threads(self) -> ThreadPoolExecutor:
        with self._guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._options.ranges_in_flight, thread_name_prefix="vera-ranges")
            return self._pool

    def _is_empty(self, key: str, version_id: str | None) -> bool:
        reply = self._call(
            Place(self._bucket, key, version_id),
            lambda: self._client.head_object(Bucket=self._bucket, Key=key, **version_arguments(version_id)),
        )
        return reply["ContentLength"] == 0


def version_arguments(version_id: str | None) -> dict[str, Any]:
    """How boto3 is told which version is meant."""
    return {} if version_id is None else {"VersionId": version_id}


def _is_suffix(answer: tuple[int, bytes, int], length: int) -> bool:
    first, data, size = answer
    return len(data) == min(length, size) and first == size - len(data)
