"""Migrating a source: which windows are due, one window packed and verified, and the watermark over verified days.

The verdict of each window is VERA's own record, kept with the watermark in our schema of the business database; what
Dagster shows is a mirror of it. A window may be migrated again at any time: it converges to the same entries.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, UnavailableError, UsageError, VeraError
from vera_core.model import day_text
from vera_core.operations.freeze import frozen_manifests, load_frozen, rejected_rows
from vera_core.operations.pack import PackPlan, PackReport, freeze_rows, pack_window, packed_window
from vera_core.operations.report import Report, as_json, figure
from vera_core.operations.verify import VerifyReport, verify_window
from vera_core.source.base import Window
from vera_core.source.mapping import OnRejects
from vera_core.source.rows import Reject
from vera_core.source.state import REJECTS_KEPT, WindowState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vera_core.operations.repository import Repository
    from vera_core.operations.segment import Progress
    from vera_core.source.base import Source
    from vera_core.source.state import MigrationState, WindowRecord

FINAL = frozenset({WindowState.VERIFIED, WindowState.REJECTS})
"""States that need no further work unless somebody asks for it."""
ONE_DAY = timedelta(days=1)
UNTIMED_NAMED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport(Report):
    """One window: what packing did, what verification found, and the verdict that the watermark goes by."""

    source: str
    tenant: str
    day: str
    revision: int
    verdict: WindowState
    pack: PackReport
    verify: VerifyReport


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
    """A run over several windows. `untimed` names rows whose time is null: they belong to no window."""

    source: str
    tenant: str
    windows: tuple[WindowReport, ...]
    watermark: WatermarkReport
    failures: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What migrating one tenant of one source works on. `begin` is the first day; None takes the source's own first.

    `lag_days`: the last days left alone, counted from today in the store's time (1 leaves only today alone).
    """

    repo: Repository
    source: Source
    state: MigrationState
    on_rejects: OnRejects = OnRejects.STOP
    lag_days: int = 1
    begin: date | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Source and tenant: what our schema's records go by."""
        return self.source.name, self.source.tenant

    def first_day(self) -> date | None:
        """The first day that may have rows; None where the source is empty and no begin is set."""
        mark = self.state.watermark(*self.name)
        if mark is not None:
            return mark.day
        if self.begin is not None:
            return self.begin
        bounds = self.source.bounds()
        return None if bounds is None else bounds.first.date()

    def end_day(self) -> date:
        """The first day that is left alone."""
        return self.repo.clock.now().date() - timedelta(days=self.lag_days - 1)


def due_windows(
    migration: Migration, *, first: date | None = None, end: date | None = None, retry_rejects: bool = False
) -> list[Window]:
    """The windows to migrate now, of days [first, end), oldest first; looks only.

    Due is a day from the watermark on that has no window yet, and any revision that was begun or noted and has no good
    verdict. `retry_rejects` adds a new revision for days whose verdict was rejects. Late rows: see `note_late_rows`.
    """
    records = migration.state.windows(*migration.name, verdicts=False)
    due = [record.window for record in records if record.state not in FINAL]
    begin = migration.first_day()
    if begin is not None:
        known = {record.day for record in records}
        days = (begin + timedelta(number) for number in range(max(0, (migration.end_day() - begin).days)))
        due += [Window(*migration.name, day) for day in days if day not in known]
    if retry_rejects:
        latest = {record.day: record for record in records}
        due += [_next(record) for record in latest.values() if record.state is WindowState.REJECTS]
    return sorted(
        window for window in due if (first is None or first <= window.day) and (end is None or window.day < end)
    )


def note_late_rows(migration: Migration) -> list[Window]:
    """Finds the days with rows that came late or changed, and notes a new revision for each; returns those.

    The mark up to which was looked moves only after the revisions are noted, so that a crash in between finds them
    again. The first call only sets the mark.
    """
    state, source = migration.state, migration.source
    seen = state.late_mark(*migration.name)
    found = source.late(seen, before=migration.end_day())
    latest = {record.day: record for record in state.latest(*migration.name)}
    noted = []
    # A day that nobody has begun has no record: its first freeze will see the rows. Any other may be frozen already.
    for record in (latest[day] for day in sorted(found.days) if day in latest):
        why = {"why": f"{found.days[record.day]} rows came late or changed"}
        noted.append(state.record(_next(record), WindowState.FROZEN, verdict=why).window)
    if found.mark != seen:
        state.move_late_mark(*migration.name, seen, found.mark)
    return noted


def migrate_window(migration: Migration, window: Window, *, progress: Progress | None = None) -> WindowReport:
    """Packs a window, verifies it with new readers, and records the verdict; safe to run again and side by side.

    Raises:
        VeraError: it could not be packed or verified; recorded as failed where the database can be reached.
    """
    began = time.monotonic()
    pack = pack_due(migration, window, progress=progress)
    report = verify_packed(migration, replace(window, revision=pack.revision), pack=pack)
    return replace(report, seconds=time.monotonic() - began)


