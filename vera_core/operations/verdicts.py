"""The verdict on each window, as VERA's own record: begun, packed, verified, verified but for rejects, or failed.

It is kept with the watermark in our schema of the business database. A failure always stands; a good verdict gives way
to it. What the verdict rests on is verify.py, which windows are due follows from it in due.py.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, UnavailableError, VeraError
from vera_core.model import day_text
from vera_core.operations.accounted import named_rejects
from vera_core.operations.due import FINAL
from vera_core.operations.freeze import frozen_manifests, load_frozen
from vera_core.operations.rejects import remove_rejects, write_rejects
from vera_core.operations.report import Report, as_json
from vera_core.source.leases import LeaseLostError
from vera_core.source.state import ANSWERED_BY, REJECTS_KEPT, WindowState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.operations.due import Migration
    from vera_core.operations.pack import PackReport
    from vera_core.operations.verify import VerifyReport
    from vera_core.source.base import Window
    from vera_core.source.state import WindowRecord


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


def verdict_of(pack: PackReport, verify: VerifyReport) -> WindowState:
    """What packing and verifying a window come to."""
    if not verify.ok:
        return WindowState.FAILED
    return WindowState.REJECTS if pack.rejected else WindowState.VERIFIED


def note_begun(migration: Migration, window: Window) -> None:
    """Notes that the window is begun, before it is frozen: rows that come later are looked for from then on.

    Raises:
        ConflictError: an earlier revision has no good verdict yet; it comes first.
    """
    records = migration.revisions(window.day)
    for record in records:
        if record.revision < window.revision and record.state not in FINAL:
            raise ConflictError(
                f"revision {record.revision} of the day is {record.state.value}; it comes first",
                todo="Migrate the day again.", source=window.source, tenant=window.tenant, day=day_text(window.day),
                revision=window.revision,
            )  # fmt: skip
    if all(record.window != window for record in records):
        with suppress(ConflictError):
            migration.state.record(window, WindowState.FROZEN, fence=0, lease=migration.lease)


def note_state(migration: Migration, window: Window, state: WindowState, manifest: str) -> None:
    """Notes how far a window is, unless it has a final verdict or somebody else noted something meanwhile."""
    known = migration.state.window(window)
    if known is None or known.state not in FINAL:
        with suppress(ConflictError):
            fence = 0 if known is None else known.fence
            migration.state.record(window, state, manifest=manifest, fence=fence, lease=migration.lease)


@contextmanager
def failure_recorded(migration: Migration, window: Window) -> Iterator[None]:
    """Records the window as failed if it does; that something can't be reached for now changes no final verdict."""
    try:
        yield
    except LeaseLostError:
        raise
    except VeraError as error:
        with suppress(UnavailableError):
            known = migration.state.window(window)
            settled = known is not None and known.state in FINAL
            if not (settled and isinstance(error, UnavailableError)):
                verdict = {"error": error.to_json()}
                migration.state.record(window, WindowState.FAILED, verdict=verdict, lease=migration.lease)
        raise


def record_verdict(migration: Migration, window: Window, report: WindowReport, known: WindowRecord | None) -> None:
    """Records the verdict and the named rejects. `known` is what was known of the window before it was looked at.

    A failure always stands, also over a good verdict of somebody who began to look before it was found.
    """
    with migration.repo.scratch() as scratch:
        frozen = load_frozen(migration.repo, window, scratch)
        rejects = named_rejects(migration.repo, migration.source, frozen, REJECTS_KEPT)
        if report.pack.rejected:
            write_rejects(migration.repo, frozen, scratch)
    fence = None if report.verdict is WindowState.FAILED else 0 if known is None else known.fence
    verdict = as_json(report)
    while True:
        try:
            migration.state.record(
                window, report.verdict, manifest=frozen.digest, verdict=verdict, rejects=rejects, fence=fence,
                lease=migration.lease,
            )  # fmt: skip
        except ConflictError:
            now = migration.state.window(window)
            if now is None or now.state is WindowState.FAILED:
                raise
            if now.state in FINAL:
                return
            fence = now.fence
        else:
            return


def close_answered(migration: Migration, window: Window) -> None:
    """Closes the revisions of the window's day that a later one with a good verdict answers for.

    Rejects were tried again in the later one. Of a stale revision all rows went again, and no commit of its own counts,
    whatever became of it. Any other that has no good verdict stays as it is: the later one holds other rows.
    """
    records = migration.revisions(window.day)
    answering = max((record.revision for record in records if record.state in FINAL), default=0)
    waiting = [record for record in records if record.revision < answering and record.state is not WindowState.VERIFIED]
    stale: set[int] = set()
    if any(record.state is not WindowState.REJECTS for record in waiting):
        with migration.repo.scratch() as scratch:
            frozen = frozen_manifests(migration.repo, window, scratch)
            stale = {item.window.revision for item in frozen if item.stale}
    for record in waiting:
        if record.state is WindowState.REJECTS or record.revision in stale:
            verdict = {**record.verdict, ANSWERED_BY: answering}
            if record.state is WindowState.REJECTS:
                remove_rejects(migration.repo, record.window)
            # Whoever changed it since saw something that was not known here: it is for the next verdict to close it.
            with suppress(ConflictError):
                migration.state.record(
                    record.window, WindowState.VERIFIED, manifest=record.manifest, verdict=verdict, fence=record.fence,
                    lease=migration.lease,
                )  # fmt: skip
