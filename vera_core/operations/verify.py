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
from vera_core.model import Lock, day_text, format_time
from vera_core.operations.commit import satisfies
from vera_core.operations.freeze import load_frozen
from vera_core.operations.holdings import holdings
from vera_core.operations.lookup import origin_of
from vera_core.operations.pace import at_pace
from vera_core.operations.reconcile import Accounts, Archived, reconcile_part
from vera_core.operations.report import Finding, Report, figure
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from vera_core.errors import VeraError
    from vera_core.model import Entry, Slot
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import Part, ShardRef, SlotState
    from vera_core.source.base import Source, Window

INTEGRITY = "integrity"
WORM_LOCK = "worm_lock"
RECONCILIATION = "reconciliation"
FINDINGS_SHOWN = 1000
REPAIR = "Pack its window again from the source, or restore it from a replica of the bucket."


@dataclass(slots=True)
class _Check:
    """A check while it runs."""

    name: str
    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    failed: int = 0

    def take(self, checked: int, findings: Iterable[Finding]) -> None:
        """Counts things looked at, and what was found."""
        self.checked += checked
        for finding in findings:
            self.failed += 1
            if len(self.findings) < FINDINGS_SHOWN:
                self.findings.append(finding)

    def result(self) -> CheckResult:
        return CheckResult(
            name=self.name, ok=not self.failed, checked=self.checked, failed=self.failed, findings=tuple(self.findings)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check: what it is called, how many things it looked at, and what it found (the first 1,000)."""

    name: str
    ok: bool
    checked: int
    failed: int
    findings: tuple[Finding, ...] = ()


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

    integrity: _Check = field(default_factory=lambda: _Check(INTEGRITY))
    locks: _Check = field(default_factory=lambda: _Check(WORM_LOCK))
    reconciliation: _Check = field(default_factory=lambda: _Check(RECONCILIATION))
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
    """
    began = time.monotonic()
    tally = _Tally()
    with repo.scratch() as scratch:
        frozen = load_frozen(repo, window, scratch)
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

    `progress` gets the number of shards and bytes verified so far.

    Raises:
        UnavailableError: the store can't be reached.
    """
    began = time.monotonic()
    tally = _Tally()
    with repo.scratch() as scratch:
        for slot in slots:
            log = repo.slot_log(slot)
            try:
                state = log.load()
            except (IntegrityError, IncompatibleError) as error:
                tally.integrity.take(1, [_finding(error)])
                continue
            _check_log_locks(repo, log, state, tally)
            for shard in state.live():
                _check_lock(repo, shard.key, shard.version_id, shard.lock, tally)
                if deep:
                    _verify_shard(repo, shard, scratch, tally)
                else:
                    tally.integrity.take(1, _presence(repo, shard))
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
            for entry in ShardReader.open(copy[1]).entries()
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
    findings: list[Finding] = []
    try:
        repo.store.download(shard.key, path, version_id=shard.version_id)
        with FileSource(path) as source:
            findings = _damage(shard, ShardReader.open(source))
    except (IntegrityError, IncompatibleError, MissingObjectError) as error:
        findings.append(_finding(error, shard))
    tally.integrity.take(1, findings)
    if keep and not findings:
        return path
    path.unlink(missing_ok=True)
    return None


def _damage(shard: ShardRef, reader: ShardReader) -> list[Finding]:
    """What a whole pass over the shard finds: the damaged entries by name where the index is whole."""
    try:
        found = reader.verify()
    except IntegrityError as error:
        return [_finding(error, shard), *_damaged_entries(shard, reader)]
    if found.sha256.hex() != shard.sha256:
        return [_at(shard, "the shard verifies, but it is not the one that was committed: its SHA-256 differs")]
    if found.entries != shard.entries:
        return [_at(shard, f"the shard holds {found.entries} entries, committed were {shard.entries}")]
    return []


def _damaged_entries(shard: ShardRef, reader: ShardReader) -> Iterator[Finding]:
    """Every entry that does not read back; nothing where the index itself is damaged."""
    try:
        for entry in reader.entries():
            try:
                for _ in reader.read_stream(entry):
                    pass
            except IntegrityError as damaged:
                yield _finding(damaged, shard, uid=entry.uid)
    except IntegrityError as error:
        yield _finding(error, shard)


def _presence(repo: Repository, shard: ShardRef) -> list[Finding]:
    try:
        size = repo.store.head(shard.key, version_id=shard.version_id).size
    except MissingObjectError as error:
        return [_finding(error, shard)]
    return [] if size == shard.size else [_at(shard, f"the shard has {size} bytes, committed were {shard.size}")]


def _check_lock(repo: Repository, key: str, version_id: str, wanted: Lock | None, tally: _Tally) -> None:
    """Asks the store for a version's lock; `wanted` None asks only that there is one that has not ended."""
    if not repo.config.locked:
        return
    try:
        actual = repo.store.get_lock(key, version_id)
    except MissingObjectError as error:
        tally.locks.take(1, [Finding(what=error.what, key=key, version_id=version_id, todo=error.todo)])
        return
    least = wanted or Lock(repo.config.lock_mode, repo.clock.now())
    bad = not satisfies(actual, least)
    # A lock that has run its time protects nothing any more and is no fault.
    over = wanted is not None and wanted.until <= repo.clock.now()
    findings = [
        Finding(
            what=f"locked {_lock_text(actual)}, must be at least {_lock_text(least)}",
            key=key,
            version_id=version_id,
            todo="Run `vera doctor` to extend it; find out who shortened it.",
        )
    ]
    tally.locks.take(1, findings if bad and not over else [])


def _check_log_locks(repo: Repository, log: SlotLog, state: SlotState, tally: _Tally) -> None:
    longest = state.longest_lock()
    for record in state.records:
        wanted = None if longest is None else Lock(repo.config.lock_mode, longest)
        _check_lock(repo, log.chain.key_of(record.number), record.version_id, wanted, tally)


def _not_compared(part: Part) -> Finding:
    return Finding(
        what=f"rows {part.first} to {part.end} can't be compared with the source: their shard does not verify",
        key="" if part.shard is None else part.shard.key,
        todo=REPAIR,
    )


def _lock_text(lock: Lock | None) -> str:
    return "not at all" if lock is None else f"in {lock.mode.value} mode until {format_time(lock.until)}"


def _at(shard: ShardRef, what: str) -> Finding:
    return Finding(what=what, key=shard.key, version_id=shard.version_id, todo=REPAIR)


def _finding(error: VeraError, shard: ShardRef | None = None, *, uid: str = "") -> Finding:
    return Finding(
        what=error.what,
        key=shard.key if shard is not None else error.where.get("key", ""),
        version_id=shard.version_id if shard is not None else error.where.get("version_id", ""),
        uid=uid or error.where.get("uid", ""),
        todo=error.todo or REPAIR,
    )
