"""Reads one shard from any range-readable source: looks up uids, lists entries, returns verified contents.

Nothing is returned that does not verify: whatever the bytes, only FormatError and IncompatibleError leave it, besides
the source's own errors. Threads may share a reader. What a shard's place in a repository means is not known here.
"""

from __future__ import annotations

from bisect import bisect_right
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING

from vera_core.codec import (
    MAX_INLINE,
    NO_DICTIONARIES,
    Coding,
    Dictionaries,
    Stored,
    crc32,
    decode_as,
    decode_many,
    digest,
)
from vera_core.errors import FormatError, IncompatibleError, UsageError, VeraError
from vera_core.format.groups import Group
from vera_core.format.index import Page, Pages
from vera_core.format.layout import RESTORE, SUFFIX
from vera_core.format.shard import Shard, exactly
from vera_core.format.source import Naming, named
from vera_core.format.stream import CHUNK, Whole, decode_stream
from vera_core.format.verify import Verified, verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vera_core.format.index import Content
    from vera_core.format.source import RangeSource
    from vera_core.format.verify import Unseal
    from vera_core.model import Entry

_BATCH_BYTES = 8 << 20
_RUN_BYTES = 8 << 20
_ENTRY, _ENTRY_WITH_METADATA = 512, 16 << 10
"""The most bytes, about, that an entry itself takes in a batch: 4 KiB of metadata can be four times that as text."""


