"""Encrypted shards: seals files in batches for a shard's writer, and opens what a shard's reader gives.

docs/format-v1.md, "Encrypted shards". The format knows sealed files as raw contents under keyed uids; this puts keys to
them: a leaf of the shard's key tree for each file, the tenant key for names and digests. Where keyrings are kept, and
which revision counts, is the caller's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from vera_core.codec import crc32, digest
from vera_core.encoding import FACTS, EncodedBatch
from vera_core.errors import UsageError
from vera_core.format.columns import encode_attributes
from vera_core.format.layout import AES_256_GCM, MAX_TIME, MIN_TIME, UID_KEY, Encryption
from vera_core.format.sealed import HEAD
from vera_core.format.source import Naming
from vera_core.format.waiting import Names, encode_uids
from vera_core.keys.envelope import Header, Kind
from vera_core.keys.keyring import Keyring
from vera_core.keys.opening import FileOpener, SealedShard, whole
from vera_core.keys.sealing import ID_BYTES, FileSealer
from vera_core.keys.seals import Seals
from vera_core.keys.streams import SealedStream, Segments
from vera_core.keys.tree import KeyTree
from vera_core.model import check_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vera_core.format.columns import Metadata
    from vera_core.format.reader import ShardReader
    from vera_core.format.stream import Readable
    from vera_core.format.writer import ShardWriter
    from vera_core.keys.tenant import TenantKey
    from vera_core.model import Entry, Origin, Policy

_attributes = lru_cache(maxsize=4096)(encode_attributes)


class BigFile(NamedTuple):
    """A file that is streamed to a shard of its own; `content` holds `size` bytes, of which none was read yet."""

    uid: str
    created_at: int
    media_type: str
    metadata: Metadata
    content: Readable
    size: int
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class ShardSealer:
    """Seals the files of one build of a shard. Make it with `fresh`: a key tree must never serve two builds.

    Threads may share it. `encryption` goes into the shard's `ShardOptions`.
    """

    tenant: TenantKey
    keyring_id: bytes
    tree: KeyTree

    @classmethod
    def fresh(cls, tenant: TenantKey, entries: int) -> Self:
        """With random keys for a shard of at most `entries` files.

        Raises:
            UsageError: no tree has so many leaves.
        """
        return cls(tenant, os.urandom(ID_BYTES), KeyTree.fresh(entries))

    @property
    def encryption(self) -> Encryption:
        """What the shard's header says of its keys."""
        return Encryption(self.keyring_id, UID_KEY, AES_256_GCM, self.tree.depth)

    def keyring(self, shard: bytes) -> Keyring:
        """The keyring to store with the shard, whose SHA-256 `shard` is."""
        of = self.tenant.header
        header = Header(
            Kind.KEYRING, of.repository_id, of.tenant, depth=self.tree.depth, keyring_id=self.keyring_id, shard=shard
        )
        return Keyring(header, self.tree)

    def seals(self, shard: bytes) -> Seals:
        """What proves the shard, whose SHA-256 `shard` is."""
        return Seals.of(self.tenant, self.keyring(shard))

    def seal(
        self, first: int, names: Names, keyed_uids: Sequence[str], batch: EncodedBatch
    ) -> tuple[Names, EncodedBatch]:
        """A batch as `ShardWriter.append_batch` takes it for the ordinals from `first` on: give it that, too.

        Args:
            first: the ordinal of the first file. A file opens under no other.
            names: what the files are called; all of it is sealed but the origins.
            keyed_uids: `TenantKey.keyed_uid` of each, by which the files are sorted.
            batch: the contents, encoded with `Encoder(..., digest_with=tenant.keyed_digest)`.

        Raises:
            BadUidError: a uid is none.
            UsageError: a time out of range, bad metadata, more files than the tree has keys, or names, keyed uids and
                contents of unequal number.
        """
        if not len(names.uids) == len(keyed_uids) == len(names.created_at) == len(names.attributes) == len(batch):
            raise UsageError(f"{len(names.uids)} uids and {len(keyed_uids)} keyed uids were given for {len(batch)}")
        leaves = self.tree.run(first, first + len(batch))
        files = FileSealer(self.tenant.header.repository_id, self.keyring_id)
        sealed = files.seal_many(first, leaves, _plaintexts(names, batch))
        facts = np.zeros(len(batch), FACTS)
        facts["size"] = facts["stored_size"] = list(map(len, sealed))
        facts["crc32"] = list(map(crc32, sealed))
        facts["digest"] = batch.facts["digest"]
        nothing = ("", ())
        hidden = Names(keyed_uids, [0] * len(batch), [nothing] * len(batch), names.origins)
        return hidden, EncodedBatch(facts, b"".join(sealed))

    def seal_stream(self, file: BigFile, policy: Policy) -> SealedStream:
        """A file for `ShardWriter.append_sealed`, which must be the shard's only one.

        Raises:
            BadUidError: the uid is none.
            UsageError: a time or size out of range, or bad metadata.
        """
        (leaf,) = self.tree.run(0, 1)
        segments = Segments((self.tenant.header.repository_id, self.keyring_id), 0, leaf)
        names = file.created_at, check_uid(file.uid).encode(), encode_attributes(file.media_type, file.metadata)
        return SealedStream(segments, names, (file.content, file.size), policy, self.tenant.keyed_hasher())


