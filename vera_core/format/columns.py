"""Columns: a table of many small records, laid out so that one value or a whole column is read in place.

An integer column of n values is `width` planes of n bytes, least significant first, times a common `unit`, above a
common `base`: planes of equal bytes compress to nothing, and value i is a strided slice. A `Body` holds the columns of
a group with its uids and attributes (media type and user metadata). docs/format-v1.md, "Columns". Pure; checks bounds
before it uses them.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.errors import FormatError, UsageError
from vera_core.format.layout import MAX_GROUP_ENTRIES, MAX_MEDIA_TYPE, MAX_METADATA, RESTORE
from vera_core.model import MAX_UID_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vera_core.model import Origin

    U64 = NDArray[np.uint64]

COLUMNS = (
    "uid_length",
    "created_at",
    "size",
    "stored_size",
    "codec",
    "parameter",
    "flags",
    "origin_commit",
    "origin_ordinal",
    "attributes",
    "place",
)
"""The columns of a body, in order; format-v1.md says what each means."""

MAX_UNIT = (1 << 32) - 1
MAX_ORIGIN = (1 << 32) - 1
TIME_BIAS = 1 << 63
"""Added to `created_at` in its column, which is unsigned."""

_COUNT = struct.Struct("<I")
HEAD = struct.Struct("<BQI")
_PAIR = struct.Struct("<HH")
_MASK = (1 << 64) - 1
_MAX_ATTRIBUTES = 1 + MAX_MEDIA_TYPE + MAX_METADATA
_CACHED_BYTES = 512
"""Attributes of so many bytes are kept after they were parsed: as text they can be four times larger."""

Metadata = tuple[tuple[str, str], ...]


class Attributes(NamedTuple):
    """What a caller may say about a file besides its uid and time."""

    media_type: str
    metadata: Metadata


class Column(NamedTuple):
    """An integer column inside a block: the bytes of its values, shape (width, count), times `unit`, plus `base`."""

    planes: NDArray[np.uint8]
    base: int
    unit: int

    def values(self) -> U64:
        """All values, shape (count,)."""
        width, count = self.planes.shape
        if not width:
            return np.full(count, self.base, np.uint64)
        wide = np.zeros((count, 8), np.uint8)
        wide[:, :width] = self.planes.T
        return wide.view("<u8").reshape(-1).astype(np.uint64, copy=False) * np.uint64(self.unit) + np.uint64(self.base)


@dataclass(frozen=True, slots=True)
class Strings:
    """Strings end to end: string i is `data[bounds[i] : bounds[i + 1]]`."""

    data: bytes
    bounds: Sequence[int]

    def __getitem__(self, number: int) -> bytes:
        return self.data[self.bounds[number] : self.bounds[number + 1]]

    def all(self) -> list[bytes]:
        """Every string."""
        return [self.data[begin:end] for begin, end in pairwise(self.bounds)]


def encode_table(columns: Sequence[U64]) -> bytes:
    """Count, then width, base and unit of every column, then the planes of every column; columns are equally long."""
    count = len(columns[0])
    heads, planes = [_COUNT.pack(count)], []
    for column in columns:
        base = int(column.min()) if count else 0
        most = int(column.max()) - base if count else 0
        unit = 1
        if most > 0xFF:  # times in whole seconds or milliseconds, sizes in blocks
            column = column - np.uint64(base)  # noqa: PLW2901 - the distances from now on
            common = int(np.gcd.reduce(column))
            unit = common if common <= MAX_UNIT else 1
            column = column // np.uint64(unit) if unit > 1 else column  # noqa: PLW2901
        elif most:
            column = column - np.uint64(base)  # noqa: PLW2901
        width = (most // unit).bit_length() + 7 >> 3
        heads.append(HEAD.pack(width, base, unit))
        if width:
            wide = column.astype("<u8", copy=False).view(np.uint8).reshape(count, 8)
            planes.append(wide[:, :width].T.tobytes())
    return b"".join(heads + planes)


def parse_table(block: bytes, start: int, number: int, limit: int) -> tuple[list[Column], int]:
    """Finds `number` columns of at most `limit` values at `start`; returns them and where the table ends.

    Raises:
        FormatError: the table does not fit into the block.
    """
    at = start + _COUNT.size + number * HEAD.size
    if at > len(block):
        raise FormatError("a column table is cut off", todo=RESTORE)
    count = _COUNT.unpack_from(block, start)[0]
    if count > limit:
        raise FormatError(f"a column table states {count} values, allowed are {limit}", todo=RESTORE)
    columns = []
    for width, base, unit in HEAD.iter_unpack(block[start + _COUNT.size : at]):
        if width > 8 or not unit or at + width * count > len(block):
            raise FormatError("a column is cut off, wider than 8 bytes, or counts in nothing", todo=RESTORE)
        planes = np.frombuffer(block, np.uint8, width * count, at).reshape(width, count)
        columns.append(Column(planes, base, unit))
        at += width * count
    return columns, at


def encode_body(columns: Sequence[U64], attributes: Sequence[bytes], uids: bytes) -> bytes:
    """A body: columns in the order of `COLUMNS`, the distinct attributes, the uids (given end to end).

    Uids of equal length are stored transposed (first bytes of all, second bytes of all, ...), which compresses better.
    """
    lengths = np.array([len(text) for text in attributes], np.uint64)
    width = int(columns[0][0])
    if width * len(columns[0]) == len(uids) and bool((columns[0] == width).all()):
        uids = np.frombuffer(uids, np.uint8).reshape(-1, width).T.tobytes()
    return b"".join((encode_table(columns), encode_table((lengths,)), *attributes, uids))


class Body:
    """The column body that begins at `start` of a block: its columns in the order of `COLUMNS`, uids and attributes.

    Raises:
        FormatError: lengths, codes or counts that contradict each other.
    """

    __slots__ = ("attribute_strings", "columns", "count", "uid_strings")

    def __init__(self, block: bytes, start: int) -> None:
        self.columns, at = parse_table(block, start, len(COLUMNS), MAX_GROUP_ENTRIES)
        uid_lengths, codes = self.columns[0], self.columns[9]
        self.count = uid_lengths.planes.shape[1]
        (lengths,), at = parse_table(block, at, 1, self.count)
        self.attribute_strings, at = _strings(block, at, lengths, _MAX_ATTRIBUTES)
        self.uid_strings, end = _strings(block, at, uid_lengths, MAX_UID_BYTES)
        if end != len(block):
            raise FormatError("uids and attributes don't fill their block", todo=RESTORE)
        if self.uid_strings.data and not len(uid_lengths.planes):
            turned = np.frombuffer(self.uid_strings.data, np.uint8).reshape(-1, self.count).T.tobytes()
            self.uid_strings = Strings(turned, _even(uid_lengths.base, self.count))
        if self.count and int(codes.values().max()) >= len(self.attribute_strings.bounds) - 1:
            raise FormatError("an attribute code is outside its table", todo=RESTORE)

    def uid(self, row: int) -> bytes:
        """The uid of a row."""
        return self.uid_strings[row]

    def uids(self) -> list[bytes]:
        """All uids."""
        return self.uid_strings.all()

    def attributes(self, code: int) -> bytes:
        """The attributes' bytes for `parse_attributes`, by the value of the column `attributes`."""
        return self.attribute_strings[code]

    def attribute_table(self) -> list[bytes]:
        """The different attributes, which the column `attributes` numbers."""
        return self.attribute_strings.all()


