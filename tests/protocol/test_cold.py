"""Superseded shards in cold storage: tagged by whoever collects, once nobody reads them, and nothing else is."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack
from tests.protocol.repacking import copied, erase, live_shards, living, readers_agree, repack
from tests.protocol.test_gc import World, leave_garbage
from tests.protocol.test_repack import ONE_SLOT, assert_sound
from vera_core.disposals import EndedShard
from vera_core.errors import RestrictedError, UnavailableError, UnsafeStoreError
from vera_core.operations import gc
from vera_core.operations.ended import dispose_in
from vera_core.operations.gc import execute_gc, plan_gc
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.cold import SUPERSEDED
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vera_core.slots import ShardRef
    from vera_core.store.base import ObjectStore
    from vera_core.store.s3 import S3Store

TAG = dict([SUPERSEDED])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def superseded(world: World) -> ShardRef:
    """Packs, erases and repacks; returns the shard that was replaced."""
    pack(world.repo(), MemorySource([File(f"doc/{number}", b"%d" % number * 40) for number in range(9)]))
    [old] = live_shards(world.repo())
    erase(world.repo(), "doc/1")
    repack(world.repo())
    return old


def tagged(store: ObjectStore) -> set[str]:
    """VersionIds of everything that has any tag."""
    infos = [info for info in store.list_versions("") if not info.is_delete_marker]
    return {info.version_id for info in infos if store.get_tags(info.key, info.version_id)}


def test_a_superseded_shard_is_tagged_a_day_after_its_repack_and_nothing_else_is(world: World) -> None:
    """Until then whoever read the slot before, or has a link, may still read the shard."""
    old = superseded(world)
    leave_garbage(world, [File("doc/lost", b"lost")])
    world.later(hours=23)
    assert world.plan().tag == 0
    assert world.collect().tagged == 0
    world.later(hours=1, seconds=2)
    assert world.plan().tag == 1
    report = world.collect()
    assert (report.tagged, report.ok, report.condemned, report.deleted) == (1, True, 1, 0), "condemned is the garbage"
    assert tagged(world.store) == {old.version_id}
    assert world.store.get_tags(old.key, old.version_id) == TAG
    assert world.store.get_lock(old.key, old.version_id) == old.lock
    assert (world.plan().tag, world.collect().tagged) == (0, 0)
    # It goes like any other.
    world.later(days=101)
    assert world.collect().condemned == 1
    world.later(hours=25)
    assert world.collect().deleted == 1
    assert world.versions() == {shard.version_id for shard in live_shards(world.repo())}
    assert_sound(world.store, world.spool)


def test_what_can_go_within_days_stays_where_it_is(world: World) -> None:
    """A disposal takes what is not locked any more."""
    pack(world.repo(), MemorySource([File("doc/1", b"1")]))
    [old] = live_shards(world.repo())
    world.later(days=102)
    slot = next(iter(all_slots(world.repo())))
    shard = EndedShard(
        str(slot), old.key, old.version_id, old.sha256, old.retention_class, old.entries, old.size, old.lock.until
    )
    assert dispose_in(world.repo(), slot, "d-1", {0: shard}) == [(0, "")]
    for _ in range(4):
        world.collect()
        assert tagged(world.store) == set()
        world.later(hours=13)
    assert world.versions() == set()


def test_other_tags_of_a_version_stay(world: World) -> None:
    old = superseded(world)
    world.store.set_tags(old.key, old.version_id, {"cost-centre": "4711"})
    world.later(days=2)
    assert world.collect().tagged == 1
    assert world.store.get_tags(old.key, old.version_id) == {"cost-centre": "4711", **TAG}


@pytest.mark.parametrize(("action", "ends"), [(Action.FAIL, False), (Action.LOSE_REPLY, True)])
def test_any_request_may_fail_and_the_next_collection_tags(world: World, action: Action, ends: bool) -> None:
    old = superseded(world)
    world.later(days=2)
    before = living(world.repo())
    template = world.store
    watched = FaultyStore(copied(template))
    world.collect(watched)
    assert watched.count("set_tags") == 1
    for nth in range(1, len(watched.calls) + 1):
        world.store = copied(template)
        rules = [Rule(action, nth=nth), *([Rule(Action.FAIL, nth=nth + 1, times=None)] if ends else [])]
        with suppress(UnavailableError):
            world.collect(FaultyStore(world.store, rules))
        world.collect()
        assert tagged(world.store) == {old.version_id}
        assert living(world.repo()) == before


def test_collectors_side_by_side(world: World) -> None:
    old = superseded(world)
    world.later(days=2)
    for kind in ("get_tags", "set_tags"):
        world.store.set_tags(old.key, old.version_id, {})
        racing = FaultyStore(world.store, [Rule(Action.RUN_BEFORE, kind, "*.vera", run=world.collect)])
        assert world.collect(racing).ok
        assert world.store.get_tags(old.key, old.version_id) == TAG


class Tagless(MemoryStore):
    """Offers no tags."""

    def get_tags(self, key: str, version_id: str) -> dict[str, str]:
        raise UnsafeStoreError("the store does not offer this S3 function", bucket=self.bucket, key=key)


class Untaggable(MemoryStore):
    """Lets this identity read tags, and not set them."""

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        raise RestrictedError("the store denies access", bucket=self.bucket, key=key)


@pytest.mark.parametrize("kind", [Tagless, Untaggable])
def test_a_store_without_tags_is_a_warning_and_keeps_nothing_from_being_collected(
    tmp_path: Path, kind: type[MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.protocol.test_gc.MemoryStore", kind)
    world = World(tmp_path)
    old = superseded(world)
    world.later(days=2)
    report = world.collect()
    assert (report.ok, report.tagged) == (True, 0)
    [finding] = report.findings
    assert (finding.severity, "can't be tagged" in finding.what) == ("warning", True)
    assert "vera probe" in finding.todo
    for days in (101, 2):
        world.later(days=days)
        world.collect()
    assert old.version_id not in world.versions()


def test_what_went_cold_is_deleted_and_a_reader_of_an_old_state_is_told(world: World) -> None:
    """A store that answers for a cold version as S3 does: everything but its bytes."""
    old = superseded(world)
    before = living(world.repo())
    error = UnavailableError("the object lies in a cold storage class", todo="Restore it.")

    def refuse() -> None:
        raise error

    cold = FaultyStore(world.store)
    slow = Retriever(opened(cold, world.spool, freshness_seconds=1e9))
    world.later(days=2)
    world.collect(cold)
    for kind in ("get", "get_range", "get_suffix", "download"):
        cold.add(Rule(Action.RUN_BEFORE, kind, old.key, times=None, run=refuse))
    readers_agree(cold, world.spool, before)
    assert slow.get("doc/2", DAY) == b"2" * 40, "nothing of the old shard is needed"
    for days in (101, 2):
        world.later(days=days)
        assert world.collect(cold).ok
    assert old.version_id not in world.versions()
    assert_sound(world.store, world.spool)


def test_a_reader_that_knows_the_old_shard_only_gets_the_stores_answer(world: World) -> None:
    files = [File(f"doc/{number}", random.Random(number).randbytes(15_000)) for number in range(9)]
    pack(world.repo(), MemorySource(files))
    [old] = live_shards(world.repo())
    cold = FaultyStore(world.store)
    slow = Retriever(opened(cold, world.spool, freshness_seconds=1e9))
    slow.stat("doc/2", DAY)
    erase(world.repo(), "doc/1")
    repack(world.repo())

    def refuse() -> None:
        raise UnavailableError("the object lies in a cold storage class", todo="Restore it.")

    for kind in ("get_range", "get_suffix"):
        cold.add(Rule(Action.RUN_BEFORE, kind, old.key, times=None, run=refuse))
    with pytest.raises(UnavailableError, match="cold storage class"):
        slow.get("doc/2", DAY)
    assert Retriever(opened(cold, world.spool)).get("doc/2", DAY) == files[2].content


def test_a_real_store_tags_what_is_locked(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "LEAST_GRACE", timedelta(0))
    repo = make_repository(s3_store, tmp_path, routing=ONE_SLOT)
    pack(repo, MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(6)]))
    [old] = live_shards(repo)
    erase(repo, "doc/1")
    repack(repo)
    assert execute_gc(repo, plan_gc(repo, all_slots(repo))).tagged == 0
    for expected in (1, 0):
        assert execute_gc(repo, plan_gc(repo, all_slots(repo), grace=timedelta(0))).tagged == expected
    assert tagged(s3_store) == {old.version_id}
    assert s3_store.get_lock(old.key, old.version_id) == old.lock
    with pytest.raises(RestrictedError):
        s3_store.delete(old.key, version_id=old.version_id)
    assert_sound(s3_store, tmp_path)
