"""What is left of a damaged shard around its groups: header, footer, sections, dictionaries.

Only what proves itself by a checksum counts. The groups are salvage.py's business.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from vera_core.codec import MAX_DICTIONARIES, MAX_DICTIONARY, NO_DICTIONARIES, Dictionaries, crc32, unpack_block
from vera_core.errors import FormatError, UsageError
from vera_core.format import layout
from vera_core.format.directory import (
    DICTIONARY_HEAD,
    DICTIONARY_MAGIC,
    MAX_DICTIONARY_BLOCK,
    parse_dictionary,
    parse_directory,
)
from vera_core.format.groups import HEAD_SIZE, KEYED, PLAIN, Uids, parse_group_head, uids_of
from vera_core.model import Erasability

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vera_core.format.directory import Directory
    from vera_core.format.layout import Footer
    from vera_core.format.source import RangeSource

_TAIL = layout.MAX_SECTIONS * layout.SECTION_SIZE + layout.FOOTER_SIZE
"""Bytes at the end of a shard that hold the section table and the footer."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that can't be read: `length` bytes at `position`, and with them `count` entries from ordinal `first`.

    `count` is 0 where no entry is lost; `first` is None where nothing tells the ordinals. `uid` names a single entry.
    """

    what: str
    position: int
    length: int
    count: int = 0
    first: int | None = None
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Clues:
    """What is known of a shard from elsewhere, for the case that its header is lost; None where it is not known.

    `encryption` is that of an encrypted shard, as its keyring tells it.
    """

    repository_id: bytes | None = None
    retention_class: str | None = None
    erasability: Erasability | None = None
    encryption: layout.Encryption | None = None


class Extent:
    """The bytes of a damaged shard, of which some may be missing at the end; with what was mended in them."""

    def __init__(self, source: RangeSource) -> None:
        self.source = source
        self.tail, self.total = source.read_suffix(_TAIL)
        self._mended: dict[int, bytes] = {}
        self._places: list[int] = []

    def mend(self, offset: int, data: bytes) -> None:
        """Lets `fetch` give `data` at `offset` from now on; what is mended elsewhere is not touched by it."""
        if offset not in self._mended:
            insort(self._places, offset)
        self._mended[offset] = data

    def fetch(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, or as many as there are.

        Raises:
            FormatError: the source gives fewer than it has.
        """
        length = min(length, max(0, self.total - offset))
        data = self.source.read_at(offset, length) if length else b""
        if len(data) != length:
            raise FormatError(f"{length} bytes at {offset} were asked for and {len(data)} came")
        for at in self._places[
            max(0, bisect_right(self._places, offset) - 1) : bisect_left(self._places, offset + length)
        ]:
            better = self._mended[at]
            begin, end = max(at, offset), min(at + len(better), offset + length)
            if begin < end:
                data = data[: begin - offset] + better[begin - at : end - at] + data[end - offset :]
        return data


@dataclass(slots=True)
class Remains:
    """What proves itself by its checksum; the rest is None, and told in `damages`.

    `header` is the header's bytes, as they are or as they were restored. `loaded` decodes with `dictionaries`, and
    `numbers` gives the place in these, from 1 on, of each by its number in the shard. `kept` has the stored bytes of
    whole sections by their plain bytes, `sections_start` is the place of the first of them. Groups begin at
    `data_start`, or behind it where a dictionary before them is lost. `uids` are those of the shard.
    """

    header: bytes | None = None
    footer: Footer | None = None
    directory: Directory | None = None
    dictionaries: tuple[bytes, ...] = ()
    loaded: Dictionaries = NO_DICTIONARIES
    numbers: dict[int, int] = field(default_factory=dict)
    kept: dict[bytes, bytes] = field(default_factory=dict)
    sections_start: int | None = None
    data_start: int = layout.HEADER_SIZE
    damages: list[Damage] = field(default_factory=list)
    uids: Uids = PLAIN

    @property
    def incompat(self) -> int | None:
        """The shard's flags; None where neither header nor footer tells them."""
        if self.header is not None:
            return layout.Header.parse(self.header).incompat
        return None if self.footer is None else self.footer.incompat


