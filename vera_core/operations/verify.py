"""Proving the archive: integrity of every byte, locks of every VersionId, and agreement of source and archive.

Everything is asked of the store anew, by VersionId, through new readers; nothing that packing remembered is trusted.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.format import FileSource, ShardReader
from vera_core.model import day_text
from vera_core.operations.freeze import load_frozen, with_rows
from vera_core.operations.holdings import holdings
from vera_core.operations.lookup import origin_of
from vera_core.operations.pace import at_pace
from vera_core.operations.proving import (
    INTEGRITY,
    REPAIR,
    WORM_LOCK,
    Check,
    CheckResult,
    about,
    finding_of,
    hold_trouble,
    keyring_trouble,
    lock_trouble,
    log_lock_trouble,
    shard_trouble,
)
from vera_core.operations.reconcile import Accounts, Archived, reconcile_part
from vera_core.operations.report import Finding, Report, figure
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from vera_core.model import Entry, Lock, Slot
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import Part, ShardRef, SlotState
    from vera_core.source.base import Source, Window

RECONCILIATION = "reconciliation"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport(Report):
    """What a verification looked at and what it found."""

    checks: tuple[CheckResult, ...]
    scope: str
    shards: int = figure("shards", "objects")
    entries: int = figure("files", "files")
    verified_bytes: int = figure("bytes read and verified", "bytes")
    locks: int = figure("locks asked")
    failures: int = figure("findings")

    def check(self, name: str) -> CheckResult:
        """The check of that name."""
        return next(check for check in self.checks if check.name == name)


@dataclass(slots=True)
class _Tally:
    """The three checks and the sums over them."""

    integrity: Check = field(default_factory=lambda: Check(INTEGRITY))
    locks: Check = field(default_factory=lambda: Check(WORM_LOCK))
    reconciliation: Check = field(default_factory=lambda: Check(RECONCILIATION))
    shards: int = 0
    entries: int = 0
    verified_bytes: int = 0

    def report(self, scope: str, began: float, names: tuple[str, ...]) -> VerifyReport:
        every = {check.name: check.result() for check in (self.integrity, self.locks, self.reconciliation)}
        checks = tuple(every[name] for name in names)
        return VerifyReport(
            ok=all(check.ok for check in checks), checks=checks, scope=scope, shards=self.shards, entries=self.entries,
            verified_bytes=self.verified_bytes, locks=self.locks.checked,
            failures=sum(check.failed for check in checks), seconds=time.monotonic() - began,
        )  # fmt: skip


@at_pace()
def verify_window(repo: Repository, source: Source, window: Window) -> VerifyReport:
    """Verifies one revision of a window: every shard whole, every lock, and every row against the source.

    Raises:
        UnavailableError: store or source can't be reached; nothing is said about the window then.
        NotFoundError: the window's revision was never frozen.
        VeraError: the key service's.
    """
    began = time.monotonic()
    tally = _Tally()
    with repo.scratch() as scratch:
        frozen = with_rows(repo, source, load_frozen(repo, window, scratch), scratch)
        _check_lock(repo, frozen.key, frozen.version_id, None, tally)
        for segment in frozen.manifest.segments:
            log = repo.slot_log(segment.slot)
            state = log.load()
            _check_log_locks(repo, log, state, tally)
            accounts = Accounts(segment.first)
            lies = holdings(state)
            with closing(_Copies(repo, scratch, tally)) as copies:
                for part in state.covered(frozen.digest):
                    if segment.first <= part.first < segment.end:
                        tally.reconciliation.take(part.end - part.first, accounts.take(part))
                        entries = copies.entries(lies.shards_with(state, part.number), part.number)
                        if entries is None:
                            tally.reconciliation.take(0, [_not_compared(part)])
                        else:
                            side = Archived(state, lies, part, entries)
                            tally.reconciliation.take(0, reconcile_part(repo, source, frozen, side))
            tally.reconciliation.take(0, accounts.close(segment.end))
    scope = f"{window.source}/{window.tenant}/{day_text(window.day)}/{window.revision}"
    return tally.report(scope, began, (INTEGRITY, WORM_LOCK, RECONCILIATION))


@at_pace()
def verify_slots(
    repo: Repository,
    slots: Iterable[Slot],
    *,
    deep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Verifies slots without a source: logs, locks and that every shard is there; `deep` reads every byte as well.

    Of encrypted shards the keyrings are opened, and with `deep` every file. `progress` gets the number of shards and
    bytes verified so far.

    Raises:
        UnavailableError: the store can't be reached.
        VeraError: the key service's: nothing is said about what it would have opened.
    """
    began = time.monotonic()
    tally = _Tally()
    with repo.scratch() as scratch:
        for slot in slots:
            log = repo.slot_log(slot)
            try:
                state = log.load()
            except (IntegrityError, IncompatibleError) as error:
                tally.integrity.take(1, [finding_of(error)])
                continue
            _check_log_locks(repo, log, state, tally)
            tally.locks.take(0, hold_trouble(repo, state))
            for shard in state.live():
                _check_lock(repo, shard.key, shard.version_id, shard.lock, tally)
                if deep:
                    _verify_shard(repo, shard, scratch, tally)
                else:
                    tally.integrity.take(1, [*_presence(repo, shard), *keyring_trouble(repo, shard)])
                    tally.shards += 1
                if not state.is_copy(shard):
                    # The files of a copy lie in other shards too.
                    tally.entries += shard.entries
                if progress is not None:
                    progress(tally.shards, tally.verified_bytes)
    return tally.report(repo.uri, began, (INTEGRITY, WORM_LOCK))


