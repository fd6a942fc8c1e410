"""Reads one shard from any range-readable source: looks up uids, lists entries, returns verified contents.

Every length, count and sum is checked before it is used, every allocation is capped, and nothing is returned that does
not verify: whatever the bytes, only FormatError and IncompatibleError leave it, besides the source's own errors.
Threads may share a reader. What a shard's place in a repository means is not known here.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING

from vera_core.codec import (
    MAX_INLINE,
    NO_DICTIONARIES,
    Dictionaries,
    Stored,
    crc32,
    decode,
    decode_many,
    digest,
    unpack_block,
)
from vera_core.errors import FormatError, UsageError
from vera_core.format import layout
from vera_core.format.directory import parse_directory
from vera_core.format.groups import Group, key_of
from vera_core.format.layout import RESTORE, SUFFIX, Footer, Header, Section, parse_sections
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, Whole, decode_stream
from vera_core.format.verify import Verified, verify
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vera_core.format.source import RangeSource
    from vera_core.model import Entry

_BATCH_BYTES = 8 << 20
_AHEAD = 64
_AHEAD_BYTES = 4 << 20
"""Groups whose blocks are asked for at once when all entries are listed, and the bytes of these beyond the first."""


class ShardReader:
    """An open shard. Make it with `ShardReader.open`.

    `footer` and `directory` are what opening read; `cache_bytes` bounds the decoded groups it keeps.
    """

    def __init__(self, source: RangeSource, tail: tuple[bytes, int], cache_bytes: int) -> None:
        self.source = source
        self._tail, total = tail
        if len(self._tail) != min(total, SUFFIX) or total < layout.HEADER_SIZE + layout.FOOTER_SIZE:
            raise FormatError(
                f"an object of {total} bytes is too short for a shard, or was not read whole", todo=RESTORE
            )
        self._tail_start = total - len(self._tail)
        self.footer = Footer.parse(self._tail[-layout.FOOTER_SIZE :], total)
        self.sections = parse_sections(
            self.fetch(self.footer.table_offset, self.footer.sections * layout.SECTION_SIZE), self.footer
        )
        [directory] = [section for section in self.sections if section.tag == layout.DIRECTORY]
        self.directory = parse_directory(self.section_bytes(directory), self.footer)
        self._cache_bytes = cache_bytes
        self._cached = 0
        self._groups: OrderedDict[int, Group] = OrderedDict()
        self._dictionaries: Dictionaries | None = None
        self._lock = threading.Lock()
        if self._tail_start == 0:
            self.header()

    @classmethod
    def open(cls, source: RangeSource, *, cache_bytes: int = 24 << 20) -> ShardReader:
        """Opens a shard with one suffix request of `SUFFIX` bytes (and one more for a directory that reaches further).

        Raises:
            FormatError: no shard, or damaged where it was looked at.
            IncompatibleError: a version or feature that this reader refuses, by name.
        """
        with Naming(source.where):
            return cls(source, source.read_suffix(SUFFIX), cache_bytes)

    @property
    def entry_count(self) -> int:
        """Entries in the shard."""
        return self.footer.entries

    @property
    def streamed(self) -> bool:
        """Whether it holds one file that was streamed: `read_all` refuses it, `read_stream` reads it."""
        return bool(self.footer.incompat & layout.STREAMED)

    @property
    def cached_bytes(self) -> int:
        """Memory the kept groups take, about."""
        return self._cached

    def header(self) -> Header:
        """Reads the header (a request, except for small shards) and checks it against the footer.

        Raises:
            FormatError: damaged, or of another shard than the footer.
        """
        with Naming(self.source.where):
            data = self.fetch(0, layout.HEADER_SIZE)
            header = Header.parse(data)
            footer = self.footer
            same = (footer.incompat, footer.compat, footer.repository_id) == (
                header.incompat, header.compat, header.repository_id
            )  # fmt: skip
            if not same or int.from_bytes(data[-4:], "little") != footer.header_crc:
                raise FormatError("header and footer are of different shards", todo=RESTORE)
            return header

    def dictionaries(self) -> Dictionaries:
        """The shard's dictionaries, read when first asked for: with no request where the suffix holds them.

        Raises:
            FormatError: damaged.
        """
        with self._lock:
            if self._dictionaries is None:
                self._dictionaries = self._read_dictionaries()
            return self._dictionaries

    def find(self, uid: str) -> list[Entry]:
        """All entries of a uid, by ordinal; empty if there is none. Reads one group's block, or none if it is cached.

        Raises:
            FormatError: the group is damaged.
        """
        name = uid.encode("utf-8", "surrogatepass")
        key = key_of(name)
        with Naming(self.source.where):
            groups = (self._group(number) for number in self.directory.groups_of(key))
            return [group.entry(row, key) for group in groups for row in group.find(key, name)]

    def read(self, entry: Entry) -> bytes:
        """The content of an entry of at most `MAX_INLINE` bytes, with one request for exactly its stored bytes.

        Raises:
            FormatError: CRC32, encoding, size or SHA-256 do not match.
            UsageError: the content is larger: use `read_stream`.
        """
        if entry.size > MAX_INLINE or entry.stored_size > MAX_INLINE:
            raise UsageError(
                f"a content of {entry.size} bytes is too large for memory", todo="Read it as a stream.", uid=entry.uid
            )
        with Naming({**self.source.where, "uid": entry.uid, "entry": entry.ordinal}):
            stored = self.fetch(entry.offset, entry.stored_size)
            return _checked(entry, stored, None, self._dictionaries_for(entry))

    def read_stream(self, entry: Entry) -> Iterator[bytes]:
        """The content of an entry of any size in pieces of up to 1 MiB, in constant memory.

        The last piece is given out only after CRC32, size and SHA-256 of the whole have matched, so a consumer that
        keeps nothing unless the stream ends without error never keeps wrong bytes.

        Raises:
            FormatError: as `read`, before the last piece.
        """
        with Naming({**self.source.where, "uid": entry.uid, "entry": entry.ordinal}):
            crc, hasher = 0, hashlib.sha256()

            def stored() -> Iterator[bytes]:
                nonlocal crc
                for start in range(0, entry.stored_size, CHUNK):
                    piece = self.fetch(entry.offset + start, min(CHUNK, entry.stored_size - start))
                    crc = crc32(piece, crc)
                    yield piece

            held = b""
            whole = Whole(entry.codec, entry.size, entry.parameter)
            for piece in decode_stream(whole, stored(), self._dictionaries_for(entry)):
                if held:
                    yield held
                hasher.update(piece)
                held = piece
            if crc != entry.crc32 or hasher.digest() != entry.sha256:
                raise FormatError("the content does not match its checksums", todo=RESTORE)
            if held:
                yield held

    def entries(self) -> Iterator[Entry]:
        """All entries by ordinal, which is the order of their keys. Reads all blocks, some at a time.

        Raises:
            FormatError: a group is damaged.
        """
        with Naming(self.source.where):
            for group in self.groups():
                yield from group.entries()

    def read_all(self) -> Iterator[tuple[Entry, bytes]]:
        """All entries with their contents by ordinal, group by group; decoding gives up the interpreter lock.

        Raises:
            FormatError: as `entries` and `read`.
            UsageError: the shard is streamed.
        """
        if self.streamed:
            raise UsageError("the shard holds one streamed file", todo="Read it as a stream.", **self.source.where)
        with Naming(self.source.where):
            for number in range(len(self.directory)):
                begin, end = self.directory.blocks[number], self.directory.ends[number]
                cut = self.directory.sizes[number]
                group = self.parse_group(number, self.fetch(begin, cut))
                contents_at = begin + cut
                contents = memoryview(self.fetch(contents_at, end - contents_at))
                batch: list[tuple[Entry, bytes]] = []
                size = 0
                for entry in group.entries():
                    at = entry.offset - contents_at
                    stored = (
                        bytes(contents[at : at + entry.stored_size])
                        if at >= 0
                        else self.fetch(entry.offset, entry.stored_size)
                    )
                    if batch and size + entry.size > _BATCH_BYTES:
                        yield from self.decode_batch(batch)
                        batch, size = [], 0
                    batch.append((entry, stored))
                    size += entry.size
                yield from self.decode_batch(batch)

    def verify(self) -> Verified:
        """Checks every byte of the shard in one sequential pass; see `verify.verify`.

        Raises:
            FormatError: what is wrong first, with the entry where one is concerned.
        """
        with Naming(self.source.where):
            return verify(self)

    def decode_batch(self, batch: Sequence[tuple[Entry, bytes]]) -> list[tuple[Entry, bytes]]:
        """Decodes and checks entries with their stored bytes; the sum of sizes is the caller's to bound.

        Raises:
            FormatError: naming the entry that does not verify.
        """
        contents: Sequence[bytes | None]
        try:
            contents = decode_many([_stored(entry, stored) for entry, stored in batch], self.dictionaries())
        except FormatError:  # one by one, to name the one
            contents = [None] * len(batch)
        checked = []
        for (entry, stored), content in zip(batch, contents, strict=True):
            with Naming({"uid": entry.uid, "entry": entry.ordinal}):
                checked.append((entry, _checked(entry, stored, content, self.dictionaries())))
        return checked

    def groups(self) -> Iterator[Group]:
        """All groups in order, without their contents.

        Raises:
            FormatError: one is damaged, or contradicts the directory.
        """
        blocks, sizes = self.directory.blocks, self.directory.sizes
        begin = 0
        while begin < len(blocks):
            ahead = accumulate(sizes[begin + 1 : begin + _AHEAD])
            end = begin + 1 + sum(size <= _AHEAD_BYTES for size in ahead)
            places = list(zip(blocks[begin:end].tolist(), sizes[begin:end].tolist(), strict=True))
            for number, data in enumerate(self.fetch_many(places), begin):
                yield self.parse_group(number, data)
            begin = end

    def parse_group(self, number: int, data: bytes) -> Group:
        """Parses the block of a group after checking it against the directory.

        Raises:
            FormatError: damaged, or of another group.
        """
        directory = self.directory
        group = Group.parse(data, directory.blocks[number])
        head = group.head
        stated = (head.first, head.count, head.first_key, head.content_size, bool(head.flags))
        end, begin = directory.ends[number], directory.blocks[number]
        content_size = begin - self.footer.data_start if self.streamed else end - begin - directory.sizes[number]
        first, after = directory.firsts[number], directory.firsts[number + 1]
        if stated != (first, after - first, directory.first_keys[number], content_size, self.streamed):
            raise FormatError("a group contradicts the directory", todo=RESTORE, group=head.position)
        return group

    def fetch(self, offset: int, length: int) -> bytes:
        """Exactly those bytes, from the suffix that opening read where it has them.

        Raises:
            FormatError: the source gives other than `length` bytes.
        """
        if length == 0:
            return b""
        start = offset - self._tail_start
        data = self._tail[start : start + length] if start >= 0 else self.source.read_at(offset, length)
        if len(data) != length:
            raise FormatError(f"{length} bytes at {offset} were asked for and {len(data)} came", todo=RESTORE)
        return data

    def fetch_many(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of several (offset, length), in order.

        Raises:
            FormatError: as `fetch`.
        """
        return [self.fetch(offset, length) for offset, length in places]

    def _read_dictionaries(self) -> Dictionaries:
        found = [section for section in self.sections if section.tag == layout.DICTIONARY]
        return Dictionaries(map(self.section_bytes, found)) if found else NO_DICTIONARIES

    def section_bytes(self, section: Section) -> bytes:
        """A directory or dictionary, uncompressed (`parse_sections` bounds only theirs).

        Raises:
            FormatError: damaged.
        """
        stored = self.fetch(section.offset, section.size)
        if crc32(stored) != section.crc:
            name = layout.tag_text(section.tag)
            raise FormatError("the checksum of a section does not match", todo=RESTORE, section=name)
        return unpack_block(stored, section.raw_size)

    def _dictionaries_for(self, entry: Entry) -> Dictionaries:
        return self.dictionaries() if entry.codec is Codec.ZSTD and entry.parameter else NO_DICTIONARIES

    def _group(self, number: int) -> Group:
        with self._lock:
            group = self._groups.get(number)
            if group is not None:
                self._groups.move_to_end(number)
                return group
        group = self.parse_group(number, self.fetch(self.directory.blocks[number], self.directory.sizes[number]))
        with self._lock:
            if number not in self._groups:
                self._cached += group.memory
            self._groups[number] = group
            while self._cached > self._cache_bytes and len(self._groups) > 1:
                self._cached -= self._groups.popitem(last=False)[1].memory
        return group


def _stored(entry: Entry, stored: bytes) -> Stored:
    return Stored(entry.codec, stored, entry.size, entry.parameter)


def _checked(entry: Entry, stored: bytes, content: bytes | None, dictionaries: Dictionaries) -> bytes:
    """The content of an entry from its stored bytes (decoded here, if `content` is None), checked against all proofs.

    Raises:
        FormatError: CRC32, encoding, size or SHA-256 do not match.
    """
    if crc32(stored) != entry.crc32:
        raise FormatError("the stored bytes do not match their CRC32", todo=RESTORE)
    if content is None:
        content = decode(_stored(entry, stored), dictionaries)
    if digest(content) != entry.sha256:
        raise FormatError("the content does not match its SHA-256", todo=RESTORE)
    return content
