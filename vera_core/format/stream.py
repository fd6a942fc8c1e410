"""Contents of any size through the codecs in constant memory: what a file above the inline limit is stored with."""

from __future__ import annotations

import hashlib
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, cast

import zstandard

from vera_core.codec import MAX_INLINE, NO_DICTIONARIES, Stored, check_constant, crc32, decode
from vera_core.encoding import Encoded, stream_compressor
from vera_core.errors import FormatError, UsageError
from vera_core.model import Codec, Policy
from vera_core.zstd_frame import FrameFeed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vera_core.codec import Dictionaries

CHUNK = 1 << 20
"""Bytes that streams take and give at a time. Part of the deterministic-bytes rule: zstd sees the same pieces."""


class Hasher(Protocol):
    """What digests a content as it passes."""

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""

    def digest(self) -> bytes:
        """The 32 bytes of all so far."""


class Readable(Protocol):
    """A file as far as it is read here."""

    def read(self, length: int, /) -> bytes:
        """At most `length` bytes; b"" at the end."""


class Streamed(Protocol):
    """A file on its way to a shard of its own: iterate once, over what is stored of it; then ask for its facts."""

    def __iter__(self) -> Iterator[bytes]:
        """The stored bytes in pieces."""

    def facts(self) -> Encoded:
        """Those of the whole, once all pieces were taken; its `stored` is empty."""


class StreamEncoder:
    """Encodes one file of a known size in constant memory: zstd, or raw where its first bytes look compressed already.

    Feed pieces of `CHUNK` bytes (the last may be shorter), then call `finish`. A zstd stream can come out a little
    larger than its content (3 bytes per 128 KiB at most): what was written can't be taken back.
    """

    def __init__(self, first: bytes, size: int, policy: Policy = Policy.BALANCED, hasher: Hasher | None = None) -> None:
        self._zstd = stream_compressor(first, size, policy)
        self._hasher = hasher or hashlib.sha256()
        self._crc = 0
        self.size = 0
        self.stored_size = 0

    @property
    def codec(self) -> Codec:
        """What it encodes with."""
        return Codec.RAW if self._zstd is None else Codec.ZSTD

    def feed(self, piece: bytes) -> bytes:
        """Takes the next piece of the content; returns stored bytes (perhaps none)."""
        self._hasher.update(piece)
        self.size += len(piece)
        return self._count(piece if self._zstd is None else self._zstd.compress(piece))

    def finish(self) -> tuple[bytes, Encoded]:
        """The last stored bytes, and the facts of the whole; their `stored` is empty."""
        last = self._count(b"" if self._zstd is None else self._zstd.flush())
        return last, Encoded(self.codec, 0, b"", self._crc, self._hasher.digest(), self.size)

    def _count(self, stored: bytes) -> bytes:
        self._crc = crc32(stored, self._crc)
        self.stored_size += len(stored)
        return stored


class FileStream:
    """A file of `size` bytes, encoded as it is read: a `Streamed`. Its first piece is read at once, for its codec.

    `hasher` digests the content; SHA-256 where None.
    """

    def __init__(self, file: Readable, size: int, policy: Policy, hasher: Hasher | None = None) -> None:
        self._coming = pieces(file)
        self._first = next(self._coming, b"")
        self._size = size
        self._encoder = StreamEncoder(self._first, size, policy, hasher)
        self._facts: Encoded | None = None

    @property
    def codec(self) -> Codec:
        """How it is stored."""
        return self._encoder.codec

    def __iter__(self) -> Iterator[bytes]:
        """The stored bytes in pieces.

        Raises:
            UsageError: the file holds more or less than `size` bytes.
        """
        encoder, size = self._encoder, self._size
        piece: bytes | None = self._first
        while piece and encoder.size + len(piece) <= size:
            yield encoder.feed(piece)
            piece = next(self._coming, None)
        if piece or encoder.size != size:
            raise UsageError(
                f"the file holds {'more than ' if piece else 'only '}{size if piece else encoder.size} of {size} bytes",
                todo="It changed while it was read; pack it again.",
            )
        last, self._facts = encoder.finish()
        yield last

    def facts(self) -> Encoded:
        """See `Streamed`."""
        if self._facts is None:
            raise UsageError("a stream has no digest before its end")
        return self._facts


class PiecesFile:
    """Pieces of a content as a file, to be read from front to back."""

    def __init__(self, content: Iterable[bytes]) -> None:
        self._content = iter(content)
        self._held = b""

    def read(self, length: int, /) -> bytes:
        """See `Readable`."""
        if not self._held:
            self._held = next((piece for piece in self._content if piece), b"")
        taken, self._held = self._held[:length], self._held[length:]
        return taken


def recut(stored: Iterable[bytes], lengths: Iterable[int]) -> Iterator[bytes]:
    """The same bytes in pieces of these lengths.

    Raises:
        FormatError: they are more, or fewer.
    """
    held, coming = bytearray(), iter(stored)
    for length in lengths:
        while len(held) < length:
            piece = next(coming, None)
            if piece is None:
                raise FormatError("a stream is cut off")
            held += piece
        yield bytes(memoryview(held)[:length])
        del held[:length]
    if held or any(coming):
        raise FormatError("bytes follow the end of a stream")


def pieces(file: Readable) -> Iterator[bytes]:
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
