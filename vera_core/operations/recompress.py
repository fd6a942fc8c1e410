"""Cold shards that are worth compressing anew: of old days, packed for speed, smaller by measure on a sample.

What that saves begins when the old shards are gone, which is after their locks; until then both are stored and paid
for. So each candidate says when it will have paid for itself. How shards are replaced is rewrite.py's business, when
it is done optimize.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.format import ShardOptions
from vera_core.model import Policy
from vera_core.operations.bundles import bundled, objects_saved
from vera_core.operations.cost import S3_STANDARD_IA, monthly
from vera_core.operations.gc import GRACE
from vera_core.operations.holdings import removable
from vera_core.operations.lookup import StoreSource
from vera_core.operations.repack import by_class
from vera_core.operations.reshard import Aim, sampled
from vera_core.operations.rewrite import open_shelf, removable_versions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vera_core.model import Slot
    from vera_core.operations.bundles import Bundle
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotState

REASON = "recompress"
"""Of the repack records."""
LEAST_GAIN = 0.1
"""Part of the bytes that compressing anew must save to be worth its reading and writing."""
ENOUGH = 0.5
"""Part of that which a new shard must save in fact. A sample is no promise, and what was built is not thrown away."""
COLLECTED = 2 * GRACE
"""From the end of a lock to the deletion by a daily `vera gc`, which condemns in one run and deletes in a later one."""
MONTH = timedelta(days=30)
NEVER = timedelta(days=36_525)
"""What takes as long to pay never does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdLine:
    """Shards of a slot and class that compressing anew makes smaller: of `size` bytes, about `gained` are saved.

    `files` move, and `saved` objects go, too. The old shards are locked until `locked_until`; storing old and new until
    they are gone costs `twice_cost` USD, and on the day `pays` what is saved from then on has made up for that (None:
    not within a hundred years). `names` are their keys and VersionIds.
    """

    slot: Slot
    retention_class: str
    shards: int
    files: int
    size: int
    gained: int
    saved: int
    locked_until: datetime
    twice_cost: float
    pays: date | None
    names: frozenset[tuple[str, str]]


def cold_lines(repo: Repository, state: SlotState, least_gain: float) -> Iterator[ColdLine]:
    """The shards of a slot that compressing anew makes smaller by the part `least_gain`; each says what it comes to.

    Measured on a sample of the largest shard of those that would be replaced together.

    Raises:
        IntegrityError: a shard does not verify.
    """
    now = repo.clock.now()
    for bundle in _bundles(repo, state):
        gain = _gain(repo, state, max(bundle.shards, key=lambda shard: shard.size))
        if gain < least_gain:
            continue
        gained = int(gain * bundle.size)
        left = bundle.size - gained
        locked_until = max(shard.lock.until for shard in bundle.shards)
        twice = max(now, locked_until) + COLLECTED - now
        yield ColdLine(
            slot=state.slot, retention_class=bundle.retention_class, shards=len(bundle.shards),
            files=bundle.entries - bundle.erased, size=bundle.size, gained=gained,
            saved=max(0, objects_saved(bundle, repo.config)), locked_until=locked_until,
            twice_cost=monthly(S3_STANDARD_IA, objects=1, stored_bytes=left) * (twice / MONTH),
            pays=pays_on(now, twice, before=bundle.size, after=left), names=bundle.names,
        )  # fmt: skip


def pays_on(now: datetime, twice: timedelta, *, before: int, after: int) -> date | None:
    """When replacing `before` stored bytes by `after` has paid, if both are stored for the time `twice` from now.

    The new ones cost for that time; what is saved afterwards has to make up for it. What requests cost is next to
    nothing beside that. None: not within a hundred years.
    """
    if after >= before or twice / NEVER * before / (before - after) >= 1:
        return None
    return (now + twice * (before / (before - after))).date()


def chosen_bundles(
    state: SlotState, *, repo: Repository, names: Collection[frozenset[tuple[str, str]]]
) -> list[Bundle]:
    """What of a slot is to be compressed anew as things stand: those of the bundles with these names."""
    return [bundle for bundle in _bundles(repo, state) if bundle.names in names]


def is_recompressed(state: SlotState, shard: ShardRef) -> bool:
    """Whether a shard was compressed anew to be small; `state` must come from the whole log."""
    return state.records[state.named_by[shard.version_id] - 1].body.get("reason") == REASON


def _bundles(repo: Repository, state: SlotState) -> list[Bundle]:
    """The live shards of a slot that were packed for speed, as they would be replaced together.

    Copies that keep files longer are left alone, and so are big files with shards of their own.
    """
    if repo.config.compression is Policy.SMALL:
        return []
    counts = removable(state)
    found: list[Bundle] = []
    for name, shards in by_class(state).items():
        packed = [
            (shard, counts.get(shard.version_id, 0))
            for shard in shards
            if not is_recompressed(state, shard) and not _is_big_file(repo, shard)
        ]
        found += bundled(name, packed)
    return found


def _is_big_file(repo: Repository, shard: ShardRef) -> bool:
    return shard.entries == 1 and shard.content_bytes > repo.config.inline_limit


def _gain(repo: Repository, state: SlotState, shard: ShardRef) -> float:
    """The part of its bytes that a shard would lose, on a sample."""
    shelf = open_shelf(repo, shard, StoreSource(repo.store, shard), (0, removable_versions(state)))
    options = ShardOptions(bytes.fromhex(repo.config.repository_id), shard.retention_class)
    tenant = repo.naming(state.slot.tenant).tenant_key
    limits = repo.config.part_rows, repo.config.shard_bytes, shard.entries
    before, after = sampled(shelf, Aim(options, Policy.SMALL, *limits, Path(), tenant, anew=True))
    return 1 - after / before if before else 0.0
