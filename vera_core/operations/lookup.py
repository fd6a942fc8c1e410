"""Finding versions: from a slot's state to the entries of one uid, through shard readers over the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IntegrityError
from vera_core.format import ShardReader
from vera_core.format.source import Run, coalesce
from vera_core.keys.naming import name_key
from vera_core.keys.shards import PlainOpener, ShardOpener
from vera_core.model import Origin
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from vera_core.keys.shards import Opener
    from vera_core.model import Entry
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotState
    from vera_core.store.base import ObjectStore

OPEN_READERS = 64
GAP = 64 << 10
"""Bytes that are rather read along than asked around: at 16 requests in flight, one takes about as long as they do."""
RUN_BYTES = 2 << 20
"""Bytes of a request for several ranges: so many take about as long as it takes the store to begin."""
IN_FLIGHT = 32 << 20
"""Bytes that are asked for at once."""


class Version(NamedTuple):
    """One version of a uid: its origin, the entry and the shard that holds it."""

    origin: Origin
    entry: Entry
    shard: ShardRef

    @property
    def text(self) -> str:
        """The version as people name it: commit.ordinal."""
        return f"{self.origin.commit}.{self.origin.ordinal}"


@dataclass(frozen=True, slots=True)
class StoreSource:
    """A committed shard's bytes in the store, pinned to its VersionId."""

    store: ObjectStore
    shard: ShardRef

    @property
    def where(self) -> dict[str, str]:
        """What an error about these bytes must name."""
        return {"bucket": self.store.bucket, "key": self.shard.key, "version_id": self.shard.version_id}

    def read_suffix(self, length: int) -> tuple[bytes, int]:
        """The last `length` bytes (or all) and the object's size.

        Raises:
            IntegrityError: the version is gone, or has another size than was committed.
        """
        try:
            data, size = self.store.get_suffix(self.shard.key, length, version_id=self.shard.version_id)
        except MissingObjectError as error:
            raise self._gone() from error
        if size != self.shard.size:
            raise IntegrityError(
                f"the shard has {size} bytes, committed were {self.shard.size}",
                todo="Run `vera verify --deep`; restore it from a replica.", **self.where,
            )  # fmt: skip
        return data, size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raises:
            IntegrityError: the version is gone.
        """
        try:
            return self.store.get_range(self.shard.key, offset, length, version_id=self.shard.version_id)
        except MissingObjectError as error:
            raise self._gone() from error

    def read_ranges(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As `read_at` for each (offset, length); several requests run at once, each for what lies close together.

        Raises:
            IntegrityError: the version is gone.
        """
        runs: list[Run] = []
        size = 0
        for run in coalesce(places, gap=GAP, most=RUN_BYTES):
            if runs and size + run.end - run.start > IN_FLIGHT:
                yield from self._read_runs(runs)
                runs, size = [], 0
            runs.append(run)
            size += run.end - run.start
        yield from self._read_runs(runs)

    def _read_runs(self, runs: Sequence[Run]) -> Iterator[bytes]:
        ranges = [(run.start, run.end - run.start) for run in runs]
        try:
            answers = self.store.get_ranges(self.shard.key, ranges, version_id=self.shard.version_id)
        except MissingObjectError as error:
            raise self._gone() from error
        for run, data in zip(runs, answers, strict=True):
            for offset, length in run.places:
                yield data[offset - run.start : offset - run.start + length]

    def _gone(self) -> IntegrityError:
        return IntegrityError(
            "a committed shard is gone from the store",
            todo="Restore it from a replica of the bucket, or pack its window again from the source.",
            **self.where,
        )


class ShardReaders:
    """Open readers of committed shards, at most `OPEN_READERS` at once; a reader opened twice costs nothing."""

    __slots__ = ("_guard", "_open", "_repo", "_store")

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._store = repo.store
        self._guard = threading.Lock()
        self._open: OrderedDict[tuple[str, str], ShardReader] = OrderedDict()

    def reader(self, shard: ShardRef) -> ShardReader:
        """The reader of a shard; opening it is one suffix request."""
        name = (shard.key, shard.version_id)
        with self._guard:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
                return found
        opened = ShardReader.open(StoreSource(self._store, shard), sealed=bool(shard.keyring))
        if opened.encrypted != bool(shard.keyring):
            raise IntegrityError(
                "the shard is not encrypted, and its record says that it is",
                todo="Compare the record with a replica of the bucket.", key=shard.key, version_id=shard.version_id,
            )  # fmt: skip
        with self._guard:
            self._open[name] = opened
            while len(self._open) > OPEN_READERS:
                self._open.popitem(last=False)
        return opened

    def opener(self, shard: ShardRef) -> Opener:
        """What gives a shard's entries and contents as they were archived, whether they are sealed or not.

        Raises:
            IntegrityError: the shard's keyring is gone, damaged, or older than the slot log says.
            VeraError: the key service's.
        """
        reader = self.reader(shard)
        return shard_opener(self._repo, shard, reader) if shard.keyring else PlainOpener(reader)


