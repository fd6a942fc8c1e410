"""Taking erasure requests from a business database's table: each id once, as a request of its own here.

What the table says of a request that is known here already must still be the same; executing what could not be executed
at once is `run_due`'s business (erasures.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vera_core.erasures import Target
from vera_core.errors import ConflictError, UsageError, VeraError
from vera_core.operations.erasure_reports import finding_of, request_log
from vera_core.operations.erasures import Draft, RunReport, run_of, submit
from vera_core.operations.slotwise import place_of
from vera_core.source.requested import requested

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vera_core.erasures import AnyTarget
    from vera_core.model import Slot
    from vera_core.operations.erasure_reports import ErasureReport
    from vera_core.operations.report import Finding
    from vera_core.operations.repository import Repository
    from vera_core.source.mapping import ErasureTable
    from vera_core.source.requested import Requested


def import_requests(
    repo: Repository, table: ErasureTable, tenant: str, progress: Callable[[int], None] | None = None
) -> RunReport:
    """Submits the requests of a tenant that are new; tells of those that can't be taken, and goes on.

    Raises:
        UsageError: the settings don't fit the database.
        UnavailableError: it can't be reached.
    """
    began = time.monotonic()
    repo.writable_config()
    reports: list[ErasureReport] = []
    findings: list[Finding] = []
    for item in requested(table, tenant):
        try:
            report = _imported(repo, tenant, item, progress)
        except VeraError as error:
            findings.append(finding_of(error, f"{table.table}: {item.id}"))
        else:
            reports += [] if report is None else [report]
    return run_of(reports, findings, began)


def _imported(
    repo: Repository, tenant: str, item: Requested, progress: Callable[[int], None] | None
) -> ErasureReport | None:
    """What became of a request that is new; None where it is known."""
    if item.troubles:
        raise UsageError(
            f"request {item.id!r} can't be taken because of {len(item.troubles):,} rows; of one: {item.troubles[0]}",
            todo="Correct them in the table, then import again.", request=item.id,
        )  # fmt: skip
    draft = Draft(
        tenant=tenant, id=item.id, reason="; ".join(sorted(item.reasons)), received=min(item.times),
        requested_by=", ".join(sorted(item.requesters)),
        targets=tuple(Target(file.uid, file.created_at) for file in sorted(item.files, key=lambda file: file.uid)),
    )  # fmt: skip
    known = request_log(repo, tenant, item.id).load()
    if known is None:
        return submit(repo, draft, progress)
    if _files(repo, tenant, known.targets) != _files(repo, tenant, draft.targets):
        raise ConflictError(
            f"the table names other files for request {item.id!r} than when it was taken",
            todo="Give further files another id: a request that was approved must not change.", request=item.id,
        )  # fmt: skip
    return None


def _files(repo: Repository, tenant: str, targets: Iterable[AnyTarget]) -> set[tuple[Slot, str]]:
    return {place_of(repo, tenant, target) for target in targets}
