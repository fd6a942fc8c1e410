"""The `ObjectStore` protocol: exactly what VERA asks of S3, no more. Keys are full keys in one bucket.

Also the errors that every implementation raises in the same words.

Every method raises `UnavailableError` when the store can't be reached or keeps answering 5xx after retries, and names
bucket and key in every error. Implementations: s3.py, memory.py, faulty.py; tests/store/conformance.py holds them to
this text. No method retries in a way that can turn its own lost reply into somebody else's win silently: a conditional
PUT whose reply was lost may raise `PreconditionError` for the winner, and callers re-read (docs/protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from vera_core.errors import NotFoundError, PreconditionError, RestrictedError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from vera_core.model import Lock

SINGLE_PUT_LIMIT = 256 << 20
"""Bytes up to which a file goes up in one PUT; larger ones go multipart with a full-object CRC64NVME."""


class MissingObjectError(NotFoundError):
    """No object (or no such version) under the key.

    `delete_marker` is True where the store says that a delete marker hides it, False where it says there is none, None
    where the store does not tell (then a listing of the versions must be asked).
    """

    delete_marker: bool | None = None


class ColdObjectError(UnavailableError):
    """The object lies in a storage class from which it must be restored before anything of it can be read."""


def missing_object(
    bucket: str, key: str, version_id: str | None = None, *, delete_marker: bool | None
) -> MissingObjectError:
    """The error for an object (or version) that is not there."""
    what = "a delete marker hides the object" if delete_marker else "there is no such object"
    error = MissingObjectError(
        what if version_id is None else "there is no such version",
        todo="List the versions of the key to see what is there.",
        bucket=bucket,
        key=key,
        version_id=version_id,
    )
    error.delete_marker = delete_marker
    return error


def refused_condition(bucket: str, key: str) -> PreconditionError:
    """The error for a conditional PUT that lost."""
    return PreconditionError(
        "the conditional PUT was refused: the key changed meanwhile",
        todo="Read the key again; another writer, or a lost reply of this one, was first.",
        bucket=bucket,
        key=key,
    )


def locked_version(bucket: str, key: str, version_id: str | None, why: str) -> RestrictedError:
    """The error for a deletion or a weaker lock that Object Lock refuses."""
    return RestrictedError(
        f"refused by the store: {why}",
        todo="Wait for the end of the lock or of the legal hold; nothing shortens a COMPLIANCE lock.",
        bucket=bucket,
        key=key,
        version_id=version_id,
    )


def no_lock(bucket: str, lock: Lock) -> UsageError:
    """The error for a lock that can't be set: without a mode, or already over."""
    return UsageError(
        f"{lock.mode} until {lock.until.isoformat()} is no lock that can be set",
        todo="Give GOVERNANCE or COMPLIANCE and a time in the future; check this machine's clock.",
        bucket=bucket,
    )


def whole_second(moment: datetime) -> datetime:
    """`moment` rounded up to a whole second, as S3 keeps locks: never shorter than was asked for."""
    return moment if moment.microsecond == 0 else moment.replace(microsecond=0) + timedelta(seconds=1)


def write_new_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes `chunks` to a new file; a failure leaves no file behind.

    Raises:
        UsageError: the file exists already.
    """
    try:
        file = path.open("xb")
    except FileExistsError:
        raise UsageError("the file exists already", todo="Name a new file.", path=path) from None
    try:
        with file:
            for chunk in chunks:
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of a PUT: `Condition()` is If-None-Match: *, `Condition(etag)` is If-Match: etag."""

    etag: str | None = None


ABSENT = Condition()


