"""Destroying the keys of erased files: in every keyring that can open them, in every place (docs/protocol.md, Erase).

For all erased entries of a slot at once, whoever erased them: so whoever comes later, or again, ends in the same place.
A keyring is replaced by its punctured next revision by compare-and-swap; a record in the slot's log makes that the
least that counts; then every other version of it is deleted for good. Nothing is believed of what was done before: it
is done when a listing of every place shows one version of each keyring, which opens nothing that was erased, and none
of a shard that no record names (docs/protocol.md says why no writer gets around that).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, PreconditionError, RestrictedError, VeraError
from vera_core.keys.keyring import Keyring, seal_keyrings
from vera_core.keyspace import keyring_of
from vera_core.operations.commit import keyring_lock, settle
from vera_core.operations.rings import SlotRings, open_rings
from vera_core.operations.slotwise import append, each_slot, open_slot, until_in
from vera_core.store.base import ABSENT, Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vera_core.model import Slot
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.operations.rings import Lying, Ring
    from vera_core.operations.slotwise import OpenSlot
    from vera_core.slots import SlotState

SLOTS_AT_ONCE = 256
"""Whose keyrings are opened by one call of the key service, and held in memory."""
ATTEMPTS = 32
"""Of replacing a keyring: each that is lost was won by somebody else's."""
BACKOFF_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Destroyed:
    """A keyring from which no erased file follows any more: of which shard, its revision, and the places it lies in.

    `names` are the erased files of the shard. Revision 0: no place has a keyring of that shard any more.
    """

    shard: str
    key: str
    revision: int
    names: frozenset[str]
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlotDestroyed:
    """A slot whose erased files have no keys any more; `state` is that of its log.

    `purged` counts the versions of keyrings that were deleted for it.
    """

    slot: Slot
    state: SlotState
    keyrings: tuple[Destroyed, ...]
    purged: int = 0


@dataclass(slots=True)
class _Swap:
    """A keyring that is to be replaced: what by, and the sealed bytes of that once they are there."""

    ring: Ring
    wanted: Keyring
    data: bytes = b""
    lost: bool = False

    def is_there(self, lying: Lying) -> bool:
        """Whether a version is what is wanted, whatever KEK version wraps it."""
        found = self.ring.keyring(lying)
        return found is not None and (found.revision, found.tree) == (self.wanted.revision, self.wanted.tree)


@dataclass(slots=True)
class _Work:
    """One slot until nothing is left to do in the places that can be reached."""

    rings: SlotRings
    places: Sequence[KeyPlace]
    sealed: int
    swaps: list[_Swap] = field(default_factory=list)
    purged: int = 0

    def look(self) -> None:
        """Sees what lies in the places now."""
        self.rings.look(self.places)

    def settle(self) -> None:
        """Seals the slot, and says so in its sidecar."""
        settle(self.rings.repo, self.rings.log, self.rings.state, self.sealed)

    def plan(self) -> None:
        """Decides what each keyring must become, by what was found of it."""
        self.swaps = [_Swap(ring, wanted) for ring in self.rings.rings if (wanted := _wanted(ring)) is not None]

    @property
    def unsealed(self) -> list[_Swap]:
        """Those of which some place has no version yet."""
        return [swap for swap in self.swaps if any(self._kept(swap, place) is None for place in self.places)]

    @property
    def is_done(self) -> bool:
        """Whether every place has one version of each keyring, the wanted one, and none that no record names.

        And the log says that no lower one counts.
        """
        return not self.rings.strays and all(
            swap.wanted.revision <= swap.ring.shard.keyring
            and len(_in(swap.ring, place)) == 1
            and self._kept(swap, place) is not None
            for swap in self.swaps
            for place in self.places
        )

    def act(self) -> None:
        """Replaces, records and purges.

        Raises:
            RestrictedError: a lock keeps a version that opens what was erased.
            UnavailableError: a place can't be reached.
        """
        repo, state = self.rings.repo, self.rings.state
        for swap in self.swaps:
            for place in self.places:
                if not swap.lost and self._kept(swap, place) is None:
                    self._put(swap, place)
        self._record()
        if self.rings.strays:
            _condemn(self.rings)
        for swap in self.swaps:
            if not swap.lost:
                repo.keyrings.forget(swap.ring.shard)
                self._purge(swap)
        for key, versions in self.rings.strays.items():
            if state.is_condemned(key):
                self._delete(versions)

    def _kept(self, swap: _Swap, place: KeyPlace) -> Lying | None:
        """The newest version in a place that is what is wanted."""
        return next((lying for lying in _in(swap.ring, place) if swap.is_there(lying)), None)

    def _put(self, swap: _Swap, place: KeyPlace) -> None:
        ring, repo = swap.ring, self.rings.repo
        there = _in(ring, place)
        latest = there[0].info if there and not there[0].info.is_delete_marker else None
        condition = ABSENT if latest is None else Condition(latest.etag)
        try:
            with place.reached():
                lock = keyring_lock(repo, ring.shard)
                stored = place.store.put(place.keyring(ring.shard), swap.data, condition=condition, lock=lock)
            ring.read[place.uri, stored.version_id] = swap.data
        except PreconditionError:
            swap.lost = True  # the next look finds what the winner made of it

    def _record(self) -> None:
        """Says in the slot's log which revisions count from now on, once they are in every place that is reached."""
        repo, log, state = self.rings.repo, self.rings.log, self.rings.state

        def step() -> None:
            known = {shard.sha256: shard.keyring for shard in (*state.live(), *state.superseded)}
            raised = [
                {"sha256": swap.ring.shard.sha256, "keyring": swap.wanted.revision}
                for swap in self.swaps
                if not swap.lost and swap.wanted.revision > known[swap.ring.shard.sha256]
            ]
            if raised:
                append(repo, log, state, {"type": "puncture", "shards": raised, "writer": repo.audit.writer})

        until_in(log, state, step)

    def _purge(self, swap: _Swap) -> None:
        """Deletes what is not wanted; a version that was just stored is not among what was listed."""
        for place in self.places:
            kept = self._kept(swap, place)
            self._delete([lying for lying in _in(swap.ring, place) if lying != kept])

    def _delete(self, versions: Iterable[Lying]) -> None:
        for place, info in versions:
            try:
                place.store.delete(info.key, version_id=info.version_id)
            except RestrictedError as error:
                raise RestrictedError(
                    f"the store does not delete a keyring that opens erased files: {error.what}",
                    todo="`vera erasures run` destroys it once its lock or hold has ended, or access is given.",
                    bucket=place.store.bucket, key=info.key, version_id=info.version_id,
                ) from error  # fmt: skip
            self.purged += 1