def window_to_pack(migration: Migration, day: date, *, retry_rejects: bool = False) -> Window:
    """The window that packing `day` is about: its first revision without a good verdict, else the latest one again.

    `retry_rejects`: instead of the latest one again, a new revision if the latest ended with rejects.
    """
    records = migration.state.windows(*migration.name, first=day, end=day + ONE_DAY)
    for record in records:
        if record.state not in FINAL:
            return record.window
    if not records:
        return Window(*migration.name, day)
    latest = records[-1]
    return _next(latest) if retry_rejects and latest.state is WindowState.REJECTS else latest.window


def packed_record(migration: Migration, day: date) -> WindowRecord | None:
    """What is known of the latest revision of `day` that packing reached; None before that."""
    records = migration.state.windows(*migration.name, first=day, end=day + ONE_DAY)
    return next((record for record in reversed(records) if record.state is not WindowState.FROZEN), None)


def freeze_due(migration: Migration, window: Window) -> PackPlan:
    """Freezes a window and notes it: the first of three steps that together are `migrate_window`.

    Raises:
        VeraError: it could not be frozen; recorded as failed where the database can be reached.
    """
    _begin(migration, window)
    with _failure_recorded(migration, window):
        plan = freeze_rows(migration.repo, migration.source, window)
    _note(migration, replace(window, revision=plan.revision), WindowState.FROZEN, plan.manifest)
    return plan


