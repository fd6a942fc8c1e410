"""Stored bytes back to one file's content: raw, zstd, lz4, constant. Pure; docs/format-v1.md, "Codecs".

How contents become stored bytes is encoding.py's business. Knows nothing of shards: places and the index belong to
`vera_core.format`, ciphers to `vera_core.keys`. Imports no numpy, so that reading one file starts fast.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

import lz4.block
import zstandard
from isal.isal_zlib import crc32

from vera_core.errors import FormatError
from vera_core.model import Codec
from vera_core.zstd_frame import MAX_WINDOW, check_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "MAX_DICTIONARIES",
    "MAX_DICTIONARY",
    "MAX_INLINE",
    "NO_DICTIONARIES",
    "Dictionaries",
    "Stored",
    "check_constant",
    "crc32",
    "decode",
    "decode_many",
    "digest",
    "unpack_block",
]

MAX_INLINE = 16 << 20
"""Largest content in bytes that is encoded and decoded in memory; larger files are streamed to a shard of their own."""
MAX_DICTIONARIES = 64
MAX_DICTIONARY = 128 << 10
"""Dictionaries of a shard, and bytes of each."""

_MAGIC = zstandard.FRAME_HEADER
_QUIET = 2047  # hashlib keeps the interpreter lock for updates shorter than 2048 bytes
_QUIET_LIMIT = 16 << 10
_BATCHED = 1 << 20
"""Contents up to this size in bytes are decoded in batches, whose results exist twice for a moment."""
_CONTEXTS = 16
"""Decompressors that a thread keeps of a shard, 160 KB each."""


class Stored(NamedTuple):
    """What decoding needs of one entry."""

    codec: Codec
    stored: bytes
    size: int
    parameter: int = 0


class _Decompressors(threading.local):
    """A thread's decompressors, by dictionary and whether frames have their magic number."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, bool], zstandard.ZstdDecompressor] = {}


class Dictionaries:
    """The zstd dictionaries of one shard, numbered from 1, and what decodes with them; threads may share it.

    Raises:
        FormatError: libzstd takes one of them for damaged.
    """

    __slots__ = ("_contexts", "_loaded")

    def __init__(self, dictionaries: Iterable[bytes] = ()) -> None:
        try:
            self._loaded = [zstandard.ZstdCompressionDict(data) for data in dictionaries]
            for loaded in self._loaded:
                zstandard.ZstdDecompressor(dict_data=loaded).decompress(_EMPTY_FRAME)
        except zstandard.ZstdError as error:
            raise FormatError(f"libzstd refuses a dictionary of the shard: {error}") from error
        self._contexts = _Decompressors()

    def __len__(self) -> int:
        return len(self._loaded)

    def decompressor(self, number: int, *, magic: bool) -> zstandard.ZstdDecompressor:
        """This thread's decompressor for frames made with dictionary `number` (0: none), with or without magic number.

        Raises:
            FormatError: there is no such dictionary.
        """
        contexts = self._contexts.made
        found = contexts.get((number, magic))
        if found is None:
            if len(contexts) >= _CONTEXTS:
                contexts.clear()
            found = contexts[number, magic] = self.new_decompressor(number, magic=magic)
        return found

    def new_decompressor(self, number: int, *, magic: bool = False) -> zstandard.ZstdDecompressor:
        """As `decompressor`, but the caller's own: for streams, between whose pieces others may be decoded.

        Raises:
            FormatError: there is no such dictionary.
        """
        if number > len(self._loaded):
            raise FormatError(f"zstd dictionary {number} is not in this shard")
        return zstandard.ZstdDecompressor(
            dict_data=self._loaded[number - 1] if number else None,
            max_window_size=MAX_WINDOW,
            format=zstandard.FORMAT_ZSTD1 if magic else zstandard.FORMAT_ZSTD1_MAGICLESS,
        )


_EMPTY_FRAME = _MAGIC + b"\x20\x00\x01\x00\x00"
NO_DICTIONARIES = Dictionaries()


def digest(content: bytes) -> bytes:
    """SHA-256 of `content`, 32 bytes. Keeps the interpreter lock for small contents, where giving it up costs more."""
    size = len(content)
    if size <= _QUIET or size > _QUIET_LIMIT:
        return hashlib.sha256(content).digest()
    hasher = hashlib.sha256(content[:_QUIET])
    for start in range(_QUIET, size, _QUIET):
        hasher.update(content[start : start + _QUIET])
    return hasher.digest()


