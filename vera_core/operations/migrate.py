"""Migrating a source: one window after the other frozen, packed and verified, and the watermark over verified days.

A window may be migrated again at any time: it converges to the same entries. Which windows are due is due.py, what is
on record of each verdicts.py; what Dagster shows is a mirror of that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vera_core.errors import UnavailableError, UsageError, VeraError
from vera_core.model import day_text
from vera_core.operations import metrics
from vera_core.operations.due import FINAL
from vera_core.operations.leasing import first_free
from vera_core.operations.pack import PackPlan, PackReport, freeze_rows, pack_window, packed_window
from vera_core.operations.report import Report, figure
from vera_core.operations.verdicts import (
    WindowReport,
    close_answered,
    failure_recorded,
    note_begun,
    note_state,
    record_verdict,
    verdict_of,
)
from vera_core.operations.verify import verify_window
from vera_core.source.leases import LeaseLostError
from vera_core.source.mapping import OnRejects
from vera_core.source.state import WindowState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date

    from vera_core.operations.due import Migration
    from vera_core.operations.segment import Progress
    from vera_core.source.base import Window

UNTIMED_NAMED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkReport(Report):
    """Where the watermark stood and stands: the first day that is not yet archived and verified.

    `held_by` says what keeps it there.
    """

    source: str
    tenant: str
    before: str
    after: str
    held_by: str = ""
    days: int = figure("days passed")
    behind: int = figure("days behind")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateReport(Report):
    """A run over several windows. `untimed` names rows whose time is null: they belong to no window.

    `elsewhere`: days that were due and that other workers had, or took.
    """

    source: str
    tenant: str
    windows: tuple[WindowReport, ...]
    watermark: WatermarkReport
    failures: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    blind_spots: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()
    files: int = figure("rows", "files")
    archived: int = figure("archived", "files")
    equal: int = figure("equal to the latest version", "files")
    rejected: int = figure("rejected", "files")
    content_bytes: int = figure("content", "bytes")
    stored_bytes: int = figure("stored", "bytes")
    objects: int = figure("objects of every kind", "objects")
    files_per_second: float = figure("speed", "files/s")


def migrate_window(migration: Migration, window: Window, *, progress: Progress | None = None) -> WindowReport:
    """Packs a window, verifies it with new readers, and records the verdict; safe to run again and side by side.

    Raises:
        VeraError: it could not be packed or verified; recorded as failed where the database can be reached.
    """
    began = time.monotonic()
    pack = pack_due(migration, window, progress=progress)
    report = verify_packed(migration, replace(window, revision=pack.revision), pack=pack)
    return replace(report, seconds=time.monotonic() - began)


def freeze_due(migration: Migration, window: Window) -> PackPlan:
    """Freezes a window and notes it: the first of three steps that together are `migrate_window`.

    Raises:
        VeraError: it could not be frozen; recorded as failed where the database can be reached.
    """
    note_begun(migration, window)
    with failure_recorded(migration, window):
        plan = freeze_rows(migration.repo, migration.source, window)
    note_state(migration, replace(window, revision=plan.revision), WindowState.FROZEN, plan.manifest)
    return plan


def pack_due(migration: Migration, window: Window, *, progress: Progress | None = None) -> PackReport:
    """Packs a window, frozen or not, and notes it: the second step.

    Raises:
        VeraError: it could not be packed; recorded as failed where the database can be reached.
    """
    note_begun(migration, window)
    with metrics.timed(migration, "pack"), failure_recorded(migration, window):
        pack = pack_window(migration.repo, migration.source, window, progress=progress)
    note_state(migration, replace(window, revision=pack.revision), WindowState.PACKED, pack.manifest)
    return pack


def verify_packed(migration: Migration, window: Window, *, pack: PackReport | None = None) -> WindowReport:
    """Verifies a packed window with new readers and records the verdict: the third step.

    `pack` is what packing reported; without it that is read anew from the store.

    Raises:
        VeraError: it could not be verified; recorded as failed where the database can be reached.
        ConflictError: it is good, but somebody else found meanwhile that it is not; their verdict stands.
    """
    began = time.monotonic()
    migration.repo.writable_config()
    known = migration.state.window(window)
    with metrics.timed(migration, "verify"), failure_recorded(migration, window):
        pack = pack or packed_window(migration.repo, window)
        verify = verify_window(migration.repo, migration.source, window)
    verdict = verdict_of(pack, verify)
    report = WindowReport(
        ok=verdict is not WindowState.FAILED, source=window.source, tenant=window.tenant, day=day_text(window.day),
        revision=window.revision, verdict=verdict, pack=pack, verify=verify, seconds=time.monotonic() - began,
    )  # fmt: skip
    counts = {"rows": pack.rows, "archived": pack.archived, "equal": pack.equal, "rejected": pack.rejected}
    about = {"scope": verify.scope, "manifest": pack.manifest, "failures": verify.failures, **counts}
    migration.repo.audit.verdict("verify", verdict.value, about)
    record_verdict(migration, window, report, known)
    if report.ok:
        close_answered(migration, window)
    return report


def advance_watermark(migration: Migration) -> WatermarkReport:
    """Moves the watermark over the days whose windows are all verified (or rejected by name, where the policy says so).

    Raises:
        UsageError: nothing was migrated yet and the source is empty.
    """
    began = time.monotonic()
    state = migration.state
    if state.watermark(*migration.name) is None:
        first = migration.first_day()
        if first is None:
            raise UsageError("the source has no rows and no begin is set", source=migration.source.name)
        state.start_watermark(*migration.name, first)
    past_rejects = migration.on_rejects is OnRejects.ADVANCE
    before, after = state.advance(*migration.name, past_rejects=past_rejects)
    open_windows = [record for record in state.windows(*migration.name, verdicts=False) if record.state not in FINAL]
    failed = sum(record.state is WindowState.FAILED for record in open_windows)
    days = max(0, (migration.end_day() - after.day).days)
    metrics.note_lag(migration, after.day, due=days, failed=failed)
    return WatermarkReport(
        source=migration.source.name, tenant=migration.source.tenant, before=day_text(before.day),
        after=day_text(after.day), days=(after.day - before.day).days, held_by=_held_by(migration, after.day),
        behind=days,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def migrate(
    migration: Migration,
    windows: Iterable[Window],
    *,
    each: Callable[[Window], Progress | None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> MigrateReport:
    """Migrates windows day by day, moving the watermark behind them; a failed one does not stop the rest.

    Days that other workers have are left to them, and what they have done meanwhile is not done again. `each` gives the
    progress listener of a window that begins; no other day is begun once `stop` says so. A failed window is in the
    report as such.

    Raises:
        UnavailableError: store or database can't be reached.
    """
    began = time.monotonic()
    reports: list[WindowReport] = []
    failures: list[str] = []
    watermark = advance_watermark(migration)
    by_day: dict[date, list[Window]] = {}
    for window in windows:
        by_day.setdefault(window.day, []).append(window)
    elsewhere: set[date] = set()
    while by_day and not stop():
        with first_free(migration, sorted(by_day)) as held:
            if held is None:
                break
            for window in by_day.pop(held.day):
                try:
                    if not _is_done(migration, window):
                        listener = held.listener(each(window))
                        reports.append(migrate_window(held.migration, window, progress=listener))
                        metrics.count(migration, reports[-1])
                except UnavailableError:
                    raise
                except LeaseLostError:
                    metrics.LEASES_LOST.labels(*migration.name).inc()
                    elsewhere.add(window.day)
                    break
                except VeraError as error:
                    metrics.ERRORS.labels(*migration.name, error.kind.name.lower()).inc()
                    failures.append(f"{day_text(window.day)}/{window.revision}: {error}")
        moved = advance_watermark(migration)
        watermark = replace(moved, before=watermark.before, days=watermark.days + moved.days)
    if not stop():
        elsewhere.update(by_day)
    packs = [report.pack for report in reports]
    seconds = time.monotonic() - began
    fresh = sum(pack.packed_now for pack in packs)
    untimed = [reject.uid for reject in migration.source.untimed(UNTIMED_NAMED)]
    return MigrateReport(
        ok=not failures and all(report.ok for report in reports),
        source=migration.source.name, tenant=migration.source.tenant, windows=tuple(reports), watermark=watermark,
        failures=tuple(failures), elsewhere=tuple(map(day_text, sorted(elsewhere))),
        blind_spots=migration.source.blind_spots, untimed=tuple(untimed),
        files=sum(pack.rows for pack in packs), archived=sum(pack.archived for pack in packs),
        equal=sum(pack.equal for pack in packs), rejected=sum(pack.rejected for pack in packs),
        content_bytes=sum(pack.content_bytes for pack in packs), stored_bytes=sum(pack.stored_bytes for pack in packs),
        objects=sum(pack.objects for pack in packs), files_per_second=fresh / seconds if fresh else 0.0,
        seconds=seconds,
    )  # fmt: skip


def _is_done(migration: Migration, window: Window) -> bool:
    """Whether somebody gave the window a good verdict since it was due."""
    record = migration.state.window(window)
    return record is not None and record.state in FINAL


def _held_by(migration: Migration, day: date) -> str:
    """What keeps the watermark at `day`, in words; "" where it stands at the first day that is left alone."""
    if day >= migration.end_day():
        return ""
    records = migration.revisions(day)
    bad = [record for record in records if record.state is not WindowState.VERIFIED]
    if not records:
        return f"{day.isoformat()} is not migrated yet"
    return "; ".join(f"{day.isoformat()} revision {record.revision}: {record.state.value}" for record in bad)
