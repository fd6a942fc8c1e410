"""`vera pack`: files of a directory or a list, archived and verified day by day, without a business database.

There is no watermark: what was archived stands in the bucket, and running it again archives only what is new.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vera_core.model import day_text
from vera_core.operations.accounted import named_rejects, parts_of, unread_rows
from vera_core.operations.freeze import frozen_manifests, load_frozen
from vera_core.operations.pack import PackReport, pack_window
from vera_core.operations.report import Report, figure
from vera_core.operations.verify import VerifyReport, verify_window
from vera_core.source.base import Window
from vera_core.source.revisions import new_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from vera_core.operations.repository import Repository
    from vera_core.operations.segment import Progress
    from vera_core.source.base import Source
    from vera_core.source.directory import DirectorySource, ManifestSource
    from vera_core.source.manifest import Manifest

UNTIMED_NAMED = 100
REJECTS_NAMED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePlan(Report):
    """What archiving would do: the windows, and how many files of each day the source has."""

    source: str
    tenant: str
    windows: dict[str, int]
    untimed: tuple[str, ...] = ()
    files: int = figure("files", "files")
    days: int = figure("days")


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectLine:
    """A file that was not archived: of which day, which one, and why."""

    day: str
    uid: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveReport(Report):
    """What became of every file, day by day. `rejects` names the first 1,000."""

    source: str
    tenant: str
    packs: tuple[PackReport, ...]
    verifies: tuple[VerifyReport, ...]
    rejects: tuple[RejectLine, ...] = ()
    untimed: tuple[str, ...] = ()
    files: int = figure("files", "files")
    packed_now: int = figure("archived by this run", "files")
    equal: int = figure("equal to the latest version", "files")
    rejected: int = figure("rejected", "files")
    content_bytes: int = figure("content", "bytes")
    stored_bytes: int = figure("stored", "bytes")
    objects: int = figure("objects of every kind", "objects")
    files_per_second: float = figure("speed", "files/s")


def plan_archive(source: DirectorySource | ManifestSource) -> ArchivePlan:
    """Counts the files per day; changes nothing."""
    began = time.monotonic()
    days = {day_text(day): count for day, count in sorted(source.days().items())}
    untimed = tuple(reject.uid for reject in source.untimed(UNTIMED_NAMED))
    return ArchivePlan(
        ok=not untimed, source=source.name, tenant=source.tenant, windows=days, untimed=untimed,
        files=sum(days.values()), days=len(days), seconds=time.monotonic() - began,
    )  # fmt: skip


def archive(
    repo: Repository,
    source: DirectorySource | ManifestSource,
    *,
    each: Callable[[Window], Progress | None] = lambda _: None,
) -> ArchiveReport:
    """Archives and verifies every file of the source; safe to run again at any time.

    `each` gives the progress listener of a window that begins.

    Raises:
        UnavailableError: the store can't be reached; run it again.
        IntegrityError: what is stored does not verify and can't be made good from the files.
    """
    began = time.monotonic()
    packs: list[PackReport] = []
    verifies: list[VerifyReport] = []
    rejects: list[RejectLine] = []
    windows = (window for day in sorted(source.days()) for window in current_windows(repo, source, day))
    for window in windows:
        packs.append(pack_window(repo, source, window, progress=each(window)))
        packed = replace(window, revision=packs[-1].revision)
        verifies.append(verify_window(repo, source, packed))
        if packs[-1].rejected:
            rejects += _named(repo, source, packed, REJECTS_NAMED - len(rejects))
        verdict = "verified" if verifies[-1].ok else "failed"
        repo.audit.verdict("verify", verdict, {"scope": verifies[-1].scope, "failures": verifies[-1].failures})
    seconds = time.monotonic() - began
    packed_now = sum(pack.packed_now for pack in packs)
    return ArchiveReport(
        ok=all(verify.ok for verify in verifies), source=source.name, tenant=source.tenant, packs=tuple(packs),
        verifies=tuple(verifies), rejects=tuple(rejects),
        untimed=tuple(reject.uid for reject in source.untimed(UNTIMED_NAMED)),
        files=sum(pack.rows for pack in packs), packed_now=packed_now, equal=sum(pack.equal for pack in packs),
        rejected=sum(pack.rejected for pack in packs), content_bytes=sum(pack.content_bytes for pack in packs),
        stored_bytes=sum(pack.stored_bytes for pack in packs), objects=sum(pack.objects for pack in packs),
        files_per_second=packed_now / seconds if packed_now else 0.0, seconds=seconds,
    )  # fmt: skip


def _named(repo: Repository, source: Source, window: Window, limit: int) -> list[RejectLine]:
    """The first `limit` rejected files of a window."""
    day = day_text(window.day)
    with repo.scratch() as scratch:
        named = named_rejects(repo, source, load_frozen(repo, window, scratch), limit)
        return [RejectLine(day=day, uid=item.uid, reason=item.reason, detail=item.detail) for item in named]


def current_windows(repo: Repository, source: DirectorySource | ManifestSource, day: date) -> list[Window]:
    """The revisions of a day to archive: unfinished ones, then the next where the source has files that stand in none.

    The latest one where there is nothing to do. Files whose content could not be read before are tried again, in a new
    revision.
    """
    with repo.scratch() as scratch:
        frozen = frozen_manifests(repo, Window(source.name, source.tenant, day), scratch)
        if not frozen:
            return [Window(source.name, source.tenant, day)]
        valid = [item for item in frozen if not item.stale]
        known = [item.manifest for item in valid]
        windows = [item.window for item in valid if not is_finished(repo, item.manifest)]
        latest = frozen[-1].window
        naming = repo.naming(source.tenant)
        fresh = new_rows(source.batches(latest), known, naming, again=unread_rows(repo, known, naming))
        if any("" in batch.reject for batch in fresh):
            windows.append(replace(latest, revision=latest.revision + 1))
        return windows or [latest]


def is_finished(repo: Repository, manifest: Manifest) -> bool:
    """Whether commits account for every row of a manifest."""
    rows = sum(segment.end - segment.first for segment in manifest.segments)
    return rows == sum(part.end - part.first for _, part in parts_of(repo, manifest))
