"""The attack of the demo: what somebody with full rights on the bucket can do by plain PUT, DELETE and batch deletion.

It knows the store and which keys are what; of the protocol it respects nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.keyspace import KeyKind

if TYPE_CHECKING:
    from vera_core.operations.repository import Repository

LOCKED = frozenset({
    KeyKind.SHARD, KeyKind.LOG, KeyKind.MANIFEST, KeyKind.CONFIG, KeyKind.REQUEST, KeyKind.AUDIT, KeyKind.TENANT_KEY,
})  # fmt: skip
"""What the protocol locks. Sidecars and inventories are derived, and may be lost; keyrings have copies elsewhere."""


@dataclass(frozen=True, slots=True)
class Attack:
    """What was done: objects overwritten and deleted by name, locked versions, and how many of those went or stayed.

    `keyrings` are versions of keyrings that went: they are not locked, else no file could be erased.
    """

    overwritten: int
    deleted: int
    versions: int
    refused: int
    removed: int
    keyrings: int


def attack(repo: Repository) -> Attack:
    """Overwrites and deletes every object of the repository by name, then tries to delete every version that counts."""
    store = repo.store
    before = [info for info in store.list_versions(repo.keys.root) if not info.is_delete_marker]
    names = sorted({info.key for info in before})
    for key in names:
        store.put(key, b"There is nothing here.")
    for key in names:
        store.delete(key)
    locked = [(info.key, info.version_id) for info in before if repo.keys.parse(info.key).kind in LOCKED]
    refused = store.delete_batch(locked)
    keyrings = [(info.key, info.version_id) for info in before if repo.keys.parse(info.key).kind is KeyKind.KEYRING]
    kept = store.delete_batch(keyrings)
    gone = len(keyrings) - len(kept)
    return Attack(len(names), len(names), len(locked), len(refused), len(locked) - len(refused), gone)
