"""Keeping single files longer than their class says: a copy in a small shard that is locked longer (docs/protocol.md).

Nothing else in the shard that they come from is kept longer. Extension only: nothing here ends a lock sooner.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.config import MAX_RETENTION_DAYS
from vera_core.errors import ErasedError, NotFoundError, RestrictedError, UsageError
from vera_core.model import Lock, format_time
from vera_core.operations.audited import audited
from vera_core.operations.commit import sealed_number, settle, whole_second
from vera_core.operations.copies import copy_versions, shardfuls
from vera_core.operations.legal_holds import sync_legal_holds
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.operations.report import Report, figure
from vera_core.operations.slotwise import append, by_slot, each_slot, until_in
from vera_core.operations.storing import store_shard
from vera_core.operations.supersede import OutrunError
from vera_core.slotrecords import entries_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from vera_core.erasures import Target
    from vera_core.model import Origin, Slot
    from vera_core.operations.lookup import Version
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState

UIDS_NAMED = 10
SHARDS_AUDITED = 1000
"""So many shards an outcome names; the slot logs name all."""


class Outcome(StrEnum):
    """What becomes of a file."""

    PLANNED = "to be kept longer"
    DONE = "kept longer"
    BEFORE = "kept until then already"
    LONGER = "kept even longer"
    ERASED = "erased"
    MISSING = "not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainOrder:
    """Which files of a tenant are to be kept until when, and why."""

    tenant: str
    reason: str
    until: datetime
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRetention:
    """What becomes, or became, of one file: `versions` are those that are kept longer by this.

    `until` is the end of its shortest kept version before that, None where there is none.
    """

    uid: str
    slot: str
    outcome: Outcome
    versions: tuple[Origin, ...] = ()
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainReport(Report):
    """What keeping files longer came to, file by file, or in a plan would come to."""

    tenant: str
    until: datetime
    files: tuple[FileRetention, ...]
    shards: tuple[tuple[str, str], ...] = ()
    requested: int = figure("files", "files")
    changed: int = figure("kept longer by this", "files")
    before: int = figure("kept as long already", "files")
    longer: int = figure("kept even longer", "files")
    missing: int = figure("not found or erased", "files")
    copied_bytes: int = figure("copied", "bytes")


@dataclass(slots=True)
class _Work:
    """One slot while files of it are copied; `shards` are those that this brought."""

    repo: Repository
    order: RetainOrder
    log: SlotLog
    state: SlotState
    scratch: Path
    shards: list[ShardRef]

    def step(self, names: Mapping[str, str]) -> list[FileRetention]:
        """Copies what is not kept as long; what became of each file, as planned.

        Raises:
            LostAppendError: another record came first.
        """
        readers = ShardReaders(self.repo)
        found = _versions(self.repo, readers, self.state, names)
        files = [_judge(self.order, self.state, uid, found[uid]) for uid in found]
        wanted = [version for file in files for version in found[file.uid] if version.origin in file.versions]
        for versions in shardfuls(self.repo, readers, wanted):
            self._copy(readers, versions)
        return files

    def _copy(self, readers: ShardReaders, versions: Sequence[Version]) -> None:
        repo, until = self.repo, self.order.until
        try:
            finished = copy_versions(repo, readers, versions, self.scratch)
        except ErasedError as error:
            if self.log.refresh(self.state.snapshot()):
                raise OutrunError("a file was erased meanwhile", todo="Run it again.", slot=self.state.slot) from error
            raise
        try:
            place = store_shard(repo, self.log, self.state, finished, versions[0].shard.retention_class)
        finally:
            finished.local.path.unlink()
        shard = finished.stored_at(
            place,
            number=self.state.head.number + 1,
            retention_class=versions[0].shard.retention_class,
            lock=Lock(repo.config.lock_mode, until),
        )
        named: dict[str, list[Origin]] = {}
        for version in versions:
            named.setdefault(version.entry.uid, []).append(version.origin)
        body = {
            "type": "retain",
            "reason": self.order.reason,
            "actor": repo.workplace.actor,
            "until": format_time(until),
            "entries": entries_json(named),
            "shard": shard.to_json(),
            "writer": repo.audit.writer,
        }
        append(repo, self.log, self.state, body, needed=until)
        self.shards.append(shard)


def plan_retain(repo: Repository, order: RetainOrder, progress: Callable[[int], None] | None = None) -> RetainReport:
    """What `execute_retain` would come to; changes nothing.

    Raises:
        UsageError: the reason is missing, no file is named, a uid needs a created_at, or the date is absurd.
        IntegrityError: a slot can't be read.
    """
    began = time.monotonic()
    repo.refresh_config()
    order = _checked(repo, order)

    def plan(slot: Slot, names: Mapping[str, str]) -> list[FileRetention]:
        state = repo.slot_log(slot).load()
        found = _versions(repo, ShardReaders(repo), state, names)
        return [_judge(order, state, uid, versions) for uid, versions in found.items()]

    files, failed = each_slot(by_slot(repo, order.tenant, order.targets), plan, progress)
    if failed is not None:
        raise failed
    return replace(_report(order, files, []), seconds=time.monotonic() - began)


def execute_retain(repo: Repository, order: RetainOrder, progress: Callable[[int], None] | None = None) -> RetainReport:
    """Keeps files until the date; run again after a crash it ends in the same place.

    Raises:
        UsageError, IntegrityError: as `plan_retain`.
        NotFoundError: a file is not archived, or was erased; nothing was done.
        RestrictedError: a file is kept longer already: nothing shortens that; nothing was done.
        UnavailableError: some slot could not be read or written; the others are done.
    """
    began = time.monotonic()
    repo.writable_config()
    order = _checked(repo, order)
    _refuse(plan_retain(repo, order))
    slots = by_slot(repo, order.tenant, order.targets)
    shards: list[ShardRef] = []
    subject = {"tenant": order.tenant, "until": format_time(order.until), "files": len(order.targets)}
    with audited(repo, "retain", subject) as outcome, repo.scratch() as scratch:

        def one(slot: Slot, names: Mapping[str, str]) -> list[FileRetention]:
            log = repo.slot_log(slot)
            return _execute(_Work(repo, order, log, log.load(), scratch, shards), names)

        files, failed = each_slot(slots, one, progress)
        outcome.update(shards=[[shard.key, shard.version_id] for shard in shards[:SHARDS_AUDITED]])
        if failed is not None:
            raise failed
        report = _report(order, files, shards)
        outcome.update(changed=report.changed, before=report.before, missing=report.missing)
    return replace(report, seconds=time.monotonic() - began)


def _execute(work: _Work, names: Mapping[str, str]) -> list[FileRetention]:
    sealed = sealed_number(work.log, work.state)
    done: dict[str, FileRetention] = {}

    def step() -> list[FileRetention]:
        files = work.step(names)
        done.update((file.uid, replace(file, outcome=Outcome.DONE)) for file in files if file.versions)
        return [done.get(file.uid, file) for file in files]

    files = until_in(work.log, work.state, step)
    settle(work.repo, work.log, work.state, sealed)
    sync_legal_holds(work.repo, work.log, work.state)
    return files


def _versions(
    repo: Repository, readers: ShardReaders, state: SlotState, names: Mapping[str, str]
) -> dict[str, list[Version]]:
    """The versions of each file, by its uid."""
    key = repo.naming(state.slot.tenant).key
    return {uid: versions_of(readers, state, name, key(name)) for name, uid in names.items()}


def _checked(repo: Repository, order: RetainOrder) -> RetainOrder:
    """The order with its date in whole seconds, as stores keep locks."""
    now = repo.clock.now()
    until = whole_second(order.until)
    if not order.reason.strip():
        raise UsageError("keeping files longer needs a reason", todo="Give one with --reason.")
    if not order.targets:
        raise UsageError("no file is named", todo="Name the uids to keep.")
    if until <= now:
        raise UsageError(f"{format_time(until)} is over by the store's clock, which says {format_time(now)}")
    if until > now + timedelta(days=MAX_RETENTION_DAYS):
        raise UsageError(
            f"{format_time(until)} is more than {MAX_RETENTION_DAYS} days away, and no lock ends before its time",
            todo="Check the year.",
        )
    return replace(order, until=until)


def _judge(order: RetainOrder, state: SlotState, uid: str, versions: Sequence[Version]) -> FileRetention:
    """What is to become of a uid, by the slot's state as it is."""
    file = FileRetention(uid=uid, slot=str(state.slot), outcome=Outcome.MISSING)
    living = [version for version in versions if not state.is_dead(version.origin)]
    if not living:
        return replace(file, outcome=Outcome.ERASED) if versions else file
    ends = {version.origin: version.shard.lock.until for version in living}
    file = replace(file, until=min(ends.values()))
    short = tuple(origin for origin, end in ends.items() if end < order.until)
    if short:
        return replace(file, outcome=Outcome.PLANNED, versions=short)
    return replace(file, outcome=Outcome.BEFORE if order.until in ends.values() else Outcome.LONGER)


