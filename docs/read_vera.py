"""A second reader of the .vera format, written from format-v1.md alone: one file, the standard library and zstandard.

    python read_vera.py SHARD                 list the entries
    python read_vera.py SHARD UID > FILE      write the latest content of UID

Short enough to be rewritten in another language. It holds a whole shard in memory and knows no encryption.
"""

from __future__ import annotations

import bisect
import hashlib
import struct
import sys
import zlib
from collections import namedtuple
from itertools import accumulate, pairwise
from pathlib import Path

import zstandard


class BadShardError(Exception):
    """The bytes are no shard of version 1, or are damaged."""


FIELDS = "uid ordinal created_at size stored_size offset codec parameter crc32 sha256 media_type metadata origin"
Entry = namedtuple("Entry", FIELDS)  # one archived file, in the words of the specification


def need(condition: bool, what: str) -> None:
    """Refuses the shard unless `condition` holds."""
    if not condition:
        raise BadShardError(what)


def number(data: bytes, at: int, size: int) -> int:
    """The little-endian number of `size` bytes at `at`."""
    need(at + size <= len(data), "cut off")
    return int.from_bytes(data[at : at + size], "little")


def lz4_block(block: bytes, size: int) -> bytes:
    """Decodes one LZ4 block to at most `size` bytes."""

    def length(at: int, total: int) -> tuple[int, int]:
        more = total == 15
        while more:
            at, total, more = at + 1, total + number(block, at, 1), number(block, at, 1) == 255
        return at, total

    out, at = bytearray(), 0
    while at < len(block):
        token = block[at]
        at, literals = length(at + 1, token >> 4)
        need(at + literals <= len(block) and len(out) + literals <= size, "lz4 literals reach too far")
        out += block[at : at + literals]
        at += literals
        if at == len(block):
            break
        distance = number(block, at, 2)
        at, matched = length(at + 2, token & 15)
        need(0 < distance <= len(out) and len(out) + matched + 4 <= size, "an lz4 match reaches too far")
        for _ in range(matched + 4):
            out.append(out[-distance])
    return bytes(out)


