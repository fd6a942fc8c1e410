"""The index in memory: what a reader keeps of a group, in some 48 bytes an entry besides its uid; and which it keeps.

A `Page` answers one question fast: where does the content of this uid lie, and what proves it? It is packed bytes, in
which one entry is found without building objects for the others. How groups are stored is groups.py's business.
"""

from __future__ import annotations

import sys
import threading
from array import array
from bisect import bisect_left
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING
from weakref import WeakMethod

import numpy as np

from vera_core.codec import Coding
from vera_core.format.columns import COLUMNS, HEAD, TIME_BIAS, compact, parse_attributes
from vera_core.format.groups import CODECS
from vera_core.model import Entry, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.format.columns import U64
    from vera_core.format.groups import Group

_WINDOW = 4
"""Of every 2**4th row the whole offset is kept, of the others its lowest bytes."""
_BUCKET_ROWS = 8
_REST = ("created_at", "origin_commit", "origin_ordinal", "attributes")
"""Columns that only an `Entry` has."""
_WIDE = (1 << 64) - 1
_WIDTHS = ((1 << 16) - 1, "H"), ((1 << 32) - 1, "I"), (_WIDE, "Q")
_MOST_CHANCES = 8
_SMALL = 300
"""About what a page's few small objects take, and its place among the pages, in bytes."""

Content = tuple[int, int, int, int, bytes, Coding]
"""What reading a content takes: offset, stored size, size, CRC32, SHA-256, coding."""


