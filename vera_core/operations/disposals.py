"""Disposing of shards whose retention has ended: asked for, approved where the repository wants it, done, certified.

Every step is a record in the request's own log (`vera_core.disposals`), which names exactly the shards that were ended
when it was asked for: nothing else is disposed of by it. What keeps a shard, and how one leaves its slot, is ended.py's
business.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vera_core.disposals import Disposal, DisposalLog, EndedShard, disposal_body
from vera_core.errors import ConflictError, UsageError
from vera_core.keyspace import KeyKind, number_text
from vera_core.operations.audited import audited
from vera_core.operations.deciding import approving, check_not_declined, declining, store_decision, store_request
from vera_core.operations.ended import dispose_in, ended_shards
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.report import Report, figure
from vera_core.operations.slotwise import each_slot
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository

MOST_SHARDS = 10_000
"""Of one request, so that its record stays far below its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisposalDraft:
    """What is asked for: of which tenant, under which id, why, and of which days (None: open) and class ("": any)."""

    tenant: str
    id: str
    reason: str
    first: date | None = None
    last: date | None = None
    retention_class: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDisposal:
    """A shard of a request: `disposed` or not (yet), and what keeps it, "" if nothing does."""

    shard: EndedShard
    disposed: bool
    kept: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisposalReport(Report):
    """Where a request stands: its list is the certificate of what left the archive, why, and by whose leave.

    `signature` is still empty: it comes with operator keys.
    """

    request: str
    tenant: str
    stage: Stage
    reason: str
    requester: str
    approver: str
    finished: datetime | None
    shards: tuple[ShardDisposal, ...]
    signature: str = ""
    requested: int = figure("shards whose retention has ended", "objects")
    disposed: int = figure("shards disposed of", "objects")
    kept: int = figure("shards that must stay", "objects")
    versions: int = figure("versions disposed of", "files")
    disposed_bytes: int = figure("disposed of", "bytes")


def plan_disposal(
    repo: Repository, draft: DisposalDraft, progress: Callable[[int], None] | None = None
) -> DisposalReport:
    """The shards that could be disposed of now, and those that something keeps; changes nothing.

    Raises:
        UsageError: there is no reason, or no such class.
        IntegrityError: a slot can't be read.
    """
    began = time.monotonic()
    repo.refresh_config()
    found = _found(repo, draft, progress)
    drafted = _drafted(repo, draft, [shard for shard, why in found if not why])
    shards = tuple(ShardDisposal(shard=shard, disposed=False, kept=why) for shard, why in found)
    return replace(_report(repo, drafted, shards), stage=Stage.PLANNED, ok=True, seconds=time.monotonic() - began)


def submit_disposal(
    repo: Repository, draft: DisposalDraft, progress: Callable[[int], None] | None = None
) -> DisposalReport:
    """Stores the request and, unless it needs an approval, executes it. Run again it goes on where it was.

    Raises:
        UsageError, IntegrityError: as `plan_disposal`, or nothing can be disposed of.
        ConflictError: there is another request of that id.
        RestrictedError: it was declined.
        UnavailableError: some slot could not be read or written; the others are done.
    """
    began = time.monotonic()
    repo.writable_config()
    log = disposal_log(repo, draft.tenant, draft.id)
    if log.load() is None:
        drafted = _drafted(repo, draft, [shard for shard, why in _found(repo, draft, progress) if not why])
        if not drafted.shards:
            raise UsageError(
                "there is nothing to dispose of: no shard's retention has ended, or something keeps those",
                todo="`vera dispose` tells of each.", tenant=draft.tenant,
            )  # fmt: skip
        with audited(repo, "dispose", _subject(drafted)):
            store_request(repo, log, disposal_body(drafted))
    assert log.request is not None
    if log.request.reason != draft.reason:
        raise ConflictError(
            "there is another request of that id, for another reason",
            todo="Give a new one another --request-id.", request=draft.id, tenant=draft.tenant,
        )  # fmt: skip
    return replace(_run(repo, log), seconds=time.monotonic() - began)


def run_disposal(repo: Repository, tenant: str, request_id: str) -> DisposalReport:
    """Executes what is open of a request, if it may be.

    Raises:
        NotFoundError: there is no such request.
        RestrictedError: it was declined.
        IntegrityError, UnavailableError: as `submit_disposal`.
    """
    began = time.monotonic()
    repo.writable_config()
    log = disposal_log(repo, tenant, request_id)
    log.existing()
    return replace(_run(repo, log), seconds=time.monotonic() - began)


def approve_disposal(repo: Repository, tenant: str, request_id: str) -> DisposalReport:
    """Says that a request of somebody else may be executed; executing it is another step.

    Raises:
        NotFoundError: there is no such request.
        RestrictedError: who approves asked for it, or it was declined.
    """
    who = repo.workplace.actor
    log = disposal_log(repo, tenant, request_id)
    return _said(repo, "approve", log, lambda request: approving(request, who, party="asked for this disposal"))


def decline_disposal(repo: Repository, tenant: str, request_id: str, reason: str) -> DisposalReport:
    """Says that a request is not executed, or not any further; what was disposed of stays so.

    Raises:
        NotFoundError: there is no such request.
        UsageError: there is no reason.
    """
    if not reason.strip():
        raise UsageError("a decline needs a reason", todo="Give one with --reason.")

    log = disposal_log(repo, tenant, request_id)
    return _said(repo, "decline", log, lambda request: declining(request, reason))


def show_disposal(repo: Repository, tenant: str, request_id: str) -> DisposalReport:
    """Where a request stands: the certificate of what was disposed of.

    Raises:
        NotFoundError: there is no such request.
    """
    repo.refresh_config()
    return _report_of(repo, disposal_log(repo, tenant, request_id).existing())


