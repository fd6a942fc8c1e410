"""The chained log: a dense, numbered, hash-linked, locked sequence of small JSON records in a bucket.

Config log, slot logs and audit trails are all this one mechanism (docs/protocol.md, "The chained log"). Record n
carries the SHA-256 of record n-1's bytes. Object Lock protects a version and not a key, therefore: *the earliest locked
version of a key is the record*; unlocked versions and delete markers are findings, never data. What the records mean
belongs to the callers.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from vera_core.errors import ConflictError, IntegrityError, PreconditionError, UnavailableError, UsageError
from vera_core.keyspace import parse_number
from vera_core.model import Lock, LockMode, format_time
from vera_core.store.base import ABSENT, Blob, MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vera_core.store.base import ObjectStore, VersionInfo

MAX_RECORD_BYTES = 8 << 20
"""Larger records are refused: a reader must be able to load one without thinking."""
PUT_ATTEMPTS = 5
UNLOCKED = Lock(LockMode.NONE, datetime.max.replace(tzinfo=UTC))
"""What stands for a record's lock where the repository does without."""


class LostAppendError(ConflictError):
    """Another writer's record took the number. Read on from it and plan again."""


def earliest_record(store: ObjectStore, versions: Iterable[VersionInfo], *, locked: bool) -> VersionInfo | None:
    """Which of a key's `versions` (newest first, as listed) is the record; None where none is.

    The earliest locked one; the earliest at all in a repository without locks (`locked` is False).
    """
    for info in reversed(list(versions)):
        if info.is_delete_marker:
            continue
        # What vanishes while it is looked at was unlocked, and cleared by somebody else.
        with suppress(MissingObjectError):
            if not locked or store.get_lock(info.key, info.version_id) is not None:
                return info
    return None