def shard_opener(repo: Repository, shard: ShardRef, reader: ShardReader) -> ShardOpener:
    """What opens the files of an encrypted shard, which `reader` reads.

    Raises:
        IntegrityError, VeraError: as `ShardReaders.opener`.
    """
    tenant = repo.naming(repo.keys.parse(shard.key).tenant).tenant_key
    assert tenant is not None
    return ShardOpener(reader, tenant, repo.keyrings.get(shard))


def opened(readers: ShardReaders, versions: Sequence[Version]) -> list[Version]:
    """The same versions with all that was archived of them, as `versions_of` gives them where nothing is sealed.

    Raises:
        ErasedError: the key of one was destroyed.
        IntegrityError, VeraError: as `ShardReaders.opener`, or its bytes do not verify.
    """
    return _opened(readers, versions, lambda _, entries: list(entries))


def readable(readers: ShardReaders, versions: Sequence[Version]) -> list[Version]:
    """As `opened`, without the versions whose key was destroyed.

    Raises:
        IntegrityError, VeraError: as `opened`.
    """
    return _opened(readers, versions, lambda opener, entries: list(filter(opener.holds, entries)))


def _opened(
    readers: ShardReaders, versions: Sequence[Version], chosen: Callable[[Opener, Sequence[Entry]], list[Entry]]
) -> list[Version]:
    """Those versions whose entries are chosen, opened shard by shard, in their order."""
    by_shard: dict[str, list[Version]] = {}
    for version in versions:
        by_shard.setdefault(version.shard.version_id, []).append(version)
    found: dict[tuple[str, int], Entry] = {}
    for version_id, own in by_shard.items():
        opener = readers.opener(own[0].shard)
        entries = chosen(opener, [version.entry for version in own])
        found.update(((version_id, entry.ordinal), entry) for entry in opener.facts(entries))
    places = ((version, (version.shard.version_id, version.entry.ordinal)) for version in versions)
    return [version._replace(entry=found[place]) for version, place in places if place in found]


def origin_of(shard: ShardRef, entry: Entry) -> Origin:
    """The version's identity: the entry's own origin where it carries one, else its shard's commit and its ordinal."""
    return entry.origin or Origin(shard.number, entry.ordinal)


def by_lock(state: SlotState) -> list[ShardRef]:
    """The live shards, the one that is locked longest last."""
    return sorted(state.live(), key=lambda shard: shard.lock.until)


def versions_of(readers: ShardReaders, state: SlotState, name: str, key: int) -> list[Version]:
    """All versions of a file in a slot that live shards hold, dead ones included, oldest first, as they are stored.

    One that several shards hold comes from the one that is locked longest.
    """
    found = {
        (version := Version(origin_of(shard, entry), entry, shard)).origin: version
        for shard in by_lock(state)
        if shard.may_hold(key)
        for entry in readers.reader(shard).find(name)
    }
    return [found[origin] for origin in sorted(found)]


def shards_holding(readers: ShardReaders, state: SlotState, wanted: Mapping[str, Sequence[Origin]]) -> list[ShardRef]:
    """The live shards that hold any of these versions, by name; a shard that can't be read may, and so counts."""
    return [shard for shard in state.live() if any(_has(readers, shard, *item) for item in wanted.items())]


def _has(readers: ShardReaders, shard: ShardRef, name: str, origins: Sequence[Origin]) -> bool:
    if not shard.may_hold(name_key(name, keyed=bool(shard.keyring))):
        return False
    if any(origin.commit == shard.number for origin in origins):
        return True
    try:
        return any(origin_of(shard, entry) in origins for entry in readers.reader(shard).find(name))
    except IntegrityError:
        return True


def versions_in_order(readers: ShardReaders, shard: ShardRef) -> Iterator[Version]:
    """All versions of a shard by (key, uid, ordinal): the order in which VERA writes them.

    Raises:
        IntegrityError: the shard was written in another order, or its index is damaged.
    """
    before = (0, b"")
    for entry in readers.reader(shard).entries():
        place = (entry.key, entry.uid.encode())
        if place < before:
            raise IntegrityError(
                "the shard's entries are not in key order",
                todo="No VERA writes such a shard; restore it from a replica.",
                key=shard.key, version_id=shard.version_id, uid=entry.uid,
            )  # fmt: skip
        before = place
        yield Version(origin_of(shard, entry), entry, shard)
