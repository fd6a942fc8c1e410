"""Putting a shard back: only the very bytes that were archived, once, whatever fails or races (I1, I3, I7)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import File, MemorySource, make_repository, opened, pack
from tests.protocol.repacking import copied, erase, live_shards, living, readers_agree, repack
from tests.protocol.test_races import damage
from tests.protocol.test_repack import ONE_SLOT, assert_sound
from vera_core.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError, UsageError
from vera_core.operations.putback import put_back
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.protocol.repacking import Kept
    from vera_core.model import Origin, Slot
    from vera_core.slots import ShardRef

FILES = [File(f"doc/{number}", b"%d " % number * 50) for number in range(12)]


class World:
    """A slot with one shard, some of whose files are erased; a copy of the shard; then it is damaged."""

    def __init__(self, spool: Path, *, repacked: bool) -> None:
        self.spool = spool
        self.store = MemoryStore()
        repo = make_repository(self.store, spool, routing=ONE_SLOT)
        pack(repo, MemorySource(FILES))
        erase(repo, "doc/3")
        if repacked:
            repack(repo)
        self.before: dict[tuple[Slot, str, Origin], Kept] = living(repo)
        self.shard: ShardRef
        [self.shard] = live_shards(repo)
        self.copy = spool / "copy.vera"
        self.copy.write_bytes(self.store.get(self.shard.key, version_id=self.shard.version_id).data)
        damage(self.store, self.shard.key, self.shard.version_id)

    def assert_back(self, store: MemoryStore) -> None:
        """All is as before, but for the VersionId."""
        repo = opened(store, self.spool)
        assert living(repo) == self.before
        readers_agree(store, self.spool, self.before)
        [live] = live_shards(repo)
        assert (live.number, live.sha256, live.lock) == (self.shard.number, self.shard.sha256, self.shard.lock)
        assert live.version_id != self.shard.version_id
        assert_sound(store, self.spool)


@pytest.mark.parametrize("repacked", [False, True])
def test_the_same_bytes_are_put_back(tmp_path: Path, repacked: bool) -> None:
    world = World(tmp_path, repacked=repacked)
    report = put_back(opened(world.store, tmp_path), world.shard.key, world.copy)
    assert (report.damaged_version, report.files) == (world.shard.version_id, world.shard.entries)
    world.assert_back(world.store)
    with pytest.raises(ConflictError, match="whole"):
        put_back(opened(world.store, tmp_path), world.shard.key, world.copy)


def test_a_shard_that_is_gone_is_put_back(tmp_path: Path) -> None:
    world = World(tmp_path, repacked=False)
    world.store._keys[world.shard.key].clear()
    put_back(opened(world.store, tmp_path), world.shard.key, world.copy)
    world.assert_back(world.store)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    """Another whole shard, even one of the very same files, and one that does not verify."""
    world = World(tmp_path, repacked=False)
    repo = opened(world.store, tmp_path)
    other = MemoryStore()
    elsewhere = make_repository(other, tmp_path, routing=ONE_SLOT)
    pack(elsewhere, MemorySource(FILES[1:]))
    [shard] = live_shards(elsewhere)
    fake = tmp_path / "fake.vera"
    fake.write_bytes(other.get(shard.key).data)
    with pytest.raises(IntegrityError, match="not the shard that was archived"):
        put_back(repo, world.shard.key, fake)
    fake.write_bytes(world.copy.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        put_back(repo, world.shard.key, fake)
    with pytest.raises(NotFoundError):
        put_back(repo, shard.key, fake)
    with pytest.raises(UsageError):
        put_back(repo, "somewhere/else.vera", fake)
    assert live_shards(opened(world.store, tmp_path)) == [world.shard]


@pytest.mark.parametrize(("action", "ends"), [(Action.FAIL, False), (Action.LOSE_REPLY, True)])
def test_any_request_may_fail_or_be_the_last(tmp_path: Path, action: Action, ends: bool) -> None:
    world = World(tmp_path, repacked=False)
    watched = FaultyStore(copied(world.store))
    put_back(opened(watched, tmp_path), world.shard.key, world.copy)
    for nth in range(1, len(watched.calls) + 1):
        store = copied(world.store)
        rules = [Rule(action, nth=nth), *([Rule(Action.FAIL, nth=nth + 1, times=None)] if ends else [])]
        with suppress(UnavailableError):
            put_back(opened(FaultyStore(store, rules), tmp_path), world.shard.key, world.copy)
        with suppress(ConflictError):
            put_back(opened(store, tmp_path), world.shard.key, world.copy)
        world.assert_back(store)


def test_of_two_one_wins(tmp_path: Path) -> None:
    """A packer repairs the shard from its source just before."""
    world = World(tmp_path, repacked=False)
    racing = FaultyStore(world.store)

    def other() -> None:
        pack(opened(world.store, tmp_path), MemorySource(FILES))

    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/*", run=other))
    with pytest.raises(ConflictError):
        put_back(opened(racing, tmp_path), world.shard.key, world.copy)
    world.assert_back(world.store)