class Page:
    """A group as it is kept. `asked` counts what it was asked for, for whoever makes room.

    Raises:
        FormatError: the group is not sorted.
    """

    __slots__ = (
        "_attributes", "_bounds", "_buckets", "_coding", "_coding_width", "_codings", "_elsewhere", "_least", "_mask",
        "_offsets", "_ordinal", "_rest", "_rows", "_scale", "_shift", "_starts", "_step", "_uids", "_unpack", "_width",
        "asked",
    )  # fmt: skip

    def __init__(self, group: Group) -> None:
        self.asked = 0
        self._ordinal = group.head.first
        self._uids, self._bounds = group.body.uid_strings.data, group.body.uid_strings.bounds
        self._attributes = group.body.attribute_strings
        self._width = self._bounds.step if isinstance(self._bounds, range) else 0
        self._sort(group.keys())
        self._pack(group)

    def last(self, key: int, uid: bytes) -> int:
        """The last row of `uid`, whose key is `key`; -1 if it has none."""
        self.asked += 1
        bucket = ((key >> self._shift) - self._least) * self._scale >> 16
        if not 0 <= bucket < self._buckets or not uid:
            return -1
        uids, begin, width = self._uids, self._starts[bucket], self._width
        at = uids.rfind(uid, begin, self._starts[bucket + 1])
        while at >= 0:
            row = at // width if width else bisect_left(self._bounds, at)
            if row * width == at and len(uid) == width if width else self._is(row, at, len(uid)):
                return row
            at = uids.rfind(uid, begin, at + len(uid) - 1)  # it was a part of others
        return -1

    def find(self, key: int, uid: bytes) -> list[int]:
        """The rows of `uid`, whose key is `key`, in order."""
        row, uids, bounds = self.last(key, uid), self._uids, self._bounds
        rows = []
        while row >= 0 and uids[bounds[row] : bounds[row + 1]] == uid:
            rows.append(row)
            row -= 1
        return rows[::-1]

    def content(self, row: int) -> Content:
        """What reading the content of a row takes."""
        low, size, crc, sha256, rest, end = self._unpack(self._rows, row * self._step)
        coding, mask = self._coding or self._coding_of(rest), self._mask
        stored_size = end - low & mask
        if not stored_size:
            return *self._place_elsewhere(row), size, crc, sha256, coding
        whole = self._offsets[row >> _WINDOW]
        return whole + (low - whole & mask), stored_size, size, crc, sha256, coding

    def entry(self, row: int, key: int, uid: str) -> Entry:
        """The entry of a row, which has that uid and key.

        Raises:
            FormatError: its attributes are not UTF-8.
        """
        offset, stored_size, size, crc, sha256, (codec, parameter) = self.content(row)
        rest = self._unpack(self._rows, row * self._step)[4]
        at, values = self._coding_width, []
        for width, base, unit in HEAD.iter_unpack(self._rest):
            values.append(base + unit * int.from_bytes(rest[at : at + width], "little") & _WIDE)
            at += width
        created_at, commit, ordinal, code = values
        return Entry(
            uid, key, self._ordinal + row, created_at - TIME_BIAS, size, stored_size, offset, codec, crc, sha256,
            parameter, *parse_attributes(self._attributes[code]), Origin(commit, ordinal) if commit else None,
        )  # fmt: skip

    def memory(self) -> int:
        """Bytes that it takes."""
        attributes = self._attributes
        own = (self, self._rows, self._uids, self._starts, self._offsets, attributes.data, attributes.bounds)
        return sum(map(sys.getsizeof, (*own, *(self._elsewhere or ()), self._bounds))) + _SMALL

    def _sort(self, keys: U64) -> None:
        """Makes buckets of a few neighbouring keys; the uids of bucket i lie from `_starts[i]` to `_starts[i + 1]`."""
        first, last = int(keys[0]), int(keys[-1])
        self._shift = max(0, (last - first).bit_length() - 16)
        self._least = first >> self._shift
        self._buckets = -(-len(keys) // _BUCKET_ROWS)
        self._scale = (self._buckets << 16) // ((last >> self._shift) - self._least + 1)
        hints = (keys >> np.uint64(self._shift)) - np.uint64(self._least)
        buckets = hints * np.uint64(self._scale) >> np.uint64(16)
        firsts = np.searchsorted(buckets, np.arange(self._buckets + 1, dtype=np.uint64))
        self._starts = compact(np.array(self._bounds, np.uint64)[firsts])

    def _pack(self, group: Group) -> None:
        """One record for each row, at whose end the next one's begins, and with it the end of the row's content."""
        count = len(group)
        own = group.column("place") == 0
        stored = np.where(own, group.column("stored_size"), np.uint64(0))
        bounds = np.uint64(group.head.contents[0]) + np.concatenate((np.zeros(1, np.uint64), np.cumsum(stored)))
        whole = bounds[: count : 1 << _WINDOW]
        distance = bounds[:count] - np.repeat(whole, 1 << _WINDOW)[:count]
        self._mask, low = _width(max(int(distance.max()), int(stored.max())))
        _, size = _width(int(group.column("size").max()))
        codings = group.column("codec") << np.uint64(16) | group.column("parameter")
        codes, numbers = np.unique(codings, return_inverse=True)
        self._codings = tuple([coding(code) for code in codes.tolist()])
        self._coding = self._codings[0] if len(codes) == 1 else None
        self._coding_width = (len(codes) - 1).bit_length() + 7 >> 3
        rest = [group.body.columns[COLUMNS.index(name)] for name in _REST]
        self._rest = b"".join([HEAD.pack(len(column.planes), column.base, column.unit) for column in rest])
        parts = (
            _bytes(bounds[:count], low),
            _bytes(group.column("size"), size),
            np.frombuffer(group.crcs(), np.uint8).reshape(count, 4),
            np.frombuffer(group.digests(), np.uint8).reshape(count, 32),
            _bytes(numbers.astype(np.uint64), "Q")[:, : self._coding_width],
            *(column.planes.T for column in rest),
        )
        rows = np.concatenate(parts, axis=1)
        self._step = rows.shape[1]
        self._rows = rows.tobytes() + _bytes(bounds[count:], low).tobytes()
        self._unpack = _record(low, size, sum(part.shape[1] for part in parts[4:])).unpack_from
        self._offsets = compact(whole)
        self._elsewhere = None if own.all() else _places(~own, group)

    def _is(self, row: int, begin: int, size: int) -> bool:
        """Whether the uid of a row lies there."""
        return self._bounds[row] == begin and self._bounds[row + 1] == begin + size

    def _coding_of(self, rest: bytes) -> Coding:
        return self._codings[int.from_bytes(rest[: self._coding_width], "little")]

    def _place_elsewhere(self, row: int) -> tuple[int, int]:
        """Offset and stored size of a row that brings no content: zeros, unless it shares another's."""
        if self._elsewhere is None:
            return 0, 0
        rows, offsets, sizes = self._elsewhere
        at = bisect_left(rows, row)
        return (offsets[at], sizes[at]) if at < len(rows) and rows[at] == row else (0, 0)


class Pages(dict[int, Page]):
    """The pages that are kept, by the number of their group: asking for another reads it.

    They take `limit` bytes at most. To make room the oldest goes, unless it was asked for more than once: that is
    halved then, and the page counts as the youngest. Asking takes no lock. The method `load` is held weakly: it belongs
    to whoever holds the pages, and both would otherwise stay in memory until the garbage collector comes.
    """

    __slots__ = ("_limit", "_load", "_lock", "memory")

    def __init__(self, load: Callable[[int], Page], limit: int) -> None:
        super().__init__()
        self._load = WeakMethod(load)
        self._limit = limit
        self._lock = threading.Lock()
        self.memory = 0

    def __missing__(self, number: int) -> Page:
        load = self._load()
        assert load is not None, "whoever holds the pages is alive"
        page = load(number)
        with self._lock:
            if number not in self:
                self[number] = page
                self.memory += page.memory()
            while self.memory > self._limit and len(self) > 1:
                oldest = next(iter(self))
                found = self.pop(oldest)
                if found.asked > 1:
                    found.asked = min(found.asked, _MOST_CHANCES) >> 1
                    self[oldest] = found
                else:
                    self.memory -= found.memory()
        return page


def _width(most: int) -> tuple[int, str]:
    """The mask and the letter of the smallest number that holds `most`."""
    return next((mask, letter) for mask, letter in _WIDTHS if most <= mask)


def _bytes(values: U64, letter: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The lowest bytes of each value, shape (count, bytes)."""
    return values.astype(f"<{letter}").view(np.uint8).reshape(len(values), -1)


def _places(rows: np.ndarray[tuple[int], np.dtype[np.bool]], group: Group) -> tuple[array[int], array[int], array[int]]:
    """Rows, offsets and stored sizes of the rows whose contents came with others."""
    offsets, sizes = group.column("offset")[rows], group.column("stored_size")[rows]
    return compact(np.flatnonzero(rows).astype(np.uint64)), array("Q", offsets.tobytes()), array("Q", sizes.tobytes())


@lru_cache
def _record(low: str, size: str, rest: int) -> Struct:
    """The layout of a record: low bytes of the offset, size, CRC32, SHA-256, the rest; low bytes of the next offset."""
    return Struct(f"<{low}{size}I32s{rest}s{low}")


@lru_cache
def coding(code: int) -> Coding:
    """The coding of a number: the codec's, shifted by 16 bits, and the parameter. The same object for the same."""
    return Coding(CODECS[code >> 16], code & 0xFFFF)