def list_disposals(repo: Repository, tenant: str) -> list[DisposalReport]:
    """Where all requests of a tenant stand, in the order of their ids."""
    repo.refresh_config()
    return [show_disposal(repo, tenant, request_id) for request_id in disposal_ids(repo, tenant)]


def disposal_ids(repo: Repository, tenant: str) -> Iterator[str]:
    """The ids of a tenant's requests, in order."""
    root = repo.keys.disposals_prefix(tenant)
    for prefix in repo.store.list_prefixes(root):
        # What lies under a name that no request has is none of ours.
        if repo.keys.parse(f"{prefix}{number_text(1)}.json").kind is KeyKind.DISPOSAL:
            yield prefix.removeprefix(root).rstrip("/")


def disposal_log(repo: Repository, tenant: str, request_id: str) -> DisposalLog:
    """The log of one request."""
    return DisposalLog(repo.store, repo.keys, tenant, request_id, repo.config.log_options)


def _found(
    repo: Repository, draft: DisposalDraft, progress: Callable[[int], None] | None
) -> list[tuple[EndedShard, str]]:
    """The ended shards that the draft is about, each with what keeps it."""
    if draft.retention_class:
        repo.config.retention(draft.retention_class)
    found: list[tuple[EndedShard, str]] = []
    slots = all_slots(repo, tenant=draft.tenant, first=draft.first, last=draft.last)
    for number, slot in enumerate(slots, 1):
        found += [
            (shard, why)
            for shard, why in ended_shards(repo, repo.slot_log(slot).current())
            if draft.retention_class in ("", shard.retention_class)
        ]
        if progress is not None:
            progress(number)
        if len(found) >= MOST_SHARDS:
            break
    return found[:MOST_SHARDS]


def _drafted(repo: Repository, draft: DisposalDraft, shards: Sequence[EndedShard]) -> Disposal:
    """The draft as a request; raises UsageError where it can't be one."""
    drafted = Disposal(
        tenant=draft.tenant, id=draft.id, reason=draft.reason, requester=repo.workplace.actor, shards=tuple(shards)
    )
    disposal_body(drafted)
    return drafted


def _run(repo: Repository, log: DisposalLog) -> DisposalReport:
    request = log.request
    assert request is not None
    check_not_declined(request)
    if not request.open or _stage(repo, request) is Stage.WAITING:
        return _report_of(repo, request)
    with audited(repo, "dispose", _subject(request)) as outcome:
        slots = _by_slot(repo, request)
        verdicts, failed = each_slot(slots, lambda slot, shards: dispose_in(repo, slot, request.id, shards))
        done = store_decision(repo, log, lambda known: _done_body(known, dict(verdicts)))
        if failed is not None:
            raise failed
        report = _report_of(repo, done)
        outcome.update(stage=report.stage.value, disposed=report.disposed, kept=report.kept)
    return report


def _by_slot(repo: Repository, request: Disposal) -> dict[Slot, dict[int, EndedShard]]:
    found: defaultdict[Slot, dict[int, EndedShard]] = defaultdict(dict)
    for place in request.open:
        parsed = repo.keys.parse(request.shards[place].key)
        if parsed.day is None or parsed.tenant != request.tenant:
            raise UsageError("the request names what is no shard of its tenant", key=parsed.key, request=request.id)
        found[parsed.slot(repo.config.routing.n_bits(parsed.day))][place] = request.shards[place]
    return dict(found)


def _done_body(request: Disposal, verdicts: Mapping[int, str]) -> dict[str, Any] | None:
    """What the request does not know yet of its shards."""
    disposed = sorted(at for at, why in verdicts.items() if not why and at not in request.disposed)
    kept = [{"shard": at, "why": why} for at, why in sorted(verdicts.items()) if why and request.kept.get(at) != why]
    return {"type": "done", "disposed": disposed, "kept": kept} if disposed or kept else None


def _said(
    repo: Repository, operation: str, log: DisposalLog, body: Callable[[Disposal], dict[str, Any] | None]
) -> DisposalReport:
    """A person's word about a request, in its log and in the audit."""
    repo.writable_config()
    log.existing()
    with audited(repo, operation, {"tenant": log.tenant, "disposal": log.id}):
        said = store_decision(repo, log, body)
    return _report_of(repo, said)


def _stage(repo: Repository, request: Disposal) -> Stage:
    if request.decliner:
        return Stage.DECLINED
    if not request.open:
        return Stage.DONE
    if repo.config.erasure_approval and not request.approver:
        return Stage.WAITING
    return Stage.REFUSED if len(request.kept) == len(request.open) else Stage.DUE


def _subject(request: Disposal) -> dict[str, object]:
    return {"tenant": request.tenant, "disposal": request.id, "shards": len(request.shards)}


def _report_of(repo: Repository, request: Disposal) -> DisposalReport:
    shards = tuple(
        ShardDisposal(shard=shard, disposed=at in request.disposed, kept=request.kept.get(at, ""))
        for at, shard in enumerate(request.shards)
    )
    return _report(repo, request, shards)


def _report(repo: Repository, request: Disposal, shards: tuple[ShardDisposal, ...]) -> DisposalReport:
    gone = [item.shard for item in shards if item.disposed]
    stage = _stage(repo, request)
    return DisposalReport(
        ok=stage is Stage.DONE, request=request.id, tenant=request.tenant, stage=stage, reason=request.reason,
        requester=request.requester, approver=request.approver, finished=request.finished, shards=shards,
        requested=len(shards), disposed=len(gone), kept=sum(bool(item.kept) for item in shards),
        versions=sum(shard.entries for shard in gone), disposed_bytes=sum(shard.size for shard in gone),
    )  # fmt: skip
