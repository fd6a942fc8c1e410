"""What a migration worker counts, for Prometheus: files, bytes, rejects, windows, time by step, and its lag.

Names, labels and meanings are in docs/metrics.md, alert rules and dashboard in deploy/. Serving them is the command
line's business; counting costs nothing where nobody serves.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from vera_core.operations.due import Migration
    from vera_core.operations.verdicts import WindowReport

SOURCE = ("source", "tenant")
STEP_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400)
REGISTRY = CollectorRegistry()
"""VERA's own, so that nothing of the process or of a library gets among them unasked."""

FILES = Counter("vera_files_archived", "Files archived and verified by this worker.", SOURCE, registry=REGISTRY)
CONTENT = Counter("vera_content_bytes", "Bytes of their contents.", SOURCE, registry=REGISTRY)
EQUAL = Counter("vera_files_equal", "Rows equal to what was archived before.", SOURCE, registry=REGISTRY)
REJECTED = Counter("vera_files_rejected", "Rows rejected, by reason.", (*SOURCE, "reason"), registry=REGISTRY)
WINDOWS = Counter("vera_windows", "Windows by their verdict.", (*SOURCE, "verdict"), registry=REGISTRY)
ERRORS = Counter(
    "vera_window_errors", "Windows that ended in an error, by its kind.", (*SOURCE, "kind"), registry=REGISTRY
)
LEASES_LOST = Counter("vera_leases_lost", "Days that were lost to another worker.", SOURCE, registry=REGISTRY)
STEPS = Histogram(
    "vera_step_seconds", "Seconds of a window's steps.", (*SOURCE, "step"), buckets=STEP_SECONDS, registry=REGISTRY
)
WATERMARK = Gauge("vera_watermark_seconds", "The watermark's day, in seconds since 1970.", SOURCE, registry=REGISTRY)
DUE = Gauge("vera_windows_due", "Windows that are due and not done.", SOURCE, registry=REGISTRY)
FAILED = Gauge("vera_windows_failed", "Windows that failed and wait for a person.", SOURCE, registry=REGISTRY)
PACK_LAG = Gauge(
    "des_pack_lag", "Seconds since the oldest file became due that is not archived yet; 0 without one.", SOURCE,
    registry=REGISTRY,
)  # fmt: skip
LOOKED = Gauge("vera_last_look_seconds", "When this worker last looked, since 1970.", SOURCE, registry=REGISTRY)


@contextmanager
def timed(migration: Migration, step: str) -> Iterator[None]:
    """Measures a step of a window."""
    began = time.monotonic()
    try:
        yield
    finally:
        STEPS.labels(*migration.name, step).observe(time.monotonic() - began)


def count(migration: Migration, report: WindowReport) -> None:
    """Adds a window that got its verdict."""
    name, pack = migration.name, report.pack
    FILES.labels(*name).inc(pack.packed_now)
    EQUAL.labels(*name).inc(pack.equal)
    CONTENT.labels(*name).inc(pack.content_bytes if pack.packed_now else 0)
    for reason, rows in pack.rejects.items():
        REJECTED.labels(*name, reason).inc(rows)
    WINDOWS.labels(*name, report.verdict.value).inc()


def note_lag(migration: Migration, watermark: date, *, due: int, failed: int) -> None:
    """Says how far behind a migration is, seen from its watermark."""
    name = migration.name
    WATERMARK.labels(*name).set(_midnight(watermark).timestamp())
    DUE.labels(*name).set(due)
    FAILED.labels(*name).set(failed)
    LOOKED.labels(*name).set(time.time())
    # Grows between two looks, by this process's clock: a window may take hours.
    lag, seen = _overdue(migration, watermark, migration.repo.clock.now()), time.monotonic()
    PACK_LAG.labels(*name).set_function(lambda: max(0.0, lag + time.monotonic() - seen))


def _overdue(migration: Migration, watermark: date, now: datetime) -> float:
    """Seconds since the first day that is not done became due, `lag_days` after its first moment; negative before."""
    became_due = _midnight(watermark) + timedelta(days=migration.lag_days)
    return (now - became_due).total_seconds()


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
