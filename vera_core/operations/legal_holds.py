"""What the slot logs say of legal holds, brought about in the store: S3 legal holds on the shards that cases need.

The log decides, this only follows it, and may run at any time. Who holds what for which case is hold.py's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, UnsafeStoreError
from vera_core.operations.lookup import ShardReaders, shards_holding
from vera_core.operations.repository import LOCK_SLACK
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState
    from vera_core.store.chain import Record


@dataclass(frozen=True, slots=True)
class LegalHolds:
    """Shards by what the store says against the log: `missing` ones need a legal hold, `idle` ones have it for nothing.

    `gone` are needed and not there any more.
    """

    missing: list[ShardRef] = field(default_factory=list)
    idle: list[ShardRef] = field(default_factory=list)
    gone: list[ShardRef] = field(default_factory=list)


def legal_hold_work(repo: Repository, state: SlotState) -> int:
    """How much `sync_legal_holds` would have to do for a slot; `state` must come from the whole log.

    Asks the store for the legal hold of every shard; nothing where nothing was ever held.
    """
    if not _concerned(repo, state):
        return 0
    found = _survey(repo, state)
    return len(found.missing) + len(found.idle) + len(_ending(repo, state))


def unheld_shards(repo: Repository, state: SlotState) -> list[ShardRef]:
    """The shards of a slot that a case needs and that have no legal hold, or are gone; `state` as `legal_hold_work`.

    Raises:
        UnsafeStoreError: the store offers no legal holds.
    """
    if not _concerned(repo, state):
        return []
    found = _survey(repo, state)
    return [*found.missing, *found.gone]


def _concerned(repo: Repository, state: SlotState) -> bool:
    return repo.config.locked and any(record.type == "hold" for record in state.records)


def _survey(repo: Repository, state: SlotState) -> LegalHolds:
    found = LegalHolds()
    needed = {shard.version_id for shard in shards_holding(ShardReaders(repo), state, state.held())}
    for shard in [*state.live(), *state.superseded]:
        try:
            held = repo.store.get_hold(shard.key, shard.version_id)
        except MissingObjectError:
            if shard.version_id in needed:
                found.gone.append(shard)
            continue
        if held != (shard.version_id in needed):
            (found.idle if held else found.missing).append(shard)
    return found


def sync_legal_holds(repo: Repository, log: SlotLog, state: SlotState) -> int:
    """Sets and lifts S3 legal holds as the log says; returns how many were. Safe to run again, and side by side.

    `state` must come from the whole log, and stays as it is. What is needed is set before anything is lifted: so a
    shard that a repack made has its hold before the old one loses it. After lifting the log is read again, for a hold
    may have come meanwhile. As long as anything is held, the records that say so stay locked for another year.

    Raises:
        UnsafeStoreError: the store takes no legal hold, or forgets it.
        IntegrityError: a shard that a case needs is gone; all others have their hold.
    """
    changed = 0
    if not _concerned(repo, state):
        return changed
    state = state.snapshot()
    while True:
        found = _survey(repo, state)
        for shard in found.missing:
            _hold(repo, shard)
        if _ending(repo, state):
            _keep_records(repo, log, state)
        for shard in found.idle:
            repo.store.set_hold(shard.key, shard.version_id, held=False)
        changed += len(found.missing) + len(found.idle)
        if not found.idle or not log.refresh(state):
            break
    for shard in found.gone:
        raise IntegrityError(
            "a shard that a legal hold needs is gone from the store",
            todo="Restore it from a replica of the bucket.",
            bucket=repo.store.bucket, key=shard.key, version_id=shard.version_id, slot=state.slot,
        )  # fmt: skip
    return changed


def _hold(repo: Repository, shard: ShardRef) -> None:
    repo.store.set_hold(shard.key, shard.version_id, held=True)
    if not repo.store.get_hold(shard.key, shard.version_id):
        raise UnsafeStoreError(
            "the store took a legal hold and now says that there is none",
            todo="Run `vera probe`: the store does not keep its promise.",
            bucket=repo.store.bucket, key=shard.key, version_id=shard.version_id,
        )  # fmt: skip


def _ending(repo: Repository, state: SlotState) -> list[Record]:
    """The records of a slot with holds that the store would let go within a year.

    A hold has no end that their locks could have.
    """
    ahead = repo.clock.now() + LOCK_SLACK
    return [record for record in state.records if state.holds and record.lock is not None and record.lock.until < ahead]


def _keep_records(repo: Repository, log: SlotLog, state: SlotState) -> None:
    ahead = repo.clock.now() + LOCK_SLACK
    state.records = log.chain.extend_locks(state.records, ahead, slack=LOCK_SLACK)
    repo.keep_config_locked(ahead)
