"""Erasing files from their slots: which may be, and the tombstones that take them from sight (docs/protocol.md).

In an unencrypted repository the bytes of an erased file stay in their shards, hidden from every reader, until the
shards' locks end; in an encrypted one puncture.py destroys their keys then. Who asked, who approved and what became of
it is erasures.py's business, beside this module.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from vera_core.erasures import Ground, Refusal
from vera_core.errors import VeraError
from vera_core.model import Erasability, format_time
from vera_core.operations.awaited import awaited
from vera_core.operations.commit import settle
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.operations.slotwise import append, chunks, drop_inventory, each_slot, open_slot, place_of, until_in
from vera_core.routing import uid_key
from vera_core.slotrecords import entries_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set
    from datetime import datetime

    from vera_core.erasures import AnyTarget
    from vera_core.model import Origin, Slot
    from vera_core.operations.lookup import Version
    from vera_core.operations.repository import Repository
    from vera_core.operations.slotwise import OpenSlot
    from vera_core.slots import SlotState


class Outcome(StrEnum):
    """What becomes of a file."""

    PLANNED = "to be erased"
    ERASED = "erased"
    ALREADY = "erased before"
    DESTROYED = "erased, its keys destroyed"
    AWAITED = "to be kept out: frozen, not packed yet"
    BARRED = "kept out: frozen, not packed yet"
    REFUSED = "refused"
    MISSING = "not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileErasure:
    """What becomes, or became, of one file of a request.

    `place` is its place among the request's files; `uid` is its name where nobody has told this process the uid;
    `versions` are those that are erased by this. `hidden_until` is the end of the last lock over bytes of the file that
    are not encrypted: until then nobody can remove them. `refusal` says why not.
    """

    place: int
    uid: str
    slot: str
    outcome: Outcome
    versions: tuple[Origin, ...] = ()
    hidden_until: datetime | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be erased for which request: (place in the request, file) each, of one tenant."""

    tenant: str
    request: str
    reason: str
    targets: Sequence[tuple[int, AnyTarget]]

    def by_slot(self, repo: Repository) -> dict[Slot, dict[str, int]]:
        """Name -> place of each slot's files.

        Raises:
            UsageError, NotFoundError, VeraError: as `slotwise.by_slot`.
        """
        found: defaultdict[Slot, dict[str, int]] = defaultdict(dict)
        for place, target in self.targets:
            slot, name = place_of(repo, self.tenant, target)
            found[slot][name] = place
        return dict(found)


def plan_erasure(repo: Repository, order: Order, progress: Callable[[int], None] | None = None) -> list[FileErasure]:
    """What erasing would come to now; changes nothing.

    Raises:
        UsageError, NotFoundError: as `Order.by_slot`.
        IntegrityError: a slot's log or a shard of it can't be read.
    """
    repo.refresh_config()

    def plan(slot: Slot, wanted: _Wanted) -> list[FileErasure]:
        return _judged(repo, repo.slot_log(slot).load(), ShardReaders(repo), wanted)

    files, failed = _each(repo, order, plan, progress)
    if failed is not None:
        raise failed
    return files


class Erased(NamedTuple):
    """What became of files. `failed` is the first error of a slot, where one failed.

    `slots` are those in which anything was ever erased, as they were left: in an encrypted repository their keys must
    be destroyed, which also seals them.
    """

    files: list[FileErasure]
    failed: VeraError | None
    slots: dict[Slot, OpenSlot]


def erase(repo: Repository, order: Order, progress: Callable[[int], None] | None = None) -> Erased:
    """Takes from sight all that may be: a tombstone in each slot's log, no inventory file that shows the files.

    Safe to run again, and side by side. A slot that fails does not keep the others from being erased. The caller tells
    the audit, before and after, and destroys keys.

    Raises:
        UsageError: a uid needs a created_at; nothing was done.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    repo.writable_config()
    slots: dict[Slot, OpenSlot] = {}

    def one(slot: Slot, wanted: _Wanted) -> list[FileErasure]:
        opened = open_slot(repo, slot)
        files = _erase_in(repo, order, opened, wanted)
        if opened.state.erased:
            slots[slot] = opened
        return files

    files, failed = _each(repo, order, one, progress)
    return Erased(files, failed, slots)


def legal_ground(repo: Repository, state: SlotState, versions: Sequence[Version]) -> Refusal | None:
    """Why these living versions of a file must be kept, None where nothing says so.

    A file is kept as a whole, and as long as any of its versions must be; a hold comes first, for nobody knows its end.
    """
    cases = sorted({case for version in versions for case in state.holds_of(version.origin)})
    if cases:
        return Refusal(Ground.CLAIMS, f"held for {', '.join(cases)}")
    regulated = [
        version.shard
        for version in versions
        if repo.config.retention(version.shard.retention_class).erasability is Erasability.REGULATED
    ]
    until = max((shard.lock.until for shard in regulated), default=None)
    if until is None or until <= repo.clock.now():
        return None
    classes = ", ".join(sorted({shard.retention_class for shard in regulated}))
    return Refusal(Ground.OBLIGATION, f"of the regulated class {classes}, locked until {format_time(until)}", until)


class _Wanted(NamedTuple):
    """Name -> place of a slot's files; those in `awaited` are kept out where the slot does not have them yet."""

    names: Mapping[str, int]
    awaited: Set[str] = frozenset()


