"""Replacing shards of a slot by new ones that hold what lives of them: fetch, build, prove, upload, record, seal.

Which shards are to be replaced, and why, is decided by repack.py and optimize.py. Every step is safe to repeat and to
lose the process in: until the record is there the old shards count, and the new ones are garbage.
"""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vera_core.errors import IntegrityError
from vera_core.format import FileSource, ShardOptions, ShardReader
from vera_core.model import Lock
from vera_core.operations.commit import Finished, roll_forward, seal
from vera_core.operations.legal_holds import sync_legal_holds
from vera_core.operations.living import Shelf
from vera_core.operations.lookup import StoreSource, shard_opener
from vera_core.operations.reshard import Aim, NewShard, prove, reshard
from vera_core.operations.storing import store_shard
from vera_core.operations.supersede import OutrunError, Replacement, supersede
from vera_core.operations.unsealing import KeyGoneError, unsealing
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from vera_core.format.source import RangeSource
    from vera_core.model import Origin, Policy, Slot
    from vera_core.operations.bundles import Bundle, Choose
    from vera_core.operations.inspector import Inspect
    from vera_core.operations.repository import Repository
    from vera_core.operations.reshard import Tell
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState

ATTEMPTS = 5
"""Of replacing shards of a slot: each that is lost was outrun by another writer."""
_REPAIR_FIRST = "Run `vera verify --deep`, and repair it (docs/damaged-shards.md) before this slot is repacked."


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why shards are replaced (the record's `reason`), which ones, and how their files are compressed.

    `shrink`: all files are compressed anew, which is worth it where it saves that part of the bytes; None: only what
    is left out of the new shards, or makes them fewer, is worth it.
    """

    reason: str
    choose: Choose
    policy: Policy
    shrink: float | None = None

    def is_worth(self, old: Sequence[ShardRef], new: Sequence[ShardRef], left_out: Sequence[Origin]) -> bool:
        """Whether replacing these by those gains what it is for."""
        if left_out or len(new) < len(old):
            return True
        before, after = (sum(shard.size for shard in shards) for shards in (old, new))
        return self.shrink is not None and after <= (1 - self.shrink) * before


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """A shard version: where it lies, its bytes and files, and until when it is locked."""

    key: str
    version_id: str
    sha256: str
    size: int
    entries: int
    locked_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """Shards that were replaced, and those in their place; `record` is the number of the repack that says so."""

    slot: str
    retention_class: str
    record: int
    replaced: tuple[ShardPlace, ...]
    shards: tuple[ShardPlace, ...]
    files: int
    left_out: int


@dataclass(slots=True)
class Rewriting:
    """One run that replaces shards for a purpose, in slot after slot."""

    repo: Repository
    purpose: Purpose
    scratch: Path
    inspect: Inspect
    tell: Tell = lambda _versions, _size: None

    def slot(self, slot: Slot) -> Iterator[Rewritten]:
        """Replaces what is to be replaced of a slot now, bundle by bundle; nothing where somebody else was first.

        Raises:
            IntegrityError: a shard that is to be replaced does not verify; nothing of it was changed.
            ConflictError: other writers kept coming first.
        """
        log = self.repo.slot_log(slot)
        state = roll_forward(self.repo, log)
        # What whoever died after the last repack did not come to.
        sync_legal_holds(self.repo, log, state)
        sealed = state.head.number
        useless: set[frozenset[tuple[str, str]]] = set()
        lost = 0
        while True:
            bundles = [bundle for bundle in self.purpose.choose(state) if bundle.names not in useless]
            if not bundles:
                return
            try:
                rewritten = _Bundle(self, log, state, bundles[0], sealed).rewrite()
            except (OutrunError, KeyGoneError) as error:
                # A living file whose key is gone was erased meanwhile, or there is something wrong: the log tells.
                moved = log.refresh(state)
                lost += 1
                if lost == ATTEMPTS or (isinstance(error, KeyGoneError) and not moved):
                    raise
                continue
            if rewritten is None:
                useless.add(bundles[0].names)
            else:
                sealed = state.head.number
                yield rewritten


@dataclass(slots=True)
class _Bundle:
    """A bundle while it is replaced. `state` moves on with the log; everything up to record `sealed` is sealed."""

    job: Rewriting
    log: SlotLog
    state: SlotState
    bundle: Bundle
    sealed: int

    def rewrite(self) -> Rewritten | None:
        """Replaces the bundle; None where there is nothing to gain after all.

        Raises:
            OutrunError: the shards, or what may be left behind of them, are not what they were any more.
        """
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.job.scratch, prefix="repack-")))
            replaced, shelves = self._shelves(stack, scratch)
            alone = len(replaced) == 1 and not any(self.bundle.removable)
            if not replaced or (alone and self.job.purpose.shrink is None):
                return None
            fresh = self._built(replaced, shelves, scratch)
        left_out = [origin for shelf in shelves for origin in shelf.left_out]
        if not self.job.purpose.is_worth(replaced, fresh, left_out):
            return None
        repo = self.job.repo
        replacement = Replacement(self.job.purpose.reason, replaced, fresh, left_out)
        record = supersede(repo, self.log, self.state, replacement)
        seal(repo, self.log, self.state, self.sealed, own=repo.audit.writer)
        sync_legal_holds(repo, self.log, self.state)
        self.log.write_sidecar(self.state, repo.clock.now())
        return Rewritten(
            slot=str(self.state.slot), retention_class=self.bundle.retention_class, record=record,
            replaced=tuple(map(_place, replaced)), shards=tuple(map(_place, fresh)),
            files=sum(shard.entries for shard in fresh), left_out=len(left_out),
        )  # fmt: skip

    def _shelves(self, stack: ExitStack, scratch: Path) -> tuple[list[ShardRef], list[Shelf]]:
        """The shards to replace, open. One big living file alone stays as it is: moving it would gain nothing."""
        replaced: list[ShardRef] = []
        shelves: list[Shelf] = []
        gone = removable_versions(self.state)
        for shard, removable in zip(self.bundle.shards, self.bundle.removable, strict=True):
            source: RangeSource
            if shard.entries == 1 or removable >= shard.entries:
                # Next to nothing of it is needed but the index.
                source = StoreSource(self.job.repo.store, shard)
            else:
                source = stack.enter_context(self._fetched(shard, scratch / f"{len(shelves)}.vera"))
            shelf = open_shelf(self.job.repo, shard, source, (len(shelves), gone))
            if shelf.reader.streamed:
                shelf.more()
                if shelf.kept:
                    continue
            replaced.append(shard)
            shelves.append(shelf)
        return replaced, shelves

    def _fetched(self, shard: ShardRef, path: Path) -> FileSource:
        """A shard, copied to `path`; it has the bytes that its record names.

        Raises:
            IntegrityError: it is gone, or has others.
        """
        repo = self.job.repo
        where = {"bucket": repo.store.bucket, "key": shard.key, "version_id": shard.version_id}
        try:
            repo.store.download(shard.key, path, version_id=shard.version_id)
        except MissingObjectError as error:
            raise IntegrityError("a committed shard is gone from the store", todo=_REPAIR_FIRST, **where) from error
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard.sha256:
            raise IntegrityError("a shard's bytes are not the ones that were committed", todo=_REPAIR_FIRST, **where)
        source = FileSource(path)
        source.where = where
        return source

    def _built(self, replaced: Sequence[ShardRef], shelves: Sequence[Shelf], scratch: Path) -> list[ShardRef]:
        """The new shards, proved and uploaded: while one is, the next is built.

        Raises:
            IntegrityError: what was built does not hold what it must.
        """
        finished: list[Future[tuple[ShardRef, int]]] = []
        with ThreadPoolExecutor(1, thread_name_prefix="vera-repack") as pool:
            for new in reshard(shelves, self._aim(replaced, scratch), self.job.tell):
                if finished:
                    finished[-1].result()
                finished.append(pool.submit(self._finish, new, replaced))
            done = [future.result() for future in finished]
        fresh = [shard for shard, _ in done]
        moved = sum(census for _, census in done), sum(shard.entries for shard in fresh)
        there = sum(shelf.census for shelf in shelves), sum(shelf.kept for shelf in shelves)
        if (moved[0] - there[0]) % (1 << 64) or moved[1] != there[1] or not _complete(replaced, shelves):
            raise IntegrityError(
                "the new shards do not hold what lives of the old ones",
                todo="Nothing was changed. Check this machine's memory, and report it: this is a bug in VERA.",
                slot=self.state.slot,
            )
        return fresh

    def _aim(self, replaced: Sequence[ShardRef], scratch: Path) -> Aim:
        config, purpose = self.job.repo.config, self.job.purpose
        retention = config.retention(self.bundle.retention_class)
        options = ShardOptions(bytes.fromhex(config.repository_id), retention.name, retention.erasability)
        expected = sum(shard.entries for shard in replaced) - sum(self.bundle.removable)
        tenant = self.job.repo.naming(self.state.slot.tenant).tenant_key
        limits = config.part_rows, config.shard_bytes, expected
        return Aim(options, purpose.policy, *limits, scratch, tenant, anew=purpose.shrink is not None)

    def _finish(self, new: NewShard, replaced: Sequence[ShardRef]) -> tuple[ShardRef, int]:
        """Proves and uploads a new shard; how its record will name it, and its census."""
        census = prove(new, self.job.inspect)
        finished = Finished(new.local, new.summary, new.keys, new.keyring)
        place = store_shard(self.job.repo, self.log, self.state, finished, self.bundle.retention_class)
        new.local.path.unlink()
        # What the files' own shards were committed to, and no more: an ended lock stays ended.
        until = max(replaced[number].lock.until for number in new.shelves)
        lock = Lock(self.job.repo.config.lock_mode, until)
        shard = finished.stored_at(place, number=0, retention_class=self.bundle.retention_class, lock=lock)
        return shard, census


def open_shelf(
    repo: Repository, shard: ShardRef, source: RangeSource, place: tuple[int, Mapping[int, NDArray[np.uint64]]]
) -> Shelf:
    """A shard from which versions are taken; `place`: its number among others, and what is left behind of all.

    Raises:
        FormatError: it is damaged.
    """
    reader = ShardReader.open(source, sealed=bool(shard.keyring))
    unseal = unsealing(partial(shard_opener, repo, shard, reader)) if shard.keyring else None
    number, gone = place
    return Shelf(number, reader, shard.number, gone, unseal)


def removable_versions(state: SlotState) -> dict[int, NDArray[np.uint64]]:
    """The ordinals, by commit, of the versions that may be left behind."""
    held = {origin for versions in state.holds.values() for origin in versions}
    gone: dict[int, NDArray[np.uint64]] = {}
    for commit, ordinals in state.dead.items():
        kept = {origin.ordinal for origin in held if origin.commit == commit}
        gone[commit] = np.array(sorted(ordinals - kept), np.uint64)
    return gone


def _complete(replaced: Sequence[ShardRef], shelves: Sequence[Shelf]) -> bool:
    """Whether every entry that the records promise was moved or left behind."""
    return all(
        shelf.kept + len(shelf.left_out) == shard.entries for shard, shelf in zip(replaced, shelves, strict=True)
    )


def _place(shard: ShardRef) -> ShardPlace:
    return ShardPlace(shard.key, shard.version_id, shard.sha256, shard.size, shard.entries, shard.lock.until)
