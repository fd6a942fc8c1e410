"""A second reader of the .vera format, written from format-v1.md alone: one file, the standard library and zstandard.

    python read_vera.py SHARD                 list the entries
    python read_vera.py SHARD UID > FILE      write the latest content of UID

It shows that archived files can be read without VERA, and it is short enough to be rewritten in another language. It
holds a whole shard in memory and knows no encryption, keyed uids or dictionaries.
"""

from __future__ import annotations

import bisect
import hashlib
import struct
import sys
import zlib
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_MAGIC = b"\x89VERA\r\n\x1a"
STREAMED = 8
RAW, ZSTD, LZ4, CONSTANT = range(4)


class BadShardError(Exception):
    """The bytes are no shard of version 1, or are damaged."""


Entry = namedtuple(  # one archived file, in the words of the specification
    "Entry",
    "uid ordinal created_at size stored_size offset codec parameter crc32 sha256 media_type metadata origin",
)


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
    out, at = bytearray(), 0

    def length(at: int, total: int) -> tuple[int, int]:
        more = total == 15
        while more:
            at, total, more = at + 1, total + number(block, at, 1), number(block, at, 1) == 255
        return at, total

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


def zstd_frame(frame: bytes, size: int) -> bytes:
    """Decodes one magicless zstd frame of exactly `size` bytes."""
    descriptor = number(frame, 0, 1)
    single = descriptor & 0x20
    at = 1 if single else 2
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    need(not descriptor & 15 and width > 0, "a zstd frame has no content size, or a dictionary or checksum")
    stated = number(frame, at, width) + (256 if width == 2 else 0)
    byte = number(frame, 1, 1)
    window = stated if single else (1 << 10 + (byte >> 3)) * (8 + (byte & 7)) // 8
    need(stated == size and window <= 8 << 20, "a zstd frame states another size or a large window")
    at, last = at + width, 0
    while not last:
        block = number(frame, at, 3)
        last = block & 1
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    need(at == len(frame), "a zstd frame does not end where its place does")
    return zstandard.ZstdDecompressor().decompress(b"\x28\xb5\x2f\xfd" + frame)


def plain(stored: bytes, raw_size: int) -> bytes:
    """Undoes block compression."""
    need(len(stored) <= raw_size <= 4 << 20, "a block has an impossible size")
    return stored if len(stored) == raw_size else zstd_frame(stored, raw_size)


def table(block: bytes, at: int, columns: int) -> tuple[list[list[int]], int]:
    """Reads a table of columns at `at`; returns the columns and where the table ends."""
    rows = number(block, at, 4)
    need(rows <= 65_536, "a table is too long")
    at += 4
    heads = [(number(block, at + 9 * c, 1), number(block, at + 9 * c + 1, 8)) for c in range(columns)]
    at += 9 * columns
    values = []
    for width, base in heads:
        need(width <= 8 and at + width * rows <= len(block), "a column is cut off")
        end = at + width * rows
        values.append(
            [base + int.from_bytes(block[at + i : end : rows], "little") & (1 << 64) - 1 for i in range(rows)]
        )
        at = end
    return values, at


def strings(block: bytes, at: int, lengths: list[int]) -> tuple[list[bytes], int]:
    """Cuts strings that lie end to end at `at`; returns them and where they end."""
    need(at + sum(lengths) <= len(block), "strings are cut off")
    out = []
    for length in lengths:
        out.append(block[at : at + length])
        at += length
    return out, at


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


def page_entries(page: bytes) -> list[Entry]:
    """All entries of an index page."""
    need(page[:4] == b"VPAG", "no index page")
    count, raw, stored = number(page, 4, 4), number(page, 16, 4), number(page, 20, 4)
    need(len(page) == 32 + stored + 36 * count, "an index page has another size than it says")
    core, proofs = plain(page[32 : 32 + stored], raw), page[32 + stored :]
    columns, at = table(core, 2 * count, 12)
    (lengths,), at = table(core, at, 1)
    texts, at = strings(core, at, lengths)
    if min(columns[0]) == max(columns[0]):
        need(at + count * columns[0][0] == len(core), "uids don't fill their page")
        uids = [core[at + i :: count] for i in range(count)]
    else:
        uids, at = strings(core, at, columns[0])
        need(at == len(core), "uids don't fill their page")
    entries = []
    for i, row in enumerate(zip(*columns, strict=True)):
        _, created, size, stored_size, codec, parameter, _, commit, first, code, ordinal, offset = row
        need(code < len(texts), "an attribute is missing")
        crc, digest = number(proofs, 32 * count + 4 * i, 4), proofs[32 * i : 32 * i + 32]
        fixed = (ordinal, created - 2**63, size, stored_size, offset, codec, parameter, crc, digest)
        entries.append(Entry(uids[i].decode(), *fixed, *attributes(texts[code]), (commit, first) if commit else None))
    return entries


