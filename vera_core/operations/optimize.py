"""`vera optimize`: merges the many small shards of a slot, and compresses cold ones anew (docs/protocol.md, Repack).

What is replaced stays until its lock ends, so objects and bytes are saved only then; what it costs is reading and
writing now. Which cold shards are worth it is recompress.py's business, how shards are replaced rewrite.py's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.model import Policy
from vera_core.operations.bundles import bundled, objects_saved
from vera_core.operations.cost import S3_STANDARD_IA, monthly
from vera_core.operations.holdings import removable
from vera_core.operations.recompress import (
    ENOUGH,
    LEAST_GAIN,
    REASON,
    ColdLine,
    chosen_bundles,
    cold_lines,
    is_recompressed,
)
from vera_core.operations.repack import RepackReport, Volume, by_class, is_unsealed_repack, joint_report, rewrite_slots
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.rewrite import Purpose
from vera_core.operations.told import look_at_each, none_is_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from datetime import timedelta

    from vera_core.config import RepositoryConfig
    from vera_core.model import Slot
    from vera_core.operations.bundles import Bundle
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotState

LEAST_SAVED = 3
"""Objects that merging must save to be worth its reading and writing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What is worth doing.

    Merging that saves `least_saved` objects; compressing anew what is of days `older` than that (None: nothing), where
    it saves the part `least_gain` of the bytes.

    Raises:
        UsageError: these make no sense.
    """

    least_saved: int = LEAST_SAVED
    older: timedelta | None = None
    least_gain: float = LEAST_GAIN

    def __post_init__(self) -> None:
        if self.least_saved < 1:
            raise UsageError(f"merging can't save {self.least_saved} objects", todo="Give 1 or more.")
        if not 0 < self.least_gain < 1:
            raise UsageError(
                f"{self.least_gain} is no part of bytes that can be saved", todo="Give one like 0.1, for 10 %."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeLine:
    """Small shards of a slot and retention class that can be merged: how many objects fewer, for how many bytes."""

    slot: Slot
    retention_class: str
    shards: int
    files: int
    size: int
    saved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizePlan(Report):
    """What merging (`lines`) and compressing anew (`cold`) would save, and cost.

    Shards for which both are worth it are compressed anew, and merged by that. `unsealed` are slots in which somebody
    repacked and did not live to seal; `findings` are about those that could not be looked at.
    """

    worth: Worth
    lines: tuple[MergeLine, ...] = ()
    cold: tuple[ColdLine, ...] = ()
    unsealed: tuple[Slot, ...] = ()
    findings: tuple[Finding, ...] = ()
    slots: int = figure("slots examined")
    due: int = figure("slots to optimize")
    rolled: int = figure("slots to roll forward")
    shards: int = figure("small shards to merge", "objects")
    cold_shards: int = figure("cold shards to compress anew", "objects")
    saved: int = figure("objects saved", "objects")
    gained: int = figure("saved by compressing anew, by samples", "bytes")
    saved_cost: float = figure("saved, once the old ones are gone", "USD/month")
    twice_cost: float = figure("storing old and new until then", "USD")
    files: int = figure("files to move", "files")
    size: int = figure("bytes to rewrite", "bytes")


def plan_optimize(
    repo: Repository,
    slots: Iterable[Slot],
    *,
    worth: Worth | None = None,
    progress: Callable[[int], None] | None = None,
) -> OptimizePlan:
    """Which slots have shards that are worth merging or compressing anew; changes nothing.

    Reads slot logs only; of old days also a sample, of some MB at most, of shards that may be compressed anew.
    """
    began = time.monotonic()
    worth = worth or Worth()
    config = repo.refresh_config()
    first_young = None if worth.older is None else (repo.clock.now() - worth.older).date()

    def look(slot: Slot) -> tuple[list[MergeLine], list[ColdLine], list[Slot]]:
        log = repo.slot_log(slot)
        state = log.load()
        is_old = first_young is not None and slot.day < first_young
        cold = list(cold_lines(repo, state, worth.least_gain)) if is_old else []
        merges = list(_lines(state, config, worth.least_saved, {name for line in cold for name in line.names}))
        return merges, cold, [slot] if is_unsealed_repack(log, state) else []

    found, findings, count = look_at_each(slots, look, progress)
    lines = [line for each, _, _ in found for line in each]
    cold = [line for _, each, _ in found for line in each]
    unsealed = [slot for _, _, each in found for slot in each]
    both: list[MergeLine | ColdLine] = [*lines, *cold]
    shards, size = sum(line.shards for line in both), sum(line.size for line in both)
    saved, gained = sum(line.saved for line in both), sum(line.gained for line in cold)
    before = monthly(S3_STANDARD_IA, objects=shards, stored_bytes=size)
    return OptimizePlan(
        ok=none_is_wrong(findings), worth=worth, lines=tuple(lines), cold=tuple(cold), unsealed=tuple(unsealed),
        findings=tuple(findings), slots=count, due=len({line.slot for line in both}), rolled=len(unsealed),
        shards=sum(line.shards for line in lines), cold_shards=sum(line.shards for line in cold), saved=saved,
        gained=gained, size=size, twice_cost=sum(line.twice_cost for line in cold),
        saved_cost=before - monthly(S3_STANDARD_IA, objects=shards - saved, stored_bytes=size - gained),
        files=sum(line.files for line in both), seconds=time.monotonic() - began,
    )  # fmt: skip


def execute_optimize(
    repo: Repository, plan: OptimizePlan, *, progress: Callable[[int, int, int], None] | None = None
) -> RepackReport:
    """Compresses anew what the plan names, then merges what its slots have to merge; safe to run again, side by side.

    `progress` gets the files moved, those there are about in all, and the bytes that their contents take.

    Raises:
        UnavailableError: the store can't be reached; run it again.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    names = frozenset(line.names for line in plan.cold)
    shrink = plan.worth.least_gain * ENOUGH
    anew = Purpose(REASON, partial(chosen_bundles, repo=repo, names=names), Policy.SMALL, shrink)
    choose = partial(small_bundles, config=repo.config, least_saved=plan.worth.least_saved)
    merge = Purpose("merge", choose, repo.config.compression)
    cold = Volume(sum(line.files for line in plan.cold), sum(line.size for line in plan.cold))
    rest = Volume(plan.files - cold.files, plan.size - cold.size)
    done = [
        rewrite_slots(repo, purpose, sorted(slots), volume=volume, progress=progress)
        for purpose, slots, volume in (
            (anew, {line.slot for line in plan.cold}, cold),
            (merge, {*plan.unsealed, *(line.slot for line in plan.lines)}, rest),
        )
    ]
    return joint_report(*done)


