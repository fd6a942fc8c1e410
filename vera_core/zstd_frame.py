"""The structure of one magicless zstd frame, checked before libzstd sees it (RFC 8878, section 3.1.1).

libzstd by itself ignores an output cap where a frame states a size, and passes over bytes that follow a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_WINDOW = 8 << 20
"""Largest zstd window in bytes that a reader accepts, whatever the frame asks for."""


LARGEST_BLOCK_CONTENT = 0xFFFF + 256
"""Bytes of the largest content that a frame's single block is stored of without the frame."""

_RLE, _COMPRESSED = 1, 2
"""Types of blocks."""


def block_frame(block: bytes, size: int) -> bytes:
    """The frame whose single block is `block`: of a single segment of `size` bytes, with its last block compressed.

    Raises:
        FormatError: there is no such frame.
    """
    length = len(block)
    if not 0 < length < size <= LARGEST_BLOCK_CONTENT:
        raise FormatError(f"a zstd block of {length} bytes is stored for a content of {size}")
    if size < 256:
        return (0x20 | size << 8 | 5 << 16 | length << 19).to_bytes(5, "little") + block
    return (0x60 | size - 256 << 8 | 5 << 24 | length << 27).to_bytes(6, "little") + block


def check_frame(stored: bytes, size: int) -> None:
    """Checks that `stored` is one frame that states `size`, keeps to the window cap and ends with its last byte."""
    end = len(stored)
    # Nearly every small file is this: a single segment of 256 to 65,791 bytes in one compressed block, the last.
    head = int.from_bytes(stored[:6], "little")
    if head == 0x60 | size - 256 << 8 | 5 << 24 | end - 6 << 27 and 256 <= size <= 0xFFFF + 256:
        return
    at = check_header(stored, size)
    last = False
    while not last:
        if at + 3 > end:
            raise FormatError("a zstd frame ends within its blocks")
        at, last = _next_block(stored, at)
    if at != end:
        raise FormatError(f"a zstd frame ends {abs(end - at)} bytes {'before' if at < end else 'behind'} its place")


def check_header(stored: bytes, size: int) -> int:
    """Checks a magicless frame header (RFC 8878 section 3.1.1.1) against `size`; returns where its blocks begin."""
    head = stored[:14]
    descriptor = head[0] if head else 0x0F
    single = descriptor & 0x20
    at = 1 if single else 2
    length = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    if descriptor & 0x0F or not length or len(head) < at + length:
        raise FormatError("a zstd frame header is cut, states no content size, or has a dictionary or checksum")
    stated = int.from_bytes(head[at : at + length], "little") + (256 if length == 2 else 0)
    window = stated if single else (1 << 10 + (head[1] >> 3)) * (8 + (head[1] & 7)) >> 3
    if stated != size or not size or window > MAX_WINDOW:  # libzstd's binding crashes on batches without any content
        raise FormatError(f"a zstd frame states {stated} bytes and a window of {window} for a content of {size}")
    return at + length


def _next_block(data: bytes, at: int) -> tuple[int, bool]:
    """Where the block whose 3-byte header is at `at` ends, and whether it is the frame's last (RFC 8878, 3.1.1.2).

    Raises:
        FormatError: a compressed block of no bytes, which libzstd refuses in a frame and passes over in a stream.
    """
    header = int.from_bytes(data[at : at + 3], "little")
    kind, size = header >> 1 & 3, header >> 3
    if kind == _COMPRESSED and not size:
        raise FormatError("a zstd frame holds a compressed block without bytes")
    return at + 3 + (1 if kind == _RLE else size), bool(header & 1)


class FrameFeed:
    """The pieces of one zstd frame as the file that libzstd reads from, checking the frame's structure on the way."""

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self._pieces = iter(pieces)
        self._ready = b""
        self._size = size
        self._rest = b""  # the start of a block header that was cut by the end of a piece
        self._at = 0  # of the next block header, counted from the start of `_rest`
        self._last = False
        self._head = True

    def read(self, length: int) -> bytes:
        """At most `length` bytes; b"" at the end."""
        if not self._ready:
            self._ready = next((piece for piece in self._pieces if piece), b"")
            while self._head and len(self._ready) < 14 and (more := next(self._pieces, b"")):
                self._ready += more
            self._walk(self._ready)
        taken, self._ready = self._ready[:length], self._ready[length:]
        return taken

    def finish(self) -> None:
        """Checks that the frame ended exactly where its bytes did."""
        if self.read(1) or not self._last or self._at:
            raise FormatError("a zstd frame does not end where its place does")

    def _walk(self, piece: bytes) -> None:
        data = self._rest + piece
        if self._head and piece:
            self._at, self._head = check_header(piece, self._size), False
        while not self._last and self._at + 3 <= len(data):
            self._at, self._last = _next_block(data, self._at)
        self._rest = data[self._at :] if self._at < len(data) else b""
        if self._last and self._rest:
            raise FormatError("bytes follow the end of a zstd frame")
        self._at = max(0, self._at - len(data))
