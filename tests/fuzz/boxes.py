"""Boxes: the inner parts of a shard one behind the other, of which a shard with right places and sums is built.

A fuzzer that changes a box changes columns, contents and dictionaries, while everything around them (places, sums,
keys, checksums, digests) follows: so it searches among shards that are nearly right.

A box is: u8 (bit 0: streamed, bits 1-2: dictionaries, bit 3: encrypted), each dictionary, then for each group its body
and its contents; each of these a u16 length and so many bytes. A content of an earlier group is named by that group's
number and its row, 65,536 + 256 * number + row, where the shard has its offset.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

from tests.fixtures.hostile.forge import (
    COLUMNS,
    DICTIONARIES,
    ENCRYPTED,
    KEYED,
    STREAMED,
    Group,
    Shard,
    dictionary_block,
    key_of,
    table,
)
from tests.fixtures.hostile.structure import SCHEME
from tests.format.support import Parts, opened
from vera_core.codec import Dictionaries
from vera_core.errors import FormatError
from vera_core.format.columns import Body
from vera_core.format.stream import Whole, decode_stream
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Columns = dict[str, list[int]]

MOST_CONTENT = 4 << 20
"""Contents up to this size are decoded to state their digest."""
_MOST_ROWS = 64
_FAR = 1 << 16


def box_of(shard: bytes) -> bytes:
    """The box of a whole shard."""
    reader = opened(shard)
    parts, entries = Parts.of(shard), list(reader.entries())
    homes: dict[int, int] = {}
    pieces = [raw for _, raw in parts.dictionaries]
    for number, group in enumerate(parts.groups):
        first = group.head["first"]
        columns = {name: values.tolist() for name, values in group.columns.items()}
        places = columns["place"]
        for row, place in enumerate(places):
            offset = entries[first + row].offset
            if place >= _FAR:
                places[row] = _FAR + homes[offset]
            elif place == 0:
                homes[offset] = 256 * number + row
        body = _with_places(Body(group.body, 0), columns) if max(places) >= _FAR else group.body
        pieces += [body, group.contents]
    streamed = any(group.after for group in parts.groups)
    flags = streamed | len(parts.dictionaries) << 1 | reader.encrypted << 3
    return bytes((flags,)) + b"".join(map(_packed, pieces))


def _packed(piece: bytes) -> bytes:
    return len(piece).to_bytes(2, "little") + piece


def _with_places(body: Body, columns: Columns) -> bytes:
    """A body with other columns."""
    texts, uids = body.attribute_table(), body.uids()
    joined = b"".join(uids)
    if min(columns["uid_length"]) == max(columns["uid_length"]):
        joined = b"".join(joined[at :: len(uids[0])] for at in range(len(uids[0])))
    lengths = table([[len(text) for text in texts]])
    return table([columns[name] for name in COLUMNS]) + lengths + b"".join(texts) + joined


def shard_of(box: bytes) -> bytes:
    """The shard that a box describes, whatever its bytes are."""
    flags = box[0] if box else 0
    pieces = _pieces(box[1:])
    dictionaries = [next(pieces, b"") for _ in range(flags >> 1 & 3)]
    front = b""
    for number, dictionary in enumerate(dictionaries, 1):
        front += dictionary_block(dictionary, number, 256 + len(front))
    keyed = bool(flags & 8)
    groups = sorted((_Group(body, next(pieces, b""), keyed) for body in pieces), key=lambda group: group.keys[0])
    forged = _forge(groups, dictionaries, 256 + len(front), bool(flags & 1))
    sections = [(dictionary, len(dictionary)) for dictionary in dictionaries]
    if not keyed:
        return Shard(forged, front, sections, lies=_sums(groups)).seal()
    incompat = ENCRYPTED | KEYED | (DICTIONARIES if sections else 0) | (STREAMED if flags & 1 else 0)
    return Shard(forged, front, sections, lies=_sums(groups), incompat=incompat, scheme=SCHEME).seal()


def _pieces(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


class _Group:
    """A group of a box. A body that is none counts as one entry of zeros."""

    def __init__(self, body: bytes, contents: bytes, keyed: bool) -> None:
        self.body, self.contents = body, contents
        self.keys, self.parsed = [0], False
        self.columns: Columns = {name: [0] for name in COLUMNS}
        self.stored: list[bytes] = [b""]
        self.offsets = [0]
        try:
            parsed = Body(body, 0)
        except FormatError:
            return
        if 0 < parsed.count <= _MOST_ROWS:
            self.parsed, self.keys = True, [key_of(uid, keyed) for uid in parsed.uids()]
            values = [column.values().tolist() for column in parsed.columns]
            self.columns = dict(zip(COLUMNS, values, strict=True))

    def place(self, begin: int, earlier: Sequence[_Group]) -> None:
        """Gives each entry its stored bytes, and its offset where its block begins at `begin`."""
        places = self.columns["place"]
        if self.parsed and max(places) >= _FAR:
            homes = [_home(place, earlier) for place in places]
            known = [home and home[0].offsets[home[1]] for home in homes]
            self.columns["place"] = [
                place if offset is None else (_FAR + offset) % (1 << 64)
                for place, offset in zip(places, known, strict=True)
            ]
            self.body = _with_places(Body(self.body, 0), self.columns)
        begin += 64 + len(self.body) + 36 * len(self.keys)
        self.stored, self.offsets, at = [], [], 0
        for row, place in enumerate(places):
            home = _home(place, earlier)
            end = at + self.columns["stored_size"][row]
            self.stored.append(self.contents[at:end])
            self.offsets.append(begin + at)
            if home is not None:
                self.stored[row] = home[0].stored[home[1]]
            elif 0 < place <= row:
                self.stored[row] = self.stored[place - 1]
            elif place == 0:
                at = end

    def proofs(self, dictionaries: Dictionaries) -> bytes:
        """SHA-256 and CRC32 of each entry, right wherever its content decodes."""
        checksums = [zlib.crc32(stored).to_bytes(4, "little") for stored in self.stored]
        columns = self.columns
        facts = zip(columns["size"], columns["codec"], columns["parameter"], self.stored, strict=True)
        return b"".join([*(_digest(*each, dictionaries) for each in facts), *checksums])


def _home(place: int, earlier: Sequence[_Group]) -> tuple[_Group, int] | None:
    """The group and row that a far place names."""
    number, row = divmod(place - _FAR, 256)
    if 0 <= number < len(earlier) and row < len(earlier[number].offsets):
        return earlier[number], row
    return None


def _digest(size: int, codec: int, parameter: int, stored: bytes, dictionaries: Dictionaries) -> bytes:
    hasher = hashlib.sha256()
    try:
        if size <= MOST_CONTENT and codec < len(Codec):
            for piece in decode_stream(Whole(Codec(codec), size, parameter), [stored], dictionaries):
                hasher.update(piece)
    except FormatError:
        pass
    return hasher.digest()


def _forge(groups: Sequence[_Group], dictionaries: Sequence[bytes], position: int, streamed: bool) -> list[Group]:
    """The groups at their places."""
    try:
        loaded = Dictionaries(dictionaries)
    except FormatError:
        loaded = Dictionaries()
    forged = []
    last = -1
    for number, group in enumerate(groups):
        group.place(position, groups[:number])
        position += 64 + len(group.body) + 36 * len(group.keys) + len(group.contents)
        lies = {"count": len(group.keys), "first_key": group.keys[0]}
        proofs = group.proofs(loaded)
        joined = int(group.keys[0] == last)
        forged.append(Group((), (), group.body, proofs, group.contents, streamed, joined, lies))
        last = group.keys[-1]
    return forged


def _sums(groups: Sequence[_Group]) -> dict[str, int]:
    """What the footer says."""
    if not groups:
        return {}
    times = np.array([time for group in groups for time in group.columns["created_at"]], np.uint64)
    signed = (times - np.uint64(1 << 63)).view(np.int64)
    return {
        "entries": sum(len(group.keys) for group in groups),
        "content_bytes": sum(sum(group.columns["size"]) for group in groups) % (1 << 64),
        "min_key": groups[0].keys[0],
        "max_key": groups[-1].keys[-1],
        "min_created_at": int(signed.min()),
        "max_created_at": int(signed.max()),
    }