def canonical(body: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys, no white space, UTF-8: one byte string per value."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def encode_record(body: Mapping[str, Any]) -> bytes:
    """A record's bytes: `body` as canonical JSON with a `check` field, the hex SHA-256 of it without that field.

    The chain vouches for every record but the last; the check finds a flipped bit in that one too.
    """
    return canonical({**body, "check": hashlib.sha256(canonical(body)).hexdigest()})


def decode_record(data: bytes) -> dict[str, Any] | None:
    """The inverse of `encode_record`; None where the bytes are no record."""
    try:
        body = json.loads(data)
        check = body.pop("check")
        good = isinstance(body["type"], str) and check == hashlib.sha256(canonical(body)).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return body if good else None


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read and verified: its number, parsed body, SHA-256 of its bytes, and the version that holds it."""

    number: int
    body: dict[str, Any]
    digest: str
    version_id: str
    lock: Lock | None

    @property
    def type(self) -> str:
        """What happened, for example `commit`."""
        return str(self.body["type"])


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends: the last record's number and digest. `Head()` is the empty log."""

    number: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A version or marker that has no business in a log: harmless to readers, reported and removed by `vera doctor`."""

    key: str
    version_id: str
    what: str
    is_marker: bool = False


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a repository keeps its logs.

    `locked` is False only in a repository that accepts a store without enforced locks; then the earliest version
    counts. `tells_markers` says whether the store's 404 tells of a delete marker (`vera init` records what the probe
    saw); without it every probe is a listing of versions.
    """

    locked: bool = True
    tells_markers: bool = False


@dataclass(slots=True)
class ChainedLog:
    """One log in a bucket: `key_of(n)` names record n, `prefix` holds all records and nothing else."""

    store: ObjectStore
    prefix: str
    key_of: Callable[[int], str]
    options: LogOptions = field(default_factory=LogOptions)

    def read(self) -> list[Record]:
        """All records, verified: dense from 1, each linked to the one before, each the earliest locked version.

        Raises:
            IntegrityError: a gap, a broken link or an unreadable record.
        """
        return self.survey()[0]

    def survey(self) -> tuple[list[Record], list[Finding]]:
        """As `read`, and what else lies under the log's keys."""
        while True:
            records, findings, beyond = self._walk()
            if not beyond:
                return records, findings
            missing = len(records) + 1
            # A listing is no snapshot: it may show a record and not the one before, when both were appended meanwhile.
            if self._choose(missing, self._versions(self.key_of(missing)), []) is None:
                raise IntegrityError(
                    f"the log has a gap: record {missing} is missing before {beyond}",
                    todo="Nothing is read from it. Restore the missing record from a replica of the bucket.",
                    bucket=self.store.bucket, key=self.key_of(missing),
                )  # fmt: skip

    def _walk(self) -> tuple[list[Record], list[Finding], str]:
        """The records up to the first number without one, the findings, and the key of a record beyond it (or "")."""
        by_key: dict[str, list[VersionInfo]] = {}
        for info in self.store.list_versions(self.prefix):
            by_key.setdefault(info.key, []).append(info)
        records: list[Record] = []
        findings: list[Finding] = []
        head = Head()
        while versions := by_key.pop(self.key_of(head.number + 1), None):
            record = self._choose(head.number + 1, versions, findings)
            if record is None:
                break
            records.append(self._linked(head, record))
            head = Head(record.number, record.digest)
        for key, versions in by_key.items():
            for info in versions:
                if self._is_ours(key) and not info.is_delete_marker and self._lock_of(key, info.version_id) is not None:
                    return records, findings, key
                findings.append(Finding(key, info.version_id, "foreign to the log", is_marker=info.is_delete_marker))
        return records, findings, ""

    def _is_ours(self, key: str) -> bool:
        """Whether `key` names some record of this log; whatever else lies under the prefix can't make a gap."""
        number = parse_number(key.removeprefix(self.prefix).partition(".")[0])
        return number > 0 and self.key_of(number) == key

    def probe(self, head: Head) -> Record | None:
        """The record after `head`, verified; None where the log ends there. One request in the usual case."""
        key = self.key_of(head.number + 1)
        if self.options.tells_markers:
            try:
                self.store.head(key)
            except MissingObjectError as missing:
                if missing.delete_marker is False:
                    return None
        record = self._choose(head.number + 1, self._versions(key), [])
        return None if record is None else self._linked(head, record)

    def read_from(self, head: Head) -> list[Record]:
        """The records after `head`, by probing one number after the other."""
        records: list[Record] = []
        while record := self.probe(head):
            records.append(record)
            head = Head(record.number, record.digest)
        return records

    def append(self, head: Head, body: Mapping[str, Any], *, lock: Lock | None, now: datetime) -> Record:
        """Appends `body` (with at least `type`) as the record after `head` and returns it as stored.

        Safe against lost replies: whether the PUT said 200, 412 or nothing at all, the versions of the key decide.

        Raises:
            LostAppendError: another writer's record is there.
            UsageError: the record is larger than `MAX_RECORD_BYTES`.
            UnavailableError: the store can't be reached; whether the record was stored is then open, and the next
                reader sees it if so.
        """
        number = head.number + 1
        # The nonce makes the bytes ours alone, so that finding them stored proves that this very append won.
        full = {
            **body,
            "n": number,
            "prev": head.digest,
            "time": format_time(now),
            "nonce": secrets.token_hex(8),
            "lock": None if lock is None else {"mode": lock.mode, "until": format_time(lock.until)},
        }
        data = encode_record(full)
        if len(data) > MAX_RECORD_BYTES:
            raise UsageError(
                f"a log record of {len(data)} bytes is over the limit of {MAX_RECORD_BYTES}",
                todo="Nothing was stored. Do it in smaller steps.",
                bucket=self.store.bucket, key=self.key_of(number),
            )  # fmt: skip
        key = self.key_of(number)
        digest = hashlib.sha256(data).hexdigest()
        for _ in range(PUT_ATTEMPTS):
            lost_reply: UnavailableError | None = None
            try:
                self.store.put(key, data, condition=ABSENT, lock=lock, content_type="application/json")
            except PreconditionError:
                pass
            except UnavailableError as error:
                lost_reply = error
            findings: list[Finding] = []
            winner = self._choose(number, self._versions(key), findings)
            if winner is not None:
                self._linked(head, winner)
                if winner.digest != digest:
                    raise LostAppendError("another writer appended first", bucket=self.store.bucket, key=key)
                return winner
            if lost_reply is not None:
                raise lost_reply
            # Only unlocked versions or markers are there: somebody's plain PUT or DELETE, no data. Clear and retry.
            for finding in findings:
                self.store.delete(finding.key, version_id=finding.version_id)
        raise ConflictError(
            "unlocked objects keep appearing under a log key",
            todo="Find who else writes to this bucket (access logs, bucket policy) and stop it.",
            bucket=self.store.bucket, key=key,
        )  # fmt: skip

    def extend_locks(
        self, records: Iterable[Record], until: datetime, *, slack: timedelta = timedelta(0)
    ) -> list[Record]:
        """Keeps every record locked at least until `until`; returns them with the locks that they have now.

        A lock that must be extended is extended by `slack` more, so that the next extension is far away.
        """
        return [self._extended(record, until, slack) for record in records]

    def _extended(self, record: Record, until: datetime, slack: timedelta) -> Record:
        if record.lock is None or record.lock.mode is LockMode.NONE or record.lock.until >= until:
            return record
        key = self.key_of(record.number)
        actual = self.store.get_lock(key, record.version_id)
        if actual is None or actual.until < until:
            self.store.set_lock(key, record.version_id, Lock(record.lock.mode, until + slack))
            actual = self.store.get_lock(key, record.version_id)
        return replace(record, lock=actual)

    def _versions(self, key: str) -> list[VersionInfo]:
        return [info for info in self.store.list_versions(key) if info.key == key]

    def _lock_of(self, key: str, version_id: str) -> Lock | None:
        if not self.options.locked:
            return UNLOCKED
        try:
            return self.store.get_lock(key, version_id)
        except MissingObjectError:
            # Cleared since it was listed.
            return None

    def _choose(self, number: int, versions: list[VersionInfo], findings: list[Finding]) -> Record | None:
        """The earliest locked version among `versions` (newest first, as listed) as a record; the rest are findings."""
        chosen: Record | None = None
        for info in reversed(versions):
            if info.is_delete_marker:
                findings.append(Finding(info.key, info.version_id, "delete marker over a log record", is_marker=True))
                continue
            if chosen is not None:
                findings.append(Finding(info.key, info.version_id, "later version over a log record"))
                continue
            chosen = self._load(number, info)
            if chosen is None:
                findings.append(Finding(info.key, info.version_id, "unlocked version under a log key"))
        return chosen

    def _load(self, number: int, info: VersionInfo) -> Record | None:
        """The version as a record; None where it is unlocked, or was cleared since it was listed, and so is none."""
        try:
            blob = self.store.get(info.key, version_id=info.version_id) if info.size <= MAX_RECORD_BYTES else None
        except MissingObjectError:
            return None
        stated = blob.lock if blob is not None and self.options.locked else None
        lock = stated or self._lock_of(info.key, info.version_id)
        if lock is None:
            return None
        return self._parsed(number, blob or Blob(info.key, b"", info.version_id, info.etag), lock)

    def _parsed(self, number: int, blob: Blob, lock: Lock) -> Record:
        body = decode_record(blob.data)
        if body is None or body.get("n") != number:
            raise IntegrityError(
                f"log record {number} is locked but unreadable",
                todo="Nothing is read past it. Restore it from a replica of the bucket.",
                bucket=self.store.bucket, key=blob.key, version_id=blob.version_id,
            )  # fmt: skip
        return Record(number, body, hashlib.sha256(blob.data).hexdigest(), blob.version_id, lock)

    def _linked(self, head: Head, record: Record) -> Record:
        if record.body.get("prev") != head.digest:
            raise IntegrityError(
                f"log record {record.number} does not follow record {head.number}: the chain is broken",
                todo="One of the two was altered. Compare them with a replica of the bucket.",
                bucket=self.store.bucket, key=self.key_of(record.number), version_id=record.version_id,
            )  # fmt: skip
        return record