class _Copies:
    """Local copies of shards, each downloaded anew and verified once for the parts that follow each other in it."""

    def __init__(self, repo: Repository, scratch: Path, tally: _Tally) -> None:
        self._repo = repo
        self._scratch = scratch
        self._tally = tally
        self._open: dict[str, tuple[Path, FileSource] | None] = {}

    def entries(self, shards: Sequence[ShardRef], commit: int) -> Iterator[Entry] | None:
        """The entries of a commit in these shards; None if one of them is not whole."""
        wanted = {shard.version_id for shard in shards}
        for version_id in self._open.keys() - wanted:
            self._close(version_id)
        for shard in shards:
            if shard.version_id not in self._open:
                self._open[shard.version_id] = self._verified(shard)
        opened = [(shard, self._open[shard.version_id]) for shard in shards]
        if any(copy is None for _, copy in opened):
            return None
        return (
            entry
            for shard, copy in opened
            if copy is not None
            for entry in ShardReader.open(copy[1], sealed=bool(shard.keyring)).entries()
            if origin_of(shard, entry).commit == commit
        )

    def close(self) -> None:
        """Removes all."""
        for version_id in list(self._open):
            self._close(version_id)

    def _verified(self, shard: ShardRef) -> tuple[Path, FileSource] | None:
        _check_lock(self._repo, shard.key, shard.version_id, shard.lock, self._tally)
        path = _verify_shard(self._repo, shard, self._scratch, self._tally, keep=True)
        self._tally.entries += shard.entries
        return None if path is None else (path, FileSource(path))

    def _close(self, version_id: str) -> None:
        copy = self._open.pop(version_id)
        if copy is not None:
            copy[1].close()
            copy[0].unlink()


def _verify_shard(
    repo: Repository, shard: ShardRef, scratch: Path, tally: _Tally, *, keep: bool = False
) -> Path | None:
    """Downloads a shard by VersionId and checks every sum in it; returns the copy if it is whole and to be kept."""
    path = scratch / f"verify-{shard.sha256[:16]}-{tally.shards}.vera"
    tally.shards += 1
    tally.verified_bytes += shard.size
    findings = shard_trouble(repo, shard, path)
    tally.integrity.take(1, findings)
    if keep and not findings:
        return path
    path.unlink(missing_ok=True)
    return None


def _presence(repo: Repository, shard: ShardRef) -> list[Finding]:
    try:
        size = repo.store.head(shard.key, version_id=shard.version_id).size
    except MissingObjectError as error:
        return [finding_of(error, shard)]
    return [] if size == shard.size else [about(shard, f"the shard has {size} bytes, committed were {shard.size}")]


def _check_lock(repo: Repository, key: str, version_id: str, wanted: Lock | None, tally: _Tally) -> None:
    if repo.config.locked:
        tally.locks.take(1, lock_trouble(repo, key, version_id, wanted))


def _check_log_locks(repo: Repository, log: SlotLog, state: SlotState, tally: _Tally) -> None:
    if repo.config.locked:
        tally.locks.take(len(state.records), log_lock_trouble(repo, log, state))


def _not_compared(part: Part) -> Finding:
    return Finding(
        what=f"rows {part.first} to {part.end} can't be compared with the source: their shard does not verify",
        key="" if part.shard is None else part.shard.key,
        todo=REPAIR,
    )
