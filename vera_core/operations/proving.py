"""What proves a shard, a lock or a log: looks at the store that give findings. Shared by verify.py and scrub.py.

Everything is asked anew, by VersionId, through new readers. What is looked at, and what becomes of a finding, is for
these two to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.errors import IncompatibleError, IntegrityError, UnsafeStoreError
from vera_core.format import FileSource, ShardReader
from vera_core.keys.shards import ShardOpener
from vera_core.model import Lock, format_time
from vera_core.operations.commit import satisfies
from vera_core.operations.legal_holds import unheld_shards
from vera_core.operations.lookup import origin_of
from vera_core.operations.report import Finding
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from vera_core.errors import VeraError
    from vera_core.model import Entry
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState

INTEGRITY = "integrity"
WORM_LOCK = "worm_lock"
FINDINGS_SHOWN = 1000
HARMLESS = ("missing", "behind the log")
"""Troubles of a sidecar that cost readers a few requests and nothing else: what crashes leave, and racing writers."""
REPAIR = (
    "Put it back with `vera recover --put-back`, from what is left of it or from a replica; else pack its window again "
    "from the source; else save what is whole with `vera recover`."
)


@dataclass(slots=True)
class Check:
    """A check while it runs."""

    name: str
    checked: int = 0
    findings: list[Finding] = field(default_factory=list)
    failed: int = 0

    def take(self, checked: int, findings: Iterable[Finding]) -> None:
        """Counts things looked at, and what was found."""
        self.checked += checked
        for finding in findings:
            self.failed += finding.severity == "error"
            if len(self.findings) < FINDINGS_SHOWN:
                self.findings.append(finding)

    def result(self) -> CheckResult:
        """As it stands."""
        return CheckResult(
            name=self.name, ok=not self.failed, checked=self.checked, failed=self.failed, findings=tuple(self.findings)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check: what it is called, how many things it looked at, and what it found (the first 1,000).

    `failed` counts the errors among the findings; warnings leave a check `ok`.
    """

    name: str
    ok: bool
    checked: int
    failed: int
    findings: tuple[Finding, ...] = ()


def shard_trouble(repo: Repository, shard: ShardRef, path: Path) -> list[Finding]:
    """Downloads a shard by VersionId to the new file `path` and checks every sum in it; the caller removes the file.

    Of an encrypted shard it also opens every file that was not erased. Damaged entries are named where the index is
    whole.

    Raises:
        UnavailableError: the store can't be reached.
        VeraError: the key service's.
    """
    try:
        repo.store.download(shard.key, path, version_id=shard.version_id)
        with FileSource(path) as source:
            reader = ShardReader.open(source, sealed=bool(shard.keyring))
            return _damage(shard, reader) or (_seal_trouble(repo, shard, reader) if shard.keyring else [])
    except (IntegrityError, IncompatibleError, MissingObjectError) as error:
        return [finding_of(error, shard)]


def keyring_trouble(repo: Repository, shard: ShardRef) -> list[Finding]:
    """Fetches the keyring of a shard anew and opens it; nothing is wrong with that of a shard that is not encrypted.

    Raises:
        UnavailableError: the store can't be reached.
        VeraError: the key service's.
    """
    try:
        if shard.keyring:
            repo.keyrings.fetch(shard)
    except (IntegrityError, IncompatibleError) as error:
        return [finding_of(error)]
    return []


def _seal_trouble(repo: Repository, shard: ShardRef, reader: ShardReader) -> list[Finding]:
    """Opens every file of an encrypted shard that was not erased, with the keyring as it is now."""
    place = repo.keys.parse(shard.key)
    assert place.day is not None
    try:
        keyring = repo.keyrings.fetch(shard).keyring
        tenant = repo.naming(place.tenant).tenant_key
        assert tenant is not None
        opener = ShardOpener(reader, tenant, keyring)
    except (IntegrityError, IncompatibleError) as error:
        return [finding_of(error)]
    # Read after the keyring: a key that is gone from that one was destroyed for a tombstone that is there by now.
    state = repo.slot_log(place.slot(repo.config.routing.n_bits(place.day))).load()
    keyless: list[str] = []

    def opens(entry: Entry) -> bool:
        if state.is_dead(origin_of(shard, entry)):
            return False
        if not opener.holds(entry):
            keyless.append(entry.uid)
            return False
        return True

    found: list[Finding] = []
    try:
        opener.check_all(opens)
    except IntegrityError:
        keyless.clear()
        found += _unopened(shard, opener, filter(opens, reader.entries()))
    if keyless:
        found.append(_lost_keys(repo.keyrings.key_of(shard), keyless))
    return found


def _unopened(shard: ShardRef, opener: ShardOpener, entries: Iterable[Entry]) -> Iterator[Finding]:
    """Every entry that does not open."""
    for entry in entries:
        try:
            opener.check(entry)
        except IntegrityError as error:
            yield finding_of(error, shard, uid=entry.uid)


