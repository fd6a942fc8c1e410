"""HMAC-SHA-256 (RFC 2104) with keys of 32 bytes, for many small messages: one key each, or one for all. Pure.

Three of them are made for each encrypted file. hmac.digest looks its algorithm up in OpenSSL and gives up the
interpreter lock for each call: with a busy thread beside, a call took 2.7 ms instead of 3 us. Without one, two plain
hashes take two thirds of its time at 1 KB and half of it for a uid; at 10 KB it is a tenth quicker.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from vera_core.codec import digest, feed

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Sequence

_BLOCK = 64
# The key is filled up with zeros to a block of 64 bytes, then every byte of it changed.
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_INNER_PAD = b"\x36" * 32
_OUTER_PAD = b"\x5c" * 32


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """The 32 bytes of HMAC-SHA-256; `key` has 32 bytes."""
    inner = digest(key.translate(_INNER) + _INNER_PAD + message)
    return sha256(key.translate(_OUTER) + _OUTER_PAD + inner).digest()


def hmac_many(keys: Sequence[bytes], messages: Sequence[bytes]) -> list[bytes]:
    """`hmac_sha256` of each message with its own key, a quarter faster.

    Raises:
        ValueError: there are more or fewer keys than messages, or they have other lengths.
    """
    pads = np.zeros((len(messages), _BLOCK), np.uint8)
    pads[:, :32] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(messages), 32)
    inner, outer = (pads ^ 0x36).tobytes(), (pads ^ 0x5C).tobytes()
    places = range(0, len(inner), _BLOCK)
    return [
        sha256(outer[at : at + _BLOCK] + digest(inner[at : at + _BLOCK] + message)).digest()
        for at, message in zip(places, messages, strict=True)
    ]


class MacHasher:
    """The HMAC of one message as its pieces come."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, inner: hashlib._Hash, outer: hashlib._Hash) -> None:
        self._inner = inner
        self._outer = outer

    def update(self, data: bytes, /) -> None:
        """Takes the next piece."""
        self._inner.update(data)

    def digest(self) -> bytes:
        """The 32 bytes of the HMAC of all so far."""
        outer = self._outer.copy()
        outer.update(self._inner.digest())
        return outer.digest()


class Mac:
    """HMAC-SHA-256 with one key of 32 bytes, whose pads are hashed once: half the time for a uid. Threads share it."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        self._inner = sha256(key.translate(_INNER) + _INNER_PAD)
        self._outer = sha256(key.translate(_OUTER) + _OUTER_PAD)

    def hasher(self) -> MacHasher:
        """For a message that comes in pieces."""
        return MacHasher(self._inner.copy(), self._outer.copy())

    def digest(self, message: bytes) -> bytes:
        """The 32 bytes of the HMAC. Keeps the interpreter lock where `codec.digest` does."""
        inner, outer = self._inner.copy(), self._outer.copy()
        feed(inner, message)
        outer.update(inner.digest())
        return outer.digest()

    def digest_alone(self, message: bytes) -> bytes:
        """As `digest`, for a process in which no other thread waits for the interpreter lock."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()
