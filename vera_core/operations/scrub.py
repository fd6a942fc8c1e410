"""`vera scrub`: reads a share of the shards, the longest unproved first, and proves them, their locks and their logs.

So that rot on disks, lost locks and strangers are found while a replica or the source can still help. What is read next
is scrub_plan.py's business, what a look finds proving.py's, where proofs are kept proofs.py's (docs/protocol.md,
"Scrub"). Nothing is repaired here, and nobody is kept from reading what is whole.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vera_core.errors import IncompatibleError, IntegrityError, UnavailableError
from vera_core.model import parse_time
from vera_core.operations.keyring_proof import look_at_keyring
from vera_core.operations.pace import at_pace
from vera_core.operations.proofs import Place, Proof, look, read_proofs, record_proofs
from vera_core.operations.proving import (
    INTEGRITY,
    WORM_LOCK,
    Check,
    finding_of,
    hold_trouble,
    lock_trouble,
    log_lock_trouble,
    shard_trouble,
    sidecar_trouble,
)
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.repository import SHORT_LOCK
from vera_core.operations.scrub_plan import check_store
from vera_core.operations.verify import VerifyReport
from vera_core.operations.walk import days, tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.operations.proofs import Name
    from vera_core.operations.repository import Repository
    from vera_core.operations.scrub_plan import ScrubLine, ScrubPlan
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState

SLOT_LOG = "slot_log"
SIDECAR = "sidecar"
LEGAL_HOLD = "legal_hold"
KEYRING = "keyring"
CHECKS = (INTEGRITY, WORM_LOCK, LEGAL_HOLD, SLOT_LOG, SIDECAR, KEYRING)
TELL_SECONDS = 60.0
"""What a killed scrub loses at most, and reads again, of what it proved; besides the shard at hand."""
TELL_PROOFS = 1000
LOOK_SECONDS = 30.0
"""How old what is known of other scrubs may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubReport(VerifyReport):
    """What a scrub looked at and what it found."""

    passed_over: int = figure("shards superseded, or proved by others meanwhile", "objects")
    rate: float = figure("speed", "bytes/s")


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageReport(Report):
    """What scrubs found damaged, and did not find whole since: live shards, and slot logs (without VersionId)."""

    damaged: tuple[Proof, ...] = ()
    shards: int = figure("damaged shards", "objects")
    logs: int = figure("damaged slot logs")
    failures: int = figure("findings")


