"""Reads one shard from any range-readable source: looks up uids, lists entries, returns verified contents.

Every length, count and sum is checked before it is used, every allocation is capped, and nothing is returned that does
not verify: whatever the bytes, only FormatError and IncompatibleError leave it, besides the source's own errors.
Threads may share a reader. What a shard's place in a repository means is not known here.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from vera_core.codec import MAX_INLINE, Stored, crc32, decode, decode_many, digest, unpack_block
from vera_core.errors import FormatError, UsageError
from vera_core.format import layout
from vera_core.format.index import Page, check_page, key_of, parse_directory
from vera_core.format.layout import RESTORE, SUFFIX, Footer, Header, Section, parse_sections
from vera_core.format.listing import Listing
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, decode_stream
from vera_core.format.verify import Verified, verify

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vera_core.format.source import RangeSource
    from vera_core.model import Entry

_WINDOW = 4 << 20
_BATCH_BYTES = 8 << 20


class ShardReader:
    """An open shard. Make it with `ShardReader.open`.

    `footer` and `directory` are what opening read; `cache_bytes` bounds the decoded index pages it keeps.
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
        self.directory = parse_directory(self.section(layout.DIRECTORY), self.footer)
        self._cache_bytes = cache_bytes
        self._cached = 0
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._lock = threading.Lock()
        if self._tail_start == 0:
            self.header()

    @classmethod
    def open(cls, source: RangeSource, *, cache_bytes: int = 32 << 20) -> ShardReader:
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
        """Memory the kept index pages take, about."""
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

    def find(self, uid: str) -> list[Entry]:
        """All entries of a uid, by ordinal; empty if there is none. Reads one index page, or none if it is cached.

        Raises:
            FormatError: the page is damaged.
        """
        name = uid.encode("utf-8", "surrogatepass")
        key = key_of(name)
        with Naming(self.source.where):
            pages = (self._page(number) for number in self.directory.pages_of(key))
            return [page.entry(row, key) for page in pages for row in page.find(key, name)]

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
            return check_content(entry, stored, None)

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
            for piece in decode_stream(entry.codec, stored(), entry.size, entry.parameter):
                if held:
                    yield held
                hasher.update(piece)
                held = piece
            if crc != entry.crc32 or hasher.digest() != entry.sha256:
                raise FormatError("the content does not match its checksums", todo=RESTORE)
            if held:
                yield held

    def entries(self) -> Iterator[Entry]:
        """All entries by ordinal. Reads the whole index in a few requests and holds it while it runs.

        Raises:
            FormatError: the index is damaged.
        """
        with Naming(self.source.where):
            listing = self.listing()
            for begin, end in listing.batches():
                yield from listing.entries(begin, end)

    def read_all(self) -> Iterator[tuple[Entry, bytes]]:
        """All entries with their contents by ordinal, in few large requests; decoding gives up the interpreter lock.

        Raises:
            FormatError: as `entries` and `read`.
            UsageError: the shard is streamed.
        """
        if self.streamed:
            raise UsageError("the shard holds one streamed file", todo="Read it as a stream.", **self.source.where)
        with Naming(self.source.where):
            listing = self.listing()
            window = _Window(self)
            for begin, end in listing.batches():
                batch: list[tuple[Entry, bytes]] = []
                size = 0
                for entry in listing.entries(begin, end):
                    batch.append((entry, window.take(entry.offset, entry.stored_size)))
                    size += entry.size
                    if size >= _BATCH_BYTES:
                        yield from self.decode_batch(batch)
                        batch, size = [], 0
                yield from self.decode_batch(batch)

    def verify(self) -> Verified:
        """Checks every byte of the shard in one sequential pass (and a second one over the index); see `verify.verify`.

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
            contents = decode_many(
                [Stored(entry.codec, stored, entry.size, entry.parameter) for entry, stored in batch]
            )
        except FormatError:  # one by one, to name the one
            contents = [None] * len(batch)
        checked = []
        for (entry, stored), content in zip(batch, contents, strict=True):
            with Naming({"uid": entry.uid, "entry": entry.ordinal}):
                checked.append((entry, check_content(entry, stored, content)))
        return checked

    def listing(self) -> Listing:
        """The whole index by ordinal."""
        window = _Window(self)
        places = self.directory.places
        pages = (
            self._parse(number, window.take(places[number], places[number + 1] - places[number]))
            for number in range(len(self.directory))
        )
        return Listing(pages, self.footer.entries, streamed=self.streamed)

    def section(self, tag: bytes) -> bytes:
        """The one section of a tag, uncompressed.

        Raises:
            FormatError: missing, twice, too large or damaged.
        """
        found = [section for section in self.sections if section.tag == tag]
        name = layout.tag_text(tag)
        if len(found) != 1 or found[0].raw_size > layout.MAX_BLOCK:
            raise FormatError(f"the shard has {len(found)} sections {name}, or one that is too large", todo=RESTORE)
        return self._section_bytes(found[0], name)

    def fetch(self, offset: int, length: int) -> bytes:
        """Exactly those bytes, from the suffix that opening read where it has them.

        Raises:
            FormatError: the source gives other than `length` bytes.
        """
        if length == 0:
            return b""
        start = offset - self._tail_start
        if start >= 0:
            data = self._tail[start : start + length]
        else:
            data = self.source.read_at(offset, length)
        if len(data) != length:
            raise FormatError(f"{length} bytes at {offset} were asked for and {len(data)} came", todo=RESTORE)
        return data

    def _section_bytes(self, section: Section, name: str) -> bytes:
        stored = self.fetch(section.offset, section.size)
        if crc32(stored) != section.crc:
            raise FormatError("the checksum of a section does not match", todo=RESTORE, section=name)
        return unpack_block(stored, section.raw_size)

    def _parse(self, number: int, data: bytes) -> Page:
        return check_page(self.directory, number, data, self.footer)

    def _page(self, number: int) -> Page:
        with self._lock:
            page = self._pages.get(number)
            if page is not None:
                self._pages.move_to_end(number)
                return page
        places = self.directory.places
        page = self._parse(number, self.fetch(places[number], places[number + 1] - places[number]))
        with self._lock:
            if number not in self._pages:
                self._cached += page.memory
            self._pages[number] = page
            while self._cached > self._cache_bytes and len(self._pages) > 1:
                self._cached -= self._pages.popitem(last=False)[1].memory
        return page


def check_content(entry: Entry, stored: bytes, content: bytes | None) -> bytes:
    """The content of an entry from its stored bytes (decoded here, if `content` is None), checked against all proofs.

    Raises:
        FormatError: CRC32, encoding, size or SHA-256 do not match.
    """
    if crc32(stored) != entry.crc32:
        raise FormatError("the stored bytes do not match their CRC32", todo=RESTORE)
    if content is None:
        content = decode(entry.codec, stored, entry.size, entry.parameter)
    if digest(content) != entry.sha256:
        raise FormatError("the content does not match its SHA-256", todo=RESTORE)
    return content


class _Window:
    """Serves ranges that mostly go forward from few large reads; others are fetched alone."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader
        self._start = 0
        self._data = b""

    def take(self, offset: int, length: int) -> bytes:
        """The bytes of a range."""
        at = offset - self._start
        if at >= 0 and at + length <= len(self._data):
            return self._data[at : at + length]
        if 0 < offset < self._start or not length:  # content shared with an entry before the window
            return self._reader.fetch(offset, length)
        end = (
            self._reader.footer.data_end if offset < self._reader.footer.data_end else self._reader.footer.table_offset
        )
        self._start = offset
        self._data = self._reader.fetch(offset, max(length, min(_WINDOW, end - offset)))
        return self._data[:length]
