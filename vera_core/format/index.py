"""The index: pages sorted by (key, uid, ordinal), and the directory that finds the page of a key.

A page is read alone: hints to search (16 bits of each key), the columns of `columns.Body`, and apart from them, never
compressed, the proofs (SHA-256 and CRC32 of each entry). docs/format-v1.md, "INDEX". Pure.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vera_core.codec import MAX_INLINE, crc32, digest, pack_block, unpack_block
from vera_core.errors import FormatError
from vera_core.format.columns import (
    COMMON,
    TIME_BIAS,
    Body,
    encode_body,
    encode_table,
    parse_attributes,
    parse_table,
)
from vera_core.format.layout import (
    HEADER_SIZE,
    MAX_BLOCK,
    MAX_PAGE_ENTRIES,
    MAX_PAGES,
    MAX_SIZE,
    MAX_TIME,
    MIN_TIME,
    RESTORE,
    STREAMED,
)
from vera_core.model import MAX_UID_BYTES, Codec, Entry, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vera_core.format.layout import Footer

COLUMNS = (*COMMON, "ordinal", "offset")
CODECS = tuple(Codec)
PROOF = 36
"""Bytes an entry's SHA-256 and CRC32 take."""

_MAGIC = b"VPAG"
_PAGE = struct.Struct("<4sIQIIB7x")


def key_of(uid: bytes) -> int:
    """The key a uid is sorted by: the first 8 bytes of its SHA-256 as a big-endian number."""
    return int.from_bytes(digest(uid)[:8], "big")


