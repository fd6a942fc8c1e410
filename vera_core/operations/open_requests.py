"""Which erasure requests are open, or were until lately: an index, so that nobody reads the logs of years every hour.

An entry is an object whose key names a request. It is stored before the request, and removed by VersionId when the
request has been over for a month; one that is over never opens again. So an entry too many costs a reader one look,
and one that is missing is found by a walk through all logs, which whoever runs requests makes once a week. The logs are
the truth; the index decides nothing (docs/protocol.md, "Open requests").
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from vera_core.errors import PreconditionError, RestrictedError
from vera_core.keyspace import KeyKind
from vera_core.model import Lock, format_time, parse_time
from vera_core.operations.erasure_reports import read_requests
from vera_core.slots import MALFORMED
from vera_core.store.base import ABSENT, Condition, MissingObjectError
from vera_core.store.chain import decode_record, encode_record
from vera_core.store.marked import is_marked, put_marked

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from vera_core.erasures import ErasureRequest
    from vera_core.operations.erasure_reports import Requests
    from vera_core.operations.repository import Repository
    from vera_core.store.base import VersionInfo

KEPT = timedelta(days=31)
"""How long an entry stays at least, and after its request was closed: so long it is locked, too."""
WALK_EVERY = timedelta(days=7)
"""How often whoever runs requests reads all of them."""
WALK_MISSED = 2 * WALK_EVERY
"""Without a walk for so long a reader, too, reads all of them."""
WALKED = "requests-walked"


@dataclass(frozen=True, slots=True)
class OpenRequests:
    """The index of a tenant: the stored versions of each request's entry, and when all logs were last read.

    `etag` is that of the object which tells the latter.
    """

    entries: dict[str, list[VersionInfo]] = field(default_factory=dict)
    walked: datetime | None = None
    etag: str | None = None

    def is_whole(self, now: datetime, every: timedelta) -> bool:
        """Whether all logs were read within that time."""
        return self.walked is not None and now < self.walked + every


def enter(repo: Repository, tenant: str, request_id: str) -> None:
    """Puts a request into the index, before it is stored; nothing where it is there, and nobody is about to drop it."""
    key = repo.keys.open_request(tenant, request_id)
    now = repo.clock.now()
    infos = [info for info in repo.store.list_versions(key) if info.key == key and not info.is_delete_marker]
    if any(now < info.last_modified + KEPT / 2 for info in infos):
        return
    lock = Lock(repo.config.lock_mode, now + KEPT) if repo.config.locked else None
    repo.store.put(key, b"", lock=lock)


def find_requests(
    repo: Repository, tenant: str, progress: Callable[[int], None] | None = None, *, everything: bool = False
) -> tuple[Requests, bool]:
    """The requests in the index, and whether these are all there are. Changes nothing.

    Reads all logs where `everything` asks for that, or nobody did for long. `progress` gets the number of those read.
    """
    index = _read_index(repo, tenant)
    walks = everything or not index.is_whole(repo.clock.now(), WALK_MISSED)
    return read_requests(repo, tenant, progress, ids=None if walks else sorted(index.entries)), walks


def tend_requests(repo: Repository, tenant: str) -> Requests:
    """As `find_requests`, for whoever runs requests: walks once a week, and puts the index right by what was read."""
    now = repo.clock.now()
    index = _read_index(repo, tenant)
    walks = not index.is_whole(now, WALK_EVERY)
    read = read_requests(repo, tenant, ids=None if walks else sorted(index.entries))
    # One that can't be read is told of in every look until it can.
    current = {request.id for request in read.found if _is_current(request, now)} | read.findings.keys()
    if walks:
        for request_id in sorted(current - index.entries.keys()):
            enter(repo, tenant, request_id)
        if read.found or read.findings:
            _note_walk(repo, tenant, index, now)
    for request_id in index.entries.keys() - current:
        _drop(repo, index.entries[request_id], now)
    return read


def _is_current(request: ErasureRequest, now: datetime) -> bool:
    """Whether a request is open, or was until lately."""
    ends = [moment for moment in (request.finished, request.last_erased) if moment is not None]
    return not request.is_over or any(now < moment + KEPT for moment in ends)


def _read_index(repo: Repository, tenant: str) -> OpenRequests:
    """The index as it is stored; a delete marker hides no entry."""
    entries: defaultdict[str, list[VersionInfo]] = defaultdict(list)
    for info in repo.store.list_versions(repo.keys.open_requests_prefix(tenant)):
        parsed = repo.keys.parse(info.key)
        if parsed.kind is KeyKind.OPEN_REQUEST:
            entries[parsed.request].append(info)
    try:
        there = repo.store.get(repo.keys.requests_walked(tenant))
    except MissingObjectError:
        return OpenRequests(dict(entries))
    body = decode_record(there.data) if not repo.config.locked or is_marked(repo.store, there) else None
    walked = None
    if body is not None and body["type"] == WALKED:
        with suppress(*MALFORMED):
            walked = parse_time(body["time"])
    return OpenRequests(dict(entries), walked, there.etag)


def _note_walk(repo: Repository, tenant: str, index: OpenRequests, walked: datetime) -> None:
    """Stores when a walk began; of several at once any one may tell of its own."""
    data = encode_record({"type": WALKED, "tenant": tenant, "time": format_time(walked)})
    condition = ABSENT if index.etag is None else Condition(index.etag)
    with suppress(PreconditionError, MissingObjectError):
        put_marked(
            repo.store, repo.keys.requests_walked(tenant), data, condition=condition,
            marked_at=repo.clock.now() if repo.config.locked else None,
        )  # fmt: skip


def _drop(repo: Repository, versions: list[VersionInfo], now: datetime) -> None:
    """Removes an entry that is old enough; what another one removes, or a lock keeps for now, is nobody's loss."""
    for info in versions:
        if info.last_modified + KEPT < now:
            with suppress(RestrictedError):
                repo.store.delete(info.key, version_id=info.version_id)
