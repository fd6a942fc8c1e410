"""Packing a window: freeze, build, upload, commit, seal, acknowledge (docs/protocol.md, "Pack").

Every step may be repeated by anyone at any time: the slot logs alone say which rows of the manifest are accounted for,
and each packer goes on from the first row that is not.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from vera_core.model import day_text, format_time
from vera_core.operations.accounted import parts_of
from vera_core.operations.audited import audited
from vera_core.operations.freeze import freeze_window, frozen_manifests, load_frozen, routed_by_active_epochs
from vera_core.operations.holdings import holdings
from vera_core.operations.inspector import inspector
from vera_core.operations.loader import Options, loader
from vera_core.operations.pace import at_pace
from vera_core.operations.report import Report, figure
from vera_core.operations.segment import PackJob, Progress, pack_segment

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.freeze import FrozenManifest
    from vera_core.operations.repository import Repository
    from vera_core.slots import Part, SlotState
    from vera_core.source.base import Source, Window

AUDIT_ENTRIES = 2
SHARDS_AUDITED = 1000
"""So many shards an outcome names; the slot logs name all of them, and a log record has its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLine:
    """A shard that holds rows of the window."""

    slot: str
    key: str
    version_id: str
    sha256: str
    size: int
    entries: int
    lock_until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackReport(Report):
    """What became of every row of a window's revision, and which shards hold it."""

    source: str
    tenant: str
    day: str
    revision: int
    manifest: str
    rows: int = figure("rows", "files")
    archived: int = figure("archived", "files")
    equal: int = figure("equal to the latest version", "files")
    rejected: int = figure("rejected", "files")
    rejects: dict[str, int] = field(default_factory=dict)
    shards: tuple[ShardLine, ...] = ()
    content_bytes: int = figure("content", "bytes")
    stored_bytes: int = figure("stored", "bytes")
    objects: int = figure("objects of every kind", "objects")
    packed_now: int = figure("archived by this run", "files")
    files_per_second: float = figure("speed", "files/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackPlan(Report):
    """What packing a window would do; rows are unknown until the manifest is frozen."""

    source: str
    tenant: str
    day: str
    revision: int
    frozen: bool
    manifest: str = ""
    key: str = ""
    rows: int = figure("rows", "files")
    rejected: int = figure("rejected when frozen", "files")
    accounted: int = figure("already accounted for", "files")
    slots: int = figure("slots")


def plan_pack(repo: Repository, source: Source, window: Window) -> PackPlan:
    """What `pack_window` would find and do; changes nothing."""
    began = time.monotonic()
    plan = PackPlan(
        source=source.name, tenant=source.tenant, day=day_text(window.day), revision=window.revision, frozen=False
    )
    with repo.scratch() as scratch:
        for item in frozen_manifests(repo, window, scratch):
            if item.window.revision == window.revision and not item.stale:
                plan = _plan(repo, item)
    return replace(plan, seconds=time.monotonic() - began)


@at_pace()
def freeze_rows(repo: Repository, source: Source, window: Window) -> PackPlan:
    """Freezes the window's revision, or adopts what is frozen; says which rows packing it will find.

    A revision that an epoch made stale is left behind: the answer then is about the next one.

    Raises:
        UnavailableError: source or store can't be reached.
    """
    began = time.monotonic()
    repo.writable_config()
    with audited(repo, "freeze", _subject(source, window)) as outcome, repo.scratch() as scratch:
        frozen = freeze_window(repo, source, window, scratch)
        while frozen.stale:
            frozen = freeze_window(repo, source, replace(frozen.window, revision=frozen.window.revision + 1), scratch)
        plan = replace(_plan(repo, frozen), seconds=time.monotonic() - began)
        outcome |= {"revision": plan.revision, "manifest": plan.manifest, "rows": plan.rows}
    return plan


def packed_window(repo: Repository, window: Window) -> PackReport:
    """What packing a window came to, read anew from its frozen manifest and the slot logs; changes nothing.

    Raises:
        NotFoundError: the window was never frozen.
    """
    began = time.monotonic()
    with repo.scratch() as scratch:
        frozen = load_frozen(repo, window, scratch)
        report = _report(frozen, list(parts_of(repo, frozen.manifest)))
    return replace(report, seconds=time.monotonic() - began)


@at_pace()
def pack_window(repo: Repository, source: Source, window: Window, *, progress: Progress | None = None) -> PackReport:
    """Archives every row of the window's revision, or says by name why not; safe to run again and side by side.

    Raises:
        UnavailableError: source or store can't be reached; run it again.
        IntegrityError: what is stored does not verify and can't be made good from the source.
    """
    began = time.monotonic()
    repo.settled_config({window.day + timedelta(days) for days in (-1, 0, 1)})
    with audited(repo, "pack", _subject(source, window)) as outcome:
        with repo.scratch() as scratch:
            report = _pack(repo, source, window, scratch, progress)
        seconds = time.monotonic() - began
        speed = report.packed_now / seconds if report.packed_now else 0.0
        report = replace(report, seconds=seconds, files_per_second=speed)
        outcome |= {
            "revision": report.revision,
            "manifest": report.manifest,
            "rows": report.rows,
            "archived": report.archived,
            "equal": report.equal,
            "rejected": report.rejected,
            "shard_count": len(report.shards),
            "shards": [[line.key, line.version_id] for line in report.shards[:SHARDS_AUDITED]],
        }
    return report


def _pack(repo: Repository, source: Source, window: Window, scratch: Path, progress: Progress | None) -> PackReport:
    while True:
        frozen = freeze_window(repo, source, window, scratch)
        if not frozen.stale:
            rows = frozen.manifest.row_count
            options = Options(repo.config.compression, repo.workplace.threads, repo.naming(window.tenant))
            with loader(source, rows, options) as load, inspector(rows) as inspect:
                job = PackJob(repo, source, frozen, scratch, load, inspect, progress)
                done = [pack_segment(job, segment) for segment in frozen.manifest.segments]
            repo.settled_config({segment.slot.day for segment in frozen.manifest.segments})
            if routed_by_active_epochs(repo, frozen.manifest):
                parts = [(state, part) for state, found in done for part in found]
                return replace(_report(frozen, parts), packed_now=job.packed_now)
        # An epoch was activated after this manifest was frozen: its commits count for nothing, its rows go again.
        window = replace(window, revision=window.revision + 1)


def _subject(source: Source, window: Window) -> dict[str, object]:
    """What an audit entry says of a window."""
    return {"source": source.name, "tenant": source.tenant, "day": day_text(window.day), "revision": window.revision}


def _plan(repo: Repository, frozen: FrozenManifest) -> PackPlan:
    manifest, window = frozen.manifest, frozen.window
    return PackPlan(
        source=window.source,
        tenant=window.tenant,
        day=day_text(window.day),
        revision=window.revision,
        frozen=True,
        manifest=frozen.digest,
        key=frozen.key,
        rows=manifest.row_count,
        rejected=manifest.reject_count,
        accounted=sum(part.end - part.first for _, part in parts_of(repo, manifest)),
        slots=len({segment.slot for segment in manifest.segments}),
    )


def _report(frozen: FrozenManifest, done: list[tuple[SlotState, Part]]) -> PackReport:
    manifest, window = frozen.manifest, frozen.window
    rejects = Counter(row.reject for row in manifest.rejects())
    for _, part in done:
        rejects.update({reason: sum(end - first for first, end in ranges) for reason, ranges in part.rejects.items()})
    lies = {id(state): holdings(state) for state, _ in done}
    shards = {
        (shard.key, shard.version_id): (state.slot, shard)
        for state, part in done
        for shard in lies[id(state)].shards_with(state, part.number)
    }
    return PackReport(
        source=window.source,
        tenant=window.tenant,
        day=day_text(window.day),
        revision=window.revision,
        manifest=frozen.digest,
        rows=manifest.row_count,
        archived=sum(part.archived for _, part in done),
        equal=sum(part.equal for _, part in done),
        rejected=rejects.total(),
        rejects=dict(sorted(rejects.items())),
        shards=tuple(
            ShardLine(
                slot=str(slot), key=shard.key, version_id=shard.version_id, sha256=shard.sha256, size=shard.size,
                entries=shard.entries, lock_until=format_time(shard.lock.until),
            )
            for slot, shard in shards.values()
        ),
        content_bytes=sum(shard.content_bytes for _, shard in shards.values()),
        stored_bytes=sum(shard.size for _, shard in shards.values()),
        objects=1 + len(done) + len(shards) + len({state.slot for state, _ in done}) + AUDIT_ENTRIES,
    )  # fmt: skip
