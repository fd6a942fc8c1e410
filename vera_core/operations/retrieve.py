"""Reading files back: from a uid to its verified bytes, without any database of locations.

A cold read asks for the sidecar, the next log record, the shard's suffix and the entry; a warm one only for the entry.
Of an encrypted shard a cold one asks for the keyring too, and has the key service open it. What shards and logs call a
file is its name (keys/naming.py); it gets its uid back when it is opened.
What a reader knows of a slot is taken as current for the workplace's freshness; then the next log record is asked for.
Before a reader says that a file is not there, it asks for what is new in the config and in the slot, whatever it knows.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from vera_core.errors import ErasedError, NotFoundError, UsageError, VeraError
from vera_core.model import DEFAULT_TENANT, Origin, check_uid, format_time, from_micros
from vera_core.operations.lookup import ShardReaders, Version, by_lock, opened, readable, versions_in_order, versions_of
from vera_core.operations.report import Report, figure
from vera_core.operations.walk import slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date, datetime

    from vera_core.model import Entry, Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import SlotState

KNOWN_SLOTS = 1024
BATCH_VERSIONS, BATCH_BYTES = 1024, 8 << 20
"""How many versions of a slot are opened at once, and about how many stored bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport(Report):
    """What is archived of one version of a file, and where; `held` are the cases that hold it.

    Of an erased version in an encrypted repository nothing is known but where it lies: `created_at` is None, `sha256`,
    media type and metadata are empty, and the size is 0.
    """

    uid: str
    tenant: str
    slot: str
    version: str
    created_at: datetime | None
    media_type: str
    metadata: dict[str, str]
    sha256: str
    codec: str
    erased: bool
    shard: str
    version_id: str
    retention_class: str
    lock_mode: str
    lock_until: datetime
    held: tuple[str, ...] = ()
    size: int = figure("size", "bytes")
    stored_size: int = figure("stored", "bytes")

    @property
    def created(self) -> str:
        """`created_at` as text; empty where it is not known."""
        return "" if self.created_at is None else format_time(self.created_at)


