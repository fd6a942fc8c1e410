"""What the doctor looks at in an encrypted repository: its key service, its tenant keys, and the places that keep keys.

Changes nothing but what it is told to: locks of tenant keys. Keyrings are looked at with their shards.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vera_core.errors import VeraError
from vera_core.keys.tenant import TenantKey
from vera_core.model import Lock
from vera_core.operations.commit import LOCK_TOLERANCE
from vera_core.operations.key_objects import look_under
from vera_core.operations.report import Finding
from vera_core.operations.repository import LOCK_SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vera_core.operations.key_objects import KeyLook
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository

_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
_RESTORE = "Run `vera keys restore`, which puts it back from a place that has it."


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysHealth:
    """How the keys of an encrypted repository are.

    `current` is the KEK's version, 0 where the key service does not say; `places` are the repository's own bucket and
    its registered copies. `short` are tenants whose key is locked for less time than their shards, and until when it
    must be.
    """

    kek: str
    current: int = 0
    tenant_keys: int = 0
    places: tuple[str, ...] = ()
    short: tuple[tuple[str, datetime], ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class _Exam:
    """What was seen so far."""

    repo: Repository
    current: int = 0
    good: int = 0
    short: dict[str, datetime] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def examine_keys(repo: Repository, needed: Mapping[str, datetime | None]) -> KeysHealth | None:
    """Looks at the key service, and at the keys of tenants in every place; None in a repository without encryption.

    `needed` says for each tenant until when its key must be locked. Whatever fails is a finding.
    """
    encryption = repo.config.encryption
    if encryption is None:
        return None
    exam = _Exam(repo)
    with _told(exam, encryption.kek):
        exam.current = repo.key_service().current()
    for place in repo.key_places():
        with _told(exam, place.uri):
            for tenant, until in needed.items():
                _tenant(exam, place, tenant, until)
    return KeysHealth(
        kek=encryption.kek, current=exam.current, tenant_keys=exam.good,
        places=tuple(place.uri for place in repo.key_places()),
        short=tuple(exam.short.items()), findings=tuple(exam.findings),
    )  # fmt: skip


def extend_tenant_key(repo: Repository, tenant: str, until: datetime) -> None:
    """Keeps a tenant's key locked until then, in every place.

    Raises:
        UnavailableError: a place can't be reached.
    """
    repo.tenant_keys.keep_locked(tenant, Lock(repo.config.lock_mode, until), slack=LOCK_SLACK)


def _tenant(exam: _Exam, place: KeyPlace, tenant: str, until: datetime | None) -> None:
    repo, key = exam.repo, place.keys.tenant_key(tenant)
    seen = look_under(repo, place, key)
    exam.findings += seen.findings
    if seen.envelope is None:
        what = f"the key of tenant {tenant} is missing in {place.uri}"
        exam.findings.append(Finding(what=what, key=key, todo=_RESTORE))
        return
    if place.uri == repo.uri and exam.current:
        with _told(exam, key):
            repository_id = bytes.fromhex(repo.config.repository_id)
            TenantKey.open(repo.key_service(), repository_id, tenant, seen.envelope.encode())
            exam.good += 1
    if until is not None and repo.config.locked and until > repo.clock.now() and _ends(place, seen) < until:
        exam.short[tenant] = until


def _ends(place: KeyPlace, seen: KeyLook) -> datetime:
    """When the first of the locks ends that a tenant key needs; ends of stores are in whole seconds."""
    with place.reached():
        locks = [
            place.store.get_lock(info.key, info.version_id) for info in (seen.info, *seen.same) if info is not None
        ]
    return min((_LONG_AGO if lock is None else lock.until + LOCK_TOLERANCE for lock in locks), default=_LONG_AGO)


@contextmanager
def _told(exam: _Exam, where: str) -> Iterator[None]:
    try:
        yield
    except VeraError as error:
        exam.findings.append(Finding(what=error.what, key=where, todo=error.todo))
