"""Erasure requests from the asking to the end: stored, approved where the repository wants that, executed, answered.

Every step is a record in the request's own log (`vera_core.erasures`), so that whoever runs requests finds what is left
to do, and nothing depends on who began. How files are erased is erase.py; how a request is told of, erasure_reports.py.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vera_core.erasures import ErasureRequest, NamedTarget, request_body
from vera_core.errors import ConflictError, UsageError, VeraError
from vera_core.model import format_time
from vera_core.operations.audited import audited
from vera_core.operations.certificates import certify
from vera_core.operations.deciding import approving, check_not_declined, declining, store_decision, store_request
from vera_core.operations.erase import FileErasure, Order, Outcome, erase, plan_erasure
from vera_core.operations.erasure_reports import (
    ErasureReport,
    Stage,
    finding_of,
    plan_of,
    report_of,
    request_log,
    stage_of,
)
from vera_core.operations.open_requests import enter, tend_requests
from vera_core.operations.puncture import destroy_keys
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.slotwise import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from vera_core.erasures import AnyTarget, RequestLog, Target
    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.operations.slotwise import OpenSlot


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is asked for: of which tenant, under which id, why, which files, when (None: now), by whom ("": actor)."""

    tenant: str
    id: str
    reason: str
    targets: tuple[Target, ...]
    received: datetime | None = None
    requested_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport(Report):
    """What became of the requests that were due; `findings` are about those that failed."""

    requests: tuple[ErasureReport, ...]
    findings: tuple[Finding, ...] = ()
    erased: int = figure("erased", "files")
    refused: int = figure("refused", "files")


def plan_request(repo: Repository, draft: Draft, progress: Callable[[int], None] | None = None) -> ErasureReport:
    """What a request would come to if it were approved and run now; changes nothing.

    Raises:
        UsageError: no file is named, there is no reason, or a uid needs a created_at.
        IntegrityError: a slot can't be read.
    """
    began = time.monotonic()
    request = _drafted(repo, draft)
    files = plan_erasure(repo, _order(request, range(len(request.targets))), progress)
    return _with_uids(repo, draft, replace(plan_of(request, files), seconds=time.monotonic() - began))


def submit(repo: Repository, draft: Draft, progress: Callable[[int], None] | None = None) -> ErasureReport:
    """Stores the request and, unless it needs an approval, executes it. Run again it goes on where it was.

    Raises:
        UsageError: no file is named, there is no reason, or a uid needs a created_at; nothing was done.
        ConflictError: there is another request of that id.
        RestrictedError: it was declined.
        IntegrityError, UnavailableError: some slot could not be read or written; the others are done.
    """
    began = time.monotonic()
    repo.writable_config()
    request = _drafted(repo, draft)
    with audited(repo, "erase", _subject(request)) as outcome:
        log = _stored(repo, request)
        report = _execute(repo, log, progress)
        outcome.update(_summary(report))
    return _with_uids(repo, draft, replace(report, seconds=time.monotonic() - began))


def run_request(
    repo: Repository,
    tenant: str,
    request_id: str,
    progress: Callable[[int], None] | None = None,
    *,
    again: bool = True,
) -> ErasureReport:
    """Executes what is open of a request, if it may be.

    `again`: makes sure, too, that the keys of what it erased before are destroyed, whatever was put back since.

    Raises:
        NotFoundError: there is no such request.
        RestrictedError: it was declined.
        IntegrityError, UnavailableError: as `submit`.
    """
    began = time.monotonic()
    repo.writable_config()
    log = request_log(repo, tenant, request_id)
    with audited(repo, "erase", _subject(log.existing())) as outcome:
        report = _execute(repo, log, progress, again=again)
        outcome.update(_summary(report))
    return replace(report, seconds=time.monotonic() - began)


