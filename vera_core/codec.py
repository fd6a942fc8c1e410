"""How one file's content becomes stored bytes and back: raw, zstd, lz4, constant. Pure; docs/format-v1.md, "Codecs".

The codec is chosen by looking at the bytes, never at the name. Knows nothing of shards: places and the index belong to
`vera_core.format`, ciphers to `vera_core.keys`.

Batches exist because of the interpreter lock: libzstd and hashlib give it up on every call, and getting it back from a
busy thread takes up to 5 ms. A batch gives it up once.
"""

from __future__ import annotations

import hashlib
import threading
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, cast

import lz4
import lz4.block
import numpy as np
import zstandard
from isal.isal_zlib import crc32

from vera_core.errors import FormatError, UsageError
from vera_core.model import Codec
from vera_core.zstd_frame import MAX_WINDOW, check_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "MAX_INLINE",
    "Encoded",
    "Policy",
    "Stored",
    "check_constant",
    "crc32",
    "decode",
    "decode_many",
    "digest",
    "encode",
    "encode_many",
    "pack_block",
    "stream_compressor",
    "toolchain",
    "unpack_block",
]

MAX_INLINE = 16 << 20
"""Largest content in bytes that is encoded and decoded in memory; larger files are streamed to a shard of their own."""

_MAGIC = zstandard.FRAME_HEADER
_QUIET = 2047  # hashlib keeps the interpreter lock for updates shorter than 2048 bytes
_QUIET_LIMIT = 16 << 10
_SAMPLE_FROM = 8 << 10
_SAMPLE = 2048


class Policy(StrEnum):
    """What packing aims at: speed, a balance, or stored size. Readers need not know which was used."""

    FAST = "fast"
    BALANCED = "balanced"
    SMALL = "small"


class Encoded(NamedTuple):
    """A content as it will be stored.

    `crc32` is over `stored`, `sha256` over the content, `size` the content's bytes; `parameter` as in `model.Entry`.
    """

    codec: Codec
    parameter: int
    stored: bytes
    crc32: int
    sha256: bytes
    size: int


class Stored(NamedTuple):
    """What `decode_many` needs of one entry."""

    codec: Codec
    stored: bytes
    size: int
    parameter: int = 0


class _Method(NamedTuple):
    """A way to compress: the codec and, for zstd, the level."""

    codec: Codec
    level: int = 0


_RAW = _Method(Codec.RAW)
_CONSTANT = _Method(Codec.CONSTANT)

_METHODS: dict[Policy, tuple[tuple[int, _Method], ...]] = {
    # (largest size in bytes, method). Level 1 packs small records as tightly as level 3, and faster. lz4 is for larger
    # contents only: it gives up the interpreter lock on each call.
    Policy.FAST: ((16 << 10, _Method(Codec.ZSTD, -1)), (MAX_INLINE, _Method(Codec.LZ4))),
    Policy.BALANCED: ((16 << 10, _Method(Codec.ZSTD, 1)), (MAX_INLINE, _Method(Codec.ZSTD, 3))),
    Policy.SMALL: ((MAX_INLINE, _Method(Codec.ZSTD, 12)),),
}

_COMPRESSED = (
    # First bytes of formats whose content is compressed already.
    b"\x1f\x8b",  # gzip
    b"PK\x03\x04",  # zip, docx, xlsx, jar
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\x04\x22\x4d\x18",  # lz4
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
)
_FIRST_BYTES = frozenset(magic[0] for magic in _COMPRESSED) | {ord("R"), 0}


_STREAM_LEVELS = {Policy.FAST: 1, Policy.BALANCED: 3, Policy.SMALL: 9}


class _Contexts(threading.local):
    """One zstd context of each kind per thread: they are dear to make and not safe to share."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(
            max_window_size=MAX_WINDOW, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
        self.batch_decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """The thread's compressor of a level: magicless frames that state their content size, no checksum."""
        found = self.compressors.get(level)
        if found is None:
            found = self.compressors[level] = _compressor(level)
        return found


