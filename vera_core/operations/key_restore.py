"""Bringing the places that keep keys into agreement: each gets what it lacks, from one that has it.

Where a place has no keyring of a shard, a damaged, hidden or older one, it gets the newest of all places, once the KEK
has opened it and its revision is what the slot's log asks for. So nothing that was erased comes back: a lower revision
is never put anywhere. What lies below a newer revision is purged by erasures (`vera erasures destroy`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IntegrityError, RestrictedError, VeraError
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.keys.tenant import TenantKey
from vera_core.operations.audited import audited
from vera_core.operations.commit import keyring_lock
from vera_core.operations.key_objects import look_under, tenants_in
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.slotwise import each_slot
from vera_core.operations.walk import all_slots
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vera_core.keys.envelope import Envelope
    from vera_core.keys.keyring import Keyring
    from vera_core.model import Lock, Slot
    from vera_core.operations.key_objects import KeyLook, KeyObject
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef

SLOTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreLine:
    """A key that one place lacks and another one has. `why` says what is there instead; `done` that it was put there.

    `slot` is None for a tenant key.
    """

    place: str
    key: str
    source: str
    why: str
    revision: int
    tenant: str
    slot: Slot | None = None
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport(Report):
    """What was put back, or in a plan would be. `findings` are what can't be."""

    lines: tuple[RestoreLine, ...] = ()
    findings: tuple[Finding, ...] = ()
    shards: int = figure("encrypted shards", "objects")
    missing: int = figure("keys to put back", "objects")
    restored: int = figure("put back", "objects")
    lost: int = figure("that no place has", "objects")


class _Part(NamedTuple):
    """What one slot, or one tenant, came to."""

    lines: list[RestoreLine]
    findings: list[Finding]
    shards: int = 0
    lost: int = 0


def plan_restore(
    repo: Repository, *, tenant: str | None = None, progress: Callable[[int], None] | None = None
) -> RestoreReport:
    """What each place lacks, of one tenant or of all; changes nothing. `progress` gets the number of slots done.

    Raises:
        UnavailableError: a place, or the key service, can't be reached.
        UsageError: the repository is not encrypted, or its key service is not configured.
    """
    return _Restoring(repo, put=False).run(tenant, progress)


def execute_restore(
    repo: Repository, plan: RestoreReport, *, progress: Callable[[int], None] | None = None
) -> RestoreReport:
    """Puts back what `plan` found missing, as things are now. Run again after a crash it goes on.

    Raises:
        UnavailableError, UsageError: as `plan_restore`.
    """
    if not plan.lines:
        return plan
    repo.writable_config()
    with audited(repo, "restore-keys", {"keys": plan.missing}) as outcome:
        tenants = {line.tenant for line in plan.lines}
        slots = {line.slot for line in plan.lines if line.slot is not None}
        report = _Restoring(repo, put=True).run(None, progress, only=(tenants, slots))
        outcome.update(restored=report.restored, lost=report.lost)
    return report


