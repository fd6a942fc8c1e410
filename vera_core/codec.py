"""Stored bytes back to one file's content: raw, zstd, lz4, constant. Pure; docs/format-v1.md, "Codecs".

How contents become stored bytes is encoding.py's business. Knows nothing of shards: places and the index belong to
`vera_core.format`, ciphers to `vera_core.keys`. Imports no numpy, so that reading one file starts fast.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple, cast

import lz4.block
import zstandard
from isal.isal_zlib import crc32

from vera_core.errors import FormatError
from vera_core.model import Codec
from vera_core.zstd_frame import MAX_WINDOW, block_frame, check_frame, check_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    _Loaded = Sequence[zstandard.ZstdCompressionDict]

__all__ = [
    "MAX_DICTIONARIES",
    "MAX_DICTIONARY",
    "MAX_INLINE",
    "NO_DICTIONARIES",
    "Coding",
    "Dictionaries",
    "Stored",
    "check_constant",
    "crc32",
    "decode",
    "decode_as",
    "decode_many",
    "digest",
    "digest_alone",
    "digest_many",
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
_CONTEXTS = 8
"""Decompressors of a kind that a thread keeps of a shard, 160 KB each."""


class Coding(NamedTuple):
    """How a content became stored bytes."""

    codec: Codec
    parameter: int = 0


class Stored(NamedTuple):
    """What decoding needs of one entry."""

    codec: Codec
    stored: bytes
    size: int
    parameter: int = 0


class _Made(dict[int, zstandard.ZstdDecompressor]):
    """Decompressors by the number of their dictionary, made when first asked for, a few at a time."""

    __slots__ = ("_loaded", "_magic")

    def __init__(self, loaded: _Loaded, *, magic: bool) -> None:
        super().__init__()
        self._loaded = loaded
        self._magic = magic

    def __missing__(self, number: int) -> zstandard.ZstdDecompressor:
        if len(self) >= _CONTEXTS:
            self.clear()
        made = self[number] = _new_decompressor(self._loaded, number, magic=self._magic)
        return made


class _Decompressors(threading.local):
    """A thread's decompressors: of frames as they are stored, and of frames that have their magic number."""

    def __init__(self, loaded: _Loaded) -> None:
        self.stored = _Made(loaded, magic=False)
        self.whole = _Made(loaded, magic=True)


