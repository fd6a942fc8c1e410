"""Tenant keys in the bucket: made once for each tenant of an encrypted repository, never replaced by another.

A second key would name every file of the tenant anew. So the earliest locked version says which secret it is, as with
records; later versions count if they hold the same sealed body, which a rewrapping keeps (docs/keys-v1.md).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, NotFoundError, PreconditionError, UnavailableError
from vera_core.keys.tenant import TenantKey
from vera_core.operations.key_objects import KeyObject, days_in, look
from vera_core.store.base import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from vera_core.keys.envelope import Envelope
    from vera_core.keys.service import KeyService
    from vera_core.model import Lock
    from vera_core.operations.key_objects import KeyLook
    from vera_core.operations.key_places import KeyPlace


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The tenant keys of one repository, in `places`: its own bucket first, then its registered copies."""

    places: Sequence[KeyPlace]
    service: Callable[[], KeyService]
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
        envelope = self._envelope(tenant)
        if envelope is None:
            raise NotFoundError(
                "the tenant has no key: nothing of it was ever archived",
                todo="Check the tenant's name. If it has files, restore its key with `vera keys restore`.",
                tenant=tenant, bucket=home.store.bucket, key=home.keys.tenant_key(tenant),
            )  # fmt: skip
        return TenantKey.open(self.service(), self.repository_id, tenant, envelope.encode())

    def make(self, tenant: str, lock: Lock | None) -> TenantKey:
        """As `open`; makes a fresh key where the tenant has none. Of several that do so at once, all get one key.

        Raises:
            IntegrityError, VeraError: as `open`.
        """
        with suppress(NotFoundError):
            return self.open(tenant)
        home = self.places[0]
        key = home.keys.tenant_key(tenant)
        self._check_new(tenant)
        sealed = TenantKey.fresh(self.repository_id, tenant).seal(self.service())
        with suppress(PreconditionError):
            home.store.put(key, sealed, condition=ABSENT, lock=lock)
        envelope = self._envelope(tenant)
        if envelope is None:
            raise UnavailableError(
                "the tenant's key was stored and is not there", todo="Run it again.", tenant=tenant, key=key
            )
        for place in self.places[1:]:
            with place.reached(), suppress(PreconditionError):
                place.store.put(place.keys.tenant_key(tenant), envelope.encode(), condition=ABSENT, lock=lock)
        return TenantKey.open(self.service(), self.repository_id, tenant, envelope.encode())

    def keep_locked(self, tenant: str, lock: Lock, *, slack: timedelta) -> datetime:
        """Keeps the tenant's key locked at least as `lock` says, in every place; returns until when it is.

        Both the version that says which secret it is and the one that counts. What must be extended is by `slack` more.
        """
        ends: list[datetime] = []
        for place in self.places:
            found = self.stored(place, tenant)
            for info in (found.info, *found.same):
                if info is None:
                    continue
                with place.reached():
                    actual = place.store.get_lock(info.key, info.version_id)
                    if actual is None or actual.until < lock.until:
                        actual = lock._replace(until=lock.until + slack)
                        place.store.set_lock(info.key, info.version_id, actual)
                ends.append(actual.until)
        return min(ends, default=lock.until)

    def stored(self, place: KeyPlace, tenant: str) -> KeyLook:
        """What lies under the key of the tenant's key in a place."""
        parsed = place.keys.parse(place.keys.tenant_key(tenant))
        return look(KeyObject(place, parsed, ()).again(), repository_id=self.repository_id, locked=self.locked)

    def _check_new(self, tenant: str) -> None:
        """Makes sure that a tenant without a key never had one: a second key would name its files anew.

        Raises:
            IntegrityError: it had.
        """
        kept = [place.uri for place in self.places[1:] if self.stored(place, tenant).envelope is not None]
        used = kept or any(True for _ in days_in(self.places[0], tenant))
        # Looked at again: somebody may have made it, and packed, since it was looked for.
        if used and self._envelope(tenant) is None:
            raise IntegrityError(
                "the tenant's key is gone, and files are archived under it",
                todo="Restore it with `vera keys restore`. With another key none of them would be found.",
                tenant=tenant, bucket=self.places[0].store.bucket, key=self.places[0].keys.tenant_key(tenant),
                copies=", ".join(kept) or "none",
            )  # fmt: skip

    def _envelope(self, tenant: str) -> Envelope | None:
        """The one that counts in the repository's own bucket.

        Raises:
            IntegrityError: what lies there is damaged.
        """
        found = self.stored(self.places[0], tenant)
        for finding in found.findings if found.envelope is None else ():
            raise IntegrityError(
                f"the tenant's key can't be used: {finding.what}",
                todo="No file of the tenant is found without it. Restore it with `vera keys restore`.",
                tenant=tenant, bucket=self.places[0].store.bucket, key=finding.key, version_id=finding.version_id,
            )  # fmt: skip
        return found.envelope
