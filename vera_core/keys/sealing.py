"""Sealing one file with its leaf of the key tree: AES-256-GCM with a nonce that follows from the bytes. Pure.

docs/keys-v1.md, "A sealed file". What a plaintext is made of (attributes, codec, content) is the shard format's, where
leaves come from tree.py's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vera_core.errors import IntegrityError, UsageError
from vera_core.keys.mac import hmac_many
from vera_core.keys.tree import derive, derive_many

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD = NONCE_BYTES + TAG_BYTES
"""Bytes that sealing adds."""
MAX_PLAINTEXT = (1 << 31) - 1 - TAG_BYTES
"""What one call of the cipher takes; AES-GCM itself would take 64 GiB."""
ID_BYTES = 16

_FILE = b"vera-file-keys-v1"
_ORDINAL = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class FileSealer:
    """Seals and opens the files of one shard, named by the 16 bytes each of repository id and keyring id.

    Both, and the ordinal, are authenticated with every file: in another place it does not open.

    Raises:
        UsageError: an id has another length.
    """

    repository_id: bytes
    keyring_id: bytes

    def __post_init__(self) -> None:
        if len(self.repository_id) != ID_BYTES or len(self.keyring_id) != ID_BYTES:
            raise UsageError(f"repository id and keyring id have {ID_BYTES} bytes each")

    def seal(self, ordinal: int, leaf: bytes, plaintext: bytes) -> bytes:
        """The nonce (12) || ciphertext || tag (16). The same arguments give the same bytes.

        Raises:
            UsageError: the plaintext is longer than `MAX_PLAINTEXT`.
        """
        return self.seal_many(ordinal, [leaf], [plaintext])[0]

    def seal_many(self, first: int, leaves: Iterable[bytes], plaintexts: Sequence[bytes]) -> list[bytes]:
        """Seals files of consecutive ordinals from `first` on, each with its leaf.

        Raises:
            UsageError: a plaintext is longer than `MAX_PLAINTEXT`.
            ValueError: there are more or fewer leaves than plaintexts.
        """
        if plaintexts and len(max(plaintexts, key=len)) > MAX_PLAINTEXT:
            raise UsageError(f"a file of more than {MAX_PLAINTEXT} bytes can't be sealed whole")
        bound, number = self.repository_id + self.keyring_id, _ORDINAL.pack
        keys = derive_many(leaves, _FILE)
        # The nonce follows from the bytes, so that even a mistake can't put two plaintexts under one (key, nonce).
        macs = hmac_many([pair[32:] for pair in keys], plaintexts)
        sealed = []
        for ordinal, (pair, mac, plaintext) in enumerate(zip(keys, macs, plaintexts, strict=True), first):
            nonce = mac[:NONCE_BYTES]
            sealed.append(nonce + AESGCM(pair[:32]).encrypt(nonce, plaintext, bound + number(ordinal)))
        return sealed

    def open_many(self, first: int, leaves: Iterable[bytes], stored: Sequence[bytes]) -> list[bytes]:
        """The plaintexts of consecutive ordinals from `first` on, each with its leaf: the inverse of `seal_many`.

        Raises:
            IntegrityError: one does not open; it is named.
            ValueError: there are more or fewer leaves than stored files.
        """
        bound, number = self.repository_id + self.keyring_id, _ORDINAL.pack
        plaintexts: list[bytes] = []
        add = plaintexts.append
        try:
            for ordinal, (pair, data) in enumerate(zip(derive_many(leaves, _FILE), stored, strict=True), first):
                add(AESGCM(pair[:32]).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], bound + number(ordinal)))
        except InvalidTag:
            raise _does_not_open(first + len(plaintexts)) from None
        return plaintexts

    def open(self, ordinal: int, leaf: bytes, stored: bytes) -> bytes:
        """The plaintext of what `seal` gave.

        Raises:
            IntegrityError: these are not the bytes that were sealed with this leaf, for this place.
        """
        keys = derive(leaf, _FILE)
        bound = self.repository_id + self.keyring_id + ordinal.to_bytes(8, "little")
        try:
            if len(stored) < OVERHEAD:
                raise InvalidTag
            return AESGCM(keys[:32]).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], bound)
        except InvalidTag:
            raise _does_not_open(ordinal) from None


def _does_not_open(ordinal: int) -> IntegrityError:
    return IntegrityError(
        "a sealed file does not open: its bytes were altered, moved, or sealed with another key",
        todo="Restore the shard from a copy that verifies; `vera verify --deep` shows the damage.",
        ordinal=ordinal,
    )