def page_entries(entries: int) -> int:
    """How many entries a writer puts into a page: 256, or a power of two that makes at most 1,024 pages.

    So directory and footer, and a dictionary, fit into the suffix; the page that a lookup reads stays near 20 KB up to
    262,144 entries and below 80 KB up to a million.
    """
    return max(256, 1 << max(0, -(-entries // 1024) - 1).bit_length())


def encode_page(
    keys: NDArray[np.uint64],
    columns: Sequence[NDArray[np.uint64]],
    attributes: Sequence[bytes],
    uids: bytes,
    proofs: bytes,
) -> bytes:
    """One page; rows are sorted, `proofs` is all digests, then all CRC32s."""
    first = int(keys[0])
    shift = max(0, (int(keys[-1]) - first).bit_length() - 16)
    hints = ((keys - np.uint64(first)) >> np.uint64(shift)).astype("<u2").tobytes()
    core = hints + encode_body(columns, attributes, uids)
    stored = pack_block(core)
    return b"".join((_PAGE.pack(_MAGIC, len(keys), first, len(core), len(stored), shift), stored, proofs))


class Page:
    """A parsed page. Rows are made to entries one at a time, on demand.

    Raises:
        FormatError: damaged, or in contradiction to itself.
    """

    __slots__ = ("_hints", "_proofs", "_shift", "body", "count", "first_key", "memory")

    def __init__(self, data: bytes) -> None:
        if len(data) < _PAGE.size:
            raise FormatError("an index page is cut off", todo=RESTORE)
        magic, self.count, self.first_key, raw_size, stored_size, self._shift = _PAGE.unpack_from(data)
        proofs = _PAGE.size + stored_size
        possible = (
            magic == _MAGIC
            and 1 <= self.count <= MAX_PAGE_ENTRIES
            and stored_size <= raw_size <= MAX_BLOCK
            and len(data) == proofs + PROOF * self.count
            and self._shift <= 48
        )
        if not possible:
            raise FormatError("an index page states impossible values", todo=RESTORE)
        core = unpack_block(data[_PAGE.size : proofs], raw_size)
        if len(core) < 2 * self.count:
            raise FormatError("the hints of an index page are cut off", todo=RESTORE)
        hints = np.frombuffer(core, "<u2", self.count)
        if bool((hints[1:] < hints[:-1]).any()):
            raise FormatError("an index page is not sorted", todo=RESTORE)
        self._hints = hints.astype(np.uint16, copy=False).data
        self._proofs = data[proofs:]
        self.memory = len(core) + len(self._proofs) + 4096
        self.body = Body(core, 2 * self.count)
        if self.body.count != self.count:
            raise FormatError("an index page contradicts its own count", todo=RESTORE)

    def find(self, key: int, uid: bytes) -> list[int]:
        """The rows of `uid`, whose key is `key`."""
        hint = (key - self.first_key) >> self._shift
        if not 0 <= hint <= 0xFFFF:
            return []
        begin = bisect_left(self._hints, hint)
        end = bisect_right(self._hints, hint, begin)
        return [row for row in range(begin, end) if self.body.uid(row) == uid]

    def keys(self) -> NDArray[np.uint64]:
        """The key of every row, from its uid.

        Raises:
            FormatError: the first is not the page's, they don't rise, or a hint is not that of its key.
        """
        heads = b"".join([digest(uid)[:8] for uid in self.body.uids()])
        keys = np.frombuffer(heads, ">u8").astype(np.uint64)
        hints = (keys - keys[0]) >> np.uint64(self._shift)
        if (
            int(keys[0]) != self.first_key
            or bool((keys[1:] < keys[:-1]).any())
            or hints.tolist() != self._hints.tolist()
        ):
            raise FormatError("the keys of an index page are not sorted as it says", todo=RESTORE)
        return keys

    def entry(self, row: int, key: int) -> Entry:
        """The entry of a row (of a page that `check_page` has passed), whose uid has that key.

        Raises:
            FormatError: uid or attributes that are not UTF-8.
        """
        body = self.body
        uid = body.uid(row)
        _, created, size, stored, codec, parameter, flags, commit, origin, code, ordinal, offset = body.row(row)
        attributes = parse_attributes(body.attributes(code))
        try:
            text = uid.decode()
        except UnicodeDecodeError as error:
            raise FormatError("a uid in the index is not UTF-8", todo=RESTORE, uid=uid) from error
        at = 32 * self.count + 4 * row
        return Entry(
            text,
            key,
            ordinal,
            created - TIME_BIAS,
            size,
            stored,
            offset,
            CODECS[codec],
            int.from_bytes(self._proofs[at : at + 4], "little"),
            self._proofs[32 * row : 32 * row + 32],
            parameter,
            *attributes,
            Origin(commit, origin) if commit else None,
            flags,
        )

    def digests(self) -> NDArray[np.uint8]:
        """The SHA-256 of every row, shape (count, 32)."""
        return np.frombuffer(self._proofs, np.uint8, 32 * self.count).reshape(self.count, 32)

    def crcs(self) -> NDArray[np.uint32]:
        """The CRC32 of every row's stored bytes, shape (count,)."""
        return np.frombuffer(self._proofs, "<u4", self.count, 32 * self.count)


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the pages lie and which keys they begin with; page i takes bytes `places[i]` to `places[i + 1]`.

    `joined[i]` is 1 where page i begins with the key that page i - 1 ends with.
    """

    first_keys: memoryview
    joined: bytes
    counts: memoryview
    crcs: memoryview
    places: memoryview

    def __len__(self) -> int:
        return len(self.first_keys)

    def pages_of(self, key: int) -> range:
        """Numbers of the pages that can hold `key`, in order."""
        last = bisect_right(self.first_keys, key) - 1
        first = last
        while first > 0 and self.joined[first] and self.first_keys[first] == key:
            first -= 1
        return range(max(first, 0), last + 1)


def encode_directory(
    first_keys: list[int], joined: list[int], counts: list[int], pages: list[tuple[int, int]]
) -> bytes:
    """The directory's bytes, uncompressed; `pages` is (size, CRC32) of each page."""
    sizes, crcs = [size for size, _ in pages], [crc for _, crc in pages]
    return encode_table([np.array(values, np.uint64) for values in (first_keys, joined, counts, sizes, crcs)])


def parse_directory(raw: bytes, footer: Footer) -> Directory:
    """Reads the directory and checks it against the footer.

    Raises:
        FormatError: cut off, unsorted, or in contradiction to the footer.
    """
    columns, end = parse_table(raw, 0, 5, MAX_PAGES)
    first_keys, joined, counts, sizes, crcs = (column.values() for column in columns)
    small = all(int(values.max(initial=0)) <= cap for values, cap in ((sizes, MAX_BLOCK), (counts, MAX_PAGE_ENTRIES)))
    if (
        end != len(raw)
        or not small
        or int(sizes.sum()) != footer.pages_size
        or int(counts.sum()) != footer.entries
        or bool((sizes < PROOF * counts).any())
        or int(joined.max(initial=0)) > 1
        or int(crcs.max(initial=0)) >> 32
        or bool((first_keys[1:] < first_keys[:-1]).any())
        or footer.min_key != (int(first_keys[0]) if len(first_keys) else 0)
    ):
        raise FormatError("the page directory contradicts itself or the footer", todo=RESTORE)
    places = footer.data_end + np.concatenate((np.zeros(1, np.uint64), np.cumsum(sizes)))
    return Directory(
        first_keys.data,
        joined.astype(np.uint8).tobytes(),
        counts.data,
        crcs.data,
        places.astype(np.uint64).data,
    )


def check_page(directory: Directory, number: int, data: bytes, footer: Footer) -> Page:
    """Parses page `number` after checking it against the directory, and its rows against the footer.

    Raises:
        FormatError: damaged, or with values that can't be.
    """
    where = {"page": number}
    if crc32(data) != directory.crcs[number]:
        raise FormatError("the checksum of an index page does not match", todo=RESTORE, **where)
    page = Page(data)
    if page.count != directory.counts[number] or page.first_key != directory.first_keys[number]:
        raise FormatError("an index page contradicts the directory", todo=RESTORE, **where)
    columns = dict(zip(COLUMNS, (column.values() for column in page.body.columns), strict=True))
    streamed = bool(footer.incompat & STREAMED)
    largest = MAX_SIZE if streamed else MAX_INLINE
    check_ranges(columns, ("size", 0, largest), ("ordinal", 0, footer.entries - 1))
    size, stored, offset = columns["size"], columns["stored_size"], columns["offset"]
    placed = (offset >= HEADER_SIZE) & (stored <= footer.data_end) & (offset <= footer.data_end - stored)
    right = np.where(stored > 0, placed, offset == 0)
    if not bool(right.all()) or (not streamed and bool((stored > size).any())):
        raise FormatError("the index places a content outside DATA", todo=RESTORE, **where)
    if streamed and int(columns["codec"].max()) > Codec.ZSTD:
        raise FormatError("a streamed file is neither raw nor zstd", todo=RESTORE, **where)
    return page


def check_ranges(columns: dict[str, NDArray[np.uint64]], *more: tuple[str, int, int]) -> None:
    """Checks columns of a body by name against the ranges of the format, and `more` of (name, least, most).

    Raises:
        FormatError: a value outside its range.
    """
    for name, least, most in (*_RANGES, *more):
        if int(columns[name].min()) < least or int(columns[name].max()) > most:
            raise FormatError(f"an entry has an impossible {name}", todo=RESTORE)


_RANGES = (
    ("uid_length", 1, MAX_UID_BYTES),
    ("created_at", MIN_TIME + TIME_BIAS, MAX_TIME + TIME_BIAS),
    ("codec", 0, max(Codec)),
    ("parameter", 0, 0xFFFF),
    ("flags", 0, 0),
    ("origin_commit", 0, 0xFFFF_FFFF),
    ("origin_ordinal", 0, 0xFFFF_FFFF),
)
