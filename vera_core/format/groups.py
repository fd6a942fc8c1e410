"""Recovery groups: the blocks in DATA that name the contents behind them, so that the index can be rebuilt from DATA.

A group is a block, then the contents it describes, end to end; groups tile DATA. In a streamed shard, whose only
content is not known beforehand, the block follows it. docs/format-v1.md, "DATA". Pure; what to do with a damaged
group is decided by verify.py and recover.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vera_core.codec import MAX_INLINE, crc32, pack_block, unpack_block
from vera_core.errors import FormatError
from vera_core.format.columns import COMMON, Body
from vera_core.format.layout import HEADER_SIZE, MAX_BLOCK, MAX_ENTRIES, MAX_SIZE, RESTORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\xd3VGROUP\n"
COLUMNS = (*COMMON, "holder", "crc32")
"""`holder` is 0 for an entry that brings its content (or has none stored), else 1 + the ordinal of the one that did."""

AFTER = 1 << 0
"""Flag: the contents lie before this block, not behind it (streamed shards)."""

GROUP_ENTRIES = 512
GROUP_BYTES = 1 << 20
"""A writer closes a group at so many entries or stored bytes, whatever comes first."""

_BLOCK = struct.Struct("<8sQQQIIIIIQ")
HEAD_SIZE = _BLOCK.size + 4


@dataclass(frozen=True, slots=True)
class GroupHead:
    """The fixed part of a group's block, at `position` in the shard.

    `first` is the ordinal of its first entry, `content_size` the bytes of its contents.
    """

    position: int
    first: int
    content_size: int
    count: int
    flags: int
    raw_size: int
    stored_size: int
    body_crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole block, contents excluded."""
        return HEAD_SIZE + self.stored_size

    @property
    def contents(self) -> tuple[int, int]:
        """First and last-but-one place of the contents in the shard."""
        if self.flags & AFTER:
            return self.position - self.content_size, self.position
        return self.position + self.size, self.position + self.size + self.content_size

    @property
    def end(self) -> int:
        """Where the next group begins."""
        return self.position + self.size + (0 if self.flags & AFTER else self.content_size)


def encode_group(position: int, first: int, content_size: int, body: bytes, *, count: int, flags: int = 0) -> bytes:
    """The block of a group whose body was made by `columns.encode_body`."""
    stored = pack_block(body)
    fields = (position, first, content_size, count, flags, len(body), len(stored), crc32(stored), 0)
    head = _BLOCK.pack(MAGIC, *fields)
    return b"".join((head, crc32(head).to_bytes(4, "little"), stored))


def parse_group_head(data: bytes, position: int) -> GroupHead:
    """Reads the fixed part of a block, found at `position` in the shard.

    Raises:
        FormatError: no block of this place, or damaged.
    """
    if len(data) < HEAD_SIZE or data[:8] != MAGIC:
        raise FormatError(f"no group of entries begins at byte {position}", todo=RESTORE)
    if crc32(data[: _BLOCK.size]) != int.from_bytes(data[_BLOCK.size : HEAD_SIZE], "little"):
        raise FormatError(f"the checksum of the group at byte {position} does not match", todo=RESTORE)
    _, stated, *fields, _ = _BLOCK.unpack_from(data)
    head = GroupHead(stated, *fields)
    possible = (
        stated == position >= HEADER_SIZE
        and 1 <= head.count <= GROUP_ENTRIES
        and head.first + head.count <= MAX_ENTRIES
        and head.stored_size <= head.raw_size <= MAX_BLOCK
        and position < MAX_SIZE > head.content_size
        and (head.flags & AFTER or head.content_size <= GROUP_ENTRIES * MAX_INLINE)
        and head.flags in (0, AFTER)
        and (not head.flags or head.count == 1)
    )
    if not possible or (head.flags and head.contents[0] != HEADER_SIZE):
        raise FormatError(f"the group at byte {position} states impossible values", todo=RESTORE)
    return head


def parse_group_body(head: GroupHead, stored: bytes) -> Body:
    """The columns of a group, from the bytes that follow its head.

    Raises:
        FormatError: damaged, or in contradiction to its head.
    """
    where = {"group": head.position}
    if len(stored) != head.stored_size or crc32(stored) != head.body_crc:
        raise FormatError("the checksum of a group's columns does not match", todo=RESTORE, **where)
    body = Body(unpack_block(stored, head.raw_size), 0)
    if body.count != head.count:
        raise FormatError(f"a group of {head.count} entries has columns of {body.count}", todo=RESTORE, **where)
    return body


def own_offsets(head: GroupHead, body: Body) -> NDArray[np.uint64]:
    """The absolute place of the stored bytes that each entry brings, 0 for one that shares or stores none.

    Raises:
        FormatError: the contents don't fill the group, or an entry shares a content that comes after it.
    """
    stored, holder = body.columns[3].values(), body.columns[10].values()
    sizes = np.where(holder == 0, stored, np.uint64(0))
    begin, end = head.contents
    ahead = holder > np.arange(head.first, head.first + head.count, dtype=np.uint64)
    if int(sizes.max()) > end - begin or int(sizes.sum()) != end - begin or bool(ahead.any()):
        raise FormatError("the contents of a group don't fill it", todo=RESTORE, group=head.position)
    return np.where(sizes > 0, np.uint64(begin) + np.cumsum(sizes) - sizes, np.uint64(0))