def append_big(writer: ShardWriter, file: BigFile, policy: Policy, sealer: ShardSealer | None) -> None:
    """Streams a file to a shard of its own, sealed where there is a sealer.

    Raises:
        BadUidError: the uid is none.
        UsageError: the file holds more or less than its size, or as `ShardWriter.append_stream`.
    """
    if sealer is None:
        writer.append_stream(
            file.uid, file.created_at, file.content, file.size,
            policy=policy, media_type=file.media_type, metadata=file.metadata, origin=file.origin,
        )  # fmt: skip
    else:
        sealed = sealer.seal_stream(file, policy)
        writer.append_sealed(sealer.tenant.keyed_uid(file.uid), sealed, origin=file.origin)


def _plaintexts(names: Names, batch: EncodedBatch) -> list[bytes]:
    """What is sealed of each file."""
    facts, stored = batch.facts, batch.stored
    times = list(map(int, names.created_at))
    if times and not MIN_TIME <= min(times) <= max(times) <= MAX_TIME:
        raise UsageError("a time is outside year 1 to 9999")
    ends = accumulate(facts["stored_size"].tolist(), initial=0)
    columns = (facts["size"].tolist(), facts["codec"].tolist(), facts["parameter"].tolist())
    attributes = [_attributes(*each) for each in names.attributes]
    pack = HEAD.pack
    return [
        b"".join((pack(time, size, codec, parameter, len(uid), len(more)), uid, more, stored[begin:end]))
        for uid, time, more, size, codec, parameter, (begin, end) in zip(
            encode_uids(names.uids), times, attributes, *columns, pairwise(ends), strict=True
        )
    ]


class Opener(Protocol):
    """What gives the files of an open shard as they were archived, sealed or not. Threads may share it."""

    @property
    def reader(self) -> ShardReader:
        """The shard, as it is stored."""

    def holds(self, entry: Entry) -> bool:
        """Whether the entry can still be read."""

    def read(self, entry: Entry) -> tuple[Entry, bytes]:
        """An entry of `reader` with all that was archived of it, and its content.

        Raises:
            ErasedError: its key was destroyed.
            IntegrityError: it does not verify.
        """

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """As `read`, for many, in the order of their places."""

    def read_all(self) -> Iterator[tuple[Entry, bytes]]:
        """As `read`, for all, by ordinal."""

    def stream(self, entry: Entry) -> tuple[Entry, Iterator[bytes]]:
        """As `read`, with the content in chunks of bounded size; it is verified before the last one is handed out."""

    def facts(self, entries: Sequence[Entry]) -> list[Entry]:
        """Entries of `reader` with all that was archived of them, in their order; contents are read where they must.

        `sha256` is that of the content, also where the shard keeps a keyed digest.

        Raises:
            ErasedError, IntegrityError: as `read`.
        """


