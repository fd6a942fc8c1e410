"""The tenant key: one secret of a tenant, stored as `tenant.keys`, from which a subkey follows for each purpose.

With it a shard names its files without saying their uids. It outlives every shard: whoever loses it finds no file by
its uid. docs/keys-v1.md, "The tenant key". It makes no file readable: that is a keyring's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vera_core.errors import IntegrityError, UsageError
from vera_core.format.sealed import keyed_key
from vera_core.keys.envelope import Envelope, Header, Kind, open_envelopes, seal_envelopes
from vera_core.keys.mac import Mac
from vera_core.keys.service import good
from vera_core.model import check_uid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vera_core.keys.mac import MacHasher
    from vera_core.keys.service import KeyService

SECRET_BYTES = 32
KEYED_UID_BYTES = 16


class Purpose(Enum):
    """What a subkey is for: the `info` of its derivation."""

    UID = b"vera-tenant-uid-v1"
    CONTENT = b"vera-tenant-content-v1"
    ROW = b"vera-tenant-row-v1"


def keyed_uid_key(keyed_uid: str) -> int:
    """The u64 by which a shard sorts and searches a keyed uid: its first 8 bytes, big-endian.

    Raises:
        UsageError: it is not 32 lowercase hex digits.
    """
    return keyed_key(keyed_uid.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class TenantKey:
    """An open tenant key. Equal uids get equal keyed uids in one tenant, and others in every other tenant.

    Raises:
        UsageError: the header is none of a tenant key, or the secret has not 32 bytes.
    """

    header: Header
    secret: bytes = field(repr=False)
    _uid: Mac = field(init=False, repr=False, compare=False)
    _content: Mac = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.header.kind is not Kind.TENANT or self.header.revision != 1 or len(self.secret) != SECRET_BYTES:
            raise UsageError("this is no tenant key", **self.header.where())
        object.__setattr__(self, "_uid", Mac(self.subkey(Purpose.UID)))
        object.__setattr__(self, "_content", Mac(self.subkey(Purpose.CONTENT)))

    @classmethod
    def fresh(cls, repository_id: bytes, tenant: str) -> Self:
        """A random key for a new tenant. Revision 1 is the only one: a second key would name every file anew."""
        return cls(Header(Kind.TENANT, repository_id, tenant), os.urandom(SECRET_BYTES))

    def subkey(self, purpose: Purpose) -> bytes:
        """32 bytes: HKDF-SHA-256 (RFC 5869) of the secret, without salt, with the purpose as `info`."""
        return HKDF(SHA256(), 32, salt=None, info=purpose.value).derive(self.secret)

    def keyed_uid(self, uid: str) -> str:
        """32 lowercase hex digits: the first 128 bits of HMAC-SHA-256(subkey for uids, UTF-8 of the uid).

        Raises:
            BadUidError: no uid.
        """
        return self._uid.digest(check_uid(uid).encode())[:KEYED_UID_BYTES].hex()

    def keyed_texts(self, texts: Iterable[str]) -> list[str]:
        """As `keyed_uid` of each, for any texts: rejected rows have uids that are none."""
        keyed = self._uid.digest_alone  # a text is too short for the interpreter lock to be given up
        return [keyed(text.encode())[:KEYED_UID_BYTES].hex() for text in texts]

    def keyed_digest(self, content: bytes) -> bytes:
        """32 bytes: HMAC-SHA-256(subkey for contents, content), which stands where others have a plain SHA-256."""
        return self._content.digest(content)

    def keyed_hasher(self) -> MacHasher:
        """As `keyed_digest`, of a content that comes in pieces."""
        return self._content.hasher()

    def seal(self, service: KeyService) -> bytes:
        """The bytes to store.

        Raises:
            VeraError: the key service's.
        """
        return seal_envelopes(service, [(self.header, self.secret)])[0].encode()

    @classmethod
    def open(cls, service: KeyService, repository_id: bytes, tenant: str, data: bytes) -> Self:
        """The tenant key in stored bytes, which must be that tenant's.

        Raises:
            IntegrityError: damaged, altered, or another tenant's.
            IncompatibleError: written by a newer VERA.
            VeraError: the key service's.
        """
        header, envelope = Header(Kind.TENANT, repository_id, tenant), Envelope.decode(data)
        if envelope.header != header:
            raise IntegrityError(
                "this is the key of something else", todo="Restore this tenant's own from a copy.", **header.where()
            )
        (secret,) = good(open_envelopes(service, [envelope]))
        try:
            return cls(header, secret)
        except UsageError as error:
            raise IntegrityError(error.what, **header.where()) from None
