"""An open shard: footer, sections, directory and dictionaries, checked, and its bytes by place.

Every length, count and sum is checked before it is used, and every allocation is capped: whatever the bytes, only
FormatError and IncompatibleError leave it, besides the source's own errors. Entries and contents are reader.py's.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

from vera_core.codec import NO_DICTIONARIES, Dictionaries, crc32, unpack_block
from vera_core.errors import FormatError
from vera_core.format import layout
from vera_core.format.directory import parse_directory
from vera_core.format.groups import Group, uids_of
from vera_core.format.layout import RESTORE, SUFFIX, Footer, Header, Section, parse_sections
from vera_core.format.source import Naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vera_core.format.source import RangeSource


class Shard:
    """What opening read of a shard, `tail` being its last bytes and its size. Threads may share it."""

    def __init__(self, source: RangeSource, tail: tuple[bytes, int]) -> None:
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
        self.uids = uids_of(self.footer.incompat)
        self._dictionaries: Dictionaries | None = None
        self._lock = threading.Lock()
        if self._tail_start == 0:
            self.header()

    @property
    def entry_count(self) -> int:
        """Entries in the shard."""
        return self.footer.entries

    @property
    def streamed(self) -> bool:
        """Whether it holds one file that was streamed: `read_all` refuses it, `read_stream` reads it."""
        return bool(self.footer.incompat & layout.STREAMED)

    @property
    def encrypted(self) -> bool:
        """Whether its uids are keyed and its contents are sealed files."""
        return self.uids.sealed

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
            if self.encrypted and footer.entries > 1 << header.encryption.depth:
                raise FormatError("the shard has more entries than its key tree has keys", todo=RESTORE)
            return header

    def dictionaries(self) -> Dictionaries:
        """The shard's dictionaries, read when first asked for: with no request where the suffix holds them.

        Raises:
            FormatError: damaged.
        """
        found = self._dictionaries
        if found is None:
            with self._lock:
                found = self._dictionaries
                if found is None:
                    found = self._dictionaries = self._read_dictionaries()
        return found

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

    def parse_group(self, number: int, data: bytes) -> Group:
        """Parses the block of a group after checking it against the directory.

        Raises:
            FormatError: damaged, or of another group.
        """
        directory = self.directory
        group = Group.parse(data, directory.blocks[number], self.uids)
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
        start = offset - self._tail_start
        data = self.source.read_at(offset, length) if start < 0 < length else self._tail[start : start + length]
        return data if len(data) == length else exactly(data, offset, length)

    def fetch_many(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes of several (offset, length), in the order of offsets; memory is bounded, however many there are.

        Raises:
            FormatError: as `fetch`.
        """
        ahead = bisect_left(places, (self._tail_start, 0))
        coming = self.source.read_ranges(places[:ahead])
        for offset, length in places[:ahead]:
            yield exactly(next(coming, b""), offset, length)
        for offset, length in places[ahead:]:
            yield self.fetch(offset, length)

    def _read_dictionaries(self) -> Dictionaries:
        found = [section for section in self.sections if section.tag == layout.DICTIONARY]
        return Dictionaries(map(self.section_bytes, found)) if found else NO_DICTIONARIES


def exactly(data: bytes, offset: int, length: int) -> bytes:
    """`data`, which is what a source gave for a range.

    Raises:
        FormatError: it is not of that length.
    """
    if len(data) != length:
        raise FormatError(f"{length} bytes at {offset} were asked for and {len(data)} came", todo=RESTORE)
    return data