def _each(
    repo: Repository,
    order: Order,
    work: Callable[[Slot, _Wanted], list[FileErasure]],
    progress: Callable[[int], None] | None,
) -> tuple[list[FileErasure], VeraError | None]:
    """Does the work for each slot; again for files that it did not find, but that are to be packed there."""
    slots = order.by_slot(repo)
    files, failed = each_slot({slot: _Wanted(names) for slot, names in slots.items()}, work, progress)
    lost = {file.place for file in files if file.outcome is Outcome.MISSING}
    missing = {
        slot: left
        for slot, names in slots.items()
        if (left := {name: place for name, place in names.items() if place in lost})
    }
    try:
        found = awaited(repo, order.tenant, missing) if missing else {}
    except VeraError as unread:
        return _in_order(files), failed or unread
    coming = {slot: _Wanted({name: missing[slot][name] for name in names}, names) for slot, names in found.items()}
    again, error = each_slot(coming, work)
    done = {file.place for file in again}
    return _in_order([*(file for file in files if file.place not in done), *again]), failed or error


def _in_order(files: Iterable[FileErasure]) -> list[FileErasure]:
    return sorted(files, key=lambda file: file.place)


def _judged(repo: Repository, state: SlotState, readers: ShardReaders, wanted: _Wanted) -> list[FileErasure]:
    """What is to become of each file, by the slot's state as it is."""
    key = repo.naming(state.slot.tenant).key
    files = [
        _judge(repo, state, versions_of(readers, state, name, key(name)), (name, place))
        for name, place in wanted.names.items()
    ]
    return [
        replace(file, outcome=Outcome.AWAITED)
        if file.outcome is Outcome.MISSING and file.uid in wanted.awaited
        else file
        for file in files
    ]


def _judge(repo: Repository, state: SlotState, versions: Sequence[Version], named: tuple[str, int]) -> FileErasure:
    name, place = named
    file = FileErasure(place=place, uid=name, slot=str(state.slot), outcome=Outcome.MISSING)
    living = [version for version in versions if not state.is_dead(version.origin)]
    refusal = legal_ground(repo, state, living)
    if refusal is not None:
        return replace(file, outcome=Outcome.REFUSED, refusal=refusal)
    if not versions and name not in state.erased:
        return file
    hidden = replace(file, hidden_until=_last_lock(state, name, versions))
    if living or name not in state.erased:
        # Without living versions: it was readmitted since, which this ends.
        return replace(hidden, outcome=Outcome.PLANNED, versions=tuple(version.origin for version in living))
    return replace(hidden, outcome=Outcome.ALREADY)


def _last_lock(state: SlotState, name: str, versions: Sequence[Version]) -> datetime | None:
    """The end of the last lock over open bytes of the file: in live shards, in copies, in what a repack left behind."""
    if any(shard.keyring for shard in (*state.live(), *state.superseded)):
        return None
    key = uid_key(name)
    ends = [version.shard.lock.until for version in versions]
    ends += [until for version in versions if (until := state.retained_until(version.origin)) is not None]
    ends += [shard.lock.until for shard in state.superseded if shard.may_hold(key)]
    return max(ends, default=None)


_ENDS = {Outcome.PLANNED: Outcome.ERASED, Outcome.AWAITED: Outcome.BARRED}
"""What becomes of files that a tombstone names."""


def _erase_in(repo: Repository, order: Order, slot: OpenSlot, wanted: _Wanted) -> list[FileErasure]:
    log, state, sealed = slot
    readers = ShardReaders(repo)
    erased: dict[str, FileErasure] = {}

    def step() -> list[FileErasure]:
        # Whoever came first may have brought another version, a hold, or erased the file.
        files = {file.uid: file for file in _judged(repo, state, readers, wanted)}
        for chunk in chunks({file.uid: file.versions for file in files.values() if file.outcome in _ENDS}):
            append(repo, log, state, _tombstone(repo, order, chunk))
            erased.update((name, replace(files[name], outcome=_ENDS[files[name].outcome])) for name in chunk)
        return list((files | erased).values())

    files = until_in(log, state, step)
    if not state.erased:
        return files
    if repo.config.encryption is None:
        settle(repo, log, state, sealed)
    drop_inventory(repo, state.slot, max(record.number for record in state.records if record.type == "tombstone"))
    return files


def _tombstone(repo: Repository, order: Order, versions: Mapping[str, Sequence[Origin]]) -> dict[str, Any]:
    return {
        "type": "tombstone",
        "request": order.request,
        "reason": order.reason,
        "actor": repo.workplace.actor,
        "entries": entries_json(versions),
    }