def encode_attributes(media_type: str, metadata: Metadata) -> bytes:
    """Media type and metadata as bytes; none for neither.

    Raises:
        UsageError: too long, or a key that is empty or given twice.
    """
    if not media_type and not metadata:
        return b""
    try:
        kind = media_type.encode()
        pairs = [(key.encode(), value.encode()) for key, value in metadata]
    except UnicodeEncodeError:
        raise UsageError("media type or metadata is not valid UTF-8") from None
    if len(kind) > MAX_MEDIA_TYPE:
        raise UsageError(f"the media type has {len(kind)} bytes, allowed are {MAX_MEDIA_TYPE}")
    size = sum(_PAIR.size + len(key) + len(value) for key, value in pairs)
    if size > MAX_METADATA:
        raise UsageError(
            f"the metadata take {size} bytes, allowed are {MAX_METADATA} (keys, values and 4 bytes each pair)",
            todo="Keep large values in the file itself.",
        )
    if len({key for key, _ in pairs}) != len(pairs) or any(not key for key, _ in pairs):
        raise UsageError("a metadata key is empty or given twice")
    packed = (part for key, value in pairs for part in (_PAIR.pack(len(key), len(value)), key, value))
    return b"".join((bytes((len(kind),)), kind, *packed))


def largest_body(count: int) -> int:
    """The most bytes that a body of `count` entries can take."""
    tables = 2 * _COUNT.size + (len(COLUMNS) + 1) * HEAD.size
    return tables + count * (8 * (len(COLUMNS) + 1) + MAX_UID_BYTES + _MAX_ATTRIBUTES)


