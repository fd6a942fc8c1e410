"""Erasing files from their slots: which may be, and the tombstones that take them from sight (docs/protocol.md).

In an unencrypted repository the bytes of an erased file stay in their shards, hidden from every reader, until the
shards' locks end. Who asked, who approved and what became of it is erasures.py's business, beside this module.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.erasures import Ground, Refusal
from vera_core.errors import ConflictError, VeraError
from vera_core.keyspace import KeyKind
from vera_core.model import Erasability, Lock, format_time
from vera_core.operations.commit import sealed_number, settle
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.routing import uid_key
from vera_core.slotrecords import entries_json
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from vera_core.erasures import Target
    from vera_core.model import Origin, Slot
    from vera_core.operations.lookup import Version
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState

THREADS = 8
"""Slots at once: what they wait for is the store."""
ATTEMPTS = 64
"""Of getting a record into a slot's log: each that is lost was won by somebody else's."""
BACKOFF_SECONDS = 0.05
RECORD_BYTES = 4 << 20
"""Of the uids and versions in one tombstone; a slot with more gets several, and stays far below a record's limit."""


class Outcome(StrEnum):
    """What becomes of a file."""

    PLANNED = "to be erased"
    ERASED = "erased"
    ALREADY = "erased before"
    REFUSED = "refused"
    MISSING = "not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileErasure:
    """What becomes, or became, of one file of a request.

    `place` is its place among the request's files; `versions` are those that are erased by this. `hidden_until` is the
    end of the last lock over bytes of the file: until then nobody can remove them. `refusal` says why not.
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
    targets: Sequence[tuple[int, Target]]

    def by_slot(self, repo: Repository) -> dict[Slot, dict[str, int]]:
        """Uid -> place of each slot's files.

        Raises:
            UsageError: a uid needs a created_at.
        """
        found: defaultdict[Slot, dict[str, int]] = defaultdict(dict)
        for place, target in self.targets:
            found[repo.config.routing.slot(self.tenant, target.uid, target.created_at)][target.uid] = place
        return dict(found)


def plan_erasure(repo: Repository, order: Order, progress: Callable[[int], None] | None = None) -> list[FileErasure]:
    """What erasing would come to now; changes nothing.

    Raises:
        UsageError: a uid needs a created_at.
        IntegrityError: a slot's log or a shard of it can't be read.
    """
    repo.refresh_config()

    def plan(slot: Slot, uids: Mapping[str, int]) -> list[FileErasure]:
        return _judged(repo, repo.slot_log(slot).load(), ShardReaders(repo), uids)

    files, failed = _each_slot(order.by_slot(repo), plan, progress)
    if failed is not None:
        raise failed
    return files


def erase(
    repo: Repository, order: Order, progress: Callable[[int], None] | None = None
) -> tuple[list[FileErasure], VeraError | None]:
    """Erases all that may be: a tombstone in each slot's log, a fresh sidecar, no inventory file that shows the files.

    Safe to run again, and side by side. A slot that fails does not keep the others from being erased: its error comes
    back beside what was done (the first, where several fail). The caller tells the audit, before and after.

    Raises:
        UsageError: a uid needs a created_at; nothing was done.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    repo.writable_config()

    def one(slot: Slot, uids: Mapping[str, int]) -> list[FileErasure]:
        return _erase_in(repo, order, slot, uids)

    return _each_slot(order.by_slot(repo), one, progress)


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


def _each_slot(
    slots: Mapping[Slot, Mapping[str, int]],
    work: Callable[[Slot, Mapping[str, int]], list[FileErasure]],
    progress: Callable[[int], None] | None,
) -> tuple[list[FileErasure], VeraError | None]:
    """Does the work for several slots at once; what it came to in the order of the request, and the first error."""
    done: list[FileErasure] = []
    failed: VeraError | None = None
    with ThreadPoolExecutor(min(THREADS, len(slots)) or 1, thread_name_prefix="vera-erase") as pool:
        futures = [pool.submit(work, slot, uids) for slot, uids in slots.items()]
        try:
            for future in futures:
                try:
                    done += future.result()
                except VeraError as error:
                    failed = failed or error
                if progress is not None:
                    progress(len(done))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return sorted(done, key=lambda item: item.place), failed


def _judged(repo: Repository, state: SlotState, readers: ShardReaders, uids: Mapping[str, int]) -> list[FileErasure]:
    """What is to become of each uid, by the slot's state as it is."""
    return [
        _judge(repo, state, versions_of(readers, state, uid, uid_key(uid)), (uid, place)) for uid, place in uids.items()
    ]