def run_due(repo: Repository, tenant: str, progress: Callable[[int], None] | None = None) -> RunReport:
    """Executes every request of a tenant that may be and is not done: also what was refused, once its ground ended.

    A request that fails does not keep the others.

    Raises:
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    repo.writable_config()
    reports: list[ErasureReport] = []
    now = repo.clock.now()
    read = tend_requests(repo, tenant)
    findings = [*read.findings.values()]
    for request in read.found:
        may = request.due(now) and stage_of(repo, request) in (Stage.DUE, Stage.REFUSED)
        if not may and not request.undestroyed:
            continue
        try:
            reports.append(run_request(repo, tenant, request.id, progress, again=False))
        except VeraError as error:
            findings.append(finding_of(error, repo.keys.request_prefix(tenant, request.id)))
    return run_of(reports, findings, began)


def run_of(reports: Sequence[ErasureReport], findings: Sequence[Finding], began: float) -> RunReport:
    """What became of several requests, begun at `began` (by the monotonic clock)."""
    return RunReport(
        ok=not findings and all(report.ok for report in reports), requests=tuple(reports), findings=tuple(findings),
        erased=sum(_counted(report)[Outcome.ERASED] + _counted(report)[Outcome.BARRED] for report in reports),
        refused=sum(report.refused for report in reports), seconds=time.monotonic() - began,
    )  # fmt: skip


def approve(repo: Repository, tenant: str, request_id: str) -> ErasureReport:
    """Says that a request of somebody else may be executed; executing it is another step.

    Raises:
        NotFoundError: there is no such request.
        RestrictedError: who approves asked for it, or it was declined.
    """
    who, party = repo.workplace.actor, "asked for this erasure or brought it here"
    log = request_log(repo, tenant, request_id)
    return _said(repo, "approve", log, lambda request: approving(request, who, party=party))


def decline(repo: Repository, tenant: str, request_id: str, reason: str) -> ErasureReport:
    """Says that a request is not executed, or not any further; what was erased stays erased.

    Raises:
        NotFoundError: there is no such request.
        UsageError: there is no reason.
    """
    if not reason.strip():
        raise UsageError("a decline needs a reason: the person has a right to it", todo="Give one with --reason.")

    log = request_log(repo, tenant, request_id)
    return _said(repo, "decline", log, lambda request: declining(request, reason))


def _drafted(repo: Repository, draft: Draft) -> ErasureRequest:
    """The draft as a request, each file once; raises UsageError where it can't be one."""
    now = repo.clock.now()
    received = draft.received or now
    if received > now:
        raise UsageError(f"the request would have been received at {format_time(received)}, which is to come")
    targets: dict[tuple[Slot, str], AnyTarget]
    targets = {place_of(repo, draft.tenant, target): target for target in draft.targets}
    if repo.config.encryption is not None:
        targets = {(slot, name): NamedTarget(name, slot) for slot, name in targets}
    request = ErasureRequest(
        tenant=draft.tenant, id=draft.id, reason=draft.reason, requester=draft.requested_by or repo.workplace.actor,
        recorder=repo.workplace.actor, received=received, targets=tuple(targets.values()),
    )  # fmt: skip
    request_body(request)
    return request


def _with_uids(repo: Repository, draft: Draft, report: ErasureReport) -> ErasureReport:
    """The report with the uids that were asked for, in the place of names."""
    uids = {place_of(repo, draft.tenant, target): target.uid for target in draft.targets}
    known = {(str(slot), name): uid for (slot, name), uid in uids.items()}
    return replace(
        report,
        files=tuple(replace(file, uid=known.get((file.slot, file.uid), file.uid)) for file in report.files),
    )


def _stored(repo: Repository, request: ErasureRequest) -> RequestLog:
    """The log of the request, with its first record stored, now or before."""
    log = request_log(repo, request.tenant, request.id)
    if log.load() is None:
        enter(repo, request.tenant, request.id)
    stored = store_request(repo, log, request_body(request))
    if (stored.targets, stored.reason) != (request.targets, request.reason):
        raise ConflictError(
            "there is another request of that id, for other files or another reason",
            todo="Give a new one another --request-id; `vera erasures show` shows this one.",
            request=request.id, tenant=request.tenant,
        )  # fmt: skip
    return log


