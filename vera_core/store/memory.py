"""`MemoryStore`: an exact in-memory model of one versioned S3 bucket with Object Lock.

It is the reference that S3 servers are compared with, and a fast store for tests. It models what S3 answers: versions,
delete markers, conditional PUTs (If-None-Match succeeds over a delete marker), COMPLIANCE and GOVERNANCE retention, the
bypass, and legal holds. It does not model networks; faulty.py adds failures.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from vera_core.model import Lock, LockMode
from vera_core.store.base import (
    SINGLE_PUT_LIMIT,
    Blob,
    BucketState,
    Condition,
    LifecycleRule,
    Stored,
    VersionInfo,
    locked_version,
    missing_object,
    no_lock,
    refused_condition,
    whole_second,
    write_new_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version; `data` is None for a delete marker."""

    version_id: str
    data: bytes | None
    etag: str
    last_modified: datetime
    lock: Lock | None = None
    hold: bool = False
    tags: tuple[tuple[str, str], ...] = ()


class MemoryStore:
    """A bucket in memory; implements `ObjectStore`.

    Args:
        bucket: its name.
        clock: the store's clock, returning a timezone-aware datetime; the machine's by default.
        exists: whether the bucket exists already (with versioning, and Object Lock if `object_lock`).
        versioning: whether its versioning is on.
        object_lock: whether its Object Lock is on.
    """

    def __init__(
        self,
        bucket: str = "memory",
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        exists: bool = True,
        versioning: bool = True,
        object_lock: bool = True,
    ) -> None:
        self._bucket = bucket
        self._clock = clock
        self._exists = exists
        self._versioning = versioning
        self._object_lock = object_lock
        self._keys: dict[str, list[Version]] = {}  # newest last
        self._made = 0
        self._mutex = threading.RLock()
        self.default_retention: tuple[LockMode, timedelta] | None = None
        """The bucket's default retention, which S3 applies to every PUT without a lock of its own."""
        self.expirations: tuple[LifecycleRule, ...] = ()
        """What `bucket_state` reports; nothing expires here."""
        self.transitions: tuple[LifecycleRule, ...] = ()
        """What `bucket_state` reports; nothing moves here."""

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
        content_type: str = "application/octet-stream",  # noqa: ARG002 - part of the protocol; nothing here reads it
    ) -> Stored:
        """See `ObjectStore.put`."""
        with self._mutex:
            self._check_bucket()
            lock = self._effective_lock(lock)
            current = self._current(key)
            if condition is not None and not _holds(condition, current):
                raise refused_condition(self._bucket, key)
            return self._append(key, bytes(data), lock)

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
        data = path.read_bytes()
        if condition is not None and (multipart or len(data) > SINGLE_PUT_LIMIT):
            raise ValueError("a multipart upload (above SINGLE_PUT_LIMIT bytes) takes no condition")
        if hashlib.sha256(data).digest() != sha256:
            raise IntegrityError(
                "the store saw other bytes than were sent",
                todo="Nothing was stored. Check the local disk, then run it again.",
                bucket=self._bucket,
                key=key,
                path=path,
            )
        return self.put(key, data, condition=condition, lock=lock)

    def delete(self, key: str, *, version_id: str | None = None, bypass_governance: bool = False) -> None:
        """See `ObjectStore.delete`."""
        with self._mutex:
            self._check_bucket()
            if version_id is None:
                if self._versioning:
                    self._append(key, None, None)
                else:
                    self._keys.pop(key, None)
                return
            version = self._find(key, version_id)
            if version is None:
                return
            refusal = self._refusal(version, bypass=bypass_governance)
            if refusal:
                raise locked_version(self._bucket, key, version_id, refusal)
            self._keys[key].remove(version)
            if not self._keys[key]:
                del self._keys[key]

    def delete_batch(
        self, versions: Iterable[tuple[str, str]], *, bypass_governance: bool = False
    ) -> list[tuple[str, str, str]]:
        """See `ObjectStore.delete_batch`."""
        refused: list[tuple[str, str, str]] = []
        with self._mutex:
            self._check_bucket()
            for key, version_id in versions:
                version = self._find(key, version_id)
                refusal = "" if version is None else self._refusal(version, bypass=bypass_governance)
                if refusal:
                    refused.append((key, version_id, f"AccessDenied: {refusal}"))
                else:
                    self.delete(key, version_id=version_id, bypass_governance=bypass_governance)
        return refused

    # ------------------------------------------------------------------ reading

    def get(self, key: str, *, version_id: str | None = None) -> Blob:
        """See `ObjectStore.get`."""
        version = self._read(key, version_id)
        return Blob(key, _data(version), version.version_id, version.etag, version.last_modified, version.lock)

    def get_range(self, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """See `ObjectStore.get_range`."""
        if start < 0 or length < 0:
            raise ValueError("start and length are not negative")
        if length == 0:
            return b""
        data = _data(self._read(key, version_id))
        if start + length > len(data):
            raise IntegrityError(
                f"the object has {len(data)} bytes, bytes {start} to {start + length - 1} were asked for",
                todo="Verify the shard; it may be cut short.",
                bucket=self._bucket,
                key=key,
                version_id=version_id,
            )
        return data[start : start + length]

    def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, version_id: str | None = None
    ) -> Sequence[bytes]:
        """See `ObjectStore.get_ranges`."""
        return [self.get_range(key, start, length, version_id=version_id) for start, length in ranges]

    def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
        """See `ObjectStore.get_suffix`."""
        if length <= 0:
            raise ValueError("length is positive")
        data = _data(self._read(key, version_id))
        return data[-length:], len(data)

    def download(self, key: str, path: Path, *, version_id: str | None = None) -> None:
        """See `ObjectStore.download`."""
        write_new_file(path, [_data(self._read(key, version_id))])

    def head(self, key: str, *, version_id: str | None = None) -> VersionInfo:
        """See `ObjectStore.head`."""
        version = self._read(key, version_id)
        return VersionInfo(key, version.version_id, len(_data(version)), version.last_modified, version.etag)

    # ------------------------------------------------------------------ listing

    def list_objects(self, prefix: str, *, start_after: str = "") -> Iterator[VersionInfo]:
        """See `ObjectStore.list_objects`."""
        for key in self._sorted_keys(prefix):
            if key.encode() <= start_after.encode():
                continue
            with self._mutex:
                version = self._current(key)
            if version is not None and version.data is not None:
                yield VersionInfo(key, "", len(version.data), version.last_modified, version.etag)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """See `ObjectStore.list_prefixes`."""
        seen = ""
        for key in self._sorted_keys(prefix):
            head, slash, _ = key[len(prefix) :].partition("/")
            if slash and prefix + head + slash != seen:
                seen = prefix + head + slash
                yield seen

    def list_versions(self, prefix: str) -> Iterator[VersionInfo]:
        """See `ObjectStore.list_versions`."""
        for key in self._sorted_keys(prefix):
            with self._mutex:
                versions = list(reversed(self._keys.get(key, [])))
            for place, version in enumerate(versions):
                yield VersionInfo(
                    key,
                    version.version_id,
                    len(version.data or b""),
                    version.last_modified,
                    version.etag,
                    is_latest=place == 0,
                    is_delete_marker=version.data is None,
                )

    # ------------------------------------------------------------------ locks

    def get_lock(self, key: str, version_id: str) -> Lock | None:
        """See `ObjectStore.get_lock`."""
        return self._read(key, version_id).lock

    def set_lock(self, key: str, version_id: str, lock: Lock, *, bypass_governance: bool = False) -> None:
        """See `ObjectStore.set_lock`."""
        with self._mutex:
            version = self._read(key, version_id)
            lock = self._checked_lock(lock)
            if self._is_locked(version, bypass=bypass_governance) and version.lock is not None:
                if lock.mode is not version.lock.mode:
                    raise locked_version(self._bucket, key, version_id, "the lock's mode can't be changed")
                if lock.until < version.lock.until:
                    raise locked_version(self._bucket, key, version_id, "the lock can't be shortened")
            self._replace(key, version, replace(version, lock=lock))

    def get_hold(self, key: str, version_id: str) -> bool:
        """See `ObjectStore.get_hold`."""
        return self._read(key, version_id).hold

    def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
        """See `ObjectStore.set_hold`."""
        with self._mutex:
            version = self._read(key, version_id)
            self._check_object_lock()
            self._replace(key, version, replace(version, hold=held))

    # ------------------------------------------------------------------ tags

    def get_tags(self, key: str, version_id: str) -> dict[str, str]:
        """See `ObjectStore.get_tags`."""
        return dict(self._read(key, version_id).tags)

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        """See `ObjectStore.set_tags`."""
        with self._mutex:
            version = self._read(key, version_id)
            self._replace(key, version, replace(version, tags=tuple(sorted(tags.items()))))

    # ------------------------------------------------------------------ bucket

    def now(self) -> datetime:
        """See `ObjectStore.now`."""
        return self._clock().astimezone(UTC).replace(microsecond=0)

    def bucket_state(self) -> BucketState:
        """See `ObjectStore.bucket_state`."""
        with self._mutex:
            default = self.default_retention
            return BucketState(
                exists=self._exists,
                versioning=self._exists and self._versioning,
                object_lock=self._exists and self._object_lock,
                default_retention=f"{default[0]} for {default[1].days} days" if default else "",
                expirations=self.expirations,
                transitions=self.transitions,
            )

    def create_bucket(self) -> None:
        """See `ObjectStore.create_bucket`."""
        with self._mutex:
            if self._exists:
                raise ConflictError(
                    "the bucket exists already", todo="Use it, or choose another name.", bucket=self._bucket
                )
            self._exists = self._versioning = self._object_lock = True

    # ------------------------------------------------------------------ inside

    def _check_bucket(self) -> None:
        if not self._exists:
            raise NotFoundError("there is no such bucket", todo="Create it with `vera init`.", bucket=self._bucket)

    def _sorted_keys(self, prefix: str) -> list[str]:
        with self._mutex:
            self._check_bucket()
            return sorted((key for key in self._keys if key.startswith(prefix)), key=str.encode)

    def _current(self, key: str) -> Version | None:
        versions = self._keys.get(key)
        return versions[-1] if versions else None

    def _find(self, key: str, version_id: str) -> Version | None:
        return next((v for v in self._keys.get(key, ()) if v.version_id == version_id), None)

    def _read(self, key: str, version_id: str | None) -> Version:
        with self._mutex:
            self._check_bucket()
            version = self._current(key) if version_id is None else self._find(key, version_id)
        if version is None or version.data is None:
            raise missing_object(self._bucket, key, version_id, delete_marker=version is not None)
        return version

    def _append(self, key: str, data: bytes | None, lock: Lock | None) -> Stored:
        self._made += 1
        # Opaque and unordered, like S3's, so that nothing can come to rely on the order of VersionIds.
        version_id = hashlib.sha256(f"{self._bucket}/{self._made}".encode()).hexdigest()[:32]
        etag = "" if data is None else f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        versions = self._keys.setdefault(key, [])
        if not self._versioning:
            version_id = "null"
            versions.clear()
        versions.append(Version(version_id, data, etag, self.now(), lock))
        return Stored(key, version_id, etag, len(data or b""))

    def _replace(self, key: str, old: Version, new: Version) -> None:
        versions = self._keys[key]
        versions[versions.index(old)] = new

    def _effective_lock(self, lock: Lock | None) -> Lock | None:
        if lock is None or lock.mode is LockMode.NONE:
            default = self.default_retention
            return None if default is None else Lock(default[0], self.now() + default[1])
        return self._checked_lock(lock)

    def _check_object_lock(self) -> None:
        if not self._object_lock:
            raise UsageError(
                "the bucket has no Object Lock", todo="Create the repository in a bucket that has.", bucket=self._bucket
            )

    def _checked_lock(self, lock: Lock) -> Lock:
        self._check_object_lock()
        if lock.mode is LockMode.NONE or lock.until <= self._clock():
            raise no_lock(self._bucket, lock)
        return Lock(lock.mode, whole_second(lock.until))

    def _refusal(self, version: Version, *, bypass: bool) -> str:
        """Why the version can't be deleted, "" where it can."""
        if version.hold:
            return "the version is under legal hold"
        return "the version is locked" if self._is_locked(version, bypass=bypass) else ""

    def _is_locked(self, version: Version, *, bypass: bool) -> bool:
        lock = version.lock
        if lock is None or lock.until <= self._clock():
            return False
        return lock.mode is LockMode.COMPLIANCE or not bypass


def _data(version: Version) -> bytes:
    assert version.data is not None  # _read refuses markers
    return version.data


def _holds(condition: Condition, current: Version | None) -> bool:
    live = current if current is not None and current.data is not None else None
    if condition.etag is None:
        return live is None
    return live is not None and live.etag == condition.etag
