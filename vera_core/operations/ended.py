"""Shards whose retention has ended, and taking them out of a slot: whole, or not at all (docs/protocol.md, Dispose).

Who asked for it and who approved it is disposals.py's business; deleting the bytes is `vera gc`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.disposals import EndedShard
from vera_core.model import format_time
from vera_core.operations.commit import sealed_number, settle
from vera_core.operations.holdings import disposed_shards
from vera_core.operations.legal_holds import sync_legal_holds
from vera_core.operations.lookup import ShardReaders, shards_holding
from vera_core.operations.slotwise import append, drop_inventory, until_in
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotState

GONE = "it is not live any more: a repack replaced it, or another request disposed of it"


def ended_shards(repo: Repository, state: SlotState) -> list[tuple[EndedShard, str]]:
    """The live shards whose lock has ended by the store's clock, each with what still keeps it ("": nothing)."""
    now = repo.clock.now()
    ended = [shard for shard in state.live() if shard.lock.until <= now]
    if not ended:
        return []
    held = {shard.version_id for shard in shards_holding(ShardReaders(repo), state, state.held())}
    lonely = _copy_is_missing(repo, state, now)
    found = []
    for shard in ended:
        if shard.version_id in held:
            why = "it holds files that a case needs"
        elif lonely:
            why = "files of its slot are kept longer, and the copy that keeps them is not there"
        else:
            why = _kept_by_store(repo, shard)
        found.append((_described(state.slot, shard), why))
    return found


def dispose_in(repo: Repository, slot: Slot, request: str, shards: Mapping[int, EndedShard]) -> list[tuple[int, str]]:
    """Takes these shards of a slot out of the archive; each with why not, "" where it is done, now or before.

    Raises:
        IntegrityError: the slot can't be read.
    """
    log = repo.slot_log(slot)
    state = log.load()
    sealed = sealed_number(log, state)

    def step() -> dict[int, str]:
        kept = {(shard.key, shard.version_id): why for shard, why in ended_shards(repo, state)}
        before = _disposed(state, request)
        verdicts = {
            at: "" if (shard.key, shard.version_id) in before else kept.get((shard.key, shard.version_id), GONE)
            for at, shard in shards.items()
        }
        go = [shard for at, shard in shards.items() if not verdicts[at] and (shard.key, shard.version_id) not in before]
        if go:
            named = [{"key": shard.key, "version_id": shard.version_id} for shard in go]
            body = {"type": "dispose", "shards": named, "request": request, "actor": repo.workplace.actor}
            append(repo, log, state, body)
        return verdicts

    verdicts = until_in(log, state, step)
    settle(repo, log, state, sealed)
    sync_legal_holds(repo, log, state)
    _destroy_keys(repo, state)
    numbers = [record.number for record in state.records if record.type == "dispose"]
    if numbers:
        drop_inventory(repo, slot, max(numbers))
    return list(verdicts.items())


def _destroy_keys(repo: Repository, state: SlotState) -> None:
    """Makes unreadable what was disposed of, without waiting for the deletion of its shards.

    What a lock keeps goes with its shard. So do the keys of shards that a repack had replaced by a disposed one.
    """
    needed = {shard.key for shard in state.live()}
    for shard in disposed_shards(state):
        if shard.keyring and shard.key not in needed:
            repo.keyrings.delete(shard.key)
            repo.keyrings.forget(shard)


def _copy_is_missing(repo: Repository, state: SlotState, now: datetime) -> bool:
    """Whether a version is kept longer by a copy that is not live, or not there."""
    for number in {retention.number for retention in state.retained.values() if retention.until > now}:
        copies = state.shards.get(number, [])
        if not copies:
            return True
        try:
            for copy in copies:
                repo.store.head(copy.key, version_id=copy.version_id)
        except MissingObjectError:
            return True
    return False


def _kept_by_store(repo: Repository, shard: ShardRef) -> str:
    """What the store itself keeps the shard by, whoever asked it to; "" for nothing."""
    if not repo.config.locked:
        return ""
    try:
        lock = repo.store.get_lock(shard.key, shard.version_id)
        if lock is not None and lock.until > repo.clock.now():
            return f"the store keeps it locked until {format_time(lock.until)}"
        held = repo.store.get_hold(shard.key, shard.version_id)
    except MissingObjectError:
        return ""
    return "it is under a legal hold of which no record tells" if held else ""


def _disposed(state: SlotState, request: str) -> set[tuple[str, str]]:
    """The shards that this request has disposed of already."""
    strays = set(state.strays)
    return {
        (item["key"], item["version_id"])
        for record in state.records
        if record.type == "dispose" and record.body["request"] == request and record.number not in strays
        for item in record.body["shards"]
    }


def _described(slot: Slot, shard: ShardRef) -> EndedShard:
    return EndedShard(
        slot=str(slot),
        key=shard.key,
        version_id=shard.version_id,
        sha256=shard.sha256,
        retention_class=shard.retention_class,
        entries=shard.entries,
        size=shard.size,
        locked_until=shard.lock.until,
    )
