"""The directory: where each group lies and with which key it begins; and the dictionaries' own blocks.

docs/format-v1.md, "Directory" and "Dictionaries". Pure.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import MAX_DICTIONARIES, MAX_DICTIONARY, crc32
from vera_core.errors import FormatError
from vera_core.format.columns import encode_table, parse_table
from vera_core.format.groups import HEAD_SIZE, PROOF
from vera_core.format.layout import (
    MAX_BLOCK,
    MAX_GROUP_CONTENTS,
    MAX_GROUP_ENTRIES,
    MAX_GROUPS,
    MAX_SIZE,
    RESTORE,
    STREAMED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.format.layout import Footer

_DICTIONARY = struct.Struct("<8sQIII")
DICTIONARY_MAGIC = b"\xd3VDICT\n\0"
DICTIONARY_HEAD = _DICTIONARY.size + 4
MAX_DICTIONARY_BLOCK = DICTIONARY_HEAD + MAX_DICTIONARY


class Place(NamedTuple):
    """What the directory says of a group; `joined` is 1 where the group before ends with its first key."""

    first_key: int
    joined: int
    entries: int
    block_size: int
    content_size: int


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the groups lie: block i takes `sizes[i]` bytes at `blocks[i]`; group i ends where group i + 1 begins.

    `joined[i]` is 1 where group i begins with the key that group i - 1 ends with; `firsts[i]` is the ordinal of its
    first entry, with the number of all entries behind the last.
    """

    first_keys: list[int]
    joined: bytes
    firsts: memoryview
    blocks: memoryview
    sizes: memoryview
    ends: memoryview

    def __len__(self) -> int:
        return len(self.first_keys)

    def groups_of(self, key: int) -> range:
        """Numbers of the groups that can hold `key`, in order."""
        last = bisect_right(self.first_keys, key) - 1
        first = last
        while self.is_joined(first, key):
            first -= 1
        return range(max(first, 0), last + 1)

    def is_joined(self, number: int, key: int) -> bool:
        """Whether group `number` begins with `key` and the group before it ends with that."""
        return number > 0 and self.joined[number] == 1 and self.first_keys[number] == key


def encode_directory(places: Sequence[Place]) -> bytes:
    """The directory's bytes, uncompressed, of at most `MAX_GROUPS` groups."""
    table = np.array(places, np.uint64).reshape(-1, len(Place._fields))
    return encode_table([np.ascontiguousarray(column) for column in table.T])


def parse_directory(raw: bytes, footer: Footer) -> Directory:
    """Reads the directory and checks it against the footer.

    Raises:
        FormatError: cut off, unsorted, or in contradiction to the footer.
    """
    columns, end = parse_table(raw, 0, len(Place._fields), MAX_GROUPS)
    first_keys, joined, counts, sizes, contents = (column.values() for column in columns)
    streamed = bool(footer.incompat & STREAMED)
    most = MAX_SIZE if streamed else MAX_GROUP_CONTENTS
    limits = ((sizes, MAX_BLOCK), (counts, MAX_GROUP_ENTRIES), (contents, most), (joined, 1))
    if (
        end != len(raw)
        or not all(int(values.max(initial=0)) <= limit for values, limit in limits)
        or int(sizes.sum()) + int(contents.sum()) != footer.data_end - footer.data_start
        or int(contents.sum()) != footer.stored_bytes
        or int(counts.sum()) != footer.entries
        or int(counts.min(initial=1)) < 1
        or bool((sizes < PROOF * counts + np.uint64(HEAD_SIZE)).any())
        or bool((first_keys[1:] < first_keys[:-1]).any())
        or footer.min_key != (int(first_keys[0]) if len(first_keys) else 0)
    ):
        raise FormatError("the directory contradicts itself or the footer", todo=RESTORE)
    ends = footer.data_start + np.cumsum(sizes + contents)
    blocks = ends - sizes if streamed else ends - sizes - contents
    firsts = np.concatenate((np.zeros(1, np.uint64), np.cumsum(counts)))
    return Directory(
        first_keys.tolist(),
        joined.astype(np.uint8).tobytes(),
        firsts.astype(np.uint64).data,
        blocks.astype(np.uint64).data,
        sizes.data,
        ends.astype(np.uint64).data,
    )


def encode_dictionary(dictionary: bytes, number: int, position: int) -> bytes:
    """The block at the beginning of DATA that keeps a dictionary for recovery."""
    head = _DICTIONARY.pack(DICTIONARY_MAGIC, position, number, len(dictionary), crc32(dictionary))
    return b"".join((head, crc32(head).to_bytes(4, "little"), dictionary))


def parse_dictionary(data: bytes, number: int, position: int) -> tuple[bytes, int] | None:
    """The dictionary whose block begins `data`, found at `position`, and the size of the block.

    None if another thing begins there; the dictionary is cut short where `data` is.

    Raises:
        FormatError: damaged.
    """
    if data[:8] != DICTIONARY_MAGIC:
        return None
    if len(data) < DICTIONARY_HEAD or crc32(data[: _DICTIONARY.size]) != int.from_bytes(
        data[_DICTIONARY.size : DICTIONARY_HEAD], "little"
    ):
        raise FormatError(f"the checksum of the dictionary at byte {position} does not match", todo=RESTORE)
    _, stated, own, size, crc = _DICTIONARY.unpack_from(data)
    if stated != position or own != number or size > MAX_DICTIONARY or own > MAX_DICTIONARIES:
        raise FormatError(f"the dictionary at byte {position} states impossible values", todo=RESTORE)
    dictionary = data[DICTIONARY_HEAD : DICTIONARY_HEAD + size]
    if crc32(dictionary) != crc:
        raise FormatError(f"the dictionary at byte {position} is damaged", todo=RESTORE)
    return dictionary, DICTIONARY_HEAD + size