def _judge(repo: Repository, state: SlotState, versions: Sequence[Version], named: tuple[str, int]) -> FileErasure:
    uid, place = named
    file = FileErasure(place=place, uid=uid, slot=str(state.slot), outcome=Outcome.MISSING)
    living = [version for version in versions if not state.is_dead(version.origin)]
    refusal = legal_ground(repo, state, living)
    if refusal is not None:
        return replace(file, outcome=Outcome.REFUSED, refusal=refusal)
    if not versions and uid not in state.erased:
        return file
    hidden = replace(file, hidden_until=_last_lock(state, uid, versions))
    if living or uid not in state.erased:
        # Without living versions: it was readmitted since, which this ends.
        return replace(hidden, outcome=Outcome.PLANNED, versions=tuple(version.origin for version in living))
    return replace(hidden, outcome=Outcome.ALREADY)


def _last_lock(state: SlotState, uid: str, versions: Sequence[Version]) -> datetime | None:
    """The end of the last lock over bytes of the file: in live shards, in copies, in what a repack left behind."""
    key = uid_key(uid)
    ends = [version.shard.lock.until for version in versions]
    ends += [until for version in versions if (until := state.retained_until(version.origin)) is not None]
    ends += [shard.lock.until for shard in state.superseded if shard.may_hold(key)]
    return max(ends, default=None)


def _erase_in(repo: Repository, order: Order, slot: Slot, uids: Mapping[str, int]) -> list[FileErasure]:
    log = repo.slot_log(slot)
    state = log.load()
    sealed = sealed_number(log, state)
    files = _with_tombstones(repo, order, log, state, uids)
    if not state.erased:
        return files
    settle(repo, log, state, sealed)
    _remove_from_inventory(repo, state)
    return files


def _remove_from_inventory(repo: Repository, state: SlotState) -> None:
    """Removes the slot's inventory files that were written before its last tombstone: they may show what it erased.

    The slot is missing from the catalogue until the day is written again.
    """
    last = max(record.number for record in state.records if record.type == "tombstone")
    for info in repo.store.list_versions(repo.keys.inventory_slot_prefix(state.slot)):
        parsed = repo.keys.parse(info.key)
        if parsed.kind is KeyKind.INVENTORY and parsed.number < last:
            repo.store.delete(info.key, version_id=info.version_id)


def _with_tombstones(
    repo: Repository, order: Order, log: SlotLog, state: SlotState, uids: Mapping[str, int]
) -> list[FileErasure]:
    """What became of each uid, once the tombstones are in the log that this takes."""
    readers = ShardReaders(repo)
    erased: dict[int, FileErasure] = {}
    for attempt in range(ATTEMPTS):
        files = {file.place: file for file in _judged(repo, state, readers, uids)}
        planned = [file for file in files.values() if file.outcome is Outcome.PLANNED]
        try:
            for chunk in _chunks(planned):
                _append_tombstone(repo, order, log, state, chunk)
                erased |= {file.place: replace(file, outcome=Outcome.ERASED) for file in chunk}
        except LostAppendError:
            # Whoever was first may have brought another version, a hold, or erased the file: plan again.
            time.sleep(random.uniform(0, BACKOFF_SECONDS) * min(attempt, 10))  # noqa: S311 - to part racers
            log.refresh(state)
        else:
            return list((files | erased).values())
    raise ConflictError(
        f"other writers came first {ATTEMPTS} times",
        todo="Run it again; look at who writes to the slot all the time.", slot=log.slot, request=order.request,
    )  # fmt: skip


def _chunks(files: Sequence[FileErasure]) -> Iterator[list[FileErasure]]:
    """The files of one tombstone each, so that no record is larger than can be read."""
    chunk: list[FileErasure] = []
    size = 0
    for file in files:
        # A JSON text is at most six times as long as its UTF-8; a version is two numbers and what is around them.
        weight = 6 * len(file.uid.encode()) + 32 * (1 + len(file.versions))
        if chunk and size + weight > RECORD_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(file)
        size += weight
    if chunk:
        yield chunk


def _append_tombstone(
    repo: Repository, order: Order, log: SlotLog, state: SlotState, files: Sequence[FileErasure]
) -> None:
    now = repo.clock.now()
    until = repo.record_until(state.longest_lock() or now)
    body = {
        "type": "tombstone",
        "request": order.request,
        "reason": order.reason,
        "actor": repo.workplace.actor,
        "entries": entries_json({file.uid: file.versions for file in files}),
    }
    log.append(state, body, lock=Lock(repo.config.lock_mode, until) if repo.config.locked else None, now=now)