@dataclass(frozen=True, slots=True)
class Stored:
    """What a PUT made: the VersionId ("null" never occurs on a versioned bucket), ETag (with its quotes), bytes."""

    key: str
    version_id: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Blob:
    """A whole object as read: `data` and the version it came from.

    `lock` is its retention as the same answer states it. Only a store that states none needs asking: None may mean that
    this reader may not see retentions.
    """

    key: str
    data: bytes
    version_id: str
    etag: str
    last_modified: datetime | None = None
    lock: Lock | None = None


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version (or delete marker) of a key, as listed. `size` is 0 for a marker."""

    key: str
    version_id: str
    size: int
    last_modified: datetime
    etag: str = ""
    is_latest: bool = True
    is_delete_marker: bool = False


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """A lifecycle rule of the bucket: its id, the key prefix and the tags (all of them) that it applies to.

    `storage_classes` are those into which it moves objects; none for a rule that removes them.
    """

    rule_id: str
    prefix: str
    tags: tuple[tuple[str, str], ...] = ()
    storage_classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketState:
    """Bucket hygiene: what `init`, `probe` and the daily check look at.

    `default_retention` describes the bucket's default retention ("" for none); `expirations` are the rules that remove
    objects, `transitions` those that move them into other storage classes. They are None where the store can't say (an
    answer of 501).
    """

    exists: bool
    versioning: bool
    object_lock: bool
    default_retention: str | None
    expirations: tuple[LifecycleRule, ...] | None
    transitions: tuple[LifecycleRule, ...] | None


class ObjectStore(Protocol):
    """A versioned bucket. Synchronous and safe to share between threads."""

    @property
    def bucket(self) -> str:
        """The bucket's name, for errors and URIs."""
        ...

    def put(
        self,
        key: str,
        data: bytes,
        *,
        condition: Condition | None = None,
        lock: Lock | None = None,
        content_type: str = "application/octet-stream",
    ) -> Stored:
        """Stores a small object whole, with a checksum that the store verifies. A lock of mode NONE is no lock.

        Raises:
            PreconditionError: `condition` does not hold (409 ConditionalRequestConflict is retried first).
        """
        ...

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
        """Stores a local file in bounded memory, verified by the store's checksum.

        Up to `SINGLE_PUT_LIMIT` a single PUT carrying `sha256` as x-amz-checksum-sha256; larger ones, and smaller ones
        where `multipart` asks for it, multipart with a full-object CRC64NVME (`condition` then is refused with
        ValueError: it is not atomic on every store). An aborted multipart upload leaves nothing behind where the
        process lives to abort it.

        Raises:
            PreconditionError: `condition` does not hold.
            IntegrityError: the store saw other bytes than were sent.
        """
        ...

    def get(self, key: str, *, version_id: str | None = None) -> Blob:
        """Reads a small object whole.

        Raises:
            MissingObjectError: none, or hidden by a delete marker.
        """
        ...

    def get_range(self, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """Reads exactly `length` bytes from `start` (length 0 returns b"" without a request).

        Raises:
            MissingObjectError: no such object or version.
            IntegrityError: the answer is not exactly that range (status, Content-Range or length differ).
        """
        ...

    def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, version_id: str | None = None
    ) -> Sequence[bytes]:
        """Reads several (start, length), each as `get_range` does, and answers in that order.

        Each is a request of its own; where requests take time, several run at once. The caller bounds their sum.

        Raises:
            MissingObjectError, IntegrityError: as `get_range`, of any of them.
        """
        ...

    def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
        """Reads the last `min(length, size)` bytes (`length` > 0); returns them and the object's whole size in bytes.

        Raises:
            MissingObjectError, IntegrityError: as `get_range`.
        """
        ...

    def download(self, key: str, path: Path, *, version_id: str | None = None) -> None:
        """Writes the object to a new local file in bounded memory; a failure leaves no file.

        Raises:
            UsageError: the file exists already.
            MissingObjectError: no such object or version.
        """
        ...

    def head(self, key: str, *, version_id: str | None = None) -> VersionInfo:
        """The version's size and identity (`is_latest` means nothing here).

        Raises:
            MissingObjectError: no such object or version.
        """
        ...

    def list_objects(self, prefix: str, *, start_after: str = "") -> Iterator[VersionInfo]:
        """Current, undeleted objects under `prefix` in key order, paged lazily; VersionId is "" (LIST omits it)."""
        ...

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """The next path components under `prefix` (ends in "/"), whole, with their trailing "/".

        Those under which any version lies, hidden by delete markers or not: a DELETE can't hide a slot from a walk.
        """
        ...

    def list_versions(self, prefix: str) -> Iterator[VersionInfo]:
        """All versions and delete markers under `prefix`, in key order, newest first within a key, paged lazily."""
        ...

    def delete(self, key: str, *, version_id: str | None = None, bypass_governance: bool = False) -> None:
        """Removes one version for good, or without `version_id` puts a delete marker. Missing is no error.

        Raises:
            RestrictedError: the version is locked or under legal hold.
        """
        ...

    def delete_batch(
        self, versions: Iterable[tuple[str, str]], *, bypass_governance: bool = False
    ) -> list[tuple[str, str, str]]:
        """Removes (key, VersionId) pairs; returns those refused as (key, VersionId, reason)."""
        ...

    def get_lock(self, key: str, version_id: str) -> Lock | None:
        """The version's retention; None if it has none.

        Raises:
            MissingObjectError: no such version.
        """
        ...

    def set_lock(self, key: str, version_id: str, lock: Lock, *, bypass_governance: bool = False) -> None:
        """Sets or extends the version's retention.

        Raises:
            UsageError: the mode is NONE or the end is not in the future.
            RestrictedError: the store refuses to shorten or weaken it.
        """
        ...

    def get_hold(self, key: str, version_id: str) -> bool:
        """Whether the version is under legal hold.

        Raises:
            MissingObjectError: no such version.
            UnsafeStoreError: the store offers no legal holds.
        """
        ...

    def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
        """Puts the version under legal hold, or lifts it. Nobody deletes a held version, whatever its retention says.

        Raises:
            MissingObjectError: no such version.
            UsageError: the bucket has no Object Lock.
            UnsafeStoreError: the store offers no legal holds.
        """
        ...

    def get_tags(self, key: str, version_id: str) -> dict[str, str]:
        """The version's tags; {} if it has none.

        Raises:
            MissingObjectError: no such version.
            UnsafeStoreError: the store offers no tags.
        """
        ...

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        """Gives the version these tags in the place of all that it has; its lock and its bytes stay as they are.

        Raises:
            MissingObjectError: no such version.
            UnsafeStoreError: the store offers no tags.
        """
        ...

    def now(self) -> datetime:
        """The store's own clock in UTC (whole seconds), from a Date header."""
        ...

    def bucket_state(self) -> BucketState:
        """Versioning, Object Lock, default retention and lifecycle rules of the bucket."""
        ...

    def create_bucket(self) -> None:
        """Creates the bucket with versioning and Object Lock enabled.

        Raises:
            ConflictError: it exists already.
        """
        ...