def _compressor(level: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        compression_level=level,
        write_content_size=1,
        write_checksum=0,
        write_dict_id=0,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


_contexts = _Contexts()


def toolchain() -> str:
    """The libraries that decide stored bytes, with versions. Same rows, options and toolchain give the same shard."""
    libzstd = ".".join(str(part) for part in zstandard.ZSTD_VERSION)
    return f"zstandard/{zstandard.__version__} libzstd/{libzstd} lz4/{lz4.library_version_string()}"


def digest(content: bytes) -> bytes:
    """SHA-256 of `content`, 32 bytes. Keeps the interpreter lock for small contents, where giving it up costs more."""
    size = len(content)
    if size <= _QUIET or size > _QUIET_LIMIT:
        return hashlib.sha256(content).digest()
    hasher = hashlib.sha256(content[:_QUIET])
    for start in range(_QUIET, size, _QUIET):
        hasher.update(content[start : start + _QUIET])
    return hasher.digest()


def encode(content: bytes, policy: Policy = Policy.BALANCED) -> Encoded:
    """Encodes one content of at most `MAX_INLINE` bytes; the same result as in any batch of `encode_many`.

    Raises:
        UsageError: the content is larger.
    """
    return encode_many((content,), policy)[0]


def encode_many(contents: Sequence[bytes], policy: Policy = Policy.BALANCED) -> list[Encoded]:
    """Encodes a batch (about 1 MB is best), each content at most `MAX_INLINE` bytes, in order.

    For worker threads: contexts are the thread's own, and compression gives up the interpreter lock once per method.

    Raises:
        UsageError: a content is larger.
    """
    results: list[Encoded | None] = [None] * len(contents)
    work: dict[_Method, list[int]] = {}
    for number, content in enumerate(contents):
        method = choose(content, policy)
        if method is _RAW:
            results[number] = _raw(content)
        elif method is _CONSTANT:
            results[number] = Encoded(Codec.CONSTANT, content[0], b"", 0, digest(content), len(content))
        else:
            work.setdefault(method, []).append(number)
    for method, numbers in work.items():
        chosen = [contents[number] for number in numbers]
        for number, content, stored in zip(numbers, chosen, _compress(chosen, method), strict=True):
            size = len(content)
            if len(stored) < size:
                results[number] = Encoded(method.codec, 0, stored, crc32(stored), digest(content), size)
            else:
                results[number] = _raw(content)
    return [result for result in results if result is not None]


def choose(content: bytes, policy: Policy) -> _Method:
    """What to try on `content`: constant, raw where it looks compressed already, else the policy's method.

    Raises:
        UsageError: the content is larger than `MAX_INLINE`.
    """
    size = len(content)
    if size == 0:
        return _RAW
    first = content[0]
    if first == content[-1] == content[size >> 1] and content.count(first) == size:
        return _CONSTANT
    if policy is not Policy.SMALL and (
        (first in _FIRST_BYTES and _has_magic(content)) or (size >= _SAMPLE_FROM and looks_random(content))
    ):
        return _RAW
    for limit, method in _METHODS[policy]:
        if size <= limit:
            return method
    raise UsageError(
        f"a content of {size} bytes is larger than the {MAX_INLINE} bytes held in memory",
        todo="Stream it to a shard of its own.",
    )


def looks_random(content: bytes) -> bool:
    """Whether the bytes are spread so evenly that compression is not worth trying.

    Takes up to 2,048 bytes spread over the content and compares the sum of squared byte counts with that of an even
    spread, n + n * (n - 1) / 256, in integers: random bytes and compressed formats exceed n * n / 256 by about an
    eighth at n = 2,048, machine code or text by a factor of 3 and more.
    """
    sample = np.frombuffer(content, np.uint8)[:: max(1, len(content) // _SAMPLE)][:_SAMPLE]
    counts = np.bincount(sample, minlength=256)
    n = len(sample)
    return int(np.dot(counts, counts)) * 256 * 4 < n * n * 5


def decode(codec: Codec, stored: bytes, size: int, parameter: int = 0) -> bytes:
    """The content of `size` bytes (at most `MAX_INLINE`). Never allocates more than `size` says and caps allow.

    Raises:
        FormatError: `stored` is not exactly one encoding of `size` bytes.
    """
    if not 0 <= size <= MAX_INLINE:
        raise FormatError(f"a content of {size} bytes is more than is decoded in memory")
    try:
        return _DECODERS[codec](stored, size, parameter)
    except (zstandard.ZstdError, lz4.block.LZ4BlockError) as error:
        raise FormatError(f"the stored bytes are no {codec.name.lower()} encoding of {size} bytes: {error}") from error


def decode_many(batch: Sequence[Stored]) -> list[bytes]:
    """Decodes a batch in order, giving up the interpreter lock once for all its zstd frames.

    The caller bounds the sum of sizes (some MB).

    Raises:
        FormatError: as `decode`; which item it was is found by decoding one by one.
    """
    frames = [number for number, item in enumerate(batch) if item.codec is Codec.ZSTD]
    if len(frames) < 2:
        return [decode(*item) for item in batch]
    for number in frames:
        check_frame(batch[number].stored, batch[number].size, batch[number].parameter)
    sizes = np.array([batch[number].size for number in frames], np.uint64)
    try:
        decoded = _contexts.batch_decompressor.multi_decompress_to_buffer(
            [_MAGIC + batch[number].stored for number in frames], decompressed_sizes=sizes.tobytes(), threads=1
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"a batch of zstd frames does not decode: {error}") from error
    contents = {number: decoded[place].tobytes() for place, number in enumerate(frames)}
    return [contents[number] if number in contents else decode(*item) for number, item in enumerate(batch)]


def stream_compressor(first: bytes, size: int, policy: Policy) -> zstandard.ZstdCompressionObj | None:
    """A zstd compressor for one stream of `size` bytes that begins with `first`; None if it should be stored raw."""
    if not size or choose(first, policy) is _RAW:
        return None
    return _compressor(_STREAM_LEVELS[policy]).compressobj(size=size)


def pack_block(raw: bytes, level: int = 3) -> bytes:
    """Compresses a block of index columns; returns `raw` itself unless the zstd frame is smaller."""
    packed = _contexts.compressor(level).compress(raw)
    return packed if len(packed) < len(raw) else raw


def unpack_block(stored: bytes, raw_size: int) -> bytes:
    """Undoes `pack_block`: `stored` is plain if it has `raw_size` bytes.

    Raises:
        FormatError: as `decode`.
    """
    return stored if len(stored) == raw_size else decode(Codec.ZSTD, stored, raw_size)


def _raw(content: bytes) -> Encoded:
    return Encoded(Codec.RAW, 0, content, crc32(content), digest(content), len(content))


def _has_magic(content: bytes) -> bool:
    # ISO media (mp4, heic) and RIFF-WebP have their mark behind a length.
    return content.startswith(_COMPRESSED) or content[4:8] == b"ftyp" or content[8:12] == b"WEBP"


def _compress(contents: list[bytes], method: _Method) -> Iterator[bytes]:
    if method.codec is Codec.LZ4:
        return (lz4.block.compress(content, store_size=False) for content in contents)
    buffers = cast("list[bytes | bytearray | memoryview]", contents)
    segments = _contexts.compressor(method.level).multi_compress_to_buffer(buffers, threads=1)
    return (segments[number].tobytes() for number in range(len(contents)))


def _decode_raw(stored: bytes, size: int, parameter: int) -> bytes:
    if len(stored) != size or parameter:
        raise FormatError(f"{len(stored)} raw bytes with parameter {parameter} are stored for a content of {size}")
    return stored


def _decode_zstd(stored: bytes, size: int, parameter: int) -> bytes:
    check_frame(stored, size, parameter)
    content = _contexts.decompressor.decompress(stored, max_output_size=size, allow_extra_data=False)
    if len(content) != size:
        raise FormatError(f"a zstd frame holds {len(content)} bytes, not the {size} of its content")
    return content


def _decode_lz4(stored: bytes, size: int, parameter: int) -> bytes:
    if not stored or not size or parameter:
        raise FormatError(f"{len(stored)} lz4 bytes with parameter {parameter} can't hold a content of {size}")
    content: bytes = lz4.block.decompress(stored, uncompressed_size=size)
    if len(content) != size:
        raise FormatError(f"an lz4 block holds {len(content)} bytes, not the {size} of its content")
    return content


def _decode_constant(stored: bytes, size: int, parameter: int) -> bytes:
    check_constant(len(stored), size, parameter)
    return bytes((parameter,)) * size


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