def decode(item: Stored, dictionaries: Dictionaries = NO_DICTIONARIES) -> bytes:
    """The content of `item.size` bytes (at most `MAX_INLINE`). Never allocates more than that and caps allow.

    Raises:
        FormatError: `item.stored` is not exactly one encoding of `item.size` bytes.
    """
    if not 0 <= item.size <= MAX_INLINE:
        raise FormatError(f"a content of {item.size} bytes is more than is decoded in memory")
    try:
        return _DECODERS[item.codec](item, dictionaries)
    except (zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        name = item.codec.name.lower()
        raise FormatError(f"the stored bytes are no {name} encoding of {item.size} bytes: {error}") from error


def decode_many(batch: Sequence[Stored], dictionaries: Dictionaries = NO_DICTIONARIES) -> list[bytes]:
    """Decodes a batch in order, giving up the interpreter lock once for all zstd frames of a dictionary.

    The caller bounds the sum of sizes (some MB).

    Raises:
        FormatError: as `decode`; which item it was is found by decoding one by one.
    """
    frames: dict[int, list[int]] = {}
    contents: list[bytes] = [b""] * len(batch)
    for number, item in enumerate(batch):
        if item.codec is Codec.ZSTD and item.size <= _BATCHED:
            check_frame(item.stored, item.size)
            frames.setdefault(item.parameter, []).append(number)
        else:
            contents[number] = decode(item, dictionaries)
    for parameter, numbers in frames.items():
        sizes = struct.pack(f"<{len(numbers)}Q", *(batch[number].size for number in numbers))
        try:
            decoded = dictionaries.decompressor(parameter, magic=True).multi_decompress_to_buffer(
                [_MAGIC + batch[number].stored for number in numbers], decompressed_sizes=sizes, threads=1
            )
        except zstandard.ZstdError as error:
            raise FormatError(f"a batch of zstd frames does not decode: {error}") from error
        for place, number in enumerate(numbers):
            contents[number] = decoded[place].tobytes()
    return contents


def unpack_block(stored: bytes, raw_size: int) -> bytes:
    """Undoes `encoding.pack_block`: `stored` is plain if it has `raw_size` bytes.

    Raises:
        FormatError: as `decode`.
    """
    return stored if len(stored) == raw_size else decode(Stored(Codec.ZSTD, stored, raw_size))


def _decode_raw(item: Stored, _: Dictionaries) -> bytes:
    if len(item.stored) != item.size or item.parameter:
        raise FormatError(
            f"{len(item.stored)} raw bytes with parameter {item.parameter} are stored for a content of {item.size}"
        )
    return item.stored


def _decode_zstd(item: Stored, dictionaries: Dictionaries) -> bytes:
    check_frame(item.stored, item.size)
    decompressor = dictionaries.decompressor(item.parameter, magic=False)
    content = decompressor.decompress(item.stored, max_output_size=item.size, allow_extra_data=False)
    if len(content) != item.size:
        raise FormatError(f"a zstd frame holds {len(content)} bytes, not the {item.size} of its content")
    return content


def _decode_lz4(item: Stored, _: Dictionaries) -> bytes:
    if not item.stored or not item.size or item.parameter:
        raise FormatError(
            f"{len(item.stored)} lz4 bytes with parameter {item.parameter} can't hold a content of {item.size}"
        )
    content: bytes = lz4.block.decompress(item.stored, uncompressed_size=item.size)
    if len(content) != item.size:
        raise FormatError(f"an lz4 block holds {len(content)} bytes, not the {item.size} of its content")
    return content


def _decode_constant(item: Stored, _: Dictionaries) -> bytes:
    check_constant(len(item.stored), item.size, item.parameter)
    return bytes((item.parameter,)) * item.size


_DECODERS = {
    Codec.RAW: _decode_raw,
    Codec.ZSTD: _decode_zstd,
    Codec.LZ4: _decode_lz4,
    Codec.CONSTANT: _decode_constant,
}


def check_constant(stored_size: int, size: int, parameter: int) -> None:
    """Raises FormatError unless nothing is stored, something is repeated, and `parameter` is a byte."""
    if stored_size or not size or not 0 <= parameter <= 255:
        raise FormatError(f"{stored_size} bytes with parameter {parameter} are stored for a constant content of {size}")
