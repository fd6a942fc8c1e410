"""Keyrings of a slot as they lie in every place: each version of them, opened, and what of the erased each can open.

Read only. Destroying keys is puncture.py's business, saying whether they are all destroyed key_survey.py's.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IntegrityError, VeraError
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.keys.naming import name_key
from vera_core.keyspace import KeyKind, keyring_of, shard_of
from vera_core.operations.holdings import NONE, holdings, may_be_left_out, tombstones
from vera_core.operations.lookup import ShardReaders, origin_of
from vera_core.store.base import ColdObjectError, MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vera_core.keys.keyring import Keyring
    from vera_core.model import Origin, Slot
    from vera_core.operations.holdings import Holdings
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState
    from vera_core.store.base import VersionInfo


class Lying(NamedTuple):
    """A version of a keyring, or a delete marker over it, in one of the places."""

    place: KeyPlace
    info: VersionInfo

    @property
    def name(self) -> tuple[str, str]:
        """(place, VersionId), of one keyring."""
        return self.place.uri, self.info.version_id


@dataclass(slots=True)
class Ring:
    """The keyring of a shard that holds erased entries, and all that lies under its key in every place.

    `shard` is as the log names it, live or superseded; `erased` its erased entries' ordinals by name; `unread`: nobody
    can say which these are, so that they are all. `versions` are newest first within a place; `read` are their bytes,
    and `opened` what these are: None for what opens nothing. `trouble` is why that can't be said.
    """

    shard: ShardRef
    erased: dict[str, list[int]]
    versions: list[Lying] = field(default_factory=list)
    read: dict[tuple[str, str], bytes] = field(default_factory=dict)
    opened: dict[bytes, Keyring | None] = field(default_factory=dict)
    trouble: VeraError | None = None
    unread: bool = False

    @property
    def ordinals(self) -> set[int]:
        """Of all erased entries."""
        return {ordinal for ordinals in self.erased.values() for ordinal in ordinals}

    def keyring(self, lying: Lying) -> Keyring | None:
        """What a version opens; None where it is a delete marker, damaged, or none of this shard."""
        data = self.read.get(lying.name)
        return None if data is None else self.opened.get(data)

    def keyrings(self) -> Iterator[Keyring]:
        """Every keyring that some version is."""
        return (keyring for lying in self.versions if (keyring := self.keyring(lying)) is not None)

    def can_open(self, lying: Lying) -> list[str]:
        """The erased files, by name, that a version still opens."""
        keyring = self.keyring(lying)
        if keyring is None:
            return []
        return [name for name, ordinals in self.erased.items() if any(map(keyring.tree.holds, ordinals))]


@dataclass(slots=True)
class SlotRings:
    """The keyrings of a slot that must not open what was erased; `strays`: those of shards that no record names.

    `strays` are by the key of the shard that they would belong to; `state` comes from the whole log, and `rings` from
    what it was at record `seen`.
    """

    repo: Repository
    log: SlotLog
    state: SlotState
    rings: list[Ring] = field(default_factory=list)
    strays: dict[str, list[Lying]] = field(default_factory=dict)
    seen: int = 0

    @property
    def slot(self) -> Slot:
        """Where they lie."""
        return self.state.slot

    def look(self, places: Sequence[KeyPlace]) -> None:
        """Lists what lies in the places, and reads what was not read before.

        Raises:
            UnavailableError: a place can't be reached.
            IntegrityError: the index of a shard that may hold erased files can't be read.
        """
        self._follow()
        found: defaultdict[str, list[Lying]] = defaultdict(list)
        for place in places:
            with place.reached():
                for info in place.store.list_versions(place.keys.slot_prefix(self.slot)):
                    if place.keys.parse(info.key).kind is KeyKind.KEYRING:
                        found[info.key.removeprefix(place.keys.root)].append(Lying(place, info))
        root = self.repo.keys.root
        for ring in self.rings:
            ring.versions = found.pop(keyring_of(ring.shard.key).removeprefix(root), [])
            self._read(ring)
        named = {keyring_of(shard.key).removeprefix(root) for shard in _encrypted(self.state)}
        # Where nothing was erased a shard that is being built holds nothing that was.
        erased = any(record.type == "tombstone" for record in self.state.records)
        self.strays = {shard_of(f"{root}{key}"): lying for key, lying in found.items() if erased and key not in named}

    def _follow(self) -> None:
        """Takes what the log brought since: another writer's shard may hold what was erased."""
        if self.seen == self.state.head.number:
            return
        known = {ring.shard.sha256: ring for ring in self.rings}
        self.rings = _rings(self.repo, self.state)
        for ring in self.rings:
            before = known.get(ring.shard.sha256)
            if before is not None:
                ring.read, ring.opened = before.read, before.opened
        self.seen = self.state.head.number

    def _read(self, ring: Ring) -> None:
        for lying in ring.versions:
            if lying.info.is_delete_marker or lying.name in ring.read:
                continue
            place, info = lying
            try:
                with place.reached():
                    ring.read[lying.name] = _whole(place, info)
            except _GoneError:
                continue  # somebody purged it meanwhile; the next look does not list it


