"""`vera repack`: leaves erased files behind where they are many, in new shards of what lives (docs/protocol.md).

The old shards are superseded, and deleted by `vera gc` once their locks have ended. How shards are replaced is
rewrite.py's business, merging small ones optimize.py's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import UsageError
from vera_core.operations.audited import audited
from vera_core.operations.bundles import Bundle, bundled
from vera_core.operations.commit import sealed_number
from vera_core.operations.holdings import removable
from vera_core.operations.inspector import inspector
from vera_core.operations.pace import at_pace
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.rewrite import Purpose, Rewriting, Rewritten
from vera_core.operations.told import look_at_each, none_is_wrong, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from vera_core.format import Verified
    from vera_core.keys.seals import Seals
    from vera_core.model import Slot
    from vera_core.operations.inspector import Inspect
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState

RATIO = 0.3
"""Erased files among the files of a slot and class from which on repacking is worth its reading and writing."""
SHARDS_AUDITED = 1000
SMALL_FILES, SMALL_BYTES = 10_000, 64 << 20
"""Files and bytes of a slot up to which its work is waiting for the store, so that several are worked on at once."""
SLOTS_AT_ONCE = 4


class Volume(NamedTuple):
    """How much there is to move: files, and the bytes of the shards that hold them."""

    files: int
    size: int

    def is_small(self, slots: int) -> bool:
        """Whether it is little for so many slots."""
        return self.files <= SMALL_FILES * slots and self.size <= SMALL_BYTES * slots


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackLine:
    """What is to be repacked of one slot and retention class.

    `files` are those of all its shards, `erased` how many of them are, and `ratio` is the one among the other, which
    decides. The shards that hold an erased file are rewritten: `shards` of them, of `size` bytes, from which `moving`
    files move.
    """

    slot: Slot
    retention_class: str
    files: int
    erased: int
    ratio: float
    shards: int
    size: int
    moving: int
    locked_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackPlan(Report):
    """What repacking would do, and why: slots and classes whose ratio of erased files is `ratio` or above.

    `unsealed` are slots in which somebody repacked and did not live to seal; `findings` are about those that could not
    be looked at.
    """

    ratio: float
    lines: tuple[RepackLine, ...] = ()
    unsealed: tuple[Slot, ...] = ()
    findings: tuple[Finding, ...] = ()
    slots: int = figure("slots examined")
    due: int = figure("slots to repack")
    rolled: int = figure("slots to roll forward")
    shards: int = figure("shards to rewrite", "objects")
    moving: int = figure("files to move", "files")
    erased: int = figure("erased files to leave behind", "files")
    size: int = figure("bytes to rewrite", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepackReport(Report):
    """What was replaced by what. `findings` are slots that could not be repacked; run it again for those."""

    reason: str
    done: tuple[Rewritten, ...] = ()
    findings: tuple[Finding, ...] = ()
    replaced: int = figure("shards replaced", "objects")
    shards: int = figure("shards in their place", "objects")
    files: int = figure("files moved", "files")
    left_out: int = figure("erased files left behind", "files")
    size_before: int = figure("stored before", "bytes")
    size_after: int = figure("stored after", "bytes")
    files_per_second: float = figure("speed", "files/s")


def plan_repack(
    repo: Repository,
    slots: Iterable[Slot],
    *,
    ratio: float = RATIO,
    progress: Callable[[int], None] | None = None,
) -> RepackPlan:
    """What `execute_repack` would do; reads slot logs only, and changes nothing. `progress` gets the slots examined.

    Raises:
        UsageError: the ratio is not between 0 and 1.
    """
    began = time.monotonic()
    if not 0 <= ratio <= 1:
        raise UsageError(f"{ratio} is no ratio", todo="Give a number from 0 to 1: 0.3 for 30 %.")
    repo.refresh_config()

    def look(slot: Slot) -> tuple[list[RepackLine], list[Slot]]:
        log = repo.slot_log(slot)
        state = log.load()
        return list(_lines(state, ratio)), [slot] if is_unsealed_repack(log, state) else []

    found, findings, count = look_at_each(slots, look, progress)
    lines = [line for each, _ in found for line in each]
    unsealed = [slot for _, each in found for slot in each]
    return RepackPlan(
        ok=none_is_wrong(findings), ratio=ratio, lines=tuple(lines), unsealed=tuple(unsealed), findings=tuple(findings),
        slots=count, due=len({line.slot for line in lines}), rolled=len(unsealed),
        shards=sum(line.shards for line in lines),
        moving=sum(line.moving for line in lines), erased=sum(line.erased for line in lines),
        size=sum(line.size for line in lines), seconds=time.monotonic() - began,
    )  # fmt: skip


def execute_repack(
    repo: Repository, plan: RepackPlan, *, progress: Callable[[int, int, int], None] | None = None
) -> RepackReport:
    """Repacks the slots of the plan, by what their logs say now; safe to run again and side by side.

    `progress` gets the files moved, those there are about in all, and the bytes that their contents take.

    Raises:
        UnavailableError: the store can't be reached; run it again.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    purpose = Purpose("tombstones", partial(erased_bundles, ratio=plan.ratio), repo.config.compression)
    slots = sorted({*plan.unsealed, *(line.slot for line in plan.lines)})
    return rewrite_slots(repo, purpose, slots, volume=Volume(plan.moving, plan.size), progress=progress)


def is_unsealed_repack(log: SlotLog, state: SlotState) -> bool:
    """Whether the slot has a repack after which nobody has said that everything is sealed."""
    last = max((record.number for record in state.records if record.type == "repack"), default=0)
    return last > 0 and last > sealed_number(log, state)