def _execute(
    repo: Repository, log: RequestLog, progress: Callable[[int], None] | None, *, again: bool = False
) -> ErasureReport:
    """Takes from sight what may be, then destroys its keys. `again`: also of files whose keys are destroyed already."""
    request = log.request
    assert request is not None
    if not request.undestroyed:
        check_not_declined(request)
    files: list[FileErasure] = []
    failed: VeraError | None = None
    slots: Mapping[Slot, OpenSlot] = {}
    if not request.decliner and stage_of(repo, request) is not Stage.WAITING:
        files, failed, slots = erase(repo, _order(request, request.due(repo.clock.now())), progress)
        store_decision(repo, log, lambda request: _done_body(request, files))
        request = store_decision(repo, log, lambda request: _refuse_body(request, files))
    undone = _destroy(repo, log, sorted(request.erased) if again else request.undestroyed, slots)
    failed = failed or undone
    if failed is not None:
        failed.where |= {"request": request.id}
        raise failed
    return report_of(repo, log.request or request, files)


def _destroy(
    repo: Repository, log: RequestLog, places: Sequence[int], known: Mapping[Slot, OpenSlot]
) -> VeraError | None:
    """Destroys the keys of files that are out of sight, and certifies it as far as it is done."""
    request = log.request
    assert request is not None
    if not request.keyed or not places:
        return None
    slots = [place_of(repo, request.tenant, request.targets[place])[0] for place in places]
    done, failed = destroy_keys(repo, {slot: known.get(slot) for slot in slots})
    certify(repo, log, done)
    return failed


def _done_body(request: ErasureRequest, files: Sequence[FileErasure]) -> dict[str, Any] | None:
    """What the request does not know yet of the files that are erased or not there."""
    gone = [file for file in files if file.outcome in (Outcome.ERASED, Outcome.ALREADY, Outcome.BARRED)]
    erased = {file.place for file in gone} - request.erased
    missing = {file.place for file in files if file.outcome is Outcome.MISSING} - request.missing - request.erased
    if not erased and not missing:
        return None
    ends = [file.hidden_until for file in gone if file.hidden_until is not None]
    return {
        "type": "done",
        "erased": sorted(erased),
        "missing": sorted(missing),
        "hidden_until": format_time(max(ends)) if ends else None,
    }


def _refuse_body(request: ErasureRequest, files: Sequence[FileErasure]) -> dict[str, Any] | None:
    """The refusals that the request does not know yet."""
    fresh = {
        file.place: file.refusal
        for file in files
        if file.refusal is not None and request.refused.get(file.place) != file.refusal
    }
    if not fresh:
        return None
    refusals = [{"target": place, **refusal.to_json()} for place, refusal in sorted(fresh.items())]
    return {"type": "refuse", "refusals": refusals}


def _said(
    repo: Repository, operation: str, log: RequestLog, body: Callable[[ErasureRequest], dict[str, Any] | None]
) -> ErasureReport:
    """A person's word about a request, in its log and in the audit."""
    began = time.monotonic()
    repo.writable_config()
    log.existing()
    with audited(repo, operation, {"tenant": log.tenant, "request": log.id}):
        said = store_decision(repo, log, body)
    return replace(report_of(repo, said), seconds=time.monotonic() - began)


def _order(request: ErasureRequest, places: Sequence[int]) -> Order:
    targets = [(place, request.targets[place]) for place in places]
    return Order(request.tenant, request.id, request.reason, targets)


def _counted(report: ErasureReport) -> Counter[Outcome]:
    return Counter(file.outcome for file in report.files)


def _subject(request: ErasureRequest) -> dict[str, object]:
    """What an audit entry says of a request: not its files, which the request's own log names."""
    return {"tenant": request.tenant, "request": request.id, "targets": len(request.targets)}


def _summary(report: ErasureReport) -> dict[str, object]:
    return {
        "stage": report.stage.value,
        "erased": report.erased,
        "destroyed": report.destroyed,
        "refused": report.refused,
        "missing": report.missing,
        "open": report.open,
    }
