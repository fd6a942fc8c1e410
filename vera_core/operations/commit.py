"""From a built shard to a sealed one: upload under a short lock, append the commit, seal (docs/protocol.md).

Each step is safe to repeat and to lose the process in: an uploaded shard that no record names is garbage, a commit that
is not sealed is rolled forward by whoever finds it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, PreconditionError, UnsafeStoreError
from vera_core.model import Lock, LockMode
from vera_core.operations.repository import SHORT_LOCK
from vera_core.store.base import ABSENT, SINGLE_PUT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotLog, SlotState
    from vera_core.store.base import VersionInfo

ADOPT_CHUNK = 8 << 20
LOCK_TOLERANCE = timedelta(seconds=2)
"""Stores keep retention in whole seconds."""


@dataclass(frozen=True, slots=True)
class LocalShard:
    """A finished, verified shard in the spool: its file, SHA-256 of all bytes, and size in bytes."""

    path: Path
    sha256: bytes
    size: int


def upload(repo: Repository, state: SlotState, local: LocalShard) -> tuple[str, str]:
    """Puts a shard under its digest name with a short lock; returns (key, VersionId).

    A version that is there already (a racer's, or an earlier attempt's) is adopted if it verifies, nothing condemned it
    and no record names it; else the shard is stored as another version.

    Raises:
        IntegrityError: the store saw other bytes than were sent.
    """
    key = repo.keys.shard(state.slot, local.sha256)
    lock = short_lock(repo)
    if local.size > SINGLE_PUT_LIMIT:
        # Multipart completion with If-None-Match is not atomic on every store; two versions cost space, never data.
        return key, repo.store.put_file(key, local.path, sha256=local.sha256, lock=lock).version_id
    try:
        return key, repo.store.put_file(key, local.path, sha256=local.sha256, condition=ABSENT, lock=lock).version_id
    except PreconditionError:
        pass
    taken = {shard.version_id for shard in [*state.live(), *state.superseded]}
    taken |= {version_id for condemned_key, version_id in state.condemned if condemned_key == key}
    for info in repo.store.list_versions(key):
        if (
            info.key == key
            and not info.is_delete_marker
            and info.version_id not in taken
            and verifies(repo, info, local)
        ):
            if lock is not None:
                raise_lock(repo, key, info.version_id, lock)
            return key, info.version_id
    return key, repo.store.put_file(key, local.path, sha256=local.sha256, lock=lock).version_id


def verifies(repo: Repository, info: VersionInfo, local: LocalShard) -> bool:
    """Whether a stored version has exactly the local shard's bytes, read whole in bounded memory."""
    if info.size != local.size:
        return False
    return stored_digest(repo, info.key, info.version_id, info.size) == local.sha256


def stored_digest(repo: Repository, key: str, version_id: str, size: int) -> bytes:
    """SHA-256 of a stored version's bytes, read in ranges of 8 MiB."""
    digest = hashlib.sha256()
    for start in range(0, size, ADOPT_CHUNK):
        digest.update(repo.store.get_range(key, start, min(ADOPT_CHUNK, size - start), version_id=version_id))
    return digest.digest()


def short_lock(repo: Repository) -> Lock | None:
    """The lock of a shard that no record names yet; None in a repository without enforced locks."""
    mode = repo.config.lock_mode
    return None if mode is LockMode.NONE else Lock(mode, whole_second(repo.clock.now() + SHORT_LOCK))


def class_lock(repo: Repository, retention_class: str) -> Lock:
    """The lock that a shard of that class gets if it is committed now."""
    days = repo.config.retention(retention_class).days
    return Lock(repo.config.lock_mode, whole_second(repo.clock.now() + timedelta(days=days)))


def whole_second(moment: datetime) -> datetime:
    """`moment`, rounded up to whole seconds as stores keep retention."""
    return moment if not moment.microsecond else moment.replace(microsecond=0) + timedelta(seconds=1)


def raise_lock(repo: Repository, key: str, version_id: str, lock: Lock) -> None:
    """Extends a version's lock to at least `lock` and reads it back.

    Raises:
        UnsafeStoreError: the store took the call and the lock is shorter or weaker than asked.
    """
    actual = repo.store.get_lock(key, version_id)
    if not satisfies(actual, lock):
        repo.store.set_lock(key, version_id, lock)
        actual = repo.store.get_lock(key, version_id)
    if not satisfies(actual, lock):
        raise UnsafeStoreError(
            f"the store took a lock until {lock.until} in {lock.mode} mode and now says {actual}",
            todo="Run `vera probe`: the store does not keep its promise.",
            bucket=repo.store.bucket, key=key, version_id=version_id,
        )  # fmt: skip


def satisfies(actual: Lock | None, wanted: Lock) -> bool:
    """Whether a lock protects at least as long and as strongly as wanted."""
    if wanted.mode is LockMode.NONE:
        return True
    if actual is None or actual.until < wanted.until - LOCK_TOLERANCE:
        return False
    return actual.mode is LockMode.COMPLIANCE or actual.mode is wanted.mode


def seal(repo: Repository, log: SlotLog, state: SlotState, shards: Iterable[ShardRef]) -> None:
    """Gives committed shards their class's lock, read back, and keeps the log's records locked as long as any shard.

    Raises:
        UnsafeStoreError: a lock did not hold.
        MissingObjectError: a committed version is gone.
    """
    if not repo.config.locked:
        return
    for shard in shards:
        raise_lock(repo, shard.key, shard.version_id, shard.lock)
    longest = state.longest_lock()
    if longest is not None:
        log.chain.extend_locks(state.records, longest)
        repo.config_log.extend_locks(longest)


def roll_forward(repo: Repository, log: SlotLog) -> tuple[SlotState, list[ShardRef]]:
    """Seals what an earlier writer committed and did not seal; returns the slot's state and the shards sealed now.

    A sidecar that has applied a record proves that the record was sealed before.
    """
    state = log.load()
    sidecar = log.read_sidecar()
    sealed = 0 if sidecar is None else sidecar.head.number
    if sidecar is not None and sidecar.head.number <= state.head.number:
        known = state.records[sealed - 1].digest if sealed else ""
        sealed = sealed if sidecar.head.digest == known else 0
    else:
        sealed = 0
    fresh = [shard for shard in state.live() if shard.number > sealed]
    seal(repo, log, state, fresh)
    if state.head.number > sealed:
        log.write_sidecar(state)
    return state, fresh


def check_committed(repo: Repository, slot: Slot, shard: ShardRef) -> None:
    """Reads a committed shard whole from the store and compares its digest.

    Raises:
        IntegrityError: its bytes are not the ones committed.
        MissingObjectError: the version is gone.
    """
    digest = stored_digest(repo, shard.key, shard.version_id, shard.size)
    if digest.hex() != shard.sha256:
        raise IntegrityError(
            "a committed shard's bytes are not the ones that were committed",
            todo="Run `vera verify --deep` to see which entries are hit; repack it from the source or a replica.",
            bucket=repo.store.bucket, key=shard.key, version_id=shard.version_id, slot=slot,
        )  # fmt: skip
