"""Groups: DATA is a row of them, each a block that describes some entries, and the contents that these bring.

Groups are sorted by key, so their blocks are the pages of the index, and as each describes itself, whatever of DATA is
left can be read without the rest. In a streamed shard, whose only content is not known beforehand, the block follows
it. docs/format-v1.md, "DATA". Pure; where groups lie is directory.py's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import MAX_INLINE, crc32, unpack_block
from vera_core.encoding import pack_block
from vera_core.errors import FormatError
from vera_core.format.columns import COLUMNS, TIME_BIAS, Attributes, Body, largest_body, parse_attributes
from vera_core.format.layout import (
    HEADER_SIZE,
    MAX_BLOCK,
    MAX_ENTRIES,
    MAX_GROUP_CONTENTS,
    MAX_GROUP_ENTRIES,
    MAX_SIZE,
    MAX_TIME,
    MIN_TIME,
    RESTORE,
    SEALED,
)
from vera_core.format.sealed import keyed_key, keyed_keys, look_sealed
from vera_core.model import MAX_UID_BYTES, Codec, Entry, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from vera_core.format.columns import U64

MAGIC = b"\xd3VGROUP\n"
AFTER = 1 << 0
"""Flag: the contents lie before this block, not behind it (streamed shards)."""
ELSEWHERE = 1 << 16
"""Added to the offset in the column `place`, where the content came with an earlier group."""
DIGEST, PROOF = 32, 36
"""Bytes that an entry's SHA-256 takes, and both this and its CRC32."""
CODECS = tuple(Codec)

GROUP_BYTES, NAME_BYTES = 2 << 20, 1 << 20
"""A writer closes a group at so many bytes of contents, or of uids and attributes, or at `group_entries` entries."""

_KEY = struct.Struct(">Q")
_BLOCK = struct.Struct("<8sQQQQIIIII")
HEAD_SIZE = _BLOCK.size + 4