def examine(extent: Extent, clues: Clues) -> Remains:
    """Reads everything but the groups.

    Raises:
        IncompatibleError: header or footer is whole and names a version or feature that this reader refuses.
    """
    remains = Remains()
    remains.footer = _read_footer(extent, remains)
    _read_header(extent, remains, clues)
    clued = remains.incompat is None and clues.encryption is not None
    remains.uids = KEYED if clued else uids_of(remains.incompat)
    sections = _find_sections(extent, remains)
    remains.directory = _read_directory(extent, remains, sections.get((layout.DIRECTORY, 0)))
    copies = {number: raw for (tag, number), raw in sections.items() if tag == layout.DICTIONARY}
    found = _walk_dictionaries(extent, remains, copies)
    _use_dictionaries(remains, {**copies, **found})
    return remains


def _read_footer(extent: Extent, remains: Remains) -> Footer | None:
    try:
        return layout.Footer.parse(extent.tail[-layout.FOOTER_SIZE :], extent.total)
    except FormatError as error:
        length = min(layout.FOOTER_SIZE, extent.total)
        remains.damages.append(Damage(error.what, extent.total - length, length))
        return None


def _read_header(extent: Extent, remains: Remains, clues: Clues) -> None:
    """The header, restored where the checksum that it or the footer keeps proves what comes out."""
    data = extent.fetch(0, layout.HEADER_SIZE)
    footer = remains.footer
    try:
        header = layout.Header.parse(data)
    except FormatError as error:
        remains.header = _restored_header(data, footer, clues)
        what = error.what if remains.header is None else f"{error.what}; it is restored"
        remains.damages.append(Damage(what, 0, len(data)))
        return
    remains.header = data
    if footer is None:
        return
    stated = (footer.incompat, footer.repository_id, footer.header_crc)
    if stated != (header.incompat, header.repository_id, int.from_bytes(data[-4:], "little")):
        what = "header and footer are of different shards; the header is believed"
        remains.damages.append(Damage(what, extent.total - layout.FOOTER_SIZE, layout.FOOTER_SIZE))
        remains.footer = None


def _restored_header(data: bytes, footer: Footer | None, clues: Clues) -> bytes | None:
    """The header with the right checksum, of those that can be made of what is left and what is known."""
    checksums = {data[-4:]} if len(data) == layout.HEADER_SIZE else set()
    ids = {data[32:48], clues.repository_id}
    names = {data[52:116].rstrip(b"\0").decode("ascii", "replace"), clues.retention_class}
    flags = {seal | sort for seal in (0, layout.SEALED) for sort in (0, layout.STREAMED, layout.DICTIONARIES)}
    if footer is not None:
        checksums = {footer.header_crc.to_bytes(4, "little")}
        ids, flags = {footer.repository_id}, {footer.incompat}
    for repository_id, name, erasability, incompat in product(ids, names, Erasability, flags):
        if repository_id is None or name is None or len(repository_id) != 16:
            continue
        encryption = clues.encryption if incompat & layout.SEALED else layout.Encryption()
        if encryption is None:
            continue
        try:
            packed = layout.Header(repository_id, name, erasability, incompat, encryption=encryption).pack()
        except UsageError:
            continue
        if packed[-4:] in checksums:
            return packed
    return None


def _find_sections(extent: Extent, remains: Remains) -> dict[tuple[bytes, int], bytes]:
    """The plain bytes of every section that is whole, by tag and number.

    A row of the section table is proved by the section that it names, so neither table nor footer need be whole.
    """
    footer = remains.footer
    table = extent.tail if footer is None else extent.fetch(footer.table_offset, footer.sections * layout.SECTION_SIZE)
    if footer is not None and crc32(table) != footer.table_crc:
        remains.damages.append(Damage("the section table is damaged", footer.table_offset, len(table)))
    found: dict[tuple[bytes, int], bytes] = {}
    for row in _rows(table):
        try:
            stored = extent.fetch(row.offset, row.size)
            if len(stored) != row.size or crc32(stored) != row.crc:
                raise FormatError(f"the section {layout.tag_text(row.tag)} is damaged")
            raw = unpack_block(stored, row.raw_size)
        except FormatError as error:
            if footer is not None:  # without one, whatever looks like a row was tried
                remains.damages.append(Damage(error.what, row.offset, row.size))
            continue
        key = row.tag, 0 if row.tag == layout.DIRECTORY else row.number
        remains.kept.pop(found.get(key, b""), None)  # of several, the last counts: the table is at the end
        found[key] = raw
        remains.kept[raw] = stored
        remains.sections_start = min(row.offset, remains.sections_start or row.offset)
    return found


