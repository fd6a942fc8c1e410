"""Contents in S3 objects of the buckets that the settings allow; credentials come the AWS SDK's own way."""

from __future__ import annotations

import io
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, cast

from vera_core.errors import UsageError
from vera_core.source.base import BigContent, Unreadable
from vera_core.source.rows import S3_PLACE, RejectReason, shown
from vera_core.store.base import MissingObjectError
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from vera_core.source.base import Fetched
    from vera_core.store.base import ObjectStore

IN_FLIGHT = 16
IN_FLIGHT_BYTES = 16 << 20
UNKNOWN_SIZE = 1 << 20
CHUNK = 8 << 20


class S3Contents:
    """Reads objects of `buckets`; contents above `inline_limit` bytes are streamed."""

    def __init__(
        self, buckets: Sequence[str], inline_limit: int, *, store: Callable[[str], ObjectStore] = S3Store
    ) -> None:
        self._buckets = frozenset(buckets)
        self._limit = inline_limit
        self._store = store
        self._stores: dict[str, ObjectStore] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="vera-fetch")

    def locate(self, value: object) -> str | Unreadable:
        """The s3:// URI that a row names."""
        if not isinstance(value, str) or not value:
            return Unreadable(RejectReason.MISSING_CONTENT, f"{shown(value)} is no s3:// URI")
        bucket, _, key = value.removeprefix(S3_PLACE).partition("/")
        if not value.startswith(S3_PLACE) or not key or shown(value) != value:
            return Unreadable(RejectReason.FORBIDDEN_PLACE, f"{shown(value)} is no s3://bucket/key")
        if bucket not in self._buckets:
            return Unreadable(RejectReason.FORBIDDEN_PLACE, f"the bucket {shown(bucket)} is not in the source's list")
        return value

    def located(self, values: Sequence[object]) -> list[str | Unreadable]:
        """As `locate`, for a column."""
        return [self.locate(value) for value in values]

    def fetch(self, wanted: Sequence[tuple[str, int | None]]) -> Iterator[Fetched]:
        """The contents of (URI, declared bytes or None), in order, several at a time in bounded memory.

        Raises:
            UnavailableError: the store can't be reached.
        """
        waiting: deque[tuple[int, Future[Fetched]]] = deque()
        flying = 0
        try:
            for uri, size in wanted:
                weight = UNKNOWN_SIZE if size is None else min(size, self._limit)
                while waiting and (len(waiting) >= IN_FLIGHT or flying + weight > IN_FLIGHT_BYTES):
                    done, future = waiting.popleft()
                    flying -= done
                    yield future.result()
                flying += weight
                waiting.append((weight, self._pool.submit(self._fetch, uri, size)))
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _fetch(self, uri: str, size: int | None) -> Fetched:
        bucket, key = parse_place(uri)
        store = self._open(bucket)
        try:
            if size is not None and size > self._limit:
                info = store.head(key)
                data, actual, version_id = b"", info.size, info.version_id
            else:
                # One request that gives the whole of a small object and the size of any other.
                data, actual = store.get_suffix(key, self._limit + 1)
                version_id = ""
        except MissingObjectError as error:
            return Unreadable(RejectReason.MISSING_FILE, f"{uri}: {error.what}")
        if size is not None and actual != size:
            return Unreadable(RejectReason.WRONG_SIZE, f"{uri} has {actual} bytes, declared are {size}")
        if actual <= self._limit:
            return data
        if not version_id:
            version_id = store.head(key).version_id
        return BigContent(
            actual, lambda: cast("BinaryIO", io.BufferedReader(_ObjectStream(store, key, version_id, actual), CHUNK))
        )

    def _open(self, bucket: str) -> ObjectStore:
        with self._guard:
            if bucket not in self._stores:
                self._stores[bucket] = self._store(bucket)
            return self._stores[bucket]


def parse_place(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3://bucket/key.

    Raises:
        UsageError: it is none.
    """
    bucket, _, key = uri.removeprefix(S3_PLACE).partition("/")
    if not uri.startswith(S3_PLACE) or not bucket or not key:
        raise UsageError(f"{uri!r} is no s3://bucket/key")
    return bucket, key


class _ObjectStream(io.RawIOBase):
    """One version of an object, read in ranges."""

    def __init__(self, store: ObjectStore, key: str, version_id: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._version_id, self._size = store, key, version_id, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        count = min(len(view), self._size - self._at)
        # An unversioned bucket names no version, or "null".
        version_id = self._version_id if self._version_id not in {"", "null"} else None
        view[:count] = self._store.get_range(self._key, self._at, count, version_id=version_id)
        self._at += count
        return count