@dataclass(slots=True)
class _Restoring:
    """A look at the places, and with `put` what follows from it."""

    repo: Repository
    put: bool
    repository_id: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.repository_id = bytes.fromhex(self.repo.config.repository_id)

    def run(
        self,
        tenant: str | None,
        progress: Callable[[int], None] | None,
        only: tuple[set[str], set[Slot]] | None = None,
    ) -> RestoreReport:
        """Looks at tenant keys and slots; of `only` those where it is given."""
        began = time.monotonic()
        self.repo.refresh_config()
        self.repo.encryption()
        names = {name for place in self.repo.key_places() for name in tenants_in(place)} if tenant is None else {tenant}
        parts = [self.tenant_key(name) for name in sorted(names if only is None else names & only[0])]
        done = 0
        for slots in _batches(all_slots(self.repo, tenant=tenant) if only is None else iter(sorted(only[1], key=str))):
            found, failed = each_slot(dict.fromkeys(slots), lambda slot, _: [self.slot(slot)])
            if failed is not None:
                raise failed
            parts += found
            done += len(slots)
            if progress is not None:
                progress(done)
        lines = [line for part in parts for line in part.lines]
        findings = tuple(finding for part in parts for finding in part.findings)
        return RestoreReport(
            ok=not findings and (not self.put or all(line.done for line in lines)),
            lines=tuple(lines), findings=findings, shards=sum(part.shards for part in parts), missing=len(lines),
            restored=sum(line.done for line in lines), lost=sum(part.lost for part in parts),
            seconds=time.monotonic() - began,
        )  # fmt: skip

    def tenant_key(self, tenant: str) -> _Part:
        """The tenant key in every place: that of the repository's own bucket counts, else that of all copies."""
        repo = self.repo
        looks = [look_under(self.repo, place, place.keys.tenant_key(tenant)) for place in repo.key_places()]
        holders = [seen for seen in looks if seen.envelope is not None]
        if not holders:
            return _Part([], [])
        chosen = holders[0]
        assert chosen.envelope is not None
        other = [seen for seen in holders if not seen.holds(chosen)]
        if other and chosen is not looks[0]:
            what = f"the copies hold different keys of tenant {tenant}, and the repository's own bucket has none"
            return _Part([], [Finding(what=what, key=chosen.object.parsed.key, todo="Remove the copy that is wrong.")])
        todo = "Remove that copy, and register another one."
        findings = [
            Finding(what=f"a copy holds another key of tenant {tenant}", key=_where(seen), todo=todo) for seen in other
        ]
        TenantKey.open(repo.key_service(), self.repository_id, tenant, chosen.envelope.encode())
        behind = [(seen, _why(seen, chosen)) for seen in looks if seen not in other]
        lock = repo.tenant_key_lock()
        return _Part([self._mended(seen, chosen, (why, lock), None) for seen, why in behind if why], findings)

    def slot(self, slot: Slot) -> _Part:
        """The keyrings of a slot's shards in every place."""
        try:
            state = self.repo.slot_log(slot).load()
        except IntegrityError as error:
            return _Part([], [Finding(what=error.what, key=str(slot), todo=error.todo)])
        part = _Part([], [])
        shards = [shard for shard in [*state.live(), *state.superseded] if shard.keyring]
        for shard in shards:
            more = self._keyring(slot, shard, live=shard not in state.superseded)
            part = _Part(part.lines + more.lines, part.findings + more.findings, len(shards), part.lost + more.lost)
        return part

    def _keyring(self, slot: Slot, shard: ShardRef, *, live: bool) -> _Part:
        """One shard's keyring in every place. Of a superseded shard that was deleted none is needed."""
        looks = [look_under(self.repo, place, place.keyring(shard)) for place in self.repo.key_places()]
        if all(seen.on_top and seen.holds(looks[0]) for seen in looks) and looks[0].revision >= shard.keyring:
            return _Part([], [])  # all agree; whether it opens is a scrub's business
        if not live and not _is_there(self.repo, shard):
            return _Part([], [])
        opened, trouble = self._opened(shard, looks)
        if not opened:
            told = f": {trouble.what}" if trouble is not None else ""
            what = f"no place has a keyring of the shard that is as new as its log asks for{told}"
            todo = "Put a copy of the keyring back from a backup, or archive the shard's files again from the source."
            return _Part([], [Finding(what=what, key=shard.key, todo=todo)], lost=1)
        chosen = max(opened, key=lambda seen: seen.revision)
        if len({opened[seen].tree.nodes for seen in opened if seen.revision == chosen.revision}) > 1:
            what = f"the places hold different keyrings of revision {chosen.revision}"
            todo = "An erasure may be under way: run `vera erasures destroy`, then this again."
            return _Part([], [Finding(what=what, key=shard.key, todo=todo)])
        lock = keyring_lock(self.repo, shard)
        behind = [(seen, _why(seen, chosen) or ("" if seen in opened else "does not open")) for seen in looks]
        return _Part([self._mended(seen, chosen, (why, lock), slot) for seen, why in behind if why], [])

    def _opened(self, shard: ShardRef, looks: Sequence[KeyLook]) -> tuple[dict[KeyLook, Keyring], VeraError | None]:
        """The keyrings that open and are as new as the log asks for, and why another one does not."""
        tenant = self.repo.keys.parse(shard.key).tenant
        wanted = Wanted(self.repository_id, tenant, bytes.fromhex(shard.sha256), shard.keyring)
        stored = [(seen, seen.envelope.encode()) for seen in looks if seen.envelope is not None]
        outcomes = open_keyrings(self.repo.key_service(), [(wanted, data) for _, data in stored])
        opened: dict[KeyLook, Keyring] = {}
        trouble: VeraError | None = None
        for (seen, _), outcome in zip(stored, outcomes, strict=True):
            if isinstance(outcome, VeraError):
                trouble = outcome
            else:
                opened[seen] = outcome
        return opened, trouble

    def _mended(self, seen: KeyLook, chosen: KeyLook, how: tuple[str, Lock | None], slot: Slot | None) -> RestoreLine:
        """Puts what was chosen into the place where `seen` was, if nobody else has put anything there meanwhile."""
        assert chosen.envelope is not None
        why, lock = how
        done = self.put and seen.replace(chosen.envelope, lock)
        if done and slot is not None:
            done = self._still_counts(seen.object, chosen.envelope, slot)
        for info in seen.unreadable if done else ():
            with seen.object.place.reached(), suppress(RestrictedError):
                seen.object.place.store.delete(info.key, version_id=info.version_id)
        return RestoreLine(
            place=seen.object.place.uri, key=seen.object.parsed.key, source=chosen.object.place.uri, why=why,
            revision=chosen.revision, tenant=chosen.envelope.header.tenant, slot=slot, done=done,
        )  # fmt: skip

    def _still_counts(self, put: KeyObject, envelope: Envelope, slot: Slot) -> bool:
        """Whether the log asks for no newer keyring by now; else what is too old there is deleted again."""
        state = self.repo.slot_log(slot).load()
        digest = envelope.header.shard.hex()
        shards = [*state.live(), *state.superseded]
        needed = max((shard.keyring for shard in shards if shard.sha256 == digest), default=0)
        if needed <= envelope.header.revision:
            return True
        now = look_under(self.repo, put.place, put.parsed.key)
        old = now.lower if now.revision >= needed or now.info is None else (now.info, *now.same, *now.lower)
        for info in old:
            with put.place.reached(), suppress(RestrictedError):
                put.place.store.delete(info.key, version_id=info.version_id)
        return False


def _why(seen: KeyLook, chosen: KeyLook) -> str:
    """What is wrong with what a place has, as far as it is to be seen without opening it; "" where nothing is."""
    if seen.envelope is None:
        return "damaged" if seen.unreadable else "missing"
    if seen.revision < chosen.revision:
        return f"older: revision {seen.revision}"
    return "" if seen.on_top else "hidden"


def _where(seen: KeyLook) -> str:
    return f"{seen.object.place.uri.rstrip('/')}: {seen.object.parsed.key}"


def _is_there(repo: Repository, shard: ShardRef) -> bool:
    try:
        repo.store.head(shard.key, version_id=shard.version_id)
    except MissingObjectError:
        return False
    return True


def _batches(slots: Iterator[Slot]) -> Iterator[list[Slot]]:
    batch: list[Slot] = []
    for slot in slots:
        batch.append(slot)
        if len(batch) == SLOTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
