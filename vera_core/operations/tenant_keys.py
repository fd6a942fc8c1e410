"""Tenant keys in the bucket: made once for each tenant of an encrypted repository, never replaced by another.

A second key would name every file of the tenant anew. So the earliest locked version says which secret it is, as with
records; later versions count if they hold the same sealed body, which a rewrapping keeps (docs/keys-v1.md).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, NotFoundError, PreconditionError, UnavailableError, VeraError
from vera_core.keys.envelope import Envelope
from vera_core.keys.tenant import TenantKey
from vera_core.store.base import ABSENT
from vera_core.store.chain import earliest_record

if TYPE_CHECKING:
    from vera_core.keys.service import KeyService
    from vera_core.model import Lock
    from vera_core.store.base import ObjectStore, VersionInfo


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The tenant keys of one repository, found under `key` names that the caller gives."""

    store: ObjectStore
    service: KeyService
    repository_id: bytes
    locked: bool

    def open(self, tenant: str, key: str) -> TenantKey:
        """The tenant's key.

        Raises:
            NotFoundError: it has none: nothing of it was ever archived.
            IntegrityError: what is stored is none of this tenant's.
            VeraError: the key service's.
        """
        infos = [info for info in self.store.list_versions(key) if info.key == key and not info.is_delete_marker]
        first = earliest_record(self.store, infos, locked=self.locked)
        if first is None:
            raise NotFoundError(
                "the tenant has no key: nothing of it was ever archived",
                todo="Check the tenant's name. If it has files, restore its key from a registered copy.",
                tenant=tenant, bucket=self.store.bucket, key=key,
            )  # fmt: skip
        return TenantKey.open(self.service, self.repository_id, tenant, self._newest(infos, first).encode())

    def make(self, tenant: str, key: str, lock: Lock | None) -> TenantKey:
        """As `open`; makes a fresh key where the tenant has none. Of several that do so at once, all get one key.

        Raises:
            IntegrityError, VeraError: as `open`.
        """
        with suppress(NotFoundError):
            return self.open(tenant, key)
        sealed = TenantKey.fresh(self.repository_id, tenant).seal(self.service)
        with suppress(PreconditionError):
            self.store.put(key, sealed, condition=ABSENT, lock=lock)
        try:
            return self.open(tenant, key)
        except NotFoundError as error:
            raise UnavailableError(
                "the tenant's key was stored and is not there", todo="Run it again.", tenant=tenant, key=key
            ) from error

    def _newest(self, infos: list[VersionInfo], first: VersionInfo) -> Envelope:
        """The newest version with the same sealed body as `first`, which says which secret it is."""
        known = self._read(first)
        for info in infos:
            if info.version_id == first.version_id:
                break
            try:
                found = self._read(info)
            except VeraError:
                continue  # a stranger's
            if (found.header, found.nonce, found.sealed) == (known.header, known.nonce, known.sealed):
                return found
        return known

    def _read(self, info: VersionInfo) -> Envelope:
        try:
            return Envelope.decode(self.store.get(info.key, version_id=info.version_id).data)
        except IntegrityError as error:
            error.where |= {"bucket": self.store.bucket, "key": info.key, "version_id": info.version_id}
            raise
