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
from vera_core.keys.mac import hmac_sha256
from vera_core.keys.tree import derive

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
        bound, number = self.repository_id + self.keyring_id, struct.Struct("<Q").pack
        sealed = []
        for ordinal, (leaf, plaintext) in enumerate(zip(leaves, plaintexts, strict=True), first):
            keys = derive(leaf, _FILE)
            # The nonce follows from the bytes, so that even a mistake can't put two plaintexts under one (key, nonce).
            nonce = hmac_sha256(keys[32:], plaintext)[:NONCE_BYTES]
            sealed.append(nonce + AESGCM(keys[:32]).encrypt(nonce, plaintext, bound + number(ordinal)))
        return sealed

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
            raise IntegrityError(
                "a sealed file does not open: its bytes were altered, moved, or sealed with another key",
                todo="Restore the shard from a copy that verifies; `vera verify --deep` shows the damage.",
                ordinal=ordinal,
            ) from None
