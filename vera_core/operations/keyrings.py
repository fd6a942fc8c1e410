"""Keyrings in the bucket: stored with their shards, fetched by readers, replaced by punctured ones, purged.

Of the versions under a keyring's key the one with the highest revision counts, wherever it stands in the listing; what
is lower than the slot log says is refused. Which entries are punctured, and when, is the business of the erasure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IntegrityError, PreconditionError, RestrictedError, VeraError
from vera_core.format.source import Naming
from vera_core.keys.cache import KeyringCache
from vera_core.keys.keyring import Keyring, Wanted, open_keyrings, seal_keyrings
from vera_core.keyspace import keyring_of
from vera_core.store.base import ABSENT, MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vera_core.keys.service import KeyService, Outcome
    from vera_core.model import Lock, Slot
    from vera_core.operations.key_places import KeyPlace
    from vera_core.slots import ShardRef


class Found(NamedTuple):
    """A keyring as stored, and the version that it lies in."""

    keyring: Keyring
    version_id: str
    etag: str


class Keyrings:
    """The keyrings of an encrypted repository. Safe to share between threads.

    Args:
        places: where keyrings are kept: the repository's own bucket first, then its registered copies.
        repository_id: 16 bytes.
        service: what wraps them.
    """

    def __init__(
        self, places: Callable[[], Sequence[KeyPlace]], repository_id: bytes, service: Callable[[], KeyService]
    ) -> None:
        self.places = places
        self._repository_id = repository_id
        self._service = service
        self._cache = KeyringCache()

    @property
    def _home(self) -> KeyPlace:
        return self.places()[0]

    def key_of(self, shard: ShardRef) -> str:
        """The key under which a shard's keyring lies: beside it."""
        return self._home.keyring(shard)

    def store_fresh(self, slot: Slot, keyring: Keyring, lock: Lock | None) -> None:
        """Stores the keyring of a shard that is about to be uploaded.

        Raises:
            PreconditionError: there is another one already under that name.
            UnavailableError: a place can't be reached: what is packed must be in every copy before it counts.
            VeraError: the key service's.
        """
        (data,) = seal_keyrings(self._service(), [keyring])
        for place in self.places():
            key = place.keys.keyring(slot, keyring.header.shard)
            with place.reached():
                try:
                    place.store.put(key, data, condition=ABSENT, lock=lock)
                except PreconditionError:
                    # No other build has this name: a client that lost a reply and asked again was refused by its own.
                    if place.store.get(key).data != data:
                        raise

    def get(self, shard: ShardRef) -> Keyring:
        """The keyring of a committed shard, from memory where it was asked for lately.

        Raises:
            IntegrityError: it is gone, damaged, another shard's, or older than the slot log says.
            UsageError: another KEK wraps it than the key service has, or none is configured.
            VeraError: the key service's.
        """
        return self._cache.get(bytes.fromhex(shard.sha256), lambda: self.fetch(shard).keyring, revision=shard.keyring)

    def fetch(self, shard: ShardRef) -> Found:
        """As `get`, always from the store; with the version that it was read from.

        Raises:
            IntegrityError, VeraError: as `get`.
        """
        key = self.key_of(shard)
        with Naming({"bucket": self._home.store.bucket, "key": key, "shard": shard.key}):
            try:
                blob = self._home.store.get(key)
            except MissingObjectError as error:
                return self._searched(shard, error)
            keyring = self._opened(shard, blob.data)
            if isinstance(keyring, VeraError):
                return self._searched(shard, keyring)
            return Found(keyring, blob.version_id, blob.etag)

    def forget(self, shard: ShardRef) -> None:
        """Gives out nothing any more that was fetched for that shard before."""
        self._cache.forget(bytes.fromhex(shard.sha256))

    def delete(self, shard: str) -> bool:
        """Deletes the keyring of a shard (its key) that nothing needs any more: each version, the copies' ones first.

        False where a lock keeps one.

        Raises:
            UnavailableError: a place can't be reached.
        """
        name, all_gone = keyring_of(shard).removeprefix(self._home.keys.root), True
        for place in reversed(self.places()):
            key = f"{place.keys.root}{name}"
            with place.reached():
                versions = [info.version_id for info in place.store.list_versions(key) if info.key == key]
            for version_id in versions:
                try:
                    place.store.delete(key, version_id=version_id)
                except RestrictedError:
                    all_gone = False
        return all_gone

    def _searched(self, shard: ShardRef, trouble: VeraError) -> Found:
        """The keyring among all versions of its key: the newest one may be a stranger's, or hidden."""
        key = self.key_of(shard)
        found: Found | None = None
        for info in self._home.store.list_versions(key):
            if info.key != key or info.is_delete_marker:
                continue
            try:
                blob = self._home.store.get(key, version_id=info.version_id)
            except MissingObjectError:
                continue  # purged since it was listed
            keyring = self._opened(shard, blob.data)
            if isinstance(keyring, VeraError):
                trouble = trouble if isinstance(keyring, IntegrityError) else keyring
            elif found is None or keyring.revision > found.keyring.revision:
                found = Found(keyring, blob.version_id, blob.etag)
        if found is not None:
            return found
        if not isinstance(trouble, (IntegrityError, MissingObjectError)):
            raise trouble  # it is there: another KEK, or a newer VERA, opens it
        raise IntegrityError(
            f"the shard's keyring can't be used: {trouble.what}",
            todo="Nothing of the shard is readable without it. Put it back from a copy: `vera keys restore`.",
        ) from trouble

    def _opened(self, shard: ShardRef, data: bytes) -> Outcome[Keyring]:
        tenant = self._home.keys.parse(shard.key).tenant
        wanted = Wanted(self._repository_id, tenant, bytes.fromhex(shard.sha256), shard.keyring)
        return open_keyrings(self._service(), [(wanted, data)])[0]