def destroy_keys(
    repo: Repository, slots: Mapping[Slot, OpenSlot | None], progress: Callable[[int], None] | None = None
) -> tuple[list[SlotDestroyed], VeraError | None]:
    """Makes sure that no key of any erased file of these slots is left, in any version, in any place; seals them, too.

    Slots may be given as they were left after their tombstones, else their logs are read.

    Safe to run again, and side by side. A slot that fails does not keep the others: its error comes back beside what
    was done (the first, where several fail). So does that of the key service, and of a copy that can't be reached; then
    nothing counts as done, though keys are destroyed wherever they can be. `progress` gets the number of slots done.
    """
    places, failed = _reachable(repo.keyrings.places())
    missing = failed
    done: list[SlotDestroyed] = []
    wanted = list(slots.items())
    for start in range(0, len(wanted), SLOTS_AT_ONCE):
        try:
            found, error = _destroy(repo, dict(wanted[start : start + SLOTS_AT_ONCE]), places)
        except VeraError as down:
            return done, failed or _unpunctured(down)
        failed = failed or error
        if missing is None:
            done += [_told(work) for work in found]
        if progress is not None:
            progress(len(done))
    # Whoever registers a copy fills it after that: what it is given is punctured, or it is seen here.
    repo.refresh_config()
    if failed is None and {place.uri for place in repo.keyrings.places()} - {place.uri for place in places}:
        return destroy_keys(repo, dict.fromkeys(slots), progress)
    return done, failed


def _destroy(
    repo: Repository, slots: Mapping[Slot, OpenSlot | None], places: Sequence[KeyPlace]
) -> tuple[list[_Work], VeraError | None]:
    """Round after round until nothing is left to do; each asks the key service once for all slots.

    Raises:
        VeraError: what concerns the whole key service.
    """

    def begin(slot: Slot, opened: OpenSlot | None) -> list[_Work]:
        log, state, sealed = opened or open_slot(repo, slot)
        return [_Work(SlotRings(repo, log, state), places, sealed)]

    works, failed = each_slot(slots, begin)
    done: list[_Work] = []
    for attempt in range(ATTEMPTS):
        works, error = _each(works, _Work.look)
        failed = failed or error
        works, error = _opened(repo, works)
        failed = failed or error
        settled, error = _each([work for work in works if work.is_done], _Work.settle)
        failed = failed or error
        done += settled
        works = [work for work in works if not work.is_done]
        if not works:
            return done, failed
        if attempt:
            time.sleep(random.uniform(0, BACKOFF_SECONDS) * min(attempt, 10))  # noqa: S311 - to part racers
        _seal(repo, works)
        works, error = _each(works, _Work.act)
        failed = failed or error
    return done, failed or ConflictError(
        f"other writers came first {ATTEMPTS} times",
        todo="Run it again; look at who writes to the keyrings all the time.", slot=works[0].rings.slot,
    )  # fmt: skip


