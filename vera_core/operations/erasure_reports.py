"""Where erasure requests stand: finding a tenant's, and telling of one. Changes nothing.

Making and executing them is erasures.py; their deadlines are deadlines.py.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.erasures import RequestLog
from vera_core.errors import VeraError
from vera_core.keyspace import number_text
from vera_core.operations.erase import FileErasure, Outcome
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.slotwise import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from vera_core.erasures import ErasureRequest
    from vera_core.operations.repository import Repository


THREADS = 8
"""Requests that are read at once."""


class Stage(StrEnum):
    """How far a request is."""

    PLANNED = "planned"
    WAITING = "waiting for approval"
    DUE = "to be run"
    REFUSED = "refused for now"
    HIDDEN = "out of sight, keys to be destroyed"
    DONE = "done"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReport(Report):
    """Where a request stands, and what this run came to, file by file. A plan says what a run would come to.

    `hidden_until`: the repository is not encrypted, so that bytes of these files stay in the bucket until then, hidden
    from every reader of VERA. `destroyed` counts those whose keys are gone for good, in an encrypted repository. It is
    not `ok` while files are refused or missing, keys not destroyed, or the request waits.
    """

    request: str
    tenant: str
    stage: Stage
    requester: str
    approver: str
    received: datetime
    hidden_until: datetime | None
    files: tuple[FileErasure, ...]
    requested: int = figure("requested", "files")
    erased: int = figure("erased", "files")
    destroyed: int = figure("whose keys are destroyed", "files")
    refused: int = figure("refused", "files")
    missing: int = figure("not found", "files")
    open: int = figure("still to be erased", "files")


def show_request(repo: Repository, tenant: str, request_id: str) -> ErasureReport:
    """Where a request stands.

    Raises:
        NotFoundError: there is no such request.
    """
    began = time.monotonic()
    repo.refresh_config()
    request = request_log(repo, tenant, request_id).existing()
    return replace(report_of(repo, request, files_of(repo, request)), seconds=time.monotonic() - began)


def files_of(repo: Repository, request: ErasureRequest) -> list[FileErasure]:
    """What the request's own records say of each of its files."""
    found = []
    for place, target in enumerate(request.targets):
        slot, name = place_of(repo, request.tenant, target)
        outcome = Outcome.PLANNED
        if place in request.destroyed:
            outcome = Outcome.DESTROYED
        elif place in request.erased:
            outcome = Outcome.ERASED
        elif place in request.missing:
            outcome = Outcome.MISSING
        elif place in request.refused:
            outcome = Outcome.REFUSED
        refusal = request.refused.get(place)
        found.append(FileErasure(place=place, uid=name, slot=str(slot), outcome=outcome, refusal=refusal))
    return found


def request_ids(repo: Repository, tenant: str) -> Iterator[str]:
    """The ids of a tenant's requests, in order."""
    root = repo.keys.requests_prefix(tenant)
    for prefix in repo.store.list_prefixes(root):
        name = prefix.removeprefix(root).rstrip("/")
        # What lies under a name that no request has is none of ours.
        if repo.keys.parse(f"{prefix}{number_text(1)}.json").request == name:
            yield name


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that were read, in the order of their ids, and what is wrong with those that can't be, by id."""

    found: list[ErasureRequest]
    findings: dict[str, Finding]


def read_requests(
    repo: Repository,
    tenant: str,
    progress: Callable[[int], None] | None = None,
    *,
    ids: Iterable[str] | None = None,
) -> Requests:
    """The requests of a tenant with these ids, or all of them; several are read at once.

    `progress` gets the number of requests read. What has no record is none.
    """

    def read(request_id: str) -> tuple[str, ErasureRequest | Finding | None]:
        try:
            return request_id, request_log(repo, tenant, request_id).load()
        except VeraError as error:
            return request_id, finding_of(error, repo.keys.request_prefix(tenant, request_id))

    requests: list[ErasureRequest] = []
    findings: dict[str, Finding] = {}
    wanted = request_ids(repo, tenant) if ids is None else ids
    with ThreadPoolExecutor(THREADS, thread_name_prefix="vera-requests") as pool:
        for number, (request_id, item) in enumerate(pool.map(read, wanted), 1):
            if isinstance(item, Finding):
                findings[request_id] = item
            elif item is not None:
                requests.append(item)
            if progress is not None:
                progress(number)
    return Requests(requests, findings)


def request_log(repo: Repository, tenant: str, request_id: str) -> RequestLog:
    """The log of one request."""
    return RequestLog(repo.store, repo.keys, tenant, request_id, repo.config.log_options)


def stage_of(repo: Repository, request: ErasureRequest) -> Stage:
    """How far a request is."""
    if not request.open and request.undestroyed:
        return Stage.HIDDEN
    if request.decliner:
        return Stage.DECLINED
    if not request.open:
        return Stage.DONE
    if repo.config.erasure_approval and not request.approver:
        return Stage.WAITING
    return Stage.REFUSED if len(request.refused) == len(request.open) else Stage.DUE


def report_of(repo: Repository, request: ErasureRequest, files: Sequence[FileErasure] = ()) -> ErasureReport:
    """A request as a report, with what a run came to."""
    stage = stage_of(repo, request)
    return ErasureReport(
        ok=stage is Stage.DONE and not request.missing, request=request.id, tenant=request.tenant, stage=stage,
        requester=request.requester, approver=request.approver, received=request.received,
        hidden_until=request.hidden_until, files=tuple(files), requested=len(request.targets),
        erased=len(request.erased), destroyed=len(request.destroyed), refused=len(request.refused),
        missing=len(request.missing), open=len(request.open),
    )  # fmt: skip


def plan_of(request: ErasureRequest, files: Sequence[FileErasure]) -> ErasureReport:
    """What executing a request would come to, as a report."""
    counts = Counter(file.outcome for file in files)
    ends = [file.hidden_until for file in files if file.hidden_until is not None]
    return ErasureReport(
        ok=not counts[Outcome.REFUSED] and not counts[Outcome.MISSING], request=request.id, tenant=request.tenant,
        stage=Stage.PLANNED, requester=request.requester, approver="", received=request.received,
        hidden_until=max(ends, default=None), files=tuple(files), requested=len(request.targets),
        erased=counts[Outcome.ALREADY], refused=counts[Outcome.REFUSED], missing=counts[Outcome.MISSING],
        open=counts[Outcome.PLANNED] + counts[Outcome.AWAITED] + counts[Outcome.REFUSED],
    )  # fmt: skip


def finding_of(error: VeraError, place: str) -> Finding:
    """An error about one request as a finding beside those about others."""
    return Finding(what=error.what, key=error.where.get("key", place), todo=error.todo)