@at_pace()
def execute_scrub(
    repo: Repository, plan: ScrubPlan, *, progress: Callable[[int, int, int], None] | None = None
) -> ScrubReport:
    """Reads the shards of the plan that still count and that nobody proved since; safe side by side.

    What was proved is told to the audit, and to other scrubs, once a minute and at the end. `progress` gets the shards
    done, those there are, and the bytes read.

    Raises:
        UnavailableError: the store can't be reached; what was told stays told.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    repo.writable_config()
    by_slot: defaultdict[Slot, list[ScrubLine]] = defaultdict(list)
    for line in plan.lines:
        by_slot[line.slot].append(line)
    # Where racers begin is left to chance, so that they meet as late as can be.
    start = random.randrange(len(plan.slots_due) or 1)  # noqa: S311
    with repo.scratch() as scratch:
        run = _Scrub(repo, plan, scratch, progress)
        for slot in [*plan.slots_due[start:], *plan.slots_due[:start]]:
            run.slot(slot, by_slot[slot])
        run.tell()
    return run.report(time.monotonic() - began)


@dataclass(slots=True)
class _Scrub:
    """A scrub while it runs."""

    repo: Repository
    plan: ScrubPlan
    scratch: Path
    progress: Callable[[int, int, int], None] | None
    checks: dict[str, Check] = field(default_factory=lambda: {name: Check(name) for name in CHECKS})
    shards: int = 0
    entries: int = 0
    read_bytes: int = 0
    passed_over: int = 0
    looks: list[Proof] = field(default_factory=list)
    gone: list[Name] = field(default_factory=list)
    told: float = field(default_factory=time.monotonic)
    known: tuple[Place, float, dict[Name, Proof]] | None = None

    def slot(self, slot: Slot, lines: Sequence[ScrubLine]) -> None:
        """Looks at a slot's log, locks, holds and sidecar, and reads those of its shards."""
        known = self._known(slot)
        due = [line for line in lines if not _was_read_since(line, known.get(line.name))]
        self.passed_over += len(lines) - len(due)
        if lines and not due:
            return
        log = self.repo.slot_log(slot)
        state = self._log(log)
        if state is None:
            self._unproved(due)
            return
        live = {(shard.key, shard.version_id): shard for shard in state.live()}
        prefix = self.repo.keys.slot_prefix(slot)
        self.gone += [name for name in known if name[1] and name[0].startswith(prefix) and name not in live]
        for line in due:
            shard = live.get(line.name)
            if shard is None:
                self.passed_over += 1
            else:
                self._shard(shard, unsettled=_is_unsettled(self.repo, state))
            if len(self.looks) >= TELL_PROOFS or time.monotonic() - self.told >= TELL_SECONDS:
                self.tell()

    def tell(self) -> None:
        """Tells of what was looked at since the last time."""
        if self.looks or self.gone:
            record_proofs(self.repo, self.looks, self.gone)
        self.looks, self.gone, self.told = [], [], time.monotonic()

    def report(self, seconds: float) -> ScrubReport:
        """What it came to."""
        checks = tuple(check.result() for check in self.checks.values())
        return ScrubReport(
            ok=all(check.ok for check in checks), checks=checks, scope=self.repo.uri, shards=self.shards,
            entries=self.entries, verified_bytes=self.read_bytes, locks=self.checks[WORM_LOCK].checked,
            failures=sum(check.failed for check in checks), passed_over=self.passed_over,
            rate=self.read_bytes / seconds if seconds else 0.0, seconds=seconds,
        )  # fmt: skip

    def _known(self, slot: Slot) -> dict[Name, Proof]:
        """The proofs of the slot's day, as of half a minute ago at the latest."""
        place = Place(slot.tenant, slot.day)
        if self.known is None or self.known[0] != place or time.monotonic() - self.known[1] > LOOK_SECONDS:
            self.known = place, time.monotonic(), read_proofs(self.repo, place)
        return self.known[2]

    def _log(self, log: SlotLog) -> SlotState | None:
        """Proves a slot's log and what belongs to it; None if the log can't be read: then none of its shards is."""
        read = self.repo.clock.now()
        name = self.repo.keys.log_prefix(log.slot), ""
        try:
            state = log.load()
        except (IntegrityError, IncompatibleError) as error:
            self.looks.append(look(name, read, self._take(SLOT_LOG, 1, [finding_of(error)])))
            return None
        except UnavailableError as error:
            self.looks.append(look(name, read, self._take(SLOT_LOG, 1, [self._withheld(error, name)])))
            return None
        self._take(SLOT_LOG, len(state.records), [])
        found = self._take(SIDECAR, 1, sidecar_trouble(log, state))
        found += self._take(LEGAL_HOLD, sum(map(len, state.held().values())), hold_trouble(self.repo, state))
        if self.repo.config.locked:
            locks = _settled(log_lock_trouble(self.repo, log, state), unsettled=_is_unsettled(self.repo, state))
            found += self._take(WORM_LOCK, len(state.records), locks)
        self.looks.append(look(name, read, found))
        return state

    def _unproved(self, lines: Sequence[ScrubLine]) -> None:
        """Notes shards of a slot whose log can't be read: so they neither pass for proved nor keep others waiting."""
        read = self.repo.clock.now()
        for line in lines:
            finding = Finding(
                what="the shard can't be proved: its slot's log does not verify",
                key=line.key, version_id=line.version_id,
                todo="Put the log right first: the finding about it says how.",
            )  # fmt: skip
            self.looks.append(look(line.name, read, self._take(INTEGRITY, 1, [finding])))

    def _shard(self, shard: ShardRef, *, unsettled: bool) -> None:
        read, began = self.repo.clock.now(), time.monotonic()
        keyring, found = self._keyring(shard, unsettled=unsettled)
        path = self.scratch / f"scrub-{self.shards}.vera"
        try:
            trouble = shard_trouble(self.repo, shard, path)
        except UnavailableError as error:
            trouble = [self._withheld(error, (shard.key, shard.version_id))]
        found += self._take(INTEGRITY, 1, trouble)
        path.unlink(missing_ok=True)
        if self.repo.config.locked:
            found += self._take(WORM_LOCK, 1, _shard_lock_trouble(self.repo, shard, unsettled=unsettled))
        if not found or any(finding.severity == "error" for finding in found):
            # With warnings alone it is neither proved nor damaged yet: the next scrub decides.
            proof = look((shard.key, shard.version_id), read, found)
            seconds = time.monotonic() - began
            self.looks.append(replace(proof, size=shard.size, seconds=seconds, keyring=keyring))
        self.shards += 1
        self.entries += shard.entries
        self.read_bytes += shard.size
        if self.progress is not None:
            self.progress(self.shards + self.passed_over, len(self.plan.lines), self.read_bytes)

    def _keyring(self, shard: ShardRef, *, unsettled: bool) -> tuple[int, list[Finding]]:
        """Proves the keyring of an encrypted shard: its revision, and what was found."""
        if not shard.keyring:
            return 0, []
        seen = look_at_keyring(self.repo, shard)
        return seen.revision, self._take(KEYRING, 1, _settled(seen.locks, unsettled=unsettled) + seen.findings)

    def _withheld(self, error: UnavailableError, name: Name) -> Finding:
        """A finding about an object that the store does not give, though it gives others: a disk may be dying."""
        check_store(self.repo)
        return Finding(
            what=f"the store is there, but does not give this: {error.what}",
            key=error.where.get("key", name[0]), version_id=name[1],
            todo="Look at the disks of the store, and run `vera scrub` again, which looks at this again.",
        )  # fmt: skip

    def _take(self, check: str, count: int, findings: list[Finding]) -> list[Finding]:
        self.checks[check].take(count, findings)
        return findings


