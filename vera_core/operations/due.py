"""What is due of a source: the windows to migrate, those that late rows add, and those that a person must look at.

Decided from VERA's own records and from what the source says; what becomes of a window is verdicts.py, doing it is
migrate.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from vera_core.source.base import Window
from vera_core.source.mapping import OnRejects
from vera_core.source.state import WindowState

if TYPE_CHECKING:
    from vera_core.operations.repository import Repository
    from vera_core.source.base import Source
    from vera_core.source.leases import Lease
    from vera_core.source.state import MigrationState, WindowRecord

FINAL = frozenset({WindowState.VERIFIED, WindowState.REJECTS})
"""States that need no further work unless somebody asks for it."""
ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What migrating one tenant of one source works on. `begin` is the first day; None takes the source's own first.

    `lag_days`: the last days left alone, counted from today in the store's time (1 leaves only today alone). `lease`:
    in whose name it is recorded what becomes of the day that is worked on.
    """

    repo: Repository
    source: Source
    state: MigrationState
    on_rejects: OnRejects = OnRejects.STOP
    lag_days: int = 1
    begin: date | None = None
    lease: Lease | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Source and tenant: what our schema's records go by."""
        return self.source.name, self.source.tenant

    def revisions(self, day: date) -> list[WindowRecord]:
        """What is known of each revision of a day, in order."""
        return self.state.windows(*self.name, first=day, end=day + ONE_DAY)

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
        due += due_rejects(migration)
    return sorted(
        window for window in due if (first is None or first <= window.day) and (end is None or window.day < end)
    )


def due_rejects(migration: Migration, *, first: date | None = None, last: date | None = None) -> list[Window]:
    """A new revision of each day in [first, last] whose latest one ended with rejects; looks only."""
    records = migration.state.windows(*migration.name, first=first, verdicts=False)
    latest = {record.day: record for record in records if last is None or record.day <= last}
    return sorted(_next(record) for record in latest.values() if record.state is WindowState.REJECTS)


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


def window_to_pack(migration: Migration, day: date, *, retry_rejects: bool = False) -> Window:
    """The window that packing `day` is about: its first revision without a good verdict, else the latest one again.

    `retry_rejects`: instead of the latest one again, a new revision if the latest ended with rejects.
    """
    records = migration.revisions(day)
    for record in records:
        if record.state not in FINAL:
            return record.window
    if not records:
        return Window(*migration.name, day)
    latest = records[-1]
    return _next(latest) if retry_rejects and latest.state is WindowState.REJECTS else latest.window


def packed_record(migration: Migration, day: date) -> WindowRecord | None:
    """What is known of the latest revision of `day` that packing reached; None before that."""
    records = migration.revisions(day)
    return next((record for record in reversed(records) if record.state is not WindowState.FROZEN), None)


def stuck_windows(migration: Migration) -> list[WindowRecord]:
    """The windows from the watermark on that a person must look at: failed, or with rejects that the policy stops."""
    bad = {WindowState.FAILED}
    if migration.on_rejects is OnRejects.STOP:
        bad.add(WindowState.REJECTS)
    records = migration.state.windows(*migration.name, first=migration.first_day())
    return [record for record in records if record.state in bad]


def _next(record: WindowRecord) -> Window:
    return replace(record.window, revision=record.revision + 1)
