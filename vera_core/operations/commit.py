"""From a built shard to a sealed one: upload under a short lock, append the commit, seal (docs/protocol.md).

Each step is safe to repeat and to lose the process in: an uploaded shard that no record names is garbage, a commit that
is not sealed is rolled forward by whoever finds it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, PreconditionError, UnsafeStoreError
from vera_core.model import Erasability, Lock, LockMode
from vera_core.operations.key_objects import look_under
from vera_core.operations.repository import LOCK_SLACK, SHORT_LOCK
from vera_core.slots import ShardRef, small_filter
from vera_core.store.base import ABSENT, SINGLE_PUT_LIMIT, MissingObjectError
from vera_core.store.chain import Head

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from vera_core.format import ShardSummary
    from vera_core.keys.keyring import Keyring
    from vera_core.model import Slot
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState
    from vera_core.store.base import ObjectStore, VersionInfo

ADOPT_CHUNK = 8 << 20
LOCK_TOLERANCE = timedelta(seconds=2)
"""Stores keep retention in whole seconds."""


@dataclass(frozen=True, slots=True)
class LocalShard:
    """A finished, verified shard in the spool: its file, SHA-256 of all bytes, and size in bytes."""

    path: Path
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished shard in the spool, what was written into it, and the keys of its entries, all where they are few.

    `keyring` opens its files where it is encrypted.
    """

    local: LocalShard
    summary: ShardSummary
    keys: list[int]
    keyring: Keyring | None = None

    def stored_at(self, place: tuple[str, str], *, number: int, retention_class: str, lock: Lock) -> ShardRef:
        """How record `number` names the shard, once it is stored at `place` (key, VersionId)."""
        return ShardRef(
            number=number,
            key=place[0],
            version_id=place[1],
            sha256=self.local.sha256.hex(),
            size=self.local.size,
            entries=self.summary.entries,
            content_bytes=self.summary.content_bytes,
            stored_bytes=self.summary.stored_bytes,
            min_key=self.summary.min_key,
            max_key=self.summary.max_key,
            retention_class=retention_class,
            lock=lock,
            keys=small_filter(self.keys),
            keyring=0 if self.keyring is None else self.keyring.revision,
        )


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
    """Extends a version's lock to at least `lock` and reads it back; it may be as long already.

    Raises:
        UnsafeStoreError: the store took the call and the lock is shorter or weaker than asked.
    """
    if not satisfies(repo.store.get_lock(key, version_id), lock):
        extend_lock(repo.store, key, version_id, lock)


def extend_lock(store: ObjectStore, key: str, version_id: str, lock: Lock) -> None:
    """Sets a version's lock and reads it back.

    Raises:
        UnsafeStoreError: the store took the call and the lock is shorter or weaker than asked.
    """
    store.set_lock(key, version_id, lock)
    actual = store.get_lock(key, version_id)
    if not satisfies(actual, lock):
        raise UnsafeStoreError(
            f"the store took a lock until {lock.until} in {lock.mode} mode and now says {actual}",
            todo="Run `vera probe`: the store does not keep its promise.",
            bucket=store.bucket, key=key, version_id=version_id,
        )  # fmt: skip


def satisfies(actual: Lock | None, wanted: Lock) -> bool:
    """Whether a lock protects at least as long and as strongly as wanted."""
    if wanted.mode is LockMode.NONE:
        return True
    if actual is None or actual.until < wanted.until - LOCK_TOLERANCE:
        return False
    return actual.mode is LockMode.COMPLIANCE or actual.mode is wanted.mode


def is_unsealed(repo: Repository, shard: ShardRef) -> bool:
    """Whether the store's lock is shorter or weaker than the one committed, which has not ended yet.

    That of the shard, or of its keyring where that is locked, too. A shard that is gone has nothing to lock: whoever
    reads it says so.
    """
    if not repo.config.locked or shard.lock.until <= repo.clock.now():
        return False
    try:
        if not satisfies(repo.store.get_lock(shard.key, shard.version_id), shard.lock):
            return True
    except MissingObjectError:
        return False
    return bool(_short_keyrings(repo, shard))