def _was_read_since(line: ScrubLine, proof: Proof | None) -> bool:
    """Whether somebody looked at a shard after the plan was made."""
    return proof is not None and (line.read is None or proof.read > line.read)


def _is_unsettled(repo: Repository, state: SlotState) -> bool:
    """Whether somebody may be about to extend the locks of what was committed last (docs/protocol.md, "Pack", seal)."""
    return repo.clock.now() - parse_time(state.records[-1].body["time"]) < SHORT_LOCK


def _settled(findings: list[Finding], *, unsettled: bool) -> list[Finding]:
    """Findings about locks; as long as the slot is unsettled they may be nothing but a packer at work."""
    return [replace(finding, severity="warning") for finding in findings] if unsettled else findings


def _shard_lock_trouble(repo: Repository, shard: ShardRef, *, unsettled: bool) -> list[Finding]:
    trouble = lock_trouble(repo, shard.key, shard.version_id, shard.lock)
    if trouble and unsettled:
        # Uploads are locked, if for a day only: one without any lock waits for nobody.
        return lock_trouble(repo, shard.key, shard.version_id, None) or _settled(trouble, unsettled=True)
    return trouble


def list_damage(
    repo: Repository,
    *,
    tenant: str | None = None,
    span: tuple[date | None, date | None] = (None, None),
) -> DamageReport:
    """What scrubs of one tenant, or of all, found damaged in the days from the first of `span` to the last.

    Two requests a day, and two for each slot with damage: what counts no more is left out.

    Raises:
        UnavailableError: the store can't be reached.
    """
    began = time.monotonic()
    repo.refresh_config()
    damaged: list[Proof] = []
    for name in [tenant] if tenant is not None else tenants(repo):
        for day in days(repo, name, first=span[0], last=span[1]):
            damaged += _damaged(repo, Place(name, day))
    shards = sum(bool(proof.version_id) for proof in damaged)
    return DamageReport(
        ok=not damaged, damaged=tuple(damaged), shards=shards, logs=len(damaged) - shards,
        failures=sum(proof.failures for proof in damaged), seconds=time.monotonic() - began,
    )  # fmt: skip


def _damaged(repo: Repository, place: Place) -> Iterator[Proof]:
    found = [proof for proof in read_proofs(repo, place).values() if proof.failures]
    live: dict[str, set[Name] | None] = {}
    for proof in found:
        if not proof.version_id:
            yield proof
            continue
        slot = repo.keys.parse(proof.key).slot(repo.config.routing.n_bits(place.day))
        prefix = repo.keys.slot_prefix(slot)
        if prefix not in live:
            live[prefix] = _live(repo, slot)
        names = live[prefix]
        if names is None or proof.name in names:
            yield proof


def _live(repo: Repository, slot: Slot) -> set[Name] | None:
    """The live shards of a slot; None where its log does not say."""
    try:
        return {(shard.key, shard.version_id) for shard in repo.slot_log(slot).current().live()}
    except (IntegrityError, IncompatibleError):
        return None