def _each(works: Iterable[_Work], step: Callable[[_Work], None]) -> tuple[list[_Work], VeraError | None]:
    """Does a step for several slots at once; those that came through, and the first error."""

    def one(_: Slot, work: _Work) -> list[_Work]:
        step(work)
        return [work]

    return each_slot({work.rings.slot: work for work in works}, one)


def _opened(repo: Repository, works: Sequence[_Work]) -> tuple[list[_Work], VeraError | None]:
    """Those whose keyrings are open and planned, and the first error about one."""
    open_rings(repo, (ring for work in works for ring in work.rings.rings))
    troubled = [ring.trouble for work in works for ring in work.rings.rings if ring.trouble is not None]
    good = [work for work in works if all(ring.trouble is None for ring in work.rings.rings)]
    for work in good:
        work.plan()
    return good, troubled[0] if troubled else None


def _seal(repo: Repository, works: Sequence[_Work]) -> None:
    """Makes the bytes that are to be stored; the key service is asked once for all."""
    swaps = [swap for work in works for swap in work.unsealed]
    datas = seal_keyrings(repo.key_service(), [swap.wanted for swap in swaps]) if swaps else []
    for swap, data in zip(swaps, datas, strict=True):
        swap.data = data
        swap.ring.opened[data] = swap.wanted


def _wanted(ring: Ring) -> Keyring | None:
    """What must lie in every place: the newest keyring without the erased files' keys; None where there is none."""
    found = list(ring.keyrings())
    if not found:
        return None
    newest = max(found, key=lambda keyring: (keyring.revision, -keyring.tree.left))
    tree = newest.tree.puncture(ring.ordinals)
    if tree == newest.tree and newest.revision >= ring.shard.keyring:
        return newest
    # Where the newest one is lost, an older one that somebody kept has every key that is needed.
    return Keyring(replace(newest.header, revision=max(newest.revision, ring.shard.keyring) + 1), tree)


def _in(ring: Ring, place: KeyPlace) -> list[Lying]:
    """The versions in a place, newest first."""
    return [lying for lying in ring.versions if lying.place.uri == place.uri]


def _condemn(rings: SlotRings) -> None:
    """Gives up the shards of keyrings that no record names: built before the tombstones, they may hold what was erased.

    Who builds one meanwhile builds it again; nothing is condemned that was committed since.
    """
    repo, log, state = rings.repo, rings.log, rings.state

    def step() -> None:
        known = {keyring_of(shard.key) for shard in (*state.live(), *state.superseded)}
        keys = [key for key in rings.strays if keyring_of(key) not in known and not state.is_condemned(key)]
        if keys:
            append(repo, log, state, {"type": "condemn", "versions": [{"key": key, "version_id": ""} for key in keys]})

    until_in(log, state, step)


def _reachable(places: Sequence[KeyPlace]) -> tuple[list[KeyPlace], VeraError | None]:
    """The places that answer, and what is wrong with the first copy that does not: asked once, not for each slot."""
    there = list(places[:1])
    failed: VeraError | None = None
    for place in places[1:]:
        try:
            with place.reached():
                next(iter(place.store.list_versions(place.keys.config_prefix)), None)  # where a copy has nothing
        except VeraError as error:
            failed = failed or error
        else:
            there.append(place)
    return there, failed


def _told(work: _Work) -> SlotDestroyed:
    rings, places = work.rings, tuple(place.uri for place in work.places)
    left = {swap.ring.shard.sha256: swap.wanted.revision for swap in work.swaps}
    keyrings = tuple(
        Destroyed(ring.shard.sha256, ring.shard.key, left.get(ring.shard.sha256, 0), frozenset(ring.erased), places)
        for ring in rings.rings
    )
    return SlotDestroyed(rings.slot, rings.state, keyrings, work.purged)


def _unpunctured(error: VeraError) -> VeraError:
    """An error of the key service with what it means here."""
    error.todo = f"The files are out of sight; their keys are not destroyed yet. {error.todo} Then `vera erasures run`."
    return error
