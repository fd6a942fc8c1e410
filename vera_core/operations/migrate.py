"""Migrating a source: which windows are due, one window packed and verified, and the watermark over verified days.

The verdict of each window is VERA's own record, kept with the watermark in our schema of the business database; what
Dagster shows is a mirror of it. A window may be migrated again at any time: it converges to the same entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.errors import RejectsError
from vera_core.model import day_text
from vera_core.operations.freeze import frozen_manifests
from vera_core.operations.pack import PackReport, pack_window
from vera_core.operations.reconcile import rejected_rows
from vera_core.operations.report import Report, as_json, figure
from vera_core.operations.verify import VerifyReport, verify_window
from vera_core.source.base import Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.operations.repository import Repository
    from vera_core.operations.segment import Progress
    from vera_core.source.base import Source
    from vera_core.source.state import MigrationState

ONE_DAY = timedelta(days=1)


class RejectPolicy(StrEnum):
    """What rejects do to the watermark: hold it before their day, or let it pass since each is named."""

    STOP = "stop"
    ADVANCE = "advance"


class Verdict(StrEnum):
    """How a window's migration ended."""

    VERIFIED = "verified"
    REJECTS = "rejects"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowReport(Report):
    """One window: what packing did, what verification found, and the verdict that the watermark goes by."""

    source: str
    tenant: str
    day: str
    revision: int
    verdict: Verdict
    pack: PackReport
    verify: VerifyReport
    rejects: int = figure("rejected", "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkReport(Report):
    """Where the watermark stood and stands: the first day that is not yet archived and verified."""

    source: str
    tenant: str
    before: str
    after: str
    held_by: str = ""
    days: int = figure("days passed")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateReport(Report):
    """A run over several windows."""

    source: str
    tenant: str
    windows: tuple[WindowReport, ...]
    watermark: WatermarkReport
    blind_spots: tuple[str, ...] = ()
    untimed: tuple[str, ...] = ()
    files: int = figure("rows", "files")
    archived: int = figure("archived", "files")
    rejected: int = figure("rejected", "files")
    content_bytes: int = figure("content", "bytes")
    stored_bytes: int = figure("stored", "bytes")
    objects: int = figure("objects of every kind", "objects")
    files_per_second: float = figure("speed", "files/s")