def _refuse(plan: RetainReport) -> None:
    def named(*outcomes: Outcome) -> str:
        return ", ".join([file.uid for file in plan.files if file.outcome in outcomes][:UIDS_NAMED])

    if plan.missing:
        raise NotFoundError(
            f"{plan.missing} of {plan.requested} files are not archived, or erased; nothing was done",
            todo="Check uids, their created_at days and the tenant; --dry-run tells of each file.",
            tenant=plan.tenant, uids=named(Outcome.MISSING, Outcome.ERASED),
        )  # fmt: skip
    if plan.longer:
        raise RestrictedError(
            f"{plan.longer} of {plan.requested} files are kept beyond {format_time(plan.until)}; nothing shortens that",
            todo="Give a later date, or leave these files out; nothing was done.",
            tenant=plan.tenant, uids=named(Outcome.LONGER),
        )  # fmt: skip


def _report(order: RetainOrder, files: Sequence[FileRetention], shards: Sequence[ShardRef]) -> RetainReport:
    counts = Counter(file.outcome for file in files)
    missing = counts[Outcome.MISSING] + counts[Outcome.ERASED]
    return RetainReport(
        ok=not missing and not counts[Outcome.LONGER], tenant=order.tenant, until=order.until, files=tuple(files),
        shards=tuple((shard.key, shard.version_id) for shard in shards), requested=len(files),
        changed=counts[Outcome.PLANNED] + counts[Outcome.DONE], before=counts[Outcome.BEFORE],
        longer=counts[Outcome.LONGER], missing=missing, copied_bytes=sum(shard.size for shard in shards),
    )  # fmt: skip
