"""Storing a built shard: its keyring, then a look at the log, then its bytes (docs/protocol.md, Pack 4).

In this order a shard that is committed has its keyring, and an erasure misses none: it sees every keyring that was
stored before it looked, and condemns those of shards that are not committed; who stores one later sees its tombstone
before a byte of the shard is in the bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.model import Erasability
from vera_core.operations.commit import short_lock, upload
from vera_core.operations.supersede import OutrunError

if TYPE_CHECKING:
    from vera_core.operations.commit import Finished
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState


def store_shard(
    repo: Repository, log: SlotLog, state: SlotState, finished: Finished, retention_class: str
) -> tuple[str, str]:
    """Stores a shard that was planned on `state`, which stays as it is, under a short lock; returns (key, VersionId).

    Raises:
        OutrunError: files were erased meanwhile, or the shard was condemned: plan it anew.
        IntegrityError: the store saw other bytes than were sent.
        VeraError: the key service's.
    """
    if finished.keyring is not None:
        locked = repo.config.retention(retention_class).erasability is Erasability.REGULATED
        repo.keyrings.store_fresh(state.slot, finished.keyring, short_lock(repo) if locked else None)
        key = repo.keys.shard(state.slot, finished.local.sha256)
        if _is_outrun(log, state, key):
            repo.keyrings.delete(key)
            raise OutrunError(
                "files of the slot were erased while a shard was built, or the shard was given up",
                todo="Run it again.", slot=state.slot,
            )  # fmt: skip
    return upload(repo, state, finished.local)


def _is_outrun(log: SlotLog, state: SlotState, key: str) -> bool:
    now = state.snapshot()
    log.refresh(now)
    fresh = now.records[len(state.records) :]
    return now.is_condemned(key) or any(record.type == "tombstone" for record in fresh)
