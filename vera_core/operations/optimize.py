"""`vera optimize`: merges the many small shards that late rows and short windows leave in a slot (docs/protocol.md).

What a merge replaces stays until its lock ends, so objects are saved only then; what it costs is reading and writing
now. How shards are replaced is rewrite.py's business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.operations.bundles import bundled
from vera_core.operations.cost import S3_STANDARD_IA, monthly
from vera_core.operations.holdings import removable
from vera_core.operations.repack import Volume, by_class, is_unsealed_repack, rewrite_slots
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.rewrite import Purpose
from vera_core.operations.told import look_at_each, none_is_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vera_core.config import RepositoryConfig
    from vera_core.model import Slot
    from vera_core.operations.bundles import Bundle
    from vera_core.operations.repack import RepackReport
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotState

LEAST_SAVED = 3
"""Objects that merging must save to be worth its reading and writing."""


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
    """What merging would save, and cost.

    `unsealed` are slots in which somebody repacked and did not live to seal; `findings` are about those that could not
    be looked at.
    """

    least_saved: int
    lines: tuple[MergeLine, ...] = ()
    unsealed: tuple[Slot, ...] = ()
    findings: tuple[Finding, ...] = ()
    slots: int = figure("slots examined")
    due: int = figure("slots to optimize")
    rolled: int = figure("slots to roll forward")
    shards: int = figure("small shards to merge", "objects")
    saved: int = figure("objects saved", "objects")
    saved_cost: float = figure("saved, once the old ones are gone", "USD/month")
    files: int = figure("files to move", "files")
    size: int = figure("bytes to rewrite", "bytes")


def plan_optimize(
    repo: Repository,
    slots: Iterable[Slot],
    *,
    least_saved: int = LEAST_SAVED,
    progress: Callable[[int], None] | None = None,
) -> OptimizePlan:
    """Which slots have small shards whose merging saves `least_saved` objects or more; changes nothing.

    Raises:
        UsageError: `least_saved` is not positive.
    """
    began = time.monotonic()
    if least_saved < 1:
        raise UsageError(f"merging can't save {least_saved} objects", todo="Give 1 or more.")
    config = repo.refresh_config()

    def look(slot: Slot) -> tuple[list[MergeLine], list[Slot]]:
        log = repo.slot_log(slot)
        state = log.load()
        return list(_lines(state, config, least_saved)), [slot] if is_unsealed_repack(log, state) else []

    found, findings, count = look_at_each(slots, look, progress)
    lines = [line for each, _ in found for line in each]
    unsealed = [slot for _, each in found for slot in each]
    shards, size = sum(line.shards for line in lines), sum(line.size for line in lines)
    saved = sum(line.saved for line in lines)
    before = monthly(S3_STANDARD_IA, objects=shards, stored_bytes=size)
    return OptimizePlan(
        ok=none_is_wrong(findings), least_saved=least_saved, lines=tuple(lines), unsealed=tuple(unsealed),
        findings=tuple(findings), slots=count, due=len({line.slot for line in lines}), rolled=len(unsealed),
        shards=shards, saved=saved, size=size,
        saved_cost=before - monthly(S3_STANDARD_IA, objects=shards - saved, stored_bytes=size),
        files=sum(line.files for line in lines), seconds=time.monotonic() - began,
    )  # fmt: skip


def execute_optimize(
    repo: Repository, plan: OptimizePlan, *, progress: Callable[[int, int, int], None] | None = None
) -> RepackReport:
    """Merges what the plan's slots have to merge now; safe to run again and side by side.

    `progress` gets the files moved, those there are about in all, and the bytes that their contents take.

    Raises:
        UnavailableError: the store can't be reached; run it again.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    choose = partial(small_bundles, config=repo.config, least_saved=plan.least_saved)
    purpose = Purpose("merge", choose, repo.config.compression)
    slots = sorted({*plan.unsealed, *(line.slot for line in plan.lines)})
    return rewrite_slots(repo, purpose, slots, volume=Volume(plan.files, plan.size), progress=progress)


def small_bundles(state: SlotState, *, config: RepositoryConfig, least_saved: int) -> list[Bundle]:
    """Small shards of a slot that merging makes fewer by `least_saved` or more."""
    counts = removable(state)
    found: list[Bundle] = []
    for name, shards in by_class(state).items():
        small = [(shard, counts.get(shard.version_id, 0)) for shard in shards if _is_small(shard, config)]
        found += [bundle for bundle in bundled(name, small) if _saved(bundle, config) >= least_saved]
    return found


def _is_small(shard: ShardRef, config: RepositoryConfig) -> bool:
    """Less than half of what a shard may hold; one big file, streamed, is never small."""
    streamed = shard.entries == 1 and shard.content_bytes > config.inline_limit
    return not streamed and 2 * shard.stored_bytes < config.shard_bytes and 2 * shard.entries < config.part_rows


def _saved(bundle: Bundle, config: RepositoryConfig) -> int:
    """How many objects fewer there will be."""
    stored = sum(shard.stored_bytes for shard in bundle.shards)
    left = bundle.entries - bundle.erased
    needed = max(-(-stored // config.shard_bytes), -(-left // config.part_rows))
    return len(bundle.shards) - (needed if left else 0)


def _lines(state: SlotState, config: RepositoryConfig, least_saved: int) -> Iterator[MergeLine]:
    for bundle in small_bundles(state, config=config, least_saved=least_saved):
        yield MergeLine(
            slot=state.slot, retention_class=bundle.retention_class, shards=len(bundle.shards),
            files=bundle.entries - bundle.erased, size=bundle.size, saved=_saved(bundle, config),
        )  # fmt: skip
