"""Keyrings in tests: destroying keys by hand, putting old keyrings back, and counting what the key service is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.protocol.packing import PREFIX, local_kek
from tests.protocol.repacking import append
from vera_core.keys.keyring import seal_keyrings
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.repository import Repository, Workplace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from vera_core.keys.service import KeyService, Outcome
    from vera_core.model import Slot
    from vera_core.slots import ShardRef
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore


@dataclass
class CountedKeys:
    """The key service of tests, which counts what it is asked; `error` is what it answers instead."""

    service: KeyService = field(default_factory=local_kek)
    unwrapped: int = 0
    error: Exception | None = None

    @property
    def kek(self) -> str:
        return self.service.kek

    def current(self) -> int:
        return self.service.current()

    def made(self) -> datetime:
        return self.service.made()

    def version(self, wrapped: bytes) -> int:
        return self.service.version(wrapped)

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        return self.service.wrap(payloads)

    def unwrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        self.unwrapped += 1
        if self.error is not None:
            raise self.error
        return self.service.unwrap(wrapped)

    def rewrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        return self.service.rewrap(wrapped)

    def rotate(self) -> int:
        return self.service.rotate()


def opened_with(store: ObjectStore, spool: Path, keys: KeyService, *, freshness_seconds: float = 5.0) -> Repository:
    """As `packing.opened`, with that key service."""
    return Repository(store, PREFIX, Workplace("test", spool, freshness_seconds, key_service=lambda: keys))


def ordinals_of(repo: Repository, shard: ShardRef, uids: Iterable[str]) -> list[int]:
    """The ordinals of these files in a shard."""
    naming = repo.naming(repo.keys.parse(shard.key).tenant)
    reader = ShardReaders(repo).reader(shard)
    return [entry.ordinal for uid in uids for entry in reader.find(naming.name(uid))]


def puncture(store: MemoryStore, repo: Repository, slot: Slot, *uids: str, record: bool = True) -> None:
    """Destroys the keys of these files in every live shard of a slot: only the new keyrings are left.

    Without `record` the slot's log does not tell yet, as if the erasure had died there.
    """
    shards = []
    for shard in repo.slot_log(slot).load().live():
        ordinals = ordinals_of(repo, shard, uids)
        if ordinals:
            fresh = repo.keyrings.fetch(shard).keyring.puncture(ordinals)
            put_keyring(store, repo, shard, seal_keyrings(local_kek(), [fresh])[0])
            shards.append({"sha256": shard.sha256, "keyring": fresh.revision})
    if record:
        append(repo, slot, {"type": "puncture", "shards": shards, "writer": "test"})


def put_keyring(store: MemoryStore, repo: Repository, shard: ShardRef, data: bytes, *, alone: bool = True) -> None:
    """Stores the bytes as the newest version of a shard's keyring, and `alone` as the only one."""
    key = repo.keyrings.key_of(shard)
    kept = store.put(key, data).version_id
    for info in list(store.list_versions(key)):
        if alone and info.key == key and info.version_id != kept:
            store.delete(key, version_id=info.version_id)
