"""Names: what shards, slot logs and manifests call a file, and what they show of its content.

In an unencrypted repository that is the uid itself and the SHA-256 of the content. In an encrypted one nothing may show
either, so a tenant key stands between: keyed uids and keyed digests (docs/keys-v1.md, "The tenant key"). Whoever talks
to a shard or a slot's log uses names; whoever talks to a source or a person uses uids.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vera_core.codec import digest
from vera_core.keys.mac import Mac
from vera_core.keys.tenant import Purpose, keyed_uid_key
from vera_core.routing import uid_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vera_core.encoding import Digest
    from vera_core.format.stream import Hasher
    from vera_core.keys.tenant import TenantKey

IDENTITY_BYTES = 16
_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Naming(Protocol):
    """How the files of one tenant are named. Safe to share between threads."""

    @property
    def tenant_key(self) -> TenantKey | None:
        """What names are made with; None where they are the uids themselves."""

    @property
    def digest(self) -> Digest:
        """The 32 bytes that stand for a content."""

    def hasher(self) -> Hasher:
        """As `digest`, of a content that comes in pieces."""

    def name(self, uid: str) -> str:
        """The file's name.

        Raises:
            BadUidError: no uid.
        """

    def names(self, uids: Sequence[str]) -> Sequence[str]:
        """The name of each text, also of rejected rows' that are no valid uids."""

    def key(self, name: str) -> int:
        """The u64 by which shards sort and search a name."""

    def identities(self, rows: Iterable[tuple[object, ...]]) -> list[bytes]:
        """16 bytes for each source row, given as the facts it is known by: equal rows have equal ones."""


class PlainNaming:
    """Of an unencrypted repository: see `Naming`."""

    tenant_key = None
    digest = staticmethod(digest)

    def hasher(self) -> Hasher:
        """SHA-256."""
        return hashlib.sha256()

    def name(self, uid: str) -> str:
        """The uid."""
        return uid

    def names(self, uids: Sequence[str]) -> Sequence[str]:
        """The uids."""
        return uids

    def key(self, name: str) -> int:
        """The first 8 bytes of the uid's SHA-256, big-endian."""
        return uid_key(name)

    def identities(self, rows: Iterable[tuple[object, ...]]) -> list[bytes]:
        """The BLAKE2b of each row's facts."""
        return [hashlib.blake2b(repr(row).encode(), digest_size=IDENTITY_BYTES).digest() for row in rows]


@dataclass(frozen=True, slots=True)
class KeyedNaming:
    """Of an encrypted repository: see `Naming`."""

    tenant_key: TenantKey

    @property
    def digest(self) -> Digest:
        """The keyed digest."""
        return self.tenant_key.keyed_digest

    def hasher(self) -> Hasher:
        """The keyed digest."""
        return self.tenant_key.keyed_hasher()

    def name(self, uid: str) -> str:
        """The keyed uid."""
        return self.tenant_key.keyed_uid(uid)

    def names(self, uids: Sequence[str]) -> Sequence[str]:
        """The keyed uids."""
        return self.tenant_key.keyed_texts(uids)

    def key(self, name: str) -> int:
        """The first 8 bytes of the keyed uid, big-endian."""
        return keyed_uid_key(name)

    def identities(self, rows: Iterable[tuple[object, ...]]) -> list[bytes]:
        """The first 16 bytes of HMAC-SHA-256(subkey for rows, the row's facts as a JSON array)."""
        keyed = Mac(self.tenant_key.subkey(Purpose.ROW)).digest
        return [keyed(_canonical(row).encode())[:IDENTITY_BYTES] for row in rows]


def name_key(name: str, *, keyed: bool) -> int:
    """The u64 by which shards sort a name: `Naming.key` where no secret is at hand."""
    return keyed_uid_key(name) if keyed else uid_key(name)


PLAIN: Naming = PlainNaming()
