"""Tenant keys in the bucket: made once for each tenant of an encrypted repository, never replaced by another.

A second key would name every file of the tenant anew. So the earliest locked version says which secret it is, as with
records; later versions count if they hold the same sealed body, which a rewrapping keeps (docs/keys-v1.md).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IntegrityError, NotFoundError, PreconditionError, UnavailableError, VeraError
from vera_core.keys.envelope import Envelope
from vera_core.keys.tenant import TenantKey
from vera_core.store.base import ABSENT
from vera_core.store.chain import earliest_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.keys.service import KeyService
    from vera_core.model import Lock
    from vera_core.operations.key_places import KeyPlace
    from vera_core.store.base import ObjectStore, VersionInfo


class StoredTenantKey(NamedTuple):
    """A tenant key as stored, closed: the version that counts, by which it may be replaced, and what it holds."""

    info: VersionInfo
    envelope: Envelope

    @property
    def secret(self) -> tuple[object, ...]:
        """What two of them have in common if they hold the same secret, whatever wraps it."""
        return self.envelope.header, self.envelope.nonce, self.envelope.sealed


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The tenant keys of one repository, in `places`: its own bucket first, then its registered copies."""

    places: Sequence[KeyPlace]
    service: KeyService
    repository_id: bytes
    locked: bool

    def open(self, tenant: str) -> TenantKey:
        """The tenant's key.

        Raises:
            NotFoundError: it has none: nothing of it was ever archived.
            IntegrityError: what is stored is none of this tenant's.
            VeraError: the key service's.
        """
        home = self.places[0]
        stored = self.stored(home, tenant)
        if stored is None:
            raise NotFoundError(
                "the tenant has no key: nothing of it was ever archived",
                todo="Check the tenant's name. If it has files, restore its key with `vera keys restore`.",
                tenant=tenant, bucket=home.store.bucket, key=home.keys.tenant_key(tenant),
            )  # fmt: skip
        return TenantKey.open(self.service, self.repository_id, tenant, stored.envelope.encode())

    def make(self, tenant: str, lock: Lock | None) -> TenantKey:
        """As `open`; makes a fresh key where the tenant has none. Of several that do so at once, all get one key.

        Raises:
            IntegrityError, VeraError: as `open`.
        """
        with suppress(NotFoundError):
            return self.open(tenant)
        home = self.places[0]
        key = home.keys.tenant_key(tenant)
        sealed = TenantKey.fresh(self.repository_id, tenant).seal(self.service)
        with suppress(PreconditionError):
            home.store.put(key, sealed, condition=ABSENT, lock=lock)
        stored = self.stored(home, tenant)
        if stored is None:
            raise UnavailableError(
                "the tenant's key was stored and is not there", todo="Run it again.", tenant=tenant, key=key
            )
        for place in self.places[1:]:
            with place.reached(), suppress(PreconditionError):
                place.store.put(place.keys.tenant_key(tenant), stored.envelope.encode(), condition=ABSENT, lock=lock)
        return TenantKey.open(self.service, self.repository_id, tenant, stored.envelope.encode())

    def stored(self, place: KeyPlace, tenant: str) -> StoredTenantKey | None:
        """The version of the tenant's key that counts in that place: the newest with the first one's secret.

        Raises:
            IntegrityError: the first one is damaged.
        """
        key = place.keys.tenant_key(tenant)
        infos = [info for info in place.store.list_versions(key) if info.key == key and not info.is_delete_marker]
        first = earliest_record(place.store, infos, locked=self.locked)
        if first is None:
            return None
        known = StoredTenantKey(first, _read(place.store, first))
        for info in infos:
            if info.version_id == first.version_id:
                break
            try:
                found = StoredTenantKey(info, _read(place.store, info))
            except VeraError:
                continue  # a stranger's
            if found.secret == known.secret:
                return found
        return known


def _read(store: ObjectStore, info: VersionInfo) -> Envelope:
    try:
        return Envelope.decode(store.get(info.key, version_id=info.version_id).data)
    except IntegrityError as error:
        error.where |= {"bucket": store.bucket, "key": info.key, "version_id": info.version_id}
        raise
