"""The stored form of keyrings and tenant keys: a header, a data key wrapped by a KEK, and a body sealed with that key.

docs/keys-v1.md, "The envelope". The data key is drawn anew for every envelope and authenticates the header; the KEK
vouches for data key and header together. So rotating the KEK changes the wrapped key alone, and neither an altered
header nor another envelope's key opens. What a body means is keyring.py's and tenant.py's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vera_core.codec import crc32
from vera_core.errors import IncompatibleError, IntegrityError, UsageError, VeraError
from vera_core.keys.tree import MAX_DEPTH, NODE_BYTES
from vera_core.model import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vera_core.keys.service import KeyService, Outcome

MAGIC = b"\x89VKEYS\r\n"
VERSION = 1
HEADER_BYTES = 160
KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_KEK = 256
MAX_WRAPPED = 1024
MAX_BODY = NODE_BYTES << 23
"""Bytes of the largest body: what is left of 2**24 leaves, a shard's most, if every second one is punctured."""

_AES_256_GCM = 1
_HEADER = struct.Struct("<8sHBBI16sBB6x64s16s32s8x")
_LENGTHS = struct.Struct("<HHI")
_FIXED = HEADER_BYTES + _LENGTHS.size + NONCE_BYTES + 4
_RESTORE = "Restore it from a registered copy."


class Kind(IntEnum):
    """What an envelope holds."""

    KEYRING = 1
    TENANT = 2


