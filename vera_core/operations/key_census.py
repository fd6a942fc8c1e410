"""What wraps a repository's keys: its keyrings and tenant keys, counted by place and by version of the KEK.

Looks only. Whether a shard's keyring is the one that its log asks for is keyring_proof.py's business.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, UnavailableError
from vera_core.keyspace import KeyKind
from vera_core.operations.key_objects import key_objects, look, tenants_in
from vera_core.operations.report import Finding, Report, figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from vera_core.keys.envelope import Envelope
    from vera_core.keys.service import KeyService
    from vera_core.operations.key_objects import KeyLook, KeyObject
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository

BATCH = 400
"""Keys at once: as many as a key service takes in one call."""
BATCH_BYTES = 64 << 20
"""Of what is read at once, but for one key that has more."""
THREADS = 16
"""Reads and writes at once: what they wait for is the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceLine:
    """What lies in one place: `versions` counts keys by the version of the KEK that wraps them.

    `foreign` are wrapped by another KEK. `error` is why the place could not be looked at.
    """

    place: str
    tenant_keys: int = 0
    keyrings: int = 0
    punctured: int = 0
    stored_bytes: int = 0
    versions: tuple[tuple[int, int], ...] = ()
    foreign: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCensus(Report):
    """The keys of a repository in all places. `made` is when the current version of the KEK was made."""

    kek: str
    made: datetime
    places: tuple[PlaceLine, ...]
    findings: tuple[Finding, ...] = ()
    current: int = figure("current version of the KEK")
    oldest: int = figure("oldest version in use")
    keys: int = figure("keyrings and tenant keys", "objects")
    behind: int = figure("wrapped by an older version", "objects")


@dataclass(slots=True)
class Tally:
    """What has been seen of one place so far."""

    place: KeyPlace
    service: KeyService
    tenant_keys: int = 0
    keyrings: int = 0
    punctured: int = 0
    stored_bytes: int = 0
    foreign: int = 0
    error: str = ""
    versions: Counter[int] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def take(self, seen: KeyLook, envelope: Envelope | None) -> None:
        """Counts what lies under a key, as it is wrapped now."""
        self.findings += seen.findings
        if envelope is None or seen.info is None:
            return
        self.stored_bytes += seen.info.size
        if seen.object.parsed.kind is KeyKind.TENANT_KEY:
            self.tenant_keys += 1
        else:
            self.keyrings += 1
            self.punctured += envelope.header.revision > 1
        version = kek_version(self.service, envelope)
        if version:
            self.versions[version] += 1
        else:
            self.foreign += 1
            todo = "Only the key service that has that KEK opens it: find out how it came here."
            what = f"it is wrapped by another KEK: {envelope.kek}"
            self.findings.append(Finding(what=what, key=seen.info.key, version_id=seen.info.version_id, todo=todo))

    def fail(self, trouble: UnavailableError) -> None:
        """Notes that the place can't be looked at any further."""
        self.error = trouble.what
        self.findings.append(Finding(what=trouble.what, key=self.place.uri, todo=trouble.todo))

    def line(self) -> PlaceLine:
        """What was seen."""
        return PlaceLine(
            place=self.place.uri, tenant_keys=self.tenant_keys, keyrings=self.keyrings, punctured=self.punctured,
            stored_bytes=self.stored_bytes, versions=tuple(sorted(self.versions.items())), foreign=self.foreign,
            error=self.error,
        )  # fmt: skip


def take_census(
    repo: Repository, *, tenant: str | None = None, progress: Callable[[int], None] | None = None
) -> KeyCensus:
    """Reads every keyring and tenant key of one tenant, or of all, in every place; a place that fails is a finding.

    Asks the key service for its current version, and unwraps nothing. `progress` gets the number of keys read.

    Raises:
        UsageError: the repository is not encrypted, or its key service is not configured.
        VeraError: the key service's.
    """
    began = time.monotonic()
    repo.refresh_config()
    service = repo.key_service()
    tallies = [Tally(place, service) for place in repo.key_places()]
    done = 0
    for tally in tallies:
        try:
            for seen in looks(repo, tally.place, tenant):
                for item in seen:
                    tally.take(item, item.envelope)
                done += len(seen)
                if progress is not None:
                    progress(done)
        except UnavailableError as trouble:
            tally.fail(trouble)
    return replace(summed(service, tallies), seconds=time.monotonic() - began)


def summed(service: KeyService, tallies: Sequence[Tally]) -> KeyCensus:
    """The sums over all places, and what the key service says now.

    Raises:
        VeraError: the key service's.
    """
    current, lines = service.current(), [tally.line() for tally in tallies]
    findings = [finding for tally in tallies for finding in tally.findings]
    versions = [(version, count) for line in lines for version, count in line.versions]
    return KeyCensus(
        ok=not any(finding.severity == "error" for finding in findings),
        kek=service.kek, made=service.made(), places=tuple(lines), findings=tuple(findings), current=current,
        oldest=min((version for version, _ in versions), default=0),
        keys=sum(line.keyrings + line.tenant_keys for line in lines),
        behind=sum(count for version, count in versions if version < current),
    )  # fmt: skip


def looks(repo: Repository, place: KeyPlace, tenant: str | None) -> Iterator[list[KeyLook]]:
    """What lies under the keys of one tenant in a place, or of all, some at a time.

    Raises:
        UnavailableError: the place can't be reached.
    """
    repository_id = bytes.fromhex(repo.config.repository_id)
    read = partial(look, repository_id=repository_id, locked=repo.config.locked)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="vera-keys") as pool:
        for name in [tenant] if tenant is not None else list(tenants_in(place)):
            for batch in _bounded(key_objects(place, name)):
                yield list(pool.map(read, batch))


def _bounded(coming: Iterator[KeyObject]) -> Iterator[list[KeyObject]]:
    """The keys in batches of bounded number and size."""
    batch: list[KeyObject] = []
    size = 0
    for item in coming:
        weight = sum(info.size for info in item.versions)
        if len(batch) == BATCH or (batch and size + weight > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += weight
    if batch:
        yield batch


def kek_version(service: KeyService, envelope: Envelope) -> int:
    """The version of the service's KEK that wraps an envelope; 0 where another KEK does, or none."""
    if envelope.kek != service.kek:
        return 0
    try:
        return service.version(envelope.wrapped)
    except IntegrityError:
        return 0