def open_rings(repo: Repository, rings: Iterable[Ring]) -> None:
    """Opens every version that was read and not opened before; the key service is asked once for all.

    Raises:
        VeraError: what concerns the whole key service.
    """
    waiting = [(ring, data) for ring in rings for data in {*ring.read.values()} - ring.opened.keys()]
    if not waiting:
        return
    repository_id = bytes.fromhex(repo.config.repository_id)
    stored = [
        (Wanted(repository_id, repo.keys.parse(ring.shard.key).tenant, bytes.fromhex(ring.shard.sha256)), data)
        for ring, data in waiting
    ]
    for (ring, data), outcome in zip(waiting, open_keyrings(repo.key_service(), stored), strict=True):
        if isinstance(outcome, IntegrityError):
            ring.opened[data] = None
        elif isinstance(outcome, VeraError):
            ring.trouble = outcome
        else:
            ring.opened[data] = outcome


def _rings(repo: Repository, state: SlotState) -> list[Ring]:
    dead = {
        name: gone
        for name, origins in tombstones(state).items()
        if (gone := {origin for origin in origins if may_be_left_out(state, origin)})
    }
    if not dead:
        return []
    # The same bytes may be stored twice; their keyring is one. What is live stands for it, and can be read.
    shards = {shard.sha256: shard for shard in reversed(_encrypted(state))}
    lies, readers = holdings(state), ShardReaders(repo)
    rings = []
    for shard in shards.values():
        try:
            erased = _erased_in(readers, lies, shard, dead)
        except (IntegrityError, ColdObjectError) as error:
            deleted = state.is_condemned(shard.key, shard.version_id)
            put_away = isinstance(error, ColdObjectError) and shard not in state.live()
            if not deleted and not put_away:
                raise
            # Deleted, or put away: nobody can say which keys these were, nor needs the others: what lives of it lies
            # in the shards that replaced it.
            rings.append(Ring(shard, {name: list(range(shard.entries)) for name in dead}, unread=True))
        else:
            rings.append(Ring(shard, erased))
    return [ring for ring in rings if ring.erased]


def _encrypted(state: SlotState) -> list[ShardRef]:
    return [shard for shard in (*state.live(), *state.superseded) if shard.keyring]


def _erased_in(
    readers: ShardReaders, lies: Holdings, shard: ShardRef, dead: Mapping[str, set[Origin]]
) -> dict[str, list[int]]:
    """The ordinals of erased entries in a shard, by name. As packed they are those of the origins: nothing is read."""
    found: dict[str, list[int]] = {}
    commits = lies.commits.get(shard.version_id, NONE)
    for name, origins in dead.items():
        there = {origin for origin in origins if origin.commit in commits}
        if not there or not shard.may_hold(name_key(name, keyed=True)):
            continue
        ordinals = [origin.ordinal for origin in there if origin.commit == shard.number]
        moved = {origin for origin in there if origin.commit != shard.number}
        if moved:
            entries = readers.reader(shard).find(name)
            ordinals += [entry.ordinal for entry in entries if origin_of(shard, entry) in moved]
        if ordinals:
            found[name] = sorted(ordinals)
    return found


class _GoneError(Exception):
    """A version that was listed is there no more."""


def _whole(place: KeyPlace, info: VersionInfo) -> bytes:
    try:
        return place.store.get(info.key, version_id=info.version_id).data
    except MissingObjectError as error:
        raise _GoneError from error
