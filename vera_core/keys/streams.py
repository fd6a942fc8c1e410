"""Sealing one file that does not fit in memory, in segments, for a shard of its own; and opening it again.

docs/keys-v1.md, "A sealed stream". After STREAM (Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015): every segment is
sealed with its number and whether it is the last one, so none can be cut off, moved, left out or taken from elsewhere.
Files that fit in memory are sealing.py's; what the segments hold is said in format/sealed.py.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vera_core.encoding import Encoded
from vera_core.errors import IntegrityError
from vera_core.format.layout import RESTORE
from vera_core.format.sealed import (
    FIRST_SEGMENT,
    LAST_SEGMENT,
    SEGMENT,
    first_plaintext,
    parse_first,
    segment_lengths,
    segments_of,
)
from vera_core.format.stream import FileStream, Whole, decode_stream, recut
from vera_core.keys.mac import Mac
from vera_core.keys.sealing import NONCE_BYTES, OVERHEAD
from vera_core.keys.tree import derive
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vera_core.format.sealed import Inside
    from vera_core.format.stream import Hasher, Readable
    from vera_core.model import Policy

_STREAM = b"vera-stream-keys-v1"
_PLACE = struct.Struct("<QIB")


class Segments:
    """The key of one file's segments, bound to repository id, keyring id and ordinal. Threads may share it."""

    def __init__(self, ids: tuple[bytes, bytes], ordinal: int, leaf: bytes) -> None:
        keys = derive(leaf, _STREAM)
        self._cipher = AESGCM(keys[:32])
        self._nonces = Mac(keys[32:])
        self._bound = b"".join(ids)
        self._ordinal = ordinal

    def seal(self, number: int, plaintext: bytes, *, last: bool = False) -> bytes:
        """The nonce (12) || ciphertext || tag (16) of a segment."""
        place = _PLACE.pack(self._ordinal, number, last)
        # The nonce follows from place and bytes: not even a mistake puts two plaintexts under one (key, nonce).
        hasher = self._nonces.hasher()
        hasher.update(place)
        hasher.update(plaintext)
        nonce = hasher.digest()[:NONCE_BYTES]
        return nonce + self._cipher.encrypt(nonce, plaintext, self._bound + place)

    def open(self, number: int, sealed: bytes, *, last: bool = False) -> bytes:
        """The plaintext of what `seal` gave.

        Raises:
            IntegrityError: these are not the bytes that were sealed as this segment of this file.
        """
        place = _PLACE.pack(self._ordinal, number, last)
        try:
            if len(sealed) < OVERHEAD:
                raise InvalidTag
            return self._cipher.decrypt(sealed[:NONCE_BYTES], memoryview(sealed)[NONCE_BYTES:], self._bound + place)
        except InvalidTag:
            raise IntegrityError(
                "a segment of a sealed file does not open: its bytes were altered, moved, or sealed with another key",
                todo="Restore the shard from a copy that verifies; `vera verify --deep` shows the damage.",
                ordinal=self._ordinal,
                segment=number,
            ) from None


class SealedStream:
    """A file of `size` bytes, sealed as it is read: a `format.stream.Streamed`, in constant memory.

    `names` are created_at, the uid and the attribute string; `keyed` makes the keyed digest of the content. The facts
    are those of a raw content, which the shard takes it for.

    Raises:
        UsageError: a time or size out of range.
    """

    def __init__(
        self,
        segments: Segments,
        names: tuple[int, bytes, bytes],
        file: tuple[Readable, int],
        policy: Policy,
        keyed: Hasher,
    ) -> None:
        readable, size = file
        self._segments = segments
        self._digests = _Both(keyed)
        self._content = FileStream(readable, size, policy, self._digests)
        self._first = first_plaintext(*names, (size, self._content.codec))
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        """The sealed segments.

        Raises:
            UsageError: the file holds more or less than `size` bytes.
        """
        seal = self._segments.seal
        yield self._count(seal(0, self._first))
        number = 0
        for number, segment in enumerate(_segments(self._content), 1):
            yield self._count(seal(number, segment))
        yield self._count(seal(number + 1, self._digests.sha256.digest(), last=True))

    def facts(self) -> Encoded:
        """See `format.stream.Streamed`."""
        keyed = self._content.facts().sha256
        return Encoded(Codec.RAW, 0, b"", 0, keyed, self._size)

    def _count(self, sealed: bytes) -> bytes:
        self._size += len(sealed)
        return sealed


class OpenedStream:
    """A sealed stream of `stored_size` bytes, which come in `pieces`. `inside` is what its first segment says.

    Raises:
        IntegrityError: the first segment does not open, or no stream has so many bytes.
    """

    def __init__(self, segments: Segments, stored_size: int, pieces: Iterable[bytes]) -> None:
        self._segments = segments
        self._count = segments_of(stored_size)
        self._coming = recut(pieces, segment_lengths(stored_size))
        self.inside: Inside = parse_first(segments.open(0, next(self._coming)))

    def contents(self, keyed: Hasher, digest: bytes) -> Iterator[bytes]:
        """The content in pieces of up to 1 MiB; the last is given only once all matched. To be called once.

        Raises:
            IntegrityError: a segment does not open, the content does not decode, its keyed digest (by `keyed`) is not
                `digest`, or its SHA-256 not the one in the last segment.
        """
        stored = self.inside.stored
        digests = _Both(keyed)
        held = b""
        for piece in decode_stream(Whole(stored.codec, stored.size), self._plaintexts()):
            if held:
                yield held
            digests.update(piece)
            held = piece
        plain = self._segments.open(self._count - 1, next(self._coming), last=True)
        if any(self._coming) or digests.digest() != digest or digests.sha256.digest() != plain:
            raise IntegrityError("the content does not match its digests", todo=RESTORE)
        if held:
            yield held

    def _plaintexts(self) -> Iterator[bytes]:
        for number, sealed in enumerate(islice(self._coming, self._count - 2), 1):
            yield self._segments.open(number, sealed)


def opened_facts(segments: Segments, stored_size: int, first: bytes, last: bytes) -> tuple[Inside, bytes]:
    """What is sealed of a stream but its content, of its first and its last segment; and the SHA-256 of that.

    Raises:
        IntegrityError: one does not open, or no stream has so many bytes.
    """
    inside = parse_first(segments.open(0, first))
    return inside, segments.open(segments_of(stored_size) - 1, last, last=True)


def ends(stored_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the first and the last segment lie, as (place from the beginning, length).

    Raises:
        IntegrityError: no stream has so many bytes.
    """
    segments_of(stored_size)
    return (0, FIRST_SEGMENT), (stored_size - LAST_SEGMENT, LAST_SEGMENT)


class _Both:
    """The keyed digest of a content, and its SHA-256."""

    def __init__(self, keyed: Hasher) -> None:
        self._keyed = keyed
        self.sha256 = sha256()

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""
        self._keyed.update(data)
        self.sha256.update(data)

    def digest(self) -> bytes:
        """The keyed one."""
        return self._keyed.digest()


def _segments(stored: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes in pieces of `SEGMENT`, the last one shorter; none is empty."""
    held = bytearray()
    for piece in stored:
        held += piece
        while len(held) >= SEGMENT:
            yield bytes(memoryview(held)[:SEGMENT])
            del held[:SEGMENT]
    if held:
        yield bytes(held)
