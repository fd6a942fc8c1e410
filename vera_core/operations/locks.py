"""What is locked until when: live shards by tenant, day and class, and what cases hold. Changes nothing.

As the records say, and so what the store was asked to keep; `vera verify` asks the store whether it does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.model import LockMode, day_text
from vera_core.operations.report import Report, figure
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date, datetime

    from vera_core.model import Erasability, Origin, Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef, SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class LockLine:
    """The shards of one class in one day of a tenant; `copies` are those of single files that are kept longer.

    `versions` counts erased ones too, whose bytes are locked as long; `ended` of the shards are locked no more. Locks
    end between `first` and `last`.
    """

    tenant: str
    day: str
    retention_class: str
    erasability: Erasability
    mode: LockMode
    copies: bool
    first: datetime
    last: datetime
    shards: int
    ended: int
    versions: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseLine:
    """What a case holds of a tenant: files (uids) and their versions, in how many slots of which days."""

    tenant: str
    case: str
    first_day: str
    last_day: str
    slots: int
    files: int
    versions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocksReport(Report):
    """What is under which lock or hold, until when, by the store's clock."""

    repository: str
    now: datetime
    locks: tuple[LockLine, ...]
    cases: tuple[CaseLine, ...]
    shards: int = figure("shards", "objects")
    versions: int = figure("versions", "files")
    stored_bytes: int = figure("stored", "bytes")
    ended: int = figure("shards whose lock has ended", "objects")
    kept_longer: int = figure("versions kept longer than their class", "files")
    held: int = figure("versions under legal hold", "files")


_Key = tuple[str, str, str, bool]


@dataclass(slots=True)
class _Case:
    days: set[str] = field(default_factory=set)
    slots: int = 0
    files: int = 0
    versions: int = 0


def survey_locks(
    repo: Repository,
    *,
    tenant: str | None = None,
    days: tuple[date | None, date | None] = (None, None),
    progress: Callable[[int], None] | None = None,
) -> LocksReport:
    """Looks at every slot of one tenant, or of all, from the first of `days` to the last; two requests a slot.

    `progress` gets the number of slots done.

    Raises:
        IntegrityError: a slot can't be read.
    """
    began = time.monotonic()
    repo.refresh_config()
    shards: defaultdict[_Key, list[ShardRef]] = defaultdict(list)
    cases: defaultdict[tuple[str, str], _Case] = defaultdict(_Case)
    kept_longer = held = 0
    for number, slot in enumerate(all_slots(repo, tenant=tenant, first=days[0], last=days[1]), 1):
        state = repo.slot_log(slot).current()
        for shard in state.live():
            shards[slot.tenant, day_text(slot.day), shard.retention_class, state.is_copy(shard)].append(shard)
        for case, versions in state.holds.items():
            _count(cases[slot.tenant, case], slot, versions)
        kept_longer += len(state.retained)
        held += _held(state)
        if progress is not None:
            progress(number)
    now = repo.clock.now()
    locks = tuple(_line(repo, key, found, now) for key, found in sorted(shards.items()))
    return LocksReport(
        repository=repo.uri, now=now, locks=locks,
        cases=tuple(_case(tenant, name, case) for (tenant, name), case in sorted(cases.items())),
        shards=sum(line.shards for line in locks),
        versions=sum(line.versions for line in locks if not line.copies),
        stored_bytes=sum(line.stored_bytes for line in locks), ended=sum(line.ended for line in locks),
        kept_longer=kept_longer, held=held, seconds=time.monotonic() - began,
    )  # fmt: skip


def _line(repo: Repository, key: _Key, shards: Iterable[ShardRef], now: datetime) -> LockLine:
    tenant, day, name, copies = key
    found = list(shards)
    ends = [shard.lock.until for shard in found]
    return LockLine(
        tenant=tenant, day=day, retention_class=name, erasability=repo.config.retention(name).erasability,
        mode=repo.config.lock_mode, copies=copies, first=min(ends), last=max(ends), shards=len(found),
        ended=sum(end <= now for end in ends), versions=sum(shard.entries for shard in found),
        stored_bytes=sum(shard.size for shard in found),
    )  # fmt: skip


def _count(case: _Case, slot: Slot, versions: dict[Origin, str]) -> None:
    case.days.add(day_text(slot.day))
    case.slots += 1
    case.files += len(set(versions.values()))
    case.versions += len(versions)


def _held(state: SlotState) -> int:
    return sum(len(origins) for origins in state.held().values())


def _case(tenant: str, name: str, case: _Case) -> CaseLine:
    return CaseLine(
        tenant=tenant, case=name, first_day=min(case.days), last_day=max(case.days), slots=case.slots, files=case.files,
        versions=case.versions,
    )  # fmt: skip