class Shard:
    """A whole shard in memory. `footer` holds the numbers of the footer by their names in the specification."""

    def __init__(self, data: bytes) -> None:
        need(len(data) >= 448 and data[:8] == HEADER_MAGIC, "no .vera shard")
        need(zlib.crc32(data[:252]) == number(data, 252, 4), "the header is damaged")
        foot = data[-192:]
        need(foot[:8] == b"VERAFOOT" and foot[184:] == b"VERA.END", "the end of the shard is missing")
        need(zlib.crc32(foot[:180]) == number(foot, 180, 4), "the footer is damaged")
        need(number(foot, 8, 2) == number(data, 8, 2) == 1, "another version of the format")
        names = "size entries content stored first last oldest newest data_end pages_size table_at"
        self.footer: dict[str, Any] = dict(zip(names.split(), struct.unpack_from("<6Q2q3Q", foot, 16), strict=True))
        rows, table_crc, flags = struct.unpack_from("<IIQ", foot, 104)
        need(flags == number(data, 16, 8) and not flags & ~STREAMED, "a feature that this reader does not know")
        self.streamed = bool(flags & STREAMED)
        self.data = data
        at = self.footer["table_at"]
        need(at + 48 * rows + 192 == len(data) == self.footer["size"], "the shard is cut off")
        need(zlib.crc32(data[at : at + 48 * rows]) == table_crc, "the section table is damaged")
        directory = b""
        for tag, needed, crc, offset, size, raw, _ in struct.iter_unpack("<8sIIQQQI4x", data[at : at + 48 * rows]):
            need(zlib.crc32(data[offset : offset + size]) == crc, "a section is damaged")
            need(tag == b"PAGEDIR\0" or not needed & 1, "a section that this reader does not know")
            if tag == b"PAGEDIR\0":
                directory = plain(data[offset : offset + size], raw)
        (self.first_keys, self.joined, counts, self.sizes, self.crcs), end = table(directory, 0, 5)
        need(end == len(directory) and sum(counts) == self.footer["entries"], "the directory is wrong")
        self.places = [self.footer["data_end"]]
        for size in self.sizes:
            self.places.append(self.places[-1] + size)

    def page(self, i: int) -> list[Entry]:
        """The entries of page i."""
        page = self.data[self.places[i] : self.places[i + 1]]
        need(zlib.crc32(page) == self.crcs[i], "an index page is damaged")
        return page_entries(page)

    def entries(self) -> list[Entry]:
        """All entries in the order in which they were written."""
        return sorted((e for i in range(len(self.sizes)) for e in self.page(i)), key=lambda entry: entry.ordinal)

    def find(self, uid: str) -> list[Entry]:
        """All versions of a uid, the latest last."""
        key = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big")
        last = first = bisect.bisect_right(self.first_keys, key) - 1
        while first > 0 and self.joined[first] and self.first_keys[first] == key:
            first -= 1
        return [e for i in range(max(first, 0), last + 1) for e in self.page(i) if e.uid == uid]

    def read(self, entry: Entry) -> bytes:
        """The content of an entry, verified."""
        stored = self.data[entry.offset : entry.offset + entry.stored_size]
        need(len(stored) == entry.stored_size and zlib.crc32(stored) == entry.crc32, f"{entry.uid}: damaged")
        need(self.streamed or entry.size <= 16 << 20, f"{entry.uid}: impossible size")
        need(
            entry.codec <= CONSTANT and (entry.codec == CONSTANT or not entry.parameter), f"{entry.uid}: unknown codec"
        )
        decoders: dict[int, Callable[[], bytes]] = {
            RAW: lambda: stored,
            ZSTD: lambda: zstd_frame(stored, entry.size),
            LZ4: lambda: lz4_block(stored, entry.size),
            CONSTANT: lambda: bytes([entry.parameter]) * entry.size,
        }
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