class PlainOpener:
    """The files of a shard that is not encrypted: see `Opener`."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def holds(self, entry: Entry) -> bool:  # noqa: ARG002 - as Opener
        """See `Opener`."""
        return True

    def read(self, entry: Entry) -> tuple[Entry, bytes]:
        """See `Opener`."""
        return entry, self.reader.read(entry)

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """See `Opener`."""
        return self.reader.read_many(entries)

    def read_all(self) -> Iterator[tuple[Entry, bytes]]:
        """See `Opener`."""
        return self.reader.read_all()

    def stream(self, entry: Entry) -> tuple[Entry, Iterator[bytes]]:
        """See `Opener`."""
        return entry, self.reader.read_stream(entry)

    def facts(self, entries: Sequence[Entry]) -> list[Entry]:
        """See `Opener`."""
        return list(entries)


class ShardOpener:
    """The files of an encrypted shard, opened. Threads may share it; it holds secrets: keep it no longer than needed.

    Entries that it gives say what an unencrypted shard would (uid, time, size, codec, attributes), but for the place
    and checksum of the stored bytes, which are those of the sealed file, and `key` and `sha256`, which are keyed.

    Raises:
        UsageError: the shard is not encrypted.
        IntegrityError: the keyring or the tenant key are of another repository, or the keyring is too small.
    """

    def __init__(self, reader: ShardReader, tenant: TenantKey, keyring: Keyring) -> None:
        if not reader.encrypted:
            raise UsageError("the shard is not encrypted", todo="Read it without keys.", **reader.source.where)
        self.reader = reader
        self.tenant = tenant
        self.keyring = keyring
        shard = SealedShard(reader.source.where, lambda: reader.header().encryption, reader.dictionaries)
        self._opener = FileOpener(shard, tenant, keyring)
        its_repository = reader.footer.repository_id == keyring.header.repository_id
        if not its_repository or reader.entry_count > 1 << keyring.tree.depth:
            raise self._opener.not_its_keyring()

    def holds(self, entry: Entry) -> bool:
        """Whether the key of an entry is still there."""
        return self.keyring.tree.holds(entry.ordinal)

    def find(self, uid: str) -> list[Entry]:
        """The sealed entries of a uid, by ordinal, as `ShardReader.find`.

        Raises:
            BadUidError: no uid.
            FormatError: the group is damaged.
        """
        return self.reader.find(self.tenant.keyed_uid(uid))

    def get(self, uid: str) -> bytes | None:
        """The content of a uid's last entry; None if the shard has no such uid.

        Raises:
            BadUidError: no uid.
            VeraError: as `read`.
        """
        found = self.find(uid)
        return self.read(found[-1])[1] if found else None

    def read(self, entry: Entry) -> tuple[Entry, bytes]:
        """A sealed entry opened, and its content.

        Raises:
            ErasedError: its key was destroyed.
            IntegrityError: bytes, keyring, name or digest are not those of the entry.
            UsageError: the content is larger than `MAX_INLINE` bytes: use `stream`.
        """
        if not self.reader.streamed:
            return self.open(entry, self.reader.read(entry))
        opened, content = self.stream(entry)
        with Naming({**self.reader.source.where, "uid": entry.uid, "entry": entry.ordinal}):
            return opened, whole(opened, content)

    def open(self, entry: Entry, sealed: bytes) -> tuple[Entry, bytes]:
        """As `read`, where the sealed bytes are at hand.

        Raises:
            ErasedError, IntegrityError: as `read`.
        """
        return self._opener.open(entry, sealed)

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """Sealed entries opened, in the order of their places. Some 60 MiB are held.

        Raises:
            ErasedError, IntegrityError, UsageError: as `read`, for the first of them.
        """
        if self.reader.streamed:
            return map(self.read, entries)
        return self.open_many(self.reader.read_many(entries))

    def read_all(self) -> Iterator[tuple[Entry, bytes]]:
        """All entries opened, by ordinal.

        Raises:
            ErasedError, IntegrityError, UsageError: as `read`, for the first of them.
        """
        if self.reader.streamed:
            return map(self.read, self.reader.entries())
        return self.open_many(self.reader.read_all())

    def check_all(self, wanted: Callable[[Entry], bool] = lambda _: True) -> int:
        """Opens every sealed entry that is wanted, whatever its size; returns how many.

        Raises:
            ErasedError, IntegrityError: as `read`, for the first of them.
        """
        if self.reader.streamed:
            return sum(1 for entry in self.reader.entries() if wanted(entry) and self.check(entry))
        return sum(1 for _ in self.open_many(item for item in self.reader.read_all() if wanted(item[0])))

    def check(self, entry: Entry) -> bool:
        """Opens a sealed entry of any size, and keeps nothing; True.

        Raises:
            ErasedError, IntegrityError: as `read`.
        """
        for _ in self.stream(entry)[1]:
            pass
        return True

    def stream(self, entry: Entry) -> tuple[Entry, Iterator[bytes]]:
        """See `Opener`."""
        if self.reader.streamed:
            return self._opener.stream(entry, self.reader.read_stream(entry))
        opened, content = self.read(entry)
        return opened, iter((content,))

    def facts(self, entries: Sequence[Entry]) -> list[Entry]:
        """See `Opener`. Of a streamed file, the ends are read and not its content."""
        if self.reader.streamed:
            return [self._opener.stream_facts(entry, self.reader.fetch) for entry in entries]
        coming = self.read_many(entries)
        found = {opened.ordinal: opened._replace(sha256=digest(content)) for opened, content in coming}
        return [found[entry.ordinal] for entry in entries]

    def open_many(self, coming: Iterable[tuple[Entry, bytes]]) -> Iterator[tuple[Entry, bytes]]:
        """Sealed entries with their sealed bytes, opened in the order in which they come; neighbours are quickest.

        Raises:
            ErasedError, IntegrityError: as `read`, for the first of them.
        """
        return self._opener.open_many(coming)