class Dictionaries:
    """The zstd dictionaries of one shard, numbered from 1, and what decodes with them; threads may share it.

    Raises:
        FormatError: libzstd takes one of them for damaged.
    """

    __slots__ = ("_loaded", "decompressors")

    def __init__(self, dictionaries: Iterable[bytes] = ()) -> None:
        try:
            self._loaded = [zstandard.ZstdCompressionDict(data) for data in dictionaries]
            for loaded in self._loaded:
                zstandard.ZstdDecompressor(dict_data=loaded).decompress(_EMPTY_FRAME)
        except zstandard.ZstdError as error:
            raise FormatError(f"libzstd refuses a dictionary of the shard: {error}") from error
        self.decompressors = _Decompressors(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def new_decompressor(self, number: int) -> zstandard.ZstdDecompressor:
        """A decompressor of the caller's own, with dictionary `number` (0: none), of frames as they are stored.

        Raises:
            FormatError: there is no such dictionary.
        """
        return _new_decompressor(self._loaded, number)


def _new_decompressor(loaded: _Loaded, number: int, *, magic: bool = False) -> zstandard.ZstdDecompressor:
    if number > len(loaded):
        raise FormatError(f"zstd dictionary {number} is not in this shard")
    return zstandard.ZstdDecompressor(
        dict_data=loaded[number - 1] if number else None,
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
    feed(hasher, content, _QUIET)
    return hasher.digest()


def feed(hasher: hashlib._Hash, content: bytes, start: int = 0) -> None:
    """Updates `hasher` with what stands in `content` from `start` on; keeps the interpreter lock as `digest` does."""
    size = len(content)
    if size > _QUIET_LIMIT:
        hasher.update(content[start:])
        return
    for at in range(start, size, _QUIET):
        hasher.update(content[at : at + _QUIET])


def digest_alone(content: bytes) -> bytes:
    """As `digest`, for a process in which no other thread waits for the interpreter lock: a quarter faster."""
    return hashlib.sha256(content).digest()


def decode(item: Stored, dictionaries: Dictionaries = NO_DICTIONARIES) -> bytes:
    """The content of `item.size` bytes (at most `MAX_INLINE`). Never allocates more than that and caps allow.

    Raises:
        FormatError: `item.stored` is not exactly one encoding of `item.size` bytes.
    """
    return decode_as(Coding(item.codec, item.parameter), item.stored, item.size, dictionaries)


def decode_as(coding: Coding, stored: bytes, size: int, dictionaries: Dictionaries = NO_DICTIONARIES) -> bytes:
    """As `decode`, for who has no `Stored` at hand.

    Raises:
        FormatError: as `decode`.
    """
    codec, parameter = coding
    try:
        if codec is _BLOCK:
            frame = block_frame(stored, size)
            content = dictionaries.decompressors.stored[parameter].decompress(frame, size, False, False)
        elif not 0 <= size <= MAX_INLINE:
            raise FormatError(f"a content of {size} bytes is more than is decoded in memory")
        elif codec is _ZSTD:
            if int.from_bytes(stored[:3], "little") != 0x60 | size - 256 << 8:  # as nearly every small frame begins
                check_header(stored, size)
            # By place, as names cost time: no more output than `size`, one frame, nothing behind it.
            content = dictionaries.decompressors.stored[parameter].decompress(stored, size, False, False)
        else:
            content = _OTHERS[codec](stored, size, parameter)
    except (zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        name = codec.name.lower()
        raise FormatError(f"the stored bytes are no {name} encoding of {size} bytes: {error}") from error
    if len(content) != size:
        raise FormatError(f"the stored bytes hold {len(content)} bytes, not the {size} of their content")
    return content


def decode_many(batch: Sequence[Stored], dictionaries: Dictionaries = NO_DICTIONARIES) -> list[bytes]:
    """Decodes a batch in order, giving up the interpreter lock once for all zstd frames of a dictionary.

    The caller bounds the sum of sizes (some MB).

    Raises:
        FormatError: as `decode`; which item it was is found by decoding one by one.
    """
    contents = [b""] * len(batch)
    for number, content in _decoded(batch, dictionaries):
        contents[number] = bytes(content)
    return contents


def digest_many(
    batch: Sequence[Stored],
    dictionaries: Dictionaries = NO_DICTIONARIES,
    digest_with: Callable[[bytes], bytes] = digest_alone,
) -> list[bytes]:
    """The digest of every content of a batch, as `decode_many` would give them, without making bytes of each.

    Raises:
        FormatError: as `decode_many`.
    """
    digests = [b""] * len(batch)
    for number, content in _decoded(batch, dictionaries):
        digests[number] = digest_with(content)
    return digests


def _decoded(batch: Sequence[Stored], dictionaries: Dictionaries) -> Iterator[tuple[int, bytes]]:
    """Each content by its number in the batch; zstd frames as parts of a buffer, which can be used as bytes can."""
    frames: dict[int, list[tuple[int, bytes]]] = {}
    for number, item in enumerate(batch):
        codec, stored, size, parameter = item
        if codec is _BLOCK:
            frames.setdefault(parameter, []).append((number, _MAGIC + block_frame(stored, size)))
        elif codec is _ZSTD and size <= _BATCHED:
            check_frame(stored, size)
            frames.setdefault(parameter, []).append((number, _MAGIC + stored))
        else:
            yield number, decode(item, dictionaries)
    for parameter, numbered in frames.items():
        sizes = struct.pack(f"<{len(numbered)}Q", *[batch[number].size for number, _ in numbered])
        try:
            decoded = dictionaries.decompressors.whole[parameter].multi_decompress_to_buffer(
                [frame for _, frame in numbered], decompressed_sizes=sizes, threads=1
            )
        except zstandard.ZstdError as error:
            raise FormatError(f"a batch of zstd frames does not decode: {error}") from error
        for place, (number, _) in enumerate(numbered):
            yield number, cast("bytes", decoded[place])


def unpack_block(stored: bytes, raw_size: int) -> bytes:
    """Undoes `encoding.pack_block`: `stored` is plain if it has `raw_size` bytes.

    Raises:
        FormatError: as `decode`.
    """
    return stored if len(stored) == raw_size else decode(Stored(Codec.ZSTD, stored, raw_size))


def _decode_raw(stored: bytes, size: int, parameter: int) -> bytes:
    if len(stored) != size or parameter:
        raise FormatError(f"{len(stored)} raw bytes with parameter {parameter} are stored for a content of {size}")
    return stored


def _decode_lz4(stored: bytes, size: int, parameter: int) -> bytes:
    if not stored or not size or parameter:
        raise FormatError(f"{len(stored)} lz4 bytes with parameter {parameter} can't hold a content of {size}")
    content: bytes = lz4.block.decompress(stored, uncompressed_size=size)
    return content


def _decode_constant(stored: bytes, size: int, parameter: int) -> bytes:
    check_constant(len(stored), size, parameter)
    return bytes((parameter,)) * size


_ZSTD, _BLOCK = Codec.ZSTD, Codec.ZSTD_BLOCK
_OTHERS = {Codec.RAW: _decode_raw, Codec.LZ4: _decode_lz4, Codec.CONSTANT: _decode_constant}


def check_constant(stored_size: int, size: int, parameter: int) -> None:
    """Raises FormatError unless nothing is stored, something is repeated, and `parameter` is a byte."""
    if stored_size or not size or not 0 <= parameter <= 255:
        raise FormatError(f"{stored_size} bytes with parameter {parameter} are stored for a constant content of {size}")