def group_entries(first: int) -> int:
    """How many entries a writer puts into the group that begins with ordinal `first`: 512, doubled at 2**18, 2**20, ...

    So the directory of a million entries fits, with a dictionary, into the suffix that opening reads; the block that a
    lookup reads takes about 25 KB up to 262,144 entries and 50 KB up to a million.
    """
    return 512 << max(0, (first.bit_length() - 17) // 2)


@dataclass(frozen=True, slots=True)
class GroupHead:
    """The fixed part of a group's block, at `position` in the shard.

    `first` is the ordinal and `first_key` the key of its first entry, `content_size` the bytes of its contents.
    """

    position: int
    first: int
    first_key: int
    content_size: int
    count: int
    flags: int
    raw_size: int
    stored_size: int
    body_crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole block, contents excluded."""
        return HEAD_SIZE + self.stored_size + PROOF * self.count

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


@dataclass(frozen=True, slots=True)
class GroupBody:
    """What a group's block says of its `count` entries: the columns' bytes (`columns.encode_body`) and the proofs.

    The last `uid_bytes` of the columns are the uids. `proofs` is all SHA-256, then all CRC32.
    """

    count: int
    first_key: int
    columns: bytes
    uid_bytes: int
    proofs: bytes


def key_of(uid: bytes) -> int:
    """The key a uid is sorted by: the first 8 bytes of its SHA-256 as a big-endian number."""
    key: int = _KEY.unpack_from(sha256(uid).digest())[0]
    return key


def _hashed_keys(uids: Sequence[bytes]) -> U64:
    return np.frombuffer(b"".join([sha256(uid).digest()[:8] for uid in uids]), ">u8").astype(np.uint64)


class Uids(NamedTuple):
    """What the uids of a shard are: how they make keys, one or many, and whether the files under them are sealed."""

    key: Callable[[bytes], int]
    keys: Callable[[Sequence[bytes]], U64]
    sealed: bool


PLAIN = Uids(key_of, _hashed_keys, sealed=False)
KEYED = Uids(keyed_key, keyed_keys, sealed=True)


def uids_of(incompat: int | None) -> Uids:
    """The uids of a shard with these flags; where they are not known, those of an unencrypted one."""
    return KEYED if (incompat or 0) & SEALED else PLAIN


def encode_group(position: int, first: int, content_size: int, body: GroupBody, *, flags: int = 0) -> bytes:
    """The block of a group."""
    stored = pack_block(body.columns, len(body.columns) - body.uid_bytes)
    rest = stored + body.proofs
    fields = (position, first, body.first_key, content_size, body.count, flags, len(body.columns), len(stored))
    head = _BLOCK.pack(MAGIC, *fields, crc32(rest))
    return b"".join((head, crc32(head).to_bytes(4, "little"), rest))


def parse_group_head(data: bytes, position: int) -> GroupHead:
    """Reads the fixed part of a block, found at `position` in the shard.

    Raises:
        FormatError: no block of this place, or damaged.
    """
    if len(data) < HEAD_SIZE or data[:8] != MAGIC:
        raise FormatError(f"no group of entries begins at byte {position}", todo=RESTORE)
    if crc32(data[: _BLOCK.size]) != int.from_bytes(data[_BLOCK.size : HEAD_SIZE], "little"):
        raise FormatError(f"the checksum of the group at byte {position} does not match", todo=RESTORE)
    _, stated, *fields = _BLOCK.unpack_from(data)
    head = GroupHead(stated, *fields)
    possible = (
        stated == position >= HEADER_SIZE
        and 1 <= head.count <= MAX_GROUP_ENTRIES
        and head.first + head.count <= MAX_ENTRIES
        and head.stored_size <= head.raw_size <= min(MAX_BLOCK, largest_body(head.count))
        and position < MAX_SIZE > head.content_size
        and (head.flags & AFTER or head.content_size <= MAX_GROUP_CONTENTS)
        and head.flags in (0, AFTER)
        and (not head.flags or head.count == 1)
    )
    if not possible or (head.flags and head.contents[0] != HEADER_SIZE):
        raise FormatError(f"the group at byte {position} states impossible values", todo=RESTORE)
    return head


class Group:
    """A parsed group: its columns, and its entries, made on demand.

    What a reader keeps of it in memory is an `index.Page`.

    Raises:
        FormatError: damaged, or with values that can't be.
    """

    __slots__ = ("_attributes", "_columns", "_facts", "_proofs", "_uids", "body", "head")

    def __init__(self, head: GroupHead, rest: bytes, uids: Uids = PLAIN) -> None:
        if len(rest) != head.size - HEAD_SIZE or crc32(rest) != head.body_crc:
            raise FormatError("the checksum of a group does not match", todo=RESTORE, group=head.position)
        self.head = head
        self.body = Body(unpack_block(rest[: head.stored_size], head.raw_size), 0)
        if self.body.count != head.count:
            raise FormatError("a group contradicts its own count", todo=RESTORE, group=head.position)
        self._proofs = rest[head.stored_size :]
        self._columns = {name: column.values() for name, column in zip(COLUMNS, self.body.columns, strict=True)}
        _check_ranges(self._columns)
        self._columns["offset"] = _offsets(head, self._columns)
        self._facts: list[tuple[int, ...]] | None = None
        self._attributes: dict[int, Attributes] = {}
        self._uids = uids
        if uids.sealed and not self._looks_sealed():
            raise FormatError("a group shows of its files what must be sealed", todo=RESTORE, group=head.position)

    @classmethod
    def parse(cls, data: bytes, position: int, uids: Uids = PLAIN) -> Group:
        """A whole block of a shard with these uids, found at `position`.

        Raises:
            FormatError: damaged, or with values that can't be.
        """
        return cls(parse_group_head(data[:HEAD_SIZE], position), data[HEAD_SIZE:], uids)

    def __len__(self) -> int:
        return self.head.count

    def keys(self) -> U64:
        """The key of every row, from its uid.

        Raises:
            FormatError: the first is not the group's, or they don't rise.
        """
        keys = self._uids.keys(self.body.uids())
        if int(keys[0]) != self.head.first_key or bool((keys[1:] < keys[:-1]).any()):
            raise FormatError("the keys of a group are not sorted as it says", todo=RESTORE, group=self.head.position)
        return keys

    def entry(self, row: int, key: int) -> Entry:
        """The entry of a row, whose uid has that key.

        Raises:
            FormatError: uid or attributes that are not UTF-8.
        """
        if self._facts is None:
            columns = [self._columns[name].tolist() for name in _FACTS]
            self._facts = list(zip(*columns, self.crcs().tolist(), strict=True))
        created_at, size, stored_size, codec, parameter, flags, commit, ordinal, code, offset, crc = self._facts[row]
        attributes = self._attributes.get(code)
        if attributes is None:  # entries share them: as texts of their own they could take gigabytes
            attributes = self._attributes[code] = parse_attributes(self.body.attributes(code))
        return Entry(
            uid_text(self.body.uid(row)),
            key,
            self.head.first + row,
            created_at - TIME_BIAS,
            size,
            stored_size,
            offset,
            CODECS[codec],
            crc,
            self._proofs[32 * row : 32 * row + 32],
            parameter,
            *attributes,
            Origin(commit, ordinal) if commit else None,
            flags,
        )

    def entries(self) -> list[Entry]:
        """All entries.

        Raises:
            FormatError: uids or attributes that are not UTF-8, or a group that is not sorted.
        """
        return [self.entry(row, key) for row, key in enumerate(self.keys().tolist())]

    def column(self, name: str) -> U64:
        """All values of a column, shape (count,); "offset" is the absolute place of the stored bytes, 0 for none."""
        return self._columns[name]

    @property
    def digests_at(self) -> int:
        """Where in the shard the SHA-256 of every row lie, end to end."""
        return self.head.position + HEAD_SIZE + self.head.stored_size

    def digests(self) -> bytes:
        """The SHA-256 of every row, end to end."""
        return self._proofs[: 32 * self.head.count]

    def crcs(self) -> NDArray[np.uint32]:
        """The CRC32 of every row's stored bytes."""
        return np.frombuffer(self._proofs, "<u4", self.head.count, 32 * self.head.count)

    def _looks_sealed(self) -> bool:
        nothing = self.body.attribute_table() == [b""] and not bool(self._columns["place"].any())
        return nothing and look_sealed(self._columns, self.body.uid_strings.data)


def uid_text(uid: bytes) -> str:
    """A uid as text.

    Raises:
        FormatError: it is not UTF-8.
    """
    try:
        return uid.decode()
    except UnicodeDecodeError as error:
        raise FormatError("a uid is not UTF-8", todo=RESTORE, uid=uid) from error


def _offsets(head: GroupHead, columns: dict[str, U64]) -> U64:
    """The absolute place of every row's stored bytes; 0 where nothing is stored.

    Raises:
        FormatError: contents that don't fill the group, or a place that can't be.
    """
    stored, size, place = columns["stored_size"], columns["size"], columns["place"]
    begin, end = head.contents
    streamed = bool(head.flags)
    own = place == 0
    sizes = np.where(own, stored, np.uint64(0))
    if int(sizes.max()) > end - begin or int(sizes.sum()) != end - begin:
        raise FormatError("the contents of a group don't fill it", todo=RESTORE, group=head.position)
    if streamed:
        wrong = int(columns["codec"].max()) > Codec.ZSTD or not bool(own.all())
    else:
        wrong = int(size.max()) > MAX_INLINE or bool((stored > size).any())
    offsets = np.where(sizes > 0, np.uint64(begin) + np.cumsum(sizes) - sizes, np.uint64(0))
    if not wrong and not bool(own.all()):
        rows = np.arange(head.count, dtype=np.uint64)
        near = ~own & (place < ELSEWHERE)
        far = ~own & ~near
        holders = np.where(near, place - np.uint64(1), rows).astype(np.int64)
        wrong = bool(
            (near & (place > rows)).any()
            or (far & (place - np.uint64(ELSEWHERE) < HEADER_SIZE)).any()
            or (far & (place - np.uint64(ELSEWHERE) + stored > head.position)).any()
            or (~own & (stored == 0)).any()
            or (near & ~own[np.minimum(holders, head.count - 1)]).any()
            or (near & (stored != stored[np.minimum(holders, head.count - 1)])).any()
        )
        if not wrong:
            offsets = np.where(far, place - np.uint64(ELSEWHERE), offsets[holders])
    if wrong:
        raise FormatError("a group places a content where it can't be", todo=RESTORE, group=head.position)
    return offsets


def _check_ranges(columns: dict[str, U64]) -> None:
    for name, least, most in _RANGES:
        if int(columns[name].min()) < least or int(columns[name].max()) > most:
            raise FormatError(f"an entry has an impossible {name}", todo=RESTORE)


_FACTS = (
    "created_at", "size", "stored_size", "codec", "parameter", "flags", "origin_commit", "origin_ordinal", "attributes",
    "offset",
)  # fmt: skip
_RANGES = (
    ("uid_length", 1, MAX_UID_BYTES),
    ("created_at", MIN_TIME + TIME_BIAS, MAX_TIME + TIME_BIAS),
    ("size", 0, MAX_SIZE),
    ("stored_size", 0, MAX_SIZE),
    ("codec", 0, max(Codec)),
    ("parameter", 0, 0xFFFF),
    ("flags", 0, 0),
    ("origin_commit", 0, 0xFFFF_FFFF),
    ("origin_ordinal", 0, 0xFFFF_FFFF),
    ("place", 0, MAX_SIZE),
)