def parse_attributes(data: bytes) -> Attributes:
    """Undoes `encode_attributes`.

    Raises:
        FormatError: it is not what `encode_attributes` makes.
    """
    return _parse_cached(data) if len(data) <= _CACHED_BYTES else _parse(data)


def _parse(data: bytes) -> Attributes:
    if not data:
        return Attributes("", ())
    at = 1 + data[0]
    metadata_size = len(data) - at
    pairs = []
    try:
        media_type = data[1:at].decode()
        while at + _PAIR.size <= len(data):
            key, value = _PAIR.unpack_from(data, at)
            at += _PAIR.size
            pairs.append((data[at : at + key].decode(), data[at + key : at + key + value].decode()))
            at += key + value
    except UnicodeDecodeError as error:
        raise FormatError("media type or metadata is not UTF-8", todo=RESTORE) from error
    keys = {key for key, _ in pairs}
    if at != len(data) or data[0] > MAX_MEDIA_TYPE or len(keys) != len(pairs) or "" in keys:
        raise FormatError("media type or metadata is cut off, too long, or without key", todo=RESTORE)
    if metadata_size > MAX_METADATA:
        raise FormatError(
            f"the metadata of an entry take {metadata_size} bytes, allowed are {MAX_METADATA}", todo=RESTORE
        )
    return Attributes(media_type, tuple(pairs))


_parse_cached = lru_cache(maxsize=1024)(_parse)


def origin_numbers(origin: Origin | None) -> tuple[int, int]:
    """The two column values of an origin; zeros for none, as commits count from 1.

    Raises:
        UsageError: a number that does not fit.
    """
    if origin is None:
        return 0, 0
    if not (1 <= origin.commit <= MAX_ORIGIN and 0 <= origin.ordinal <= MAX_ORIGIN):
        raise UsageError(f"there is no origin with commit {origin.commit} and ordinal {origin.ordinal}")
    return origin.commit, origin.ordinal


def _strings(block: bytes, start: int, lengths: Column, limit: int) -> tuple[Strings, int]:
    """Consecutive strings of at most `limit` bytes at `start`, from their lengths; and where they end."""
    values = lengths.values()
    if int(values.max(initial=0)) > limit:
        raise FormatError(f"a uid or attribute is longer than {limit} bytes", todo=RESTORE)
    bounds = np.concatenate((_ZERO, np.cumsum(values)))
    size = int(bounds[-1])
    if start + size > len(block):
        raise FormatError("uids or attributes reach beyond their block", todo=RESTORE)
    return Strings(block[start : start + size], compact(bounds)), start + size


def compact(values: U64) -> array[int]:
    """Sorted values as small and as fast to index as Python has it."""
    code, kind = next((code, kind) for limit, code, kind in _KINDS if int(values[-1]) <= limit)
    return array(code, values.astype(kind).tobytes())


@lru_cache(maxsize=64)
def _even(width: int, count: int) -> range:
    """The bounds of `count` strings of `width` bytes; groups share them."""
    return range(0, width * count + 1, width)


_ZERO = np.zeros(1, np.uint64)
_KINDS = (((1 << 16) - 1, "H", np.uint16), ((1 << 32) - 1, "I", np.uint32), ((1 << 64) - 1, "Q", np.uint64))