def erased_bundles(state: SlotState, *, ratio: float) -> list[Bundle]:
    """The shards that hold erased files, of the classes of a slot where these are `ratio` or more of all."""
    counts = removable(state)
    bundles: list[Bundle] = []
    for name, shards in by_class(state).items():
        counted = [(shard, counts.get(shard.version_id, 0)) for shard in shards]
        erased = sum(count for _, count in counted)
        if erased and erased >= ratio * sum(shard.entries for shard in shards):
            bundles += bundled(name, [(shard, count) for shard, count in counted if count])
    return bundles


def by_class(state: SlotState) -> dict[str, list[ShardRef]]:
    """The live shards of each retention class, but for the copies that extensions made: these keep files longer."""
    found: defaultdict[str, list[ShardRef]] = defaultdict(list)
    for shard in state.live():
        if not state.is_copy(shard):
            found[shard.retention_class].append(shard)
    return dict(found)


@at_pace()
def rewrite_slots(
    repo: Repository,
    purpose: Purpose,
    slots: Sequence[Slot],
    *,
    volume: Volume,
    progress: Callable[[int, int, int], None] | None = None,
) -> RepackReport:
    """Replaces what the purpose chooses in each slot, between an intent and an outcome in the audit.

    `volume`: about how much there is to move. A slot whose shards don't verify is a finding, and keeps no other back.

    Raises:
        UnavailableError, IncompatibleError: as `execute_repack`.
    """
    began = time.monotonic()
    repo.writable_config()
    if not slots:
        return RepackReport(reason=purpose.reason, seconds=time.monotonic() - began)
    findings: list[Finding] = []
    guard = Lock()
    moved = size = 0

    def tell(versions: int, stored: int) -> None:
        nonlocal moved, size
        with guard:
            moved, size = moved + versions, size + stored
            if progress is not None:
                progress(moved, max(volume.files, moved), size)

    subject = {"reason": purpose.reason, "slots": len(slots), "first": str(slots[0]), "last": str(slots[-1])}
    with audited(repo, "repack", subject) as outcome, repo.scratch() as scratch, inspector(volume.files) as inspect:
        job = Rewriting(repo, purpose, scratch, _one_at_a_time(inspect), tell)
        done = _each(job, slots, findings, at_once=SLOTS_AT_ONCE if volume.is_small(len(slots)) else 1)
        report = _report(purpose.reason, done, findings, time.monotonic() - began)
        outcome |= {
            "replaced": report.replaced,
            "left_out": report.left_out,
            "shard_count": report.shards,
            "shards": [[shard.key, shard.version_id] for each in done for shard in each.shards][:SHARDS_AUDITED],
            "failed": len(findings),
        }
    return report


def _each(job: Rewriting, slots: Sequence[Slot], findings: list[Finding], *, at_once: int) -> list[Rewritten]:
    """Rewrites the slots, some at once; what was replaced, in their order."""

    def one(slot: Slot) -> list[Rewritten]:
        done: list[Rewritten] = []
        with told(findings, slot):
            done.extend(job.slot(slot))
        return done

    with ThreadPoolExecutor(at_once, thread_name_prefix="vera-slot") as pool:
        futures = [pool.submit(one, slot) for slot in slots]
        try:
            return [rewritten for future in futures for rewritten in future.result()]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one_at_a_time(inspect: Inspect) -> Inspect:
    """As an `Inspect` wants to be used."""
    guard = Lock()

    def guarded(path: Path, seals: Seals | None = None) -> Verified:
        with guard:
            return inspect(path, seals)

    return guarded


def _lines(state: SlotState, ratio: float) -> Iterator[RepackLine]:
    shards = by_class(state)
    bundles: defaultdict[str, list[Bundle]] = defaultdict(list)
    for bundle in erased_bundles(state, ratio=ratio):
        bundles[bundle.retention_class].append(bundle)
    for name, found in bundles.items():
        files, erased = sum(shard.entries for shard in shards[name]), sum(bundle.erased for bundle in found)
        yield RepackLine(
            slot=state.slot, retention_class=name, files=files, erased=erased, ratio=erased / files,
            shards=sum(len(bundle.shards) for bundle in found),
            size=sum(bundle.size for bundle in found), moving=sum(bundle.entries for bundle in found) - erased,
            locked_until=max(shard.lock.until for bundle in found for shard in bundle.shards),
        )  # fmt: skip


def joint_report(*reports: RepackReport) -> RepackReport:
    """What several runs came to together; `reason` names those of the runs that replaced something."""
    done = [each for report in reports for each in report.done]
    findings = [finding for report in reports for finding in report.findings]
    reasons = [report.reason for report in reports if report.done] or [report.reason for report in reports]
    return _report(", ".join(reasons), done, findings, sum(report.seconds for report in reports))


def _report(reason: str, done: Sequence[Rewritten], findings: Sequence[Finding], seconds: float) -> RepackReport:
    files = sum(each.files for each in done)
    replaced = [shard for each in done for shard in each.replaced]
    shards = [shard for each in done for shard in each.shards]
    return RepackReport(
        ok=none_is_wrong(findings), reason=reason, done=tuple(done), findings=tuple(findings), replaced=len(replaced),
        shards=len(shards), files=files, left_out=sum(each.left_out for each in done),
        size_before=sum(shard.size for shard in replaced), size_after=sum(shard.size for shard in shards),
        files_per_second=files / seconds if files else 0.0, seconds=seconds,
    )  # fmt: skip
