"""`vera migrate status`: how far a migration is, and who is at what. Reads our schema in the business database only."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from vera_core.model import day_text, parse_time
from vera_core.operations import metrics
from vera_core.operations.due import FINAL, due_windows
from vera_core.operations.report import Report, figure
from vera_core.source.state import WindowState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.operations.due import Migration
    from vera_core.source.leases import LeaseState
    from vera_core.source.state import WindowRecord

LOOKED_BACK = timedelta(hours=1)
"""Over which time the speed of days is taken, from which the time that is left follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    """A worker at its day. `left`: seconds until its lease ends unless it answers; not above 0: it did not answer."""

    holder: str
    day: str
    files: int
    total: int
    content_bytes: int
    seconds: float
    files_per_second: float
    left: float

    @property
    def answers(self) -> bool:
        """Whether its lease runs."""
        return self.left > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus(Report):
    """How far one tenant of a source is. `watermark`: "" before the first day; `eta`: None where nobody can say."""

    source: str
    tenant: str
    watermark: str
    workers: tuple[WorkerLine, ...]
    failed_days: tuple[str, ...] = ()
    eta: datetime | None = None
    behind: int = figure("days behind")
    done: int = figure("windows done")
    active: int = figure("days being worked on")
    due: int = figure("windows due")
    failed: int = figure("windows failed")
    with_rejects: int = figure("windows with rejects")
    files_per_second: float = figure("speed", "files/s")
    bytes_per_second: float = figure("content", "bytes/s")
    days_per_hour: float = figure("days an hour", "ratio")


def migration_status(migration: Migration) -> MigrationStatus:
    """Where the migration stands now.

    Raises:
        UnavailableError: the database can't be reached.
    """
    began = time.monotonic()
    records = migration.state.windows(*migration.name, verdicts=False)
    states = Counter(record.state for record in records)
    workers = tuple(map(_worker, migration.state.leases.known(*migration.name)))
    running = [worker for worker in workers if worker.answers]
    due = due_windows(migration)
    mark = migration.state.watermark(*migration.name)
    first = migration.first_day() if mark is None else mark.day
    per_hour = _days_per_hour(records)
    left = len({window.day for window in due})
    if first is not None:
        metrics.note_lag(migration, first, due=len(due), failed=states[WindowState.FAILED])
    now = migration.repo.clock.now()
    return MigrationStatus(
        ok=not states[WindowState.FAILED], source=migration.source.name, tenant=migration.source.tenant,
        watermark="" if mark is None else day_text(mark.day), workers=workers,
        failed_days=tuple(sorted({day_text(item.day) for item in records if item.state is WindowState.FAILED})),
        eta=now + timedelta(hours=left / per_hour) if per_hour and left else now if not left else None,
        behind=0 if first is None else max(0, (migration.end_day() - first).days),
        done=sum(states[state] for state in FINAL), active=len(running), due=len(due),
        failed=states[WindowState.FAILED], with_rejects=states[WindowState.REJECTS],
        files_per_second=sum(worker.files_per_second for worker in running),
        bytes_per_second=sum(worker.content_bytes / worker.seconds for worker in running if worker.seconds),
        days_per_hour=per_hour, seconds=time.monotonic() - began,
    )  # fmt: skip


def _worker(state: LeaseState) -> WorkerLine:
    done = int(state.progress.get("done", 0))
    return WorkerLine(
        holder=state.lease.holder, day=day_text(state.lease.day), files=done,
        total=int(state.progress.get("total", 0)), content_bytes=int(state.progress.get("bytes", 0)),
        seconds=state.age, files_per_second=done / state.age if state.age > 0 else 0.0, left=state.left,
    )  # fmt: skip


def _days_per_hour(records: Sequence[WindowRecord]) -> float:
    """Days that got a good verdict lately, by the hour; 0 where there are less than two."""
    now = datetime.now(UTC)
    times = sorted(parse_time(item.updated_at) for item in records if item.state in FINAL)
    lately = [moment for moment in times if moment > now - LOOKED_BACK]
    if len(lately) < 2:
        return 0.0
    return len(lately) / max((now - lately[0]) / timedelta(hours=1), 1 / 3600)
