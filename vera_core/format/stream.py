"""Contents of any size through the codecs in constant memory: what a file above the inline limit is stored with."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import zstandard

from vera_core.codec import MAX_INLINE, NO_DICTIONARIES, Stored, check_constant, crc32, decode
from vera_core.encoding import Encoded, stream_compressor
from vera_core.errors import FormatError
from vera_core.model import Codec, Policy
from vera_core.zstd_frame import FrameFeed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

    from vera_core.codec import Dictionaries

CHUNK = 1 << 20
"""Bytes that streams take and give at a time. Part of the deterministic-bytes rule: zstd sees the same pieces."""


class StreamEncoder:
    """Encodes one file of a known size in constant memory: zstd, or raw where its first bytes look compressed already.

    Feed pieces of `CHUNK` bytes (the last may be shorter), then call `finish`. A zstd stream can come out a little
    larger than its content (3 bytes per 128 KiB at most): what was written can't be taken back.
    """

    def __init__(self, first: bytes, size: int, policy: Policy = Policy.BALANCED) -> None:
        self._zstd = stream_compressor(first, size, policy)
        self._sha256 = hashlib.sha256()
        self._crc = 0
        self.size = 0
        self.stored_size = 0

    def feed(self, piece: bytes) -> bytes:
        """Takes the next piece of the content; returns stored bytes (perhaps none)."""
        self._sha256.update(piece)
        self.size += len(piece)
        return self._count(piece if self._zstd is None else self._zstd.compress(piece))

    def finish(self) -> tuple[bytes, Encoded]:
        """The last stored bytes, and the facts of the whole; their `stored` is empty."""
        last = self._count(b"" if self._zstd is None else self._zstd.flush())
        codec = Codec.RAW if self._zstd is None else Codec.ZSTD
        return last, Encoded(codec, 0, b"", self._crc, self._sha256.digest(), self.size)

    def _count(self, stored: bytes) -> bytes:
        self._crc = crc32(stored, self._crc)
        self.stored_size += len(stored)
        return stored


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The file in pieces of exactly `CHUNK` bytes, the last shorter, however its reads come."""
    while True:
        parts = []
        need = CHUNK
        while need and (part := file.read(need)):
            parts.append(part)
            need -= len(part)
        if piece := b"".join(parts):
            yield piece
        if need:
            return


class Whole(NamedTuple):
    """What is known of a content that is decoded in pieces: its codec and parameter, and its size in bytes."""

    codec: Codec
    size: int
    parameter: int = 0


def decode_stream(
    whole: Whole, stored: Iterable[bytes], dictionaries: Dictionaries = NO_DICTIONARIES
) -> Iterator[bytes]:
    """Decodes a content of any size from its stored bytes, in pieces of at most `CHUNK` bytes, in constant memory.

    Raises:
        FormatError: the pieces are not exactly one encoding of `size` bytes; at the latest after the last piece.
    """
    match whole.codec:
        case Codec.RAW if whole.parameter == 0:
            return _checked(iter(stored), whole.size)
        case Codec.CONSTANT:
            return _checked(_constant_pieces(stored, whole.size, whole.parameter), whole.size)
        case Codec.ZSTD:
            return _checked(_zstd_pieces(whole, stored, dictionaries), whole.size)
        case _:
            return _at_once(whole, stored, dictionaries)


def _checked(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Passes on non-empty pieces as long as they are `size` bytes in all."""
    left = size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise FormatError(f"a stream holds more than the {size} bytes of its content")
        if piece:
            yield piece
    if left:
        raise FormatError(f"a stream lacks {left} of the {size} bytes of its content")


def _at_once(whole: Whole, pieces: Iterable[bytes], dictionaries: Dictionaries) -> Iterator[bytes]:
    if whole.size > MAX_INLINE:
        raise FormatError(f"a content of {whole.size} bytes is more than is decoded in memory")
    stored = b""
    for piece in pieces:
        stored += piece
        if len(stored) > MAX_INLINE:
            raise FormatError("more bytes are stored than are decoded in memory")
    yield decode(Stored(whole.codec, stored, whole.size, whole.parameter), dictionaries)


def _constant_pieces(pieces: Iterable[bytes], size: int, parameter: int) -> Iterator[bytes]:
    check_constant(sum(len(piece) for piece in pieces), size, parameter)
    whole = bytes((parameter,)) * min(size, CHUNK)
    for start in range(0, size, CHUNK):
        yield whole[: size - start]


def _zstd_pieces(whole: Whole, pieces: Iterable[bytes], dictionaries: Dictionaries) -> Iterator[bytes]:
    feed = FrameFeed(pieces, whole.size)
    decompressor = dictionaries.new_decompressor(whole.parameter)
    try:
        with decompressor.stream_reader(cast("IO[bytes]", feed)) as reader:
            while piece := reader.read(CHUNK):
                yield piece
    except zstandard.ZstdError as error:
        raise FormatError(f"the stored bytes are no zstd encoding of {whole.size} bytes: {error}") from error
    feed.finish()