def _lost_keys(key: str, names: Sequence[str]) -> Finding:
    return Finding(
        what=f"{len(names)} files have no key any more, and were not erased: nobody can read them",
        key=key,
        uid=names[0],
        todo="Find out who replaced the keyring; restore it from a copy, or pack the files again from the source.",
    )


def _damage(shard: ShardRef, reader: ShardReader) -> list[Finding]:
    try:
        found = reader.verify()
    except IntegrityError as error:
        return [finding_of(error, shard), *_damaged_entries(shard, reader)]
    if found.sha256.hex() != shard.sha256:
        return [about(shard, "the shard verifies, but it is not the one that was committed: its SHA-256 differs")]
    if found.entries != shard.entries:
        return [about(shard, f"the shard holds {found.entries} entries, committed were {shard.entries}")]
    return []


def _damaged_entries(shard: ShardRef, reader: ShardReader) -> Iterator[Finding]:
    """Every entry that does not read back; nothing where the index itself is damaged."""
    try:
        for entry in reader.entries():
            try:
                for _ in reader.read_stream(entry):
                    pass
            except IntegrityError as damaged:
                yield finding_of(damaged, shard, uid=entry.uid)
    except IntegrityError as error:
        yield finding_of(error, shard)


def lock_trouble(repo: Repository, key: str, version_id: str, wanted: Lock | None) -> list[Finding]:
    """Asks the store for a version's lock; `wanted` None asks only that there is one that has not ended."""
    try:
        actual = repo.store.get_lock(key, version_id)
    except MissingObjectError as error:
        return [Finding(what=error.what, key=key, version_id=version_id, todo=error.todo)]
    least = wanted or Lock(repo.config.lock_mode, repo.clock.now())
    # A lock that has run its time protects nothing any more and is no fault.
    over = wanted is not None and wanted.until <= repo.clock.now()
    if over or satisfies(actual, least):
        return []
    return [
        Finding(
            what=f"locked {_lock_text(actual)}, must be at least {_lock_text(least)}",
            key=key,
            version_id=version_id,
            todo="Run `vera doctor` to extend it; find out who shortened it.",
        )
    ]


def log_lock_trouble(repo: Repository, log: SlotLog, state: SlotState) -> list[Finding]:
    """Asks for the lock of every record of a slot's log: as long as the slot's longest shard lock."""
    longest = state.longest_lock()
    wanted = None if longest is None else Lock(repo.config.lock_mode, longest)
    return [
        finding
        for record in state.records
        for finding in lock_trouble(repo, log.chain.key_of(record.number), record.version_id, wanted)
    ]


def sidecar_trouble(log: SlotLog, state: SlotState) -> list[Finding]:
    """Compares a slot's sidecar with its whole log, which gave `state`; a warning where that harms nobody."""
    trouble = log.sidecar_trouble(state)
    if trouble and log.refresh(state):
        # Somebody wrote both meanwhile.
        trouble = log.sidecar_trouble(state)
    if not trouble:
        return []
    return [
        Finding(
            what=f"the sidecar is {trouble}",
            key=log.keys.sidecar(log.slot),
            todo="Run `vera doctor` to rebuild it from the log.",
            severity="warning" if trouble in HARMLESS else "error",
        )
    ]


def hold_trouble(repo: Repository, state: SlotState) -> list[Finding]:
    """What is wrong with the S3 legal holds of the shards that cases need; `state` must come from the whole log."""
    try:
        shards = unheld_shards(repo, state)
    except (IntegrityError, UnsafeStoreError) as error:
        return [finding_of(error)]
    return [
        Finding(
            what="a case needs the shard, and the store has no legal hold on it",
            key=shard.key,
            version_id=shard.version_id,
            todo="Run `vera doctor` to set it; find out who lifted it.",
        )
        for shard in shards
    ]


def _lock_text(lock: Lock | None) -> str:
    return "not at all" if lock is None else f"in {lock.mode.value} mode until {format_time(lock.until)}"


def about(shard: ShardRef, what: str) -> Finding:
    """A finding about a shard as a whole."""
    return Finding(what=what, key=shard.key, version_id=shard.version_id, todo=REPAIR)


def finding_of(error: VeraError, shard: ShardRef | None = None, *, uid: str = "") -> Finding:
    """What an error says, as a finding; about `shard` where one is given."""
    repair = shard is not None and not isinstance(error, IncompatibleError)
    return Finding(
        what=error.what,
        key=shard.key if shard is not None else error.where.get("key", ""),
        version_id=shard.version_id if shard is not None else error.where.get("version_id", ""),
        uid=uid or error.where.get("uid", ""),
        todo=REPAIR if repair else error.todo,
    )