def pack_due(migration: Migration, window: Window, *, progress: Progress | None = None) -> PackReport:
    """Packs a window, frozen or not, and notes it: the second step.

    Raises:
        VeraError: it could not be packed; recorded as failed where the database can be reached.
    """
    _begin(migration, window)
    with _failure_recorded(migration, window):
        pack = pack_window(migration.repo, migration.source, window, progress=progress)
    _note(migration, replace(window, revision=pack.revision), WindowState.PACKED, pack.manifest)
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
    with _failure_recorded(migration, window):
        pack = pack or packed_window(migration.repo, window)
        verify = verify_window(migration.repo, migration.source, window)
    verdict = _verdict(pack, verify)
    report = WindowReport(
        ok=verdict is not WindowState.FAILED, source=window.source, tenant=window.tenant, day=day_text(window.day),
        revision=window.revision, verdict=verdict, pack=pack, verify=verify, seconds=time.monotonic() - began,
    )  # fmt: skip
    counts = {"rows": pack.rows, "archived": pack.archived, "equal": pack.equal, "rejected": pack.rejected}
    about = {"scope": verify.scope, "manifest": pack.manifest, "failures": verify.failures, **counts}
    migration.repo.audit.verdict("verify", verdict.value, about)
    _record(migration, window, report, known)
    if report.ok:
        _close_answered(migration, window)
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
    return WatermarkReport(
        source=migration.source.name, tenant=migration.source.tenant, before=day_text(before.day),
        after=day_text(after.day), days=(after.day - before.day).days, held_by=_held_by(migration, after.day),
        behind=max(0, (migration.end_day() - after.day).days),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def stuck_windows(migration: Migration) -> list[WindowRecord]:
    """The windows from the watermark on that a person must look at: failed, or with rejects that the policy stops."""
    bad = {WindowState.FAILED}
    if migration.on_rejects is OnRejects.STOP:
        bad.add(WindowState.REJECTS)
    records = migration.state.windows(*migration.name, first=migration.first_day())
    return [record for record in records if record.state in bad]


def migrate(
    migration: Migration, windows: Iterable[Window], *, each: Callable[[Window], Progress | None] = lambda _: None
) -> MigrateReport:
    """Migrates windows one after the other, moving the watermark behind them; a failed one does not stop the rest.

    `each` gives the progress listener of a window that begins. A failed window is in the report as such.
    """
    began = time.monotonic()
    reports: list[WindowReport] = []
    failures: list[str] = []
    watermark = advance_watermark(migration)
    for window in windows:
        try:
            reports.append(migrate_window(migration, window, progress=each(window)))
        except UnavailableError:
            raise
        except VeraError as error:
            failures.append(f"{day_text(window.day)}/{window.revision}: {error}")
        moved = advance_watermark(migration)
        watermark = replace(moved, before=watermark.before, days=watermark.days + moved.days)
    packs = [report.pack for report in reports]
    seconds = time.monotonic() - began
    fresh = sum(pack.packed_now for pack in packs)
    untimed = [reject.uid for reject in migration.source.untimed(UNTIMED_NAMED)]
    return MigrateReport(
        ok=not failures and all(report.ok for report in reports),
        source=migration.source.name, tenant=migration.source.tenant, windows=tuple(reports), watermark=watermark,
        failures=tuple(failures), blind_spots=migration.source.blind_spots, untimed=tuple(untimed),
        files=sum(pack.rows for pack in packs), archived=sum(pack.archived for pack in packs),
        equal=sum(pack.equal for pack in packs), rejected=sum(pack.rejected for pack in packs),
        content_bytes=sum(pack.content_bytes for pack in packs), stored_bytes=sum(pack.stored_bytes for pack in packs),
        objects=sum(pack.objects for pack in packs), files_per_second=fresh / seconds if fresh else 0.0,
        seconds=seconds,
    )  # fmt: skip


def _begin(migration: Migration, window: Window) -> None:
    """Notes that the window is begun, before it is frozen: rows that come later are looked for from then on.

    Raises:
        ConflictError: an earlier revision has no good verdict yet; it comes first.
    """
    state = migration.state
    records = state.windows(*migration.name, first=window.day, end=window.day + ONE_DAY)
    for record in records:
        if record.revision < window.revision and record.state not in FINAL:
            raise ConflictError(
                f"revision {record.revision} of the day is {record.state.value}; it comes first",
                todo="Migrate the day again.", source=window.source, tenant=window.tenant, day=day_text(window.day),
                revision=window.revision,
            )  # fmt: skip
    if all(record.window != window for record in records):
        with suppress(ConflictError):
            state.record(window, WindowState.FROZEN, fence=0)


def _next(record: WindowRecord) -> Window:
    return replace(record.window, revision=record.revision + 1)


@contextmanager
def _failure_recorded(migration: Migration, window: Window) -> Iterator[None]:
    """Records the window as failed if it does; that something can't be reached for now changes no final verdict."""
    try:
        yield
    except VeraError as error:
        with suppress(UnavailableError):
            known = migration.state.window(window)
            settled = known is not None and known.state in FINAL
            if not (settled and isinstance(error, UnavailableError)):
                migration.state.record(window, WindowState.FAILED, verdict={"error": error.to_json()})
        raise


def _note(migration: Migration, window: Window, state: WindowState, manifest: str) -> None:
    """Notes how far a window is, unless it has a final verdict or somebody else noted something meanwhile."""
    known = migration.state.window(window)
    if known is None or known.state not in FINAL:
        with suppress(ConflictError):
            migration.state.record(window, state, manifest=manifest, fence=0 if known is None else known.fence)


def _verdict(pack: PackReport, verify: VerifyReport) -> WindowState:
    if not verify.ok:
        return WindowState.FAILED
    return WindowState.REJECTS if pack.rejected else WindowState.VERIFIED


def _record(migration: Migration, window: Window, report: WindowReport, known: WindowRecord | None) -> None:
    """Records the verdict and the named rejects. `known` is what was known of the window before it was looked at.

    A failure always stands, also over a good verdict of somebody who began to look before it was found.
    """
    with migration.repo.scratch() as scratch:
        frozen = load_frozen(migration.repo, window, scratch)
        named = (Reject(row.uid, why, row.detail) for row, why in rejected_rows(migration.repo, frozen.manifest))
        rejects = tuple(islice(named, REJECTS_KEPT))
    fence = None if report.verdict is WindowState.FAILED else 0 if known is None else known.fence
    verdict = as_json(report)
    while True:
        try:
            migration.state.record(
                window, report.verdict, manifest=frozen.digest, verdict=verdict, rejects=rejects, fence=fence
            )
        except ConflictError:
            now = migration.state.window(window)
            if now is None or now.state is WindowState.FAILED:
                raise
            if now.state in FINAL:
                return
            fence = now.fence
        else:
            return


def _close_answered(migration: Migration, window: Window) -> None:
    """Closes the revisions of the window's day that a later one with a good verdict answers for.

    Rejects were tried again in the later one. Of a stale revision all rows went again, and no commit of its own counts,
    whatever became of it. Any other that has no good verdict stays as it is: the later one holds other rows.
    """
    state = migration.state
    records = state.windows(*migration.name, first=window.day, end=window.day + ONE_DAY)
    answering = max((record.revision for record in records if record.state in FINAL), default=0)
    waiting = [
        record for record in records if record.revision < answering and record.state is not WindowState.VERIFIED
    ]
    stale: set[int] = set()
    if any(record.state is not WindowState.REJECTS for record in waiting):
        with migration.repo.scratch() as scratch:
            frozen = frozen_manifests(migration.repo, window, scratch)
            stale = {item.window.revision for item in frozen if item.stale}
    for record in waiting:
        if record.state is WindowState.REJECTS or record.revision in stale:
            verdict = {**record.verdict, "answered_by_revision": answering}
            # Whoever changed it since saw something that was not known here: it is for the next verdict to close it.
            with suppress(ConflictError):
                state.record(
                    record.window, WindowState.VERIFIED, manifest=record.manifest, verdict=verdict, fence=record.fence
                )


def _held_by(migration: Migration, day: date) -> str:
    """What keeps the watermark at `day`, in words; "" where it stands at the first day that is left alone."""
    if day >= migration.end_day():
        return ""
    records = migration.state.windows(*migration.name, first=day, end=day + ONE_DAY)
    bad = [record for record in records if record.state is not WindowState.VERIFIED]
    if not records:
        return f"{day.isoformat()} is not migrated yet"
    return "; ".join(f"{day.isoformat()} revision {record.revision}: {record.state.value}" for record in bad)
