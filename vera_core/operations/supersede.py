"""Putting new shards in the place of old ones: the repack record, appended as long as it would count.

What the new ones hold, and why, is the business of segment.py (repair), rewrite.py (repack, merge) and putback.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vera_core.model import Lock
from vera_core.operations.holdings import may_be_left_out
from vera_core.slotrecords import repack_anchor
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.model import Origin
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState

APPENDS = 64
"""Of getting the record into the slot's log: each that is lost was won by another record, which may change nothing."""


class OutrunError(LostAppendError):
    """Another writer changed what a new shard rests on: plan it anew."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Live shards that are replaced, and uploaded ones in their place.

    `reason` as in the record. A new shard with a number other than 0 keeps it, as the same bytes stored again must.
    `left_out`: erased versions that none of the new ones holds.
    """

    reason: str
    old: Sequence[ShardRef]
    new: Sequence[ShardRef]
    left_out: Sequence[Origin] = ()

    def body(self, writer: str) -> dict[str, Any]:
        """The record."""
        return {
            "type": "repack",
            "reason": self.reason,
            "replaces": [{"key": shard.key, "version_id": shard.version_id} for shard in self.old],
            "shards": [{**shard.to_json(), **({"number": shard.number} if shard.number else {})} for shard in self.new],
            "anchor": repack_anchor(self.old, self.new, self.left_out),
            "writer": writer,
        }

    def counts(self, state: SlotState) -> bool:
        """Whether its record would count as things stand."""
        live = {(shard.key, shard.version_id) for shard in state.live()}
        return (
            live.issuperset((shard.key, shard.version_id) for shard in self.old)
            and not any(state.is_condemned(shard.key, shard.version_id) for shard in self.new)
            and all(may_be_left_out(state, origin) for origin in self.left_out)
        )


def supersede(repo: Repository, log: SlotLog, state: SlotState, replacement: Replacement) -> int:
    """Appends the repack and returns its number; the caller seals.

    Versions are named and not places, so most records that come first change nothing: a file that was erased meanwhile
    lies in a new shard, dead, and is left behind by the next repack.

    Raises:
        OutrunError: it would not count any more; `state` is what made it so.
    """
    body = replacement.body(repo.audit.writer)
    for _ in range(APPENDS):
        if not replacement.counts(state):
            break
        now = repo.clock.now()
        until = repo.record_until(max(shard.lock.until for shard in (*replacement.old, *replacement.new)))
        lock = Lock(repo.config.lock_mode, until) if repo.config.locked else None
        try:
            record = log.append(state, body, lock=lock, now=now)
        except LostAppendError:
            log.refresh(state)
        else:
            if record.number in state.strays:
                break
            return record.number
    raise OutrunError(
        "another writer replaced shards of the slot first, or put a hold on their files",
        todo="Run it again.", slot=state.slot,
    )  # fmt: skip
