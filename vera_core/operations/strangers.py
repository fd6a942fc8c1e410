"""What somebody put over records: delete markers and unlocked versions. Never data, harmless, removed by VersionId.

Where to look outside the slots, whose logs the doctor reads anyway, and what of it may go. Which version of a key is
the record is for `store.chain` to say; the removing is the doctor's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from vera_core.keyspace import KeyKind, number_text
from vera_core.operations.disposals import disposal_ids
from vera_core.operations.erasure_reports import request_ids
from vera_core.operations.report import Finding
from vera_core.operations.walk import tenants
from vera_core.store.base import MissingObjectError
from vera_core.store.chain import ChainedLog, earliest_record
from vera_core.store.chain import Finding as LogFinding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vera_core.operations.repository import Repository

Place = tuple[str, Callable[[], list[LogFinding]]]
"""A key prefix, and what looks there; looking raises `IntegrityError` where a log does not verify."""


def record_places(repo: Repository, tenant: str | None) -> Iterator[Place]:
    """Where records lie outside the slots: of a tenant its manifests and requests, of all also config and audit."""
    if tenant is None:
        yield _log_place(repo, repo.keys.config_prefix, repo.keys.config)
        for writer in audit_writers(repo):
            yield _log_place(repo, repo.keys.writer_prefix(writer), partial(repo.keys.audit, writer))
    for name in [tenant] if tenant is not None else tenants(repo):
        prefix = repo.keys.all_windows_prefix(name)
        yield prefix, partial(_beside_manifests, repo, prefix)
        for request in request_ids(repo, name):
            yield _log_place(repo, repo.keys.request_prefix(name, request), partial(repo.keys.request, name, request))
        for request in disposal_ids(repo, name):
            yield _log_place(repo, repo.keys.disposal_prefix(name, request), partial(repo.keys.disposal, name, request))


def audit_writers(repo: Repository) -> Iterator[str]:
    """The writers with any audit entry. What lies under a name that no writer has is none of ours."""
    for prefix in repo.store.list_prefixes(repo.keys.audit_prefix):
        writer = prefix.removeprefix(repo.keys.audit_prefix).rstrip("/")
        if repo.keys.parse(f"{prefix}{number_text(1)}.json").kind is KeyKind.AUDIT:
            yield writer


def removable(repo: Repository, found: Iterable[LogFinding]) -> Iterator[Finding]:
    """What may go of what was found. A later locked version can't before its lock ends, and does no harm."""
    for item in found:
        # What is gone since it was found needs no removing.
        with suppress(MissingObjectError):
            if item.is_marker or repo.store.get_lock(item.key, item.version_id) is None:
                yield Finding(what=item.what, key=item.key, version_id=item.version_id, severity="warning")


def _log_place(repo: Repository, prefix: str, key_of: Callable[[int], str]) -> Place:
    log = ChainedLog(repo.store, prefix, key_of, repo.config.log_options)
    return prefix, lambda: log.survey()[1]


def _beside_manifests(repo: Repository, prefix: str) -> list[LogFinding]:
    found = []
    for key, versions in groupby(repo.store.list_versions(prefix), lambda info: info.key):
        if repo.keys.parse(key).kind is not KeyKind.MANIFEST:
            continue
        infos = list(versions)
        manifest = earliest_record(repo.store, infos, locked=repo.config.locked)
        for info in infos:
            if info is not manifest:
                what = "delete marker over a manifest" if info.is_delete_marker else "version under a manifest's key"
                found.append(LogFinding(key, info.version_id, what, is_marker=info.is_delete_marker))
    return found