@dataclass(frozen=True, slots=True)
class Header:
    """What an envelope says openly, and vouches for.

    `revision` counts from 1; `repository_id` has 16 bytes. Of keyrings only, zeros in tenant keys: `depth` of the tree,
    1 to 32; `keyring_id`, 16 random bytes that name the build; `shard`, the 32 bytes of the shard's SHA-256.

    Raises:
        UsageError: a value can't be.
    """

    kind: Kind
    repository_id: bytes
    tenant: str
    revision: int = 1
    depth: int = 0
    keyring_id: bytes = bytes(16)
    shard: bytes = bytes(32)

    def __post_init__(self) -> None:
        check_name(self.tenant, "tenant")
        of_keyring = self.kind is Kind.KEYRING
        if not (
            1 <= self.revision < 1 << 32
            and [len(self.repository_id), len(self.keyring_id), len(self.shard)] == [16, 16, 32]
            and (1 if of_keyring else 0) <= self.depth <= (MAX_DEPTH if of_keyring else 0)
            and (of_keyring or not any(self.keyring_id + self.shard))
        ):
            raise UsageError("no keyring or tenant key has such a header", **self.where())

    def where(self) -> dict[str, str]:
        """Names for errors."""
        if self.kind is Kind.TENANT:
            return {"tenant": self.tenant}
        return {"tenant": self.tenant, "shard": self.shard[:16].hex(), "keyring_revision": str(self.revision)}

    def pack(self) -> bytes:
        """The header's 160 bytes."""
        name = self.tenant.encode()
        return _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            _AES_256_GCM,
            self.revision,
            self.repository_id,
            self.depth,
            len(name),
            name,
            self.keyring_id,
            self.shard,
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The inverse of `pack`.

        Raises:
            IntegrityError: these are no such bytes.
            IncompatibleError: of a version or cipher that this VERA does not know.
        """
        if len(data) != HEADER_BYTES or data[:8] != MAGIC:
            raise _damaged("it does not begin as one")
        _, version, kind, cipher, revision, repository_id, depth, length, name, keyring_id, shard = _HEADER.unpack(data)
        if version != VERSION or cipher != _AES_256_GCM or kind not in set(Kind):
            raise IncompatibleError(
                f"a keyring has version {version}, kind {kind} and cipher {cipher}, which this VERA does not know",
                todo="Use a newer VERA.",
            )
        try:
            header = cls(Kind(kind), repository_id, name[:length].decode(), revision, depth, keyring_id, shard)
        except (UsageError, UnicodeDecodeError):
            raise _damaged("its header states impossible values") from None
        if header.pack() != data:
            raise _damaged("its header is not in its one form")
        return header


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope, closed. `sealed` is ciphertext and tag; `kek` names the key that `wrapped` needs.

    Raises:
        UsageError: a part is too long, or has another length than it must.
    """

    header: Header
    kek: str
    wrapped: bytes
    nonce: bytes
    sealed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.sealed) > MAX_BODY + TAG_BYTES:
            raise UsageError(
                f"a keyring of more than {MAX_BODY} bytes", todo="Repack the shard first.", **self.header.where()
            )
        if not (
            1 <= len(self.kek) <= MAX_KEK
            and self.kek.isascii()
            and self.kek.isprintable()
            and 1 <= len(self.wrapped) <= MAX_WRAPPED
            and len(self.nonce) == NONCE_BYTES
            and len(self.sealed) >= TAG_BYTES
        ):
            raise UsageError("no envelope has such parts", **self.header.where())

    def encode(self) -> bytes:
        """The bytes to store."""
        lengths = _LENGTHS.pack(len(self.kek), len(self.wrapped), len(self.sealed))
        data = self.header.pack() + lengths + self.kek.encode() + self.wrapped + self.nonce + self.sealed
        return data + struct.pack("<I", crc32(data))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of `encode`: any other bytes are refused. Nothing is unwrapped.

        Raises:
            IntegrityError: these are no such bytes.
            IncompatibleError: of a version, kind or cipher that this VERA does not know.
        """
        if not _FIXED + TAG_BYTES <= len(data) <= _FIXED + MAX_KEK + MAX_WRAPPED + MAX_BODY + TAG_BYTES:
            raise _damaged("it is too short or too long")
        if struct.unpack("<I", data[-4:])[0] != crc32(data[:-4]):
            raise _damaged("its checksum is wrong")
        header = Header.parse(data[:HEADER_BYTES])
        kek, wrapped, sealed = _LENGTHS.unpack_from(data, HEADER_BYTES)
        if _FIXED + kek + wrapped + sealed != len(data):
            raise _damaged("its parts don't fill it")
        at = HEADER_BYTES + _LENGTHS.size
        ends = [at + kek, at + kek + wrapped, at + kek + wrapped + NONCE_BYTES]
        try:
            name, nonce = data[at : ends[0]].decode("ascii"), data[ends[1] : ends[2]]
            return cls(header, name, data[ends[0] : ends[1]], nonce, data[ends[2] : -4])
        except (UsageError, UnicodeDecodeError):
            raise _damaged("its parts are none") from None


def seal_envelopes(service: KeyService, contents: Sequence[tuple[Header, bytes]]) -> list[Envelope]:
    """Seals bodies, each under a fresh data key.

    Raises:
        UsageError: a body is longer than `MAX_BODY`.
        VeraError: the key service's; nothing was sealed then.
    """
    keys = [os.urandom(KEY_BYTES) for _ in contents]
    wrapped = service.wrap([key + _bound(header) for key, (header, _) in zip(keys, contents, strict=True)])
    sealed = []
    for key, mine, (header, body) in zip(keys, wrapped, contents, strict=True):
        nonce = os.urandom(NONCE_BYTES)
        sealed.append(Envelope(header, service.kek, mine, nonce, AESGCM(key).encrypt(nonce, body, header.pack())))
    return sealed


def open_envelopes(service: KeyService, envelopes: Sequence[Outcome[Envelope]]) -> list[Outcome[bytes]]:
    """The bodies, one outcome for each envelope; an error among them stays what it is.

    An envelope's error is an IntegrityError (it was altered, or put together of two), a UsageError (another KEK wraps
    it) or a RestrictedError (the KEK's version is no longer allowed), with tenant, shard and revision.

    Raises:
        VeraError: what concerns the whole key service, as KeyService says.
    """
    return [
        item if isinstance(item, VeraError) else _body(*item) for item in _asked(service.kek, envelopes, service.unwrap)
    ]


def rewrap_envelopes(service: KeyService, envelopes: Sequence[Outcome[Envelope]]) -> list[Outcome[Envelope]]:
    """The same envelopes with their data keys under the KEK's current version; outcomes as of `open_envelopes`.

    Bodies are neither opened nor changed.

    Raises:
        VeraError: what concerns the whole key service, as KeyService says.
    """
    return [
        item if isinstance(item, VeraError) else replace(item[0], wrapped=item[1])
        for item in _asked(service.kek, envelopes, service.rewrap)
    ]


def _asked(
    kek: str,
    envelopes: Sequence[Outcome[Envelope]],
    ask: Callable[[Sequence[bytes]], list[Outcome[bytes]]],
) -> Iterator[Outcome[tuple[Envelope, bytes]]]:
    """Every envelope with the service's answer to its wrapped key; errors with their place."""
    ours = [item for item in envelopes if isinstance(item, Envelope) and item.kek == kek]
    answers = iter(zip(ours, ask([item.wrapped for item in ours]), strict=True))
    for item in envelopes:
        if isinstance(item, VeraError):
            yield item
        elif item.kek != kek:
            yield UsageError(
                "a keyring is wrapped by another KEK than the key service has",
                todo="Configure the key service that has the KEK it names.",
                **item.header.where(),
                kek=item.kek,
                service=kek,
            )
        else:
            envelope, answer = next(answers)
            if isinstance(answer, VeraError):
                answer.where |= envelope.header.where()
                yield answer
            else:
                yield envelope, answer


def _body(envelope: Envelope, payload: bytes) -> Outcome[bytes]:
    """What is sealed in an envelope whose unwrapped payload is given."""
    key, bound = payload[:KEY_BYTES], payload[KEY_BYTES:]
    try:
        if not hmac.compare_digest(bound, _bound(envelope.header)):
            raise InvalidTag
        return AESGCM(key).decrypt(envelope.nonce, envelope.sealed, envelope.header.pack())
    except InvalidTag:
        return IntegrityError(
            "a keyring does not open: it was altered, or put together of two", todo=_RESTORE, **envelope.header.where()
        )


def _bound(header: Header) -> bytes:
    """What the KEK vouches for beside the data key: one that leaks can't be put to use in another envelope."""
    return hashlib.sha256(header.pack()).digest()


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(f"these bytes are no keyring or tenant key: {why}", todo=_RESTORE)