def _rows(table: bytes) -> Iterator[layout.Section]:
    """What may be rows of the section table, with sizes that are possible."""
    for tag, limit in ((layout.DIRECTORY, layout.MAX_BLOCK), (layout.DICTIONARY, MAX_DICTIONARY)):
        at = table.find(tag)
        while 0 <= at <= len(table) - layout.SECTION_SIZE:
            row = layout.Section.parse(table[at : at + layout.SECTION_SIZE])
            numbered = tag == layout.DIRECTORY or 1 <= row.number <= MAX_DICTIONARIES
            if numbered and row.size <= row.raw_size <= limit and row.offset >= layout.HEADER_SIZE:
                yield row
            at = table.find(tag, at + 1)


def _read_directory(extent: Extent, remains: Remains, raw: bytes | None) -> Directory | None:
    """The directory, which is believed only together with the footer."""
    footer = remains.footer
    if raw is None or footer is None:
        place = extent.total if remains.sections_start is None else remains.sections_start
        remains.damages.append(Damage("the directory can't be used", place, 0))
        return None
    try:
        return parse_directory(raw, footer)
    except FormatError as error:
        remains.damages.append(Damage(error.what, footer.data_end, 0))
        return None


def _walk_dictionaries(extent: Extent, remains: Remains, copies: Mapping[int, bytes]) -> dict[int, bytes]:
    """The dictionaries that stand at the beginning of DATA, by number; where one is damaged, its copy."""
    end = extent.total if remains.footer is None else remains.footer.data_start
    incompat = remains.incompat
    found: dict[int, bytes] = {}
    position, number = layout.HEADER_SIZE, 1
    while incompat is None or incompat & layout.DICTIONARIES:
        if position >= end or _is_group(extent, position):
            break
        dictionary = _parse(extent, position, number)
        if dictionary is None and number in copies:
            dictionary = copies[number]
            what = f"dictionary {number} is damaged; it is restored from its copy"
            remains.damages.append(Damage(what, position, DICTIONARY_HEAD + len(dictionary)))
        if dictionary is not None:
            copy = copies.get(number)
            found[number] = copy if copy == dictionary else dictionary  # once in memory
            position, number = position + DICTIONARY_HEAD + len(dictionary), number + 1
            continue
        there = _next_dictionary(extent, position, end)
        if there is None:
            break
        remains.damages.append(Damage(f"dictionary {number} is lost", position, there[0] - position))
        position, number = there
    remains.data_start = position if remains.footer is None else end
    return found


def _use_dictionaries(remains: Remains, found: Mapping[int, bytes]) -> None:
    """Numbers the dictionaries that libzstd takes."""
    for number, dictionary in sorted(found.items()):
        try:
            Dictionaries((dictionary,))
        except FormatError as error:
            remains.damages.append(Damage(f"dictionary {number}: {error.what}", layout.HEADER_SIZE, 0))
            continue
        remains.dictionaries += (dictionary,)
        remains.numbers[number] = len(remains.dictionaries)
    remains.loaded = Dictionaries(remains.dictionaries)


def _parse(extent: Extent, position: int, number: int) -> bytes | None:
    """The dictionary at `position`; None if it is damaged, or something else is there."""
    try:
        found = parse_dictionary(extent.fetch(position, MAX_DICTIONARY_BLOCK), number, position)
    except FormatError:
        return None
    return None if found is None else found[0]


def _next_dictionary(extent: Extent, position: int, end: int) -> tuple[int, int] | None:
    """Position and number of the next whole dictionary behind `position`."""
    window = extent.fetch(position, min(end - position, MAX_DICTIONARIES * MAX_DICTIONARY_BLOCK))
    at = window.find(DICTIONARY_MAGIC, 1)
    while at >= 0:
        number = int.from_bytes(window[at + 16 : at + 20], "little")
        if _parse(extent, position + at, number) is not None:
            return position + at, number
        at = window.find(DICTIONARY_MAGIC, at + 1)
    return None


def _is_group(extent: Extent, position: int) -> bool:
    try:
        parse_group_head(extent.fetch(position, HEAD_SIZE), position)
    except FormatError:
        return False
    return True