class Retriever:
    """Reads one tenant's files. Safe to share between threads; remembers slots and opened shards, in bounded number."""

    def __init__(self, repo: Repository, tenant: str = DEFAULT_TENANT) -> None:
        self._repo = repo
        self._tenant = tenant
        self._readers = ShardReaders(repo)
        self._known: OrderedDict[Slot, tuple[SlotState, float]] = OrderedDict()
        self._guard = threading.Lock()

    def slot(self, uid: str, created_at: datetime | date | None = None) -> Slot:
        """Where the uid lives; pure.

        Raises:
            UsageError: the uid carries no trusted time and `created_at` is missing.
            BadUidError, BadTimeError: they are not valid.
        """
        return self._repo.config.routing.slot(self._tenant, check_uid(uid), created_at)

    def versions(self, uid: str, created_at: datetime | date | None = None) -> list[FileReport]:
        """All versions that live shards hold, oldest first, erased ones marked.

        Raises:
            NotFoundError: there is none.
        """
        slot, state, found = self._look_twice(uid, created_at)
        with self._reading(uid, slot, None):
            wanted = [version for version in found if not (state.is_dead(version.origin) and version.shard.keyring)]
            known = {version.origin: version for version in readable(self._readers, wanted)}
        return [
            self._report(slot, state, known[version.origin])
            if version.origin in known
            else replace(self._report(slot, state, version), uid=uid, created_at=None, sha256="", size=0, erased=True)
            for version in found
        ]

    def stat(self, uid: str, created_at: datetime | date | None = None, *, version: str | None = None) -> FileReport:
        """What is archived of a file, without its bytes.

        Raises:
            NotFoundError, ErasedError: as `get`.
        """
        slot, state, found = self._find(uid, created_at, version)
        with self._reading(uid, slot, version):
            return self._report(slot, state, opened(self._readers, [found])[0])

    def get(self, uid: str, created_at: datetime | date | None = None, *, version: str | None = None) -> bytes:
        """A file's content, verified against its CRC and digest. For files beyond memory use `stream`.

        Args:
            uid: the file's uid.
            created_at: its time or day; not needed where the uid carries a trusted time.
            version: `commit.ordinal`, or a commit number; the latest where None.

        Raises:
            NotFoundError: no such file or version.
            ErasedError: the version (or every version) was erased.
            IntegrityError: what is stored does not verify.
        """
        slot, _, found = self._find(uid, created_at, version)
        with self._reading(uid, slot, version):
            return self._readers.opener(found.shard).read(found.entry)[1]

    def stream(
        self, uid: str, created_at: datetime | date | None = None, *, version: str | None = None
    ) -> tuple[Entry, Iterator[bytes]]:
        """As `get`, in chunks of bounded size; the digest is checked before the last chunk is handed out."""
        slot, _, found = self._find(uid, created_at, version)
        with self._reading(uid, slot, version):
            entry, chunks = self._readers.opener(found.shard).stream(found.entry)
        return entry, self._told(chunks, uid, slot, version)

    def _told(self, chunks: Iterator[bytes], uid: str, slot: Slot, version: str | None) -> Iterator[bytes]:
        with self._reading(uid, slot, version):
            yield from chunks

    def serves(self, slot: Slot, name: str, version: str) -> bool:
        """Whether that version of a file would be given to who asks for it; by its name, for nobody may know the uid.

        Raises:
            IntegrityError, VeraError: as `get`.
        """
        state = self._state(slot, time.monotonic() - self._repo.workplace.freshness_seconds)
        found = _matching(self._versions(state, name), version)
        living = [version for version in found if not state.is_dead(version.origin)]
        return bool(readable(self._readers, living[-1:]))

    def list_day(self, day: date) -> Iterator[FileReport]:
        """The latest living version of every file of a day's slots, slot by slot in key order; memory stays bounded."""
        self._repo.refresh_config()
        for slot in slots(self._repo, self._tenant, day):
            yield from self.list_slot(slot)

    def list_slot(self, slot: Slot) -> Iterator[FileReport]:
        """The latest living version of every file of a slot, in key order."""
        return self.search_slot(slot, lambda _: True)

    def search_slot(self, slot: Slot, wanted: Callable[[Entry], bool]) -> Iterator[FileReport]:
        """The latest living version of every file of a slot of which some living version is wanted, in key order.

        In an encrypted repository all of the slot is read, for what is known of a file is sealed with its content.
        """
        state = self._state(slot, time.monotonic() - self._repo.workplace.freshness_seconds)
        streams = [versions_in_order(self._readers, shard) for shard in by_lock(state)]
        merged = heapq.merge(*streams, key=lambda item: (item.entry.key, item.entry.uid.encode(), item.origin))
        living = (version for version in merged if not state.is_dead(version.origin))
        for batch in _batches(groupby(living, key=lambda item: item.entry.uid)):
            known = readable(self._readers, batch)
            for _, same_uid in groupby(known, key=lambda item: item.entry.uid):
                versions = list(same_uid)
                if any(wanted(version.entry) for version in versions):
                    yield self._report(slot, state, versions[-1])

    def _state(self, slot: Slot, oldest: float) -> SlotState:
        """The slot's state as of `oldest` (by the monotonic clock) or later."""
        now = time.monotonic()
        with self._guard:
            known = self._known.get(slot)
            if known is not None:
                self._known.move_to_end(slot)
                if known[1] >= oldest:
                    return known[0]
        log = self._repo.slot_log(slot)
        if known is None:
            state = log.current()
        else:
            # Others may be reading the state in hand: what comes new goes into a copy.
            state = known[0].snapshot()
            log.refresh(state)
        with self._guard:
            self._known[slot] = (state, now)
            self._known.move_to_end(slot)
            while len(self._known) > KNOWN_SLOTS:
                self._known.popitem(last=False)
        return state

    def _find(
        self, uid: str, created_at: datetime | date | None, wanted: str | None
    ) -> tuple[Slot, SlotState, Version]:
        slot, state, found = self._look_twice(uid, created_at, wanted)
        living = [version for version in found if not state.is_dead(version.origin)]
        if not living:
            raise self._erased(uid, slot, wanted)
        return slot, state, living[-1]

    def _look_twice(
        self, uid: str, created_at: datetime | date | None, wanted: str | None = None
    ) -> tuple[Slot, SlotState, list[Version]]:
        """The versions that are wanted (all where None), oldest first.

        Raises:
            NotFoundError: there is none, not even after another look.
            ErasedError: there was one, which a repack has left behind since.
        """
        began = time.monotonic()
        slot, state, found = self._look(uid, created_at, wanted, began - self._repo.workplace.freshness_seconds)
        if not found:
            self._repo.refresh_config()
            slot, state, found = self._look(uid, created_at, wanted, began)
        if not found and state.dead and self._name(uid) in self._repo.slot_log(slot).load().erased:
            # Its bytes are gone from the live shards, and with them its name: the log alone still tells of it.
            raise self._erased(uid, slot, wanted)
        if not found:
            raise self._missing(uid, slot, wanted)
        return slot, state, found

    def _look(
        self, uid: str, created_at: datetime | date | None, wanted: str | None, oldest: float
    ) -> tuple[Slot, SlotState, list[Version]]:
        slot = self.slot(uid, created_at)
        state = self._state(slot, oldest)
        found = self._versions(state, self._name(uid))
        return slot, state, found if wanted is None else _matching(found, wanted)

    def _versions(self, state: SlotState, name: str) -> list[Version]:
        return versions_of(self._readers, state, name, self._repo.naming(self._tenant).key(name))

    def _name(self, uid: str) -> str:
        return self._repo.naming(self._tenant).name(uid)

    @contextmanager
    def _reading(self, uid: str, slot: Slot, wanted: str | None) -> Iterator[None]:
        """Errors say what was asked for, not what the archive calls it.

        A destroyed key is an erasure too, also where its tombstone was not read yet.
        """
        try:
            yield
        except ErasedError as error:
            raise self._erased(uid, slot, wanted) from error
        except VeraError as error:
            if "uid" in error.where:
                error.where["uid"] = uid
            raise

    def _erased(self, uid: str, slot: Slot, wanted: str | None) -> ErasedError:
        return ErasedError("the file was erased", uid=uid, slot=slot, version=wanted, tenant=self._tenant)

    def _missing(self, uid: str, slot: Slot, wanted: str | None = None) -> NotFoundError:
        what = "no such file is archived" if wanted is None else "no such version of the file is archived"
        return NotFoundError(
            what, todo="Check the uid, its created_at day and the tenant.",
            repository=self._repo.uri, uid=uid, version=wanted, slot=slot,
        )  # fmt: skip

    def _report(self, slot: Slot, state: SlotState, version: Version) -> FileReport:
        entry, shard = version.entry, version.shard
        return FileReport(
            uid=entry.uid, tenant=slot.tenant, slot=str(slot), version=version.text,
            created_at=from_micros(entry.created_at), media_type=entry.media_type, metadata=dict(entry.metadata),
            sha256=entry.sha256.hex(), codec=entry.codec.name.lower(), erased=state.is_dead(version.origin),
            shard=shard.key, version_id=shard.version_id, retention_class=shard.retention_class,
            lock_mode=shard.lock.mode.value, lock_until=shard.lock.until, held=tuple(state.holds_of(version.origin)),
            size=entry.size, stored_size=entry.stored_size,
        )  # fmt: skip


def _batches(files: Iterable[tuple[str, Iterable[Version]]]) -> Iterator[list[Version]]:
    """The versions of files, so many at a time that opening them takes bounded memory; those of one file together.

    Of the places that a version lies in, the last one counts.
    """
    batch: list[Version] = []
    size = 0
    for _, versions in files:
        if len(batch) >= BATCH_VERSIONS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
        own = {version.origin: version for version in versions}.values()
        batch += own
        size += sum(version.entry.stored_size for version in own)
    if batch:
        yield batch


def _matching(found: list[Version], wanted: str) -> list[Version]:
    """The versions that `commit.ordinal` or `commit` names.

    Raises:
        UsageError: `wanted` is neither.
    """
    commit, _, ordinal = wanted.partition(".")
    if not (commit.isdecimal() and (ordinal.isdecimal() if "." in wanted else True)):
        raise UsageError(f"{wanted!r} is no version", todo="Write it as `vera stat --versions` prints it, like 3.17.")
    if ordinal:
        return [version for version in found if version.origin == Origin(int(commit), int(ordinal))]
    return [version for version in found if version.origin.commit == int(commit)]