def zstd_frame(frame: bytes, size: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> bytes:
    """Decodes one magicless zstd frame of exactly `size` bytes."""
    descriptor = number(frame, 0, 1)
    at = 1 if (single := descriptor & 0x20) else 2
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    need(not descriptor & 15 and width > 0, "a zstd frame has no content size, or a dictionary or checksum")
    stated = number(frame, at, width) + (256 if width == 2 else 0)
    window = stated if single else (1 << 10 + (frame[1] >> 3)) * (8 + (frame[1] & 7)) // 8
    need(stated == size > 0 and window <= 8 << 20, "a zstd frame states another size or a large window")
    at, block = at + width, 0
    while not block & 1:
        block = number(frame, at, 3)
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    need(at == len(frame), "a zstd frame does not end where its place does")
    return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(b"\x28\xb5\x2f\xfd" + frame)


def block_head(entry: Entry) -> bytes:
    """What stands before the block of an entry with codec 4 in its zstd frame."""
    need(0 < entry.stored_size < entry.size <= 65_791, f"{entry.uid}: an impossible zstd block")
    start = struct.pack("<BB", 32, entry.size) if entry.size < 256 else struct.pack("<BH", 96, entry.size - 256)
    return start + (entry.stored_size << 3 | 5).to_bytes(3, "little")


def plain(stored: bytes, raw_size: int) -> bytes:
    """Undoes block compression."""
    need(len(stored) <= raw_size <= 4 << 20, "a block has an impossible size")
    return stored if len(stored) == raw_size else zstd_frame(stored, raw_size)


def table(block: bytes, at: int, columns: int) -> tuple[list[list[int]], int]:
    """Reads a table of columns at `at`; returns the columns and where the table ends."""
    rows = number(block, at, 4)
    need(rows <= 65_536 and at + 4 + 13 * columns <= len(block), "a table is too long or cut off")
    heads = list(struct.iter_unpack("<BQI", block[at + 4 : at + 4 + 13 * columns]))
    at += 4 + 13 * columns
    values = []
    for width, base, unit in heads:
        end = at + width * rows
        need(width <= 8 and unit > 0 and end <= len(block), "a column is cut off or impossible")
        distances = (int.from_bytes(block[at + i : end : rows], "little") for i in range(rows))
        values.append([base + unit * distance & (1 << 64) - 1 for distance in distances])
        at = end
    return values, at


def strings(block: bytes, at: int, lengths: list[int]) -> tuple[list[bytes], int]:
    """Cuts strings that lie end to end at `at`; returns them and where they end."""
    ends = list(accumulate(lengths, initial=at))
    need(ends[-1] <= len(block), "strings are cut off")
    return [block[begin:end] for begin, end in pairwise(ends)], ends[-1]


def attributes(text: bytes) -> tuple[str, list[tuple[str, str]]]:
    """Media type and metadata of an attribute string."""
    if not text:
        return "", []
    at, pairs = 1 + text[0], []
    media_type = text[1:at].decode()
    while at < len(text):
        key, value = number(text, at, 2), number(text, at + 2, 2)
        need(at + 4 + key + value <= len(text), "metadata are cut off")
        pairs.append((text[at + 4 : at + 4 + key].decode(), text[at + 4 + key : at + 4 + key + value].decode()))
        at += 4 + key + value
    return media_type, pairs


def group_entries(data: bytes, at: int, size: int) -> list[Entry]:
    """All entries of the group whose block takes `size` bytes at `at`."""
    block = data[at : at + size]
    need(len(block) == size >= 64 and block[:8] == b"\xd3VGROUP\n", "no group")
    position, first, _, content_size = struct.unpack_from("<4Q", block, 8)
    count, after, raw, stored, crc = struct.unpack_from("<5I", block, 40)
    need(zlib.crc32(block[:60]) == number(block, 60, 4) and zlib.crc32(block[64:]) == crc, "a group is damaged")
    need(position == at and size == 64 + stored + 36 * count and after <= 1, "a group is not what it says")
    body, proofs = plain(block[64 : 64 + stored], raw), block[64 + stored :]
    columns, end = table(body, 0, 11)
    need(count == len(columns[0]) > 0, "a group counts wrong")
    (lengths,), end = table(body, end, 1)
    texts, end = strings(body, end, lengths)
    even = [body[end + i :: count] for i in range(count)], end + count * columns[0][0]
    uids, end = strings(body, end, columns[0]) if body[4] else even  # by the width of the column of their lengths
    need(end == len(body), "uids don't fill their group")
    brought = begin = at - content_size if after else at + size
    entries: list[Entry] = []
    for i, row in enumerate(zip(*columns, strict=True)):
        _, created, length, stored_size, codec, parameter, flags, commit, origin, code, place = row
        need(code < len(texts) and not flags, "an attribute is missing, or a flag is not known")
        offset = brought if stored_size else 0
        if place >= 65_536:
            offset = place - 65_536
            need(256 <= offset < at, "a content is not in an earlier group")
        elif place:
            need(place <= i and entries[place - 1].stored_size == stored_size > 0, "a content is not in its group")
            offset = entries[place - 1].offset
        else:
            brought += stored_size
        sha256, crc = proofs[32 * i : 32 * i + 32], number(proofs, 32 * count + 4 * i, 4)
        fixed = (first + i, created - 2**63, length, stored_size, offset, codec, parameter, crc, sha256)
        entries.append(Entry(uids[i].decode(), *fixed, *attributes(texts[code]), (commit, origin) if commit else None))
    need(brought == begin + content_size, "contents don't fill their group")
    return entries


class Shard:
    """A whole shard in memory. `footer` holds the numbers of the footer by their names in the specification."""

    def __init__(self, data: bytes) -> None:
        need(len(data) >= 448 and data[:8] == b"\x89VERA\r\n\x1a", "no .vera shard")
        need(zlib.crc32(data[:252]) == number(data, 252, 4), "the header is damaged")
        foot = data[-192:]
        whole = foot[:8] == b"VERAFOOT" and foot[184:] == b"VERA.END" and zlib.crc32(foot[:180]) == number(foot, 180, 4)
        need(whole, "the footer is missing or damaged")
        need(number(foot, 8, 2) == number(data, 8, 2) == 1, "another version of the format")
        names = "size entries content stored first last oldest newest groups_at data_end table_at"
        self.footer: dict[str, int] = dict(zip(names.split(), struct.unpack_from("<6Q2q3Q", foot, 16), strict=True))
        rows, table_crc, flags = struct.unpack_from("<IIQ", foot, 104)
        need(flags == number(data, 16, 8) and not flags & ~12, "encrypted, or an unknown feature")
        self.streamed = bool(flags & 8)  # 4: there are dictionaries
        self.data = data
        at = self.footer["table_at"]
        need(at + 48 * rows + 192 == len(data) == self.footer["size"], "the shard is cut off")
        need(zlib.crc32(data[at : at + 48 * rows]) == table_crc, "the section table is damaged")
        directory, self.dictionaries = b"", {0: None}
        for tag, needed, crc, offset, size, raw, which in struct.iter_unpack("<8sIIQQQI4x", data[at : at + 48 * rows]):
            need(zlib.crc32(data[offset : offset + size]) == crc, "a section is damaged")
            need(tag in (b"GROUPDIR", b"DICT\0\0\0\0") or not needed & 1, "a section that this reader does not know")
            if tag == b"GROUPDIR":
                directory = plain(data[offset : offset + size], raw)
            elif tag == b"DICT\0\0\0\0":
                self.dictionaries[which] = zstandard.ZstdCompressionDict(plain(data[offset : offset + size], raw))
        (self.first_keys, self.joined, counts, sizes, contents), end = table(directory, 0, 5)
        need(end == len(directory) and sum(counts) == self.footer["entries"], "the directory is wrong")
        self.places, at = [], self.footer["groups_at"]
        for size, content in zip(sizes, contents, strict=True):
            self.places.append((at + (content if self.streamed else 0), size))
            at += size + content
        need(at == self.footer["data_end"], "groups don't fill DATA")

    def entries(self) -> list[Entry]:
        """All entries, in the order of their keys."""
        return [entry for place in self.places for entry in group_entries(self.data, *place)]

    def find(self, uid: str) -> list[Entry]:
        """All versions of a uid, the latest last."""
        key = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big")
        last = first = bisect.bisect_right(self.first_keys, key) - 1
        while first > 0 and self.joined[first] and self.first_keys[first] == key:
            first -= 1
        places = self.places[max(first, 0) : last + 1]
        return [entry for place in places for entry in group_entries(self.data, *place) if entry.uid == uid]

    def read(self, entry: Entry) -> bytes:
        """The content of an entry, verified."""
        stored = self.data[entry.offset : entry.offset + entry.stored_size]
        need(len(stored) == entry.stored_size and zlib.crc32(stored) == entry.crc32, f"{entry.uid}: damaged")
        need(self.streamed or entry.size <= 16 << 20, f"{entry.uid}: impossible size")
        most = max(self.dictionaries)
        need(entry.codec < 5 and entry.parameter <= (0, most, 0, 255, most)[entry.codec], f"{entry.uid}: unknown codec")
        decoders = (
            lambda: stored,
            lambda: zstd_frame(stored, entry.size, self.dictionaries[entry.parameter]),
            lambda: lz4_block(stored, entry.size),
            lambda: bytes([entry.parameter]) * entry.size,
            lambda: zstd_frame(block_head(entry) + stored, entry.size, self.dictionaries[entry.parameter]),
        )
        content = decoders[entry.codec]()
        right = len(content) == entry.size and hashlib.sha256(content).digest() == entry.sha256
        need(right, f"{entry.uid}: the content is not what was archived")
        return content


if __name__ == "__main__":
    opened = Shard(Path(sys.argv[1]).read_bytes())
    if len(sys.argv) == 2:
        for entry in opened.entries():
            print(entry.ordinal, entry.size, entry.sha256.hex(), entry.uid, sep="\t")
    elif found := opened.find(sys.argv[2]):
        sys.stdout.buffer.write(opened.read(found[-1]))
    else:
        sys.exit(f"{sys.argv[2]} is not in this shard")
