"""Deadlines of erasure requests: which files are still to be seen too long after their erasure was asked for.

Two count: the hours within which files go out of sight, which the settings say, and the month that the law gives (GDPR
Art. 12(3)). Time runs from when the person asked, or from the end of the ground on which a file was refused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.erasures import a_month_after
from vera_core.model import format_time
from vera_core.operations.erasure_reports import stage_of
from vera_core.operations.open_requests import find_requests
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.slotwise import place_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date, datetime, timedelta

    from vera_core.erasures import ErasureRequest
    from vera_core.operations.erasure_reports import Stage
    from vera_core.operations.repository import Repository

NEAR = 4
"""One part in so many of the time that is left: then it is time to say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """Where one request stands; `hide_by` is when its files must be out of sight, None where none waits.

    `erased_days` are the UTC days of the slots in which it erased files, `last_erased` is when it last did.
    """

    request: str
    stage: Stage
    requester: str
    approver: str
    received: datetime
    hide_by: datetime | None
    hidden_until: datetime | None
    last_erased: datetime | None
    erased_days: tuple[date, ...]
    requested: int
    erased: int
    refused: int
    missing: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsReport(Report):
    """A tenant's requests, oldest first; `findings` name those that are overdue (errors) or will be soon (warnings).

    `now` is the store's time as of which this is so; `complete`: these are all there ever were, not only those that are
    open or were lately.
    """

    tenant: str
    now: datetime
    complete: bool
    requests: tuple[RequestLine, ...]
    findings: tuple[Finding, ...]
    count: int = figure("requests")
    unfinished: int = figure("unfinished requests")
    waiting: int = figure("files still to be seen", "files")
    overdue: int = figure("overdue", "files")


def survey_requests(
    repo: Repository,
    tenant: str,
    within: timedelta,
    progress: Callable[[int], None] | None = None,
    *,
    everything: bool = False,
) -> RequestsReport:
    """Compares a tenant's requests with their deadlines; changes nothing.

    Of those that are open, or were within a month, or of all there ever were where `everything` asks for that. `within`
    is how soon files must be out of sight; `progress` gets the number of requests read.

    Raises:
        UnavailableError: the store can't be reached.
    """
    began = time.monotonic()
    repo.refresh_config()
    now = repo.clock.now()
    read, complete = find_requests(repo, tenant, progress, everything=everything)
    found = sorted(read.found, key=lambda request: (request.received, request.id))
    findings = [*read.findings.values()]
    findings += [finding for request in found for finding in _judge(repo, request, within, now)]
    return RequestsReport(
        ok=not any(finding.severity == "error" for finding in findings), tenant=tenant, now=now, complete=complete,
        requests=tuple(_line(repo, request, within, now) for request in found), findings=tuple(findings),
        count=len(found), unfinished=sum(not request.is_over for request in found),
        waiting=sum(len(_waiting(request, now)) for request in found),
        overdue=sum(
            sum(since + within < now for since in _waiting(request, now)) for request in found
        ),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _waiting(request: ErasureRequest, now: datetime) -> list[datetime]:
    """Since when each file waits that nothing is known to keep; a hold keeps its files until it is released."""
    found = []
    for place in request.due(now):
        refusal = request.refused.get(place)
        if refusal is None:
            found.append(request.received)
        elif refusal.until is not None:
            found.append(max(request.received, refusal.until))
    return found


def _judge(repo: Repository, request: ErasureRequest, within: timedelta, now: datetime) -> list[Finding]:
    waiting = _waiting(request, now)
    key = repo.keys.request_prefix(request.tenant, request.id)
    left = len(request.undestroyed)
    if left and request.last_erased is not None and now > request.last_erased + within / NEAR:
        files = f"{left:,} files" if left > 1 else "a file"
        what = f"{files} can't be seen any more, but can still be decrypted: the keys are not destroyed yet"
        return [Finding(what=what, key=key, todo="`vera erasures run` destroys them, or says what keeps it.")]
    if not waiting:
        return []
    since, files = min(waiting), f"{len(waiting):,} files" if len(waiting) > 1 else "a file"
    hide_by, hours = since + within, f"{within.total_seconds() / 3600:,.0f} hours"
    if now > a_month_after(since):
        what, severity = f"{files} can be seen more than a month after the erasure was due to begin", "error"
    elif now > hide_by:
        what, severity = f"{files} can be seen more than {hours} after the erasure was due to begin", "error"
    elif now > hide_by - within / NEAR:
        what, severity = f"{files} must be out of sight by {format_time(hide_by)}", "warning"
    else:
        return []
    todo = "Approve or decline it, then `vera erasures run`."
    return [Finding(what=what, key=key, todo=todo, severity=severity)]


def _line(repo: Repository, request: ErasureRequest, within: timedelta, now: datetime) -> RequestLine:
    waiting = _waiting(request, now)
    return RequestLine(
        request=request.id, stage=stage_of(repo, request), requester=request.requester, approver=request.approver,
        received=request.received, hide_by=min(waiting) + within if waiting else None,
        hidden_until=request.hidden_until, last_erased=request.last_erased, erased_days=_erased_days(repo, request),
        requested=len(request.targets), erased=len(request.erased), refused=len(request.refused),
        missing=len(request.missing), open=len(request.open),
    )  # fmt: skip


def _erased_days(repo: Repository, request: ErasureRequest) -> tuple[date, ...]:
    targets = (request.targets[place] for place in request.erased)
    return tuple(sorted({place_of(repo, request.tenant, target)[0].day for target in targets}))