def keyring_lock(repo: Repository, shard: ShardRef) -> Lock | None:
    """The lock that a shard's keyring must have: in regulated classes the shard's; None where it must have none.

    Erasing replaces keyrings and deletes what they were, so those of erasable classes are never locked.
    """
    if not (repo.config.locked and shard.keyring) or shard.lock.until <= repo.clock.now():
        return None
    return shard.lock if repo.config.retention(shard.retention_class).erasability is Erasability.REGULATED else None


def _short_keyrings(repo: Repository, shard: ShardRef) -> list[tuple[KeyPlace, VersionInfo]]:
    """Where the keyring that counts has a lock that is too short; a keyring that is gone has nothing to lock."""
    lock = keyring_lock(repo, shard)
    short: list[tuple[KeyPlace, VersionInfo]] = []
    for place in repo.key_places() if lock is not None else ():
        info = look_under(repo, place, place.keyring(shard)).info
        with place.reached(), suppress(MissingObjectError):
            if info is not None and lock and not satisfies(place.store.get_lock(info.key, info.version_id), lock):
                short.append((place, info))
    return short


def seal(repo: Repository, log: SlotLog, state: SlotState, after: int, *, own: str = "") -> int:
    """Gives every live shard that records after number `after` brought the lock of its class, read back.

    Whoever brought them: what an earlier writer committed and did not live to seal is rolled forward here, and the
    audit is told of it first. So at any moment such a shard is unsealed, for the next one to find, or told of.
    `own` is the writer whose outcome names its shards anyway. Config and slot log records and the tenant's key are kept
    locked as long as any shard. Returns how many shards had locks that were too short.

    Raises:
        UnsafeStoreError: a lock did not hold.
        UnavailableError: an audit entry could not be stored, or a lock not be set; the rest is found again.
    """
    if not repo.config.locked:
        return 0
    unsealed = [shard for shard in state.brought_after(after) if is_unsealed(repo, shard)]
    for shard in unsealed:
        if state.records[state.named_by[shard.version_id] - 1].body.get("writer") != own:
            about = {"slot": str(state.slot), "key": shard.key, "version_id": shard.version_id}
            repo.audit.recovered("seal", about)
    for shard in unsealed:
        for place, info in _short_keyrings(repo, shard):
            with place.reached():
                extend_lock(place.store, info.key, info.version_id, shard.lock)
        with suppress(MissingObjectError):
            extend_lock(repo.store, shard.key, shard.version_id, shard.lock)
    longest = state.longest_lock()
    if longest is not None:
        state.records = log.chain.extend_locks(state.records, longest, slack=LOCK_SLACK)
        repo.keep_config_locked(longest)
        repo.keep_tenant_key_locked(state.slot.tenant, longest)
    return len(unsealed)


def roll_forward(repo: Repository, log: SlotLog) -> SlotState:
    """Seals what earlier writers committed and did not seal; returns the slot's state.

    A sidecar that has applied a record says that the record was sealed; the doctor doesn't take its word and asks.
    """
    state = log.load()
    settle(repo, log, state, sealed_number(log, state))
    return state


def settle(repo: Repository, log: SlotLog, state: SlotState, sealed: int) -> None:
    """Seals what records after number `sealed` brought, whoever wrote them, and then says so in the sidecar.

    The outcome of this writer names the shards that it brought itself.
    """
    seal(repo, log, state, sealed, own=repo.audit.writer)
    if state.head.number > sealed:
        log.write_sidecar(state, repo.clock.now())


def sealed_number(log: SlotLog, state: SlotState) -> int:
    """Up to which record the sidecar says everything is sealed; 0 where it is none of this log's."""
    there = log.read_sidecar()
    head = Head() if there is None else there.head
    known = 0 < head.number <= state.head.number and state.records[head.number - 1].digest == head.digest
    return head.number if known else 0


def check_committed(repo: Repository, slot: Slot, shard: ShardRef) -> None:
    """Reads a committed shard whole from the store and compares its digest.

    Raises:
        IntegrityError: its bytes are not the ones committed.
        MissingObjectError: the version is gone.
    """
    size = repo.store.head(shard.key, version_id=shard.version_id).size
    if size != shard.size or stored_digest(repo, shard.key, shard.version_id, size).hex() != shard.sha256:
        raise IntegrityError(
            "a committed shard's bytes are not the ones that were committed",
            todo="Run `vera verify --deep` to see which entries are hit; repack it from the source or a replica.",
            bucket=repo.store.bucket, key=shard.key, version_id=shard.version_id, slot=slot,
        )  # fmt: skip
