"""The restore drill: from each place that keeps keys, alone, shards' keyrings are opened and a file is read with each.

What a copy is for is only known when it was used. Changes nothing but the audit, where the drill is kept.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.errors import IncompatibleError, IntegrityError, NotFoundError, UsageError
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.keys.service import good
from vera_core.keys.shards import ShardOpener
from vera_core.keys.tenant import TenantKey
from vera_core.operations.audited import audited
from vera_core.operations.key_objects import look_under
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef

PERCENT = 1.0
_RESTORE = "Run `vera keys restore`, then this again."


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillLine:
    """What came of the keys of one place: shards tried, keyrings opened, files read with them.

    `oldest` and `newest` are when the keyrings that were opened had been stored there.
    """

    place: str
    shards: int
    opened: int
    files: int
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport(Report):
    """A restore drill. `shards` are those that were drawn; each was tried with the keys of every place."""

    places: tuple[DrillLine, ...]
    findings: tuple[Finding, ...] = ()
    shards: int = figure("shards drawn", "objects")
    opened: int = figure("keyrings opened", "objects")
    files: int = figure("files read with them", "files")


@dataclass(slots=True)
class _Place:
    """A place during a drill, and what came of it so far."""

    place: KeyPlace
    shards: int = 0
    opened: int = 0
    files: int = 0
    times: list[datetime] = field(default_factory=list)
    tenants: dict[str, TenantKey] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def line(self) -> DrillLine:
        return DrillLine(
            place=self.place.uri, shards=self.shards, opened=self.opened, files=self.files,
            oldest=min(self.times, default=None), newest=max(self.times, default=None),
        )  # fmt: skip


def drill(
    repo: Repository,
    *,
    percent: float = PERCENT,
    tenant: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> DrillReport:
    """Draws a share of the encrypted shards of one tenant, or of all: at least one of each tenant.

    Raises:
        UsageError: the repository is not encrypted, its key service is not configured, or that is no share.
        UnavailableError: a place, or the key service, can't be reached: then nothing was drilled.
    """
    began = time.monotonic()
    if not 0 < percent <= 100:
        raise UsageError(f"{percent} percent is no share", todo="Give more than 0 and at most 100.")
    repo.refresh_config()
    repo.key_service()
    places = [_Place(place) for place in repo.key_places()]
    readers = ShardReaders(repo)
    shards = 0
    with audited(repo, "drill-keys", {"percent": percent}) as outcome:
        seen: set[str] = set()
        for slot in all_slots(repo, tenant=tenant):
            for shard in repo.slot_log(slot).load().live():
                if not shard.keyring or (slot.tenant in seen and random.random() * 100 >= percent):  # noqa: S311 - a sample
                    continue
                seen.add(slot.tenant)
                shards += 1
                for place in places:
                    _try(repo, place, shard, readers)
                if progress is not None:
                    progress(shards)
        lines = [place.line() for place in places]
        outcome.update(shards=shards, opened={line.place: line.opened for line in lines})
    findings = tuple(finding for place in places for finding in place.findings)
    return DrillReport(
        ok=not findings, places=tuple(lines), findings=findings, shards=shards,
        opened=sum(line.opened for line in lines), files=sum(line.files for line in lines),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _try(repo: Repository, trying: _Place, shard: ShardRef, readers: ShardReaders) -> None:
    """Opens a shard's keyring and reads a file with the keys of one place, and nothing of the others."""
    place = trying.place
    trying.shards += 1
    key = place.keyring(shard)
    try:
        tenant = _tenant_key(repo, trying, repo.keys.parse(shard.key).tenant)
        seen = look_under(repo, place, key)
        if seen.envelope is None or seen.info is None:
            raise IntegrityError("there is no keyring of the shard")
        wanted = Wanted(tenant.header.repository_id, tenant.header.tenant, bytes.fromhex(shard.sha256), shard.keyring)
        (keyring,) = good(open_keyrings(repo.key_service(), [(wanted, seen.envelope.encode())]))
        trying.opened += 1
        trying.times.append(seen.info.last_modified)
        opener = ShardOpener(readers.reader(shard), tenant, keyring)
        entry = next((entry for entry in opener.reader.entries() if opener.holds(entry)), None)
        if entry is not None:
            opener.check(entry)
            trying.files += 1
    except (IntegrityError, IncompatibleError, NotFoundError, UsageError) as error:
        what = f"with the keys of {place.uri} alone the shard can't be read: {error.what}"
        trying.findings.append(Finding(what=what, key=key, todo=_RESTORE))


def _tenant_key(repo: Repository, trying: _Place, tenant: str) -> TenantKey:
    found = trying.tenants.get(tenant)
    if found is None:
        seen = look_under(repo, trying.place, trying.place.keys.tenant_key(tenant))
        if seen.envelope is None:
            raise IntegrityError("there is no key of the tenant")
        repository_id = bytes.fromhex(repo.config.repository_id)
        found = TenantKey.open(repo.key_service(), repository_id, tenant, seen.envelope.encode())
        trying.tenants[tenant] = found
    return found