class ShardReader(Shard):
    """An open shard. Make it with `ShardReader.open`.

    `footer` and `directory` are what opening read.
    """

    def __init__(self, source: RangeSource, tail: tuple[bytes, int], *, cache_bytes: int, digests: bool) -> None:
        super().__init__(source, tail)
        self._digests = digests and not self.encrypted  # else they are keyed, and of what is sealed
        self._key_of = self.uids.key
        self._pages = Pages(self._page, cache_bytes)
        self._first_keys = self.directory.first_keys

    @classmethod
    def open(
        cls, source: RangeSource, *, cache_bytes: int = 24 << 20, digests: bool = True, sealed: bool = False
    ) -> ShardReader:
        """Opens a shard with one suffix request of `SUFFIX` bytes (and one more for a directory that reaches further).

        Args:
            source: where its bytes are.
            cache_bytes: bound of the part of the index that is kept: some 48 bytes an entry besides its uid.
            digests: False leaves the SHA-256 of contents unchecked, which saves a quarter of the time of a small file.
                Only for a shard that was verified before, or who checks digests himself; CRC32, encoding and size are
                checked in any case.
            sealed: True opens encrypted shards too, whose uids are keyed and whose contents are sealed files then:
                for who opens these (`vera_core.keys.shards`), or can do without.

        Raises:
            FormatError: no shard, or damaged where it was looked at.
            IncompatibleError: a version or feature that this reader refuses, by name; encrypted, and not `sealed`.
        """
        with Naming(source.where):
            reader = cls(source, source.read_suffix(SUFFIX), cache_bytes=cache_bytes, digests=digests)
            if reader.encrypted and not sealed:
                raise needs_keys()
            return reader

    @property
    def cached_bytes(self) -> int:
        """Memory that the kept part of the index takes."""
        return self._pages.memory

    def find(self, uid: str) -> list[Entry]:
        """All entries of a uid, by ordinal; empty if there is none. Reads one group's block, or none if it is kept.

        Raises:
            FormatError: the group is damaged.
            UsageError: the shard is encrypted, and this is no keyed uid.
        """
        name = uid.encode("utf-8", "surrogatepass")
        try:
            key = self._key_of(name)
            pages = [self._pages[number] for number in self.directory.groups_of(key)]
            return [page.entry(row, key, uid) for page in pages for row in page.find(key, name)]
        except VeraError as error:
            raise named(error, self.source.where) from error

    def get(self, uid: str) -> bytes | None:
        """The content of a uid's last entry, found without making an `Entry`; None if the shard has no such uid.

        Raises:
            FormatError: the group is damaged, or CRC32, encoding, size or SHA-256 do not match.
            UsageError: the content is larger than `MAX_INLINE` bytes: use `find` and `read_stream`; or as `find`.
        """
        name = uid.encode("utf-8", "surrogatepass")
        try:
            key = self._key_of(name)
            number = bisect_right(self._first_keys, key) - 1
            while number >= 0:
                page = self._pages[number]
                row = page.last(key, name)
                if row >= 0:
                    return self._read(page.content(row))
                number = number - 1 if self.directory.is_joined(number, key) else -1
        except VeraError as error:
            raise named(error, {**self.source.where, "uid": uid}) from error
        return None

    def read(self, entry: Entry) -> bytes:
        """The content of an entry of at most `MAX_INLINE` bytes, with one request for exactly its stored bytes.

        Raises:
            FormatError: CRC32, encoding, size or SHA-256 do not match.
            UsageError: the content is larger: use `read_stream`.
        """
        try:
            return self._read(_content_of(entry))
        except VeraError as error:
            raise named(error, {**self.source.where, "uid": entry.uid, "entry": entry.ordinal}) from error

    def read_stream(self, entry: Entry) -> Iterator[bytes]:
        """The content of an entry of any size in pieces of up to 1 MiB, in constant memory.

        The last piece is given out only after CRC32, size and SHA-256 of the whole have matched, so a consumer that
        keeps nothing unless the stream ends without error never keeps wrong bytes.

        Raises:
            FormatError: as `read`, before the last piece.
        """
        with Naming({**self.source.where, "uid": entry.uid, "entry": entry.ordinal}):
            crc, hasher = 0, sha256()
            provable = not self.encrypted

            def stored() -> Iterator[bytes]:
                nonlocal crc
                for start in range(0, entry.stored_size, CHUNK):
                    piece = self.fetch(entry.offset + start, min(CHUNK, entry.stored_size - start))
                    crc = crc32(piece, crc)
                    yield piece

            held = b""
            whole = Whole(entry.codec, entry.size, entry.parameter)
            dictionaries = self._dictionaries_for(Coding(entry.codec, entry.parameter))
            for piece in decode_stream(whole, stored(), dictionaries):
                if held:
                    yield held
                hasher.update(piece)
                held = piece
            if crc != entry.crc32 or (provable and hasher.digest() != entry.sha256):
                raise FormatError("the content does not match its checksums", todo=RESTORE)
            if held:
                yield held

    def read_many(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, bytes]]:
        """The contents of many entries, in the order of their places; neighbours come in one request.

        Holds the list of entries, and of contents some 50 MiB.

        Raises:
            FormatError, UsageError: as `read`.
        """
        wanted = sorted(entries, key=attrgetter("offset", "stored_size"))
        with Naming(self.source.where):
            for entry in wanted:
                if entry.size > MAX_INLINE or entry.stored_size > MAX_INLINE:
                    raise named(_too_large(entry.size), {"uid": entry.uid, "entry": entry.ordinal})
            stored = self.fetch_many([(entry.offset, entry.stored_size) for entry in wanted])
            yield from self._decoded(zip(wanted, stored, strict=True))

    def entries(self) -> Iterator[Entry]:
        """All entries by ordinal, which is the order of their keys. Reads all blocks, some at a time.

        Raises:
            FormatError: a group is damaged.
        """
        with Naming(self.source.where):
            # Not a loop: its variable would hold a group, and what was read of it, while the next one is read.
            yield from chain.from_iterable(map(Group.entries, self.groups()))

    def groups(self) -> Iterator[Group]:
        """All groups in order, without their contents.

        Raises:
            FormatError: one is damaged, or contradicts the directory.
        """
        places = list(zip(self.directory.blocks.tolist(), self.directory.sizes.tolist(), strict=True))
        for number, data in enumerate(self.fetch_many(places)):
            yield self.parse_group(number, data)

    def read_all(self) -> Iterator[tuple[Entry, bytes]]:
        """All entries with their contents by ordinal; decoding gives up the interpreter lock.

        Raises:
            FormatError: as `entries` and `read`.
            UsageError: the shard is streamed.
        """
        if self.streamed:
            raise UsageError("the shard holds one streamed file", todo="Read it as a stream.", **self.source.where)
        with Naming(self.source.where):
            yield from self._decoded(self._all_stored())

    def verify(self, unseal: Unseal | None = None) -> Verified:
        """Checks every byte of the shard in one sequential pass; see `verify.verify`.

        Raises:
            IntegrityError: what is wrong first, with the entry where one is concerned.
        """
        with Naming(self.source.where):
            return verify(self, unseal)

    def decode_batch(self, batch: Sequence[tuple[Entry, bytes]]) -> list[tuple[Entry, bytes]]:
        """Decodes and checks entries with their stored bytes; the sum of sizes is the caller's to bound.

        Raises:
            FormatError: naming the entry that does not verify.
        """
        items = [Stored(entry.codec, stored, entry.size, entry.parameter) for entry, stored in batch]
        try:
            contents = decode_many(items, self.dictionaries())
        except FormatError:
            contents = []
        right = [
            (entry, content)
            for (entry, stored), content in zip(batch, contents, strict=False)
            if crc32(stored) == entry.crc32 and (not self._digests or digest(content) == entry.sha256)
        ]
        return right if len(right) == len(batch) else [self._one(entry, stored) for entry, stored in batch]

    def _page(self, number: int) -> Page:
        return Page(self.parse_group(number, self.fetch(self.directory.blocks[number], self.directory.sizes[number])))

    def _one(self, entry: Entry, stored: bytes) -> tuple[Entry, bytes]:
        with Naming({"uid": entry.uid, "entry": entry.ordinal}):
            return entry, self._read(_content_of(entry), stored)

    def _read(self, content: Content, stored: bytes | None = None) -> bytes:
        """A content from its place, or from its stored bytes where these are at hand.

        Raises:
            FormatError, UsageError: as `read`.
        """
        offset, stored_size, size, crc, proof, coding = content
        if size > MAX_INLINE or stored_size > MAX_INLINE:
            raise _too_large(size)
        if stored is None:
            if 0 < offset < self._tail_start:  # as `fetch` does, in fewer steps
                stored = self.source.read_at(offset, stored_size)
            else:
                stored = self.fetch(offset, stored_size)
        if crc32(stored) != crc or len(stored) != stored_size:
            exactly(stored, offset, stored_size)
            raise FormatError("the stored bytes do not match their CRC32", todo=RESTORE)
        dictionaries = self._dictionaries
        if dictionaries is None:
            dictionaries = self._dictionaries_for(coding)
        decoded = decode_as(coding, stored, size, dictionaries)
        if self._digests and sha256(decoded).digest() != proof:
            raise FormatError("the content does not match its SHA-256", todo=RESTORE)
        return decoded

    def _dictionaries_for(self, coding: Coding) -> Dictionaries:
        codec, parameter = coding
        return self.dictionaries() if parameter and codec.takes_dictionary else NO_DICTIONARIES

    def _decoded(self, coming: Iterable[tuple[Entry, bytes]]) -> Iterator[tuple[Entry, bytes]]:
        """Decodes in batches."""
        batch: list[tuple[Entry, bytes]] = []
        size = 0
        for entry, stored in coming:
            weight = entry.size + (_ENTRY_WITH_METADATA if entry.metadata else _ENTRY)
            if batch and size + weight > _BATCH_BYTES:
                yield from self.decode_batch(batch)
                batch, size = [], 0
            batch.append((entry, stored))
            size += weight
        yield from self.decode_batch(batch)

    def _all_stored(self) -> Iterator[tuple[Entry, bytes]]:
        """All entries by ordinal with their stored bytes; groups are read several at a time."""
        directory = self.directory
        data, start = b"", 0
        for number, (begin, end) in enumerate(zip(directory.blocks, directory.ends, strict=True)):
            if end > start + len(data):
                data, start = self._run(number), begin
            yield from self._group_stored(number, data, start)

    def _group_stored(self, number: int, data: bytes, start: int) -> Iterator[tuple[Entry, bytes]]:
        """The entries of a group with their stored bytes, from `data`, which begins at `start`."""
        begin = self.directory.blocks[number]
        block_end = begin + self.directory.sizes[number]
        entries = self.parse_group(number, data[begin - start : block_end - start]).entries()
        shared = self._shared(entry for entry in entries if 0 < entry.offset < begin)
        for entry in entries:
            place = entry.offset, entry.stored_size
            at = entry.offset - start
            if entry.offset >= block_end:
                yield entry, data[at : at + entry.stored_size]
            else:
                yield entry, shared.get(place) or self.fetch(*place)

    def _shared(self, entries: Iterable[Entry]) -> dict[tuple[int, int], bytes]:
        """The stored bytes of contents that came with earlier groups, by place; none if they take too much memory."""
        places = sorted({(entry.offset, entry.stored_size) for entry in entries})
        if sum(size for _, size in places) > _RUN_BYTES:
            return {}
        return dict(zip(places, self.fetch_many(places), strict=True))

    def _run(self, number: int) -> bytes:
        """The bytes of group `number` and those that follow, as long as they take no more than a request should."""
        ends = self.directory.ends
        begin = self.directory.blocks[number]
        last = max(number, bisect_right(ends, begin + _RUN_BYTES) - 1)
        return self.fetch(begin, ends[last] - begin)


def _content_of(entry: Entry) -> Content:
    coding = Coding(entry.codec, entry.parameter)
    return entry.offset, entry.stored_size, entry.size, entry.crc32, entry.sha256, coding


def needs_keys() -> IncompatibleError:
    """What is said where an encrypted shard can't be read without its keys."""
    return IncompatibleError(
        "the shard is encrypted, and can't be read here without its keys", todo="Read it through its repository."
    )


def _too_large(size: int) -> UsageError:
    return UsageError(f"a content of {size} bytes is too large for memory", todo="Read it as a stream.")
