"""Work on the slots of many files: which file lies where, several slots at once, records planned until they are in.

What is planned and appended is the business of the operations that use this.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from vera_core.erasures import NamedTarget
from vera_core.errors import ConflictError, VeraError
from vera_core.keyspace import KeyKind
from vera_core.model import Lock
from vera_core.operations.commit import sealed_number
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from vera_core.erasures import AnyTarget, Target
    from vera_core.model import Origin, Slot
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState
    from vera_core.store.chain import Record

THREADS = 8
"""Slots at once: what they wait for is the store."""
ATTEMPTS = 64
"""Of getting a record into a slot's log: each that is lost was won by somebody else's."""
BACKOFF_SECONDS = 0.05
RECORD_BYTES = 4 << 20
"""Of the uids and versions in one record; a slot with more gets several, and stays far below a record's limit."""

T = TypeVar("T")
R = TypeVar("R")


class OpenSlot(NamedTuple):
    """A slot's log with its state, from the whole log, and the record up to which everything is sealed."""

    log: SlotLog
    state: SlotState
    sealed: int


def open_slot(repo: Repository, slot: Slot) -> OpenSlot:
    """Reads a slot's log.

    Raises:
        IntegrityError, IncompatibleError: it can't be trusted.
    """
    log = repo.slot_log(slot)
    state = log.load()
    return OpenSlot(log, state, sealed_number(log, state))


def by_slot(repo: Repository, tenant: str, targets: Iterable[Target]) -> dict[Slot, dict[str, str]]:
    """The files of each slot: what the slot calls them, and the uids that were asked for.

    Raises:
        UsageError: a uid needs a created_at.
        NotFoundError: the repository is encrypted, and nothing of the tenant was ever archived.
        VeraError: the key service's.
    """
    found: defaultdict[Slot, dict[str, str]] = defaultdict(dict)
    for target in targets:
        slot, name = place_of(repo, tenant, target)
        found[slot][name] = target.uid
    return dict(found)


def place_of(repo: Repository, tenant: str, target: AnyTarget) -> tuple[Slot, str]:
    """The slot of a file, and its name there.

    Raises:
        UsageError, NotFoundError, VeraError: as `by_slot`.
    """
    if isinstance(target, NamedTarget):
        return target.slot, target.name
    slot = repo.config.routing.slot(tenant, target.uid, target.created_at)
    return slot, repo.naming(tenant).name(target.uid)


def each_slot(
    slots: Mapping[Slot, T],
    work: Callable[[Slot, T], Sequence[R]],
    progress: Callable[[int], None] | None = None,
) -> tuple[list[R], VeraError | None]:
    """Does the work for several slots at once: what it came to, in the order of the slots, and the first error.

    A slot that fails does not keep the others. `progress` gets the number of results so far.
    """
    done: list[R] = []
    failed: VeraError | None = None
    with ThreadPoolExecutor(min(THREADS, len(slots)) or 1, thread_name_prefix="vera-slot") as pool:
        futures = [pool.submit(work, slot, what) for slot, what in slots.items()]
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
    return done, failed


def until_in(log: SlotLog, state: SlotState, step: Callable[[], R]) -> R:
    """Runs `step`, which plans on `state` and appends; again on the refreshed state whenever another record came first.

    Raises:
        ConflictError: others came first all the time.
    """
    for attempt in range(ATTEMPTS):
        try:
            return step()
        except LostAppendError:
            time.sleep(random.uniform(0, BACKOFF_SECONDS) * min(attempt, 10))  # noqa: S311 - to part racers
            log.refresh(state)
    raise ConflictError(
        f"other writers came first {ATTEMPTS} times",
        todo="Run it again; look at who writes to the slot all the time.", slot=log.slot,
    )  # fmt: skip


def append(
    repo: Repository, log: SlotLog, state: SlotState, body: Mapping[str, Any], *, needed: datetime | None = None
) -> Record:
    """Appends a record that stays locked as long as any shard of the slot, and until `needed`.

    Raises:
        LostAppendError: another record came first.
    """
    now = repo.clock.now()
    until = repo.record_until(max(state.longest_lock() or now, needed or now))
    return log.append(state, body, lock=Lock(repo.config.lock_mode, until) if repo.config.locked else None, now=now)


def chunks(versions: Mapping[str, Sequence[Origin]]) -> Iterator[dict[str, Sequence[Origin]]]:
    """The versions of one record each, so that none is larger than can be read."""
    chunk: dict[str, Sequence[Origin]] = {}
    size = 0
    for uid, origins in versions.items():
        # A JSON text is at most six times as long as its UTF-8; a version is two numbers and what is around them.
        weight = 6 * len(uid.encode()) + 32 * (1 + len(origins))
        if chunk and size + weight > RECORD_BYTES:
            yield chunk
            chunk, size = {}, 0
        chunk[uid] = origins
        size += weight
    if chunk:
        yield chunk


def drop_inventory(repo: Repository, slot: Slot, number: int) -> None:
    """Removes the slot's inventory files that were written before record `number`: they may show what it took away.

    The slot is missing from the catalogue until the day is written again.
    """
    for info in repo.store.list_versions(repo.keys.inventory_slot_prefix(slot)):
        parsed = repo.keys.parse(info.key)
        if parsed.kind is KeyKind.INVENTORY and parsed.number < number:
            repo.store.delete(info.key, version_id=info.version_id)