def small_bundles(
    state: SlotState, *, config: RepositoryConfig, least_saved: int, without: Collection[tuple[str, str]] = ()
) -> list[Bundle]:
    """Small shards of a slot, `without` some, that merging makes fewer by `least_saved` or more.

    What was compressed anew stays as it is: merging would compress its small files as packing does.
    """
    counts = removable(state)
    found: list[Bundle] = []
    for name, shards in by_class(state).items():
        small = [
            (shard, counts.get(shard.version_id, 0))
            for shard in shards
            if _is_small(shard, config)
            and (shard.key, shard.version_id) not in without
            and not is_recompressed(state, shard)
        ]
        found += [bundle for bundle in bundled(name, small) if objects_saved(bundle, config) >= least_saved]
    return found


def _is_small(shard: ShardRef, config: RepositoryConfig) -> bool:
    """Less than half of what a shard may hold; one big file, streamed, is never small."""
    streamed = shard.entries == 1 and shard.content_bytes > config.inline_limit
    return not streamed and 2 * shard.stored_bytes < config.shard_bytes and 2 * shard.entries < config.part_rows


def _lines(
    state: SlotState, config: RepositoryConfig, least_saved: int, without: Collection[tuple[str, str]]
) -> Iterator[MergeLine]:
    for bundle in small_bundles(state, config=config, least_saved=least_saved, without=without):
        yield MergeLine(
            slot=state.slot, retention_class=bundle.retention_class, shards=len(bundle.shards),
            files=bundle.entries - bundle.erased, size=bundle.size, saved=objects_saved(bundle, config),
        )  # fmt: skip
