"""Makes the checksums of a changed shard right again, so that a fuzzer gets past them to what they protect."""

from __future__ import annotations

import struct
import zlib

_GROUP = b"\xd3VGROUP\n"
_DICTIONARY = b"\xd3VDICT\n\0"
_MOST = 64
"""Groups, dictionaries and sections that are looked at."""


def seal(data: bytes) -> bytes:
    """The same bytes with every checksum made right that can be found: header, blocks, sections, table, footer."""
    out = bytearray(data)
    if len(out) < 448:
        return data
    _crc(out, 0, 252)
    for at in _places(out, _DICTIONARY):
        size = int.from_bytes(out[at + 20 : at + 24], "little")
        _put(out, at + 24, zlib.crc32(out[at + 32 : at + 32 + size]))
        _crc(out, at, 28)
    for at in _places(out, _GROUP):
        seal_group(out, at)
    _seal_tail(out)
    return bytes(out)


def seal_group(out: bytearray, at: int) -> None:
    """Seals the block at `at`, as long as its head says it is."""
    if at + 64 <= len(out):
        count, _, _, stored = struct.unpack_from("<4I", out, at + 40)
        _put(out, at + 56, zlib.crc32(out[at + 64 : at + 64 + stored + 36 * count]))
        _crc(out, at, 60)


def _seal_tail(out: bytearray) -> None:
    foot = len(out) - 192
    table, rows = struct.unpack_from("<QI", out, foot + 96)
    if table + 48 * rows <= foot:
        for row in range(table, table + 48 * min(rows, _MOST), 48):
            offset, size = struct.unpack_from("<QQ", out, row + 16)
            _put(out, row + 12, zlib.crc32(out[offset : offset + size]))
        _put(out, foot + 108, zlib.crc32(out[table : table + 48 * rows]))
    out[foot + 144 : foot + 148] = out[252:256]
    _crc(out, foot, 180)


def _places(out: bytearray, magic: bytes) -> list[int]:
    found: list[int] = []
    at = out.find(magic)
    while at >= 0 and len(found) < _MOST:
        found.append(at)
        at = out.find(magic, at + 1)
    return found


def _crc(out: bytearray, at: int, size: int) -> None:
    _put(out, at + size, zlib.crc32(out[at : at + size]))


def _put(out: bytearray, at: int, value: int) -> None:
    if at + 4 <= len(out):
        out[at : at + 4] = value.to_bytes(4, "little")
