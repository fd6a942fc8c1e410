"""Collecting garbage: nothing goes that counts, is locked, held or young; the rest goes in two steps, by VersionId."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    File,
    MemorySource,
    assert_archived,
    make_repository,
    opened,
    pack,
)
from tests.protocol.repacking import append, copied, erase, live_shards, living, readers_agree, repack
from tests.protocol.slots_support import condemn
from tests.protocol.test_races import damage
from tests.protocol.test_repack import ONE_SLOT, Clock, assert_sound
from vera_core.errors import RestrictedError, UnavailableError, UsageError
from vera_core.model import LockMode
from vera_core.operations import gc
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.gc import GcPlan, GcReport, Sort, Step, execute_gc, plan_gc
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.s3 import S3Store


class World:
    """A store with a clock of its own."""

    def __init__(self, spool: Path) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.spool = spool
        make_repository(self.store, spool, routing=ONE_SLOT)

    def repo(self, store: ObjectStore | None = None) -> Repository:
        """A new handle, which asks for the time anew."""
        return opened(store or self.store, self.spool)

    def later(self, **time: float) -> None:
        """Lets time pass."""
        self.clock.moment += timedelta(**time)

    def plan(self) -> GcPlan:
        repo = self.repo()
        return plan_gc(repo, all_slots(repo))

    def collect(self, store: ObjectStore | None = None) -> GcReport:
        repo = self.repo(store)
        return execute_gc(repo, plan_gc(repo, all_slots(repo)))

    def versions(self) -> set[str]:
        """VersionIds of all shards that lie in the store."""
        return {info.version_id for info in self.store.list_versions("") if info.key.endswith(".vera")}

    def steps(self) -> dict[str, tuple[str, str]]:
        """Next step and why, by VersionId."""
        return {line.version_id: (line.step.value, line.why) for line in self.plan().lines}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def leave_garbage(world: World, files: list[File], name: str = "lost") -> str:
    """Uploads a shard whose commit never comes; returns its VersionId."""
    before = world.versions()
    dying = FaultyStore(world.store, [Rule(Action.FAIL, "put", "*/log/*", times=None)])
    with pytest.raises(UnavailableError):
        pack(world.repo(dying), MemorySource(files, name=name))
    [version] = world.versions() - before
    return version


def test_garbage_goes_a_day_after_its_short_lock_has_ended(world: World) -> None:
    pack(world.repo(), MemorySource([File("doc/1", b"1")]))
    version = leave_garbage(world, [File("doc/2", b"2")])
    assert world.steps() == {version: ("wait", "locked")}
    assert world.plan().lines[0].due == world.clock.moment + timedelta(days=2, seconds=1)
    assert world.collect().condemned == 0
    world.later(days=1, seconds=2)
    assert world.steps() == {version: ("condemn", "")}
    assert (world.collect().condemned, world.plan().condemn) == (1, 0)
    assert world.steps() == {version: ("wait", "condemned, in its grace period")}
    world.later(hours=23)
    assert world.collect().deleted == 0
    world.later(hours=1, seconds=2)
    plan = world.plan()
    assert (plan.delete, plan.lines[0].sort, plan.delete_bytes > 0, plan.saved > 0) == (1, Sort.GARBAGE, True, True)
    report = world.collect()
    assert (report.deleted, report.deleted_bytes) == (1, plan.delete_bytes)
    assert version not in world.versions()
    assert world.plan().lines == ()
    assert world.collect().deleted == 0
    assert_sound(world.store, world.spool)


def test_a_superseded_shard_goes_when_its_lock_has_ended_and_not_before(world: World) -> None:
    source = MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(9)])
    pack(world.repo(), source)
    [old] = live_shards(world.repo())
    erase(world.repo(), "doc/1")
    before = living(world.repo())
    repack(world.repo())
    assert world.steps() == {old.version_id: ("wait", "locked")}
    [line] = world.plan().lines
    assert (line.sort, line.due) == (Sort.SUPERSEDED, old.lock.until + timedelta(days=1))
    world.later(days=99)
    assert world.collect().condemned == 0
    assert old.version_id in world.versions()
    world.later(days=2)
    assert world.collect().condemned == 1
    world.later(hours=25)
    assert world.collect().deleted == 1
    assert world.versions() == {shard.version_id for shard in live_shards(world.repo())}
    assert living(world.repo()) == before
    readers_agree(world.store, world.spool, before)
    assert_sound(world.store, world.spool)
    assert pack(world.repo(), source).packed_now == 0


def test_a_reader_that_knows_the_old_shard_reads_on_until_it_is_deleted(world: World) -> None:
    """What a reader knows is trusted for seconds, and the grace period lasts a day."""
    files = [File(f"doc/{number}", b"%d" % number * 50) for number in range(30)]
    pack(world.repo(), MemorySource(files))
    slow = Retriever(opened(world.store, world.spool, freshness_seconds=1e9))
    fresh = Retriever(opened(world.store, world.spool, freshness_seconds=0))
    for reader in (slow, fresh):
        reader.get("doc/3", DAY)
    erase(world.repo(), "doc/1", "doc/2")
    repack(world.repo())
    new = {shard.version_id for shard in live_shards(world.repo())}
    for file in files[3:]:
        assert slow.stat(file.uid, DAY).version_id not in new, "it still has the old state"
        assert fresh.stat(file.uid, DAY).version_id in new
        assert slow.get(file.uid, DAY) == fresh.get(file.uid, DAY) == file.content
    world.later(days=101)
    assert world.collect().condemned == 1
    for file in files[3:]:
        assert slow.get(file.uid, DAY) == file.content, "condemned is not deleted"


def test_what_is_condemned_while_it_is_live_gets_its_grace_when_it_is_superseded(world: World) -> None:
    pack(world.repo(), MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(9)]))
    [old] = live_shards(world.repo())
    slot = next(iter(all_slots(world.repo())))
    append(world.repo(), slot, condemn(old))
    assert world.plan().lines == ()
    world.later(days=200)
    erase(world.repo(), "doc/1")
    repack(world.repo())
    assert world.steps() == {old.version_id: ("wait", "condemned, in its grace period")}
    assert world.collect().deleted == 0
    world.later(hours=25)
    assert world.collect().deleted == 1


def test_a_legal_hold_keeps_a_version(world: World) -> None:
    """One that the log knows of is waited for; of one that somebody else set the store tells by refusing."""
    pack(world.repo(), MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(9)]))
    [old] = live_shards(world.repo())
    erase(world.repo(), "doc/1")
    repack(world.repo())
    world.later(days=101)
    world.collect()
    world.later(hours=25)
    world.store.set_hold(old.key, old.version_id, held=True)
    report = world.collect()
    assert report.deleted == 0
    [kept] = report.kept
    assert (kept.version_id, kept.step) == (old.version_id, Step.WAIT)
    assert "refuses" in kept.why
    slot = next(iter(all_slots(world.repo())))
    append(
        world.repo(), slot,
        {"type": "hold", "case": "c", "reason": "r", "actor": "a", "entries": [{"uid": "doc/2", "versions": [[1, 0]]}]},
    )  # fmt: skip
    assert world.steps() == {old.version_id: ("wait", "under a legal hold")}
    world.store.set_hold(old.key, old.version_id, held=False)
    assert world.collect().deleted == 1


def test_a_packer_that_adopts_what_is_condemned_meanwhile_stores_another(world: World) -> None:
    """The upload that a dead packer left is adopted by the next one, and condemned just before the commit."""
    files = [File("doc/1", b"1" * 99)]
    version = leave_garbage(world, files, name="docs")
    world.later(days=1, seconds=2)
    assert world.steps() == {version: ("condemn", "")}
    plan = world.plan()
    racing = FaultyStore(world.store)
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/*", run=lambda: execute_gc(world.repo(), plan)))
    source = MemorySource(files)
    pack(world.repo(racing), source)
    assert_archived(world.store, world.spool, source)
    [live] = live_shards(world.repo())
    assert live.version_id != version
    assert world.steps()[version][0] == "wait"
    world.later(days=3)
    world.collect()
    assert world.versions() == {live.version_id}
    assert_archived(world.store, world.spool, source)


def test_what_was_committed_since_the_plan_is_neither_condemned_nor_deleted(world: World) -> None:
    files = [File("doc/1", b"1" * 99)]
    version = leave_garbage(world, files, name="docs")
    world.later(days=1, seconds=2)
    plan = world.plan()
    source = MemorySource(files)
    pack(world.repo(), source)
    [live] = live_shards(world.repo())
    assert live.version_id == version, "adopted"
    report = execute_gc(world.repo(), plan)
    assert (report.condemned, report.deleted) == (0, 0)
    assert_archived(world.store, world.spool, source)
    # And when it is committed between the collector's look and its record.
    other = leave_garbage(world, [File("doc/2", b"2" * 99)], name="more")
    world.later(days=1, seconds=2)
    racing = FaultyStore(world.store)
    more = MemorySource([File("doc/2", b"2" * 99)], name="more")
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/*", run=lambda: pack(world.repo(), more)))
    assert world.collect(racing).condemned == 0
    assert other in {shard.version_id for shard in live_shards(world.repo())}
    assert_archived(world.store, world.spool, MemorySource([*files, *more.files]))


@pytest.mark.parametrize(("action", "ends"), [(Action.FAIL, False), (Action.LOSE_REPLY, True)])
def test_any_request_of_a_collection_may_fail_or_be_the_last(world: World, action: Action, ends: bool) -> None:
    """Run again it converges: exactly what does not count is gone."""
    pack(world.repo(), MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(4)]))
    erase(world.repo(), "doc/1")
    repack(world.repo())
    world.later(days=101)
    before = living(world.repo())
    template, moment = world.store, world.clock.moment

    def collect_all(store: ObjectStore) -> None:
        for _ in range(2):
            world.collect(store)
            world.later(hours=25)

    watched = FaultyStore(copied(template))
    collect_all(watched)
    for nth in range(1, len(watched.calls) + 1):
        world.store, world.clock.moment = copied(template), moment
        rules = [Rule(action, nth=nth), *([Rule(Action.FAIL, nth=nth + 1, times=None)] if ends else [])]
        with suppress(UnavailableError):
            collect_all(FaultyStore(world.store, rules))
        assert living(world.repo()) == before
        for _ in range(2):
            world.collect()
            world.later(hours=25)
        world.collect()
        assert world.versions() == {shard.version_id for shard in live_shards(world.repo())}
        assert living(world.repo()) == before
        assert plan_doctor(world.repo()).ok
    assert_sound(world.store, world.spool)


def test_a_grace_that_readers_could_notice_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="grace"):
        plan_gc(world.repo(), [], grace=timedelta(minutes=5))


def test_a_repository_without_locks_is_repacked_and_collected_too(tmp_path: Path) -> None:
    """Superseded shards go after the grace period, garbage a day later."""
    clock = Clock()
    store = MemoryStore(clock=clock, object_lock=False)
    repo = make_repository(store, tmp_path, routing=ONE_SLOT, lock_mode=LockMode.NONE)
    pack(repo, MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(6)]))
    erase(repo, "doc/1")
    before = living(repo)
    assert repack(repo).left_out == 1
    for hours, condemned, deleted in ((0, 1, 0), (23, 0, 0), (2, 0, 1), (0, 0, 0)):
        clock.moment += timedelta(hours=hours)
        now = opened(store, tmp_path)
        report = execute_gc(now, plan_gc(now, all_slots(now)))
        assert (report.condemned, report.deleted) == (condemned, deleted), hours
    assert living(opened(store, tmp_path)) == before
    assert len([info for info in store.list_versions("") if info.key.endswith(".vera")]) == 1


def test_a_shard_is_repaired_though_what_its_rows_were_judged_by_is_gone(world: World) -> None:
    """The shards of then were repacked and deleted; what became of them tells the same of rows that are equal."""
    first = MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(9)], name="first")
    second = MemorySource([*first.files[2:5], File("more", b"more")], name="second")
    pack(world.repo(), first)
    assert pack(world.repo(), second).equal == 3
    later = live_shards(world.repo())[1]
    erase(world.repo(), "doc/8")
    repack(world.repo())
    for _ in range(3):
        world.later(days=101)
        world.collect()
    assert world.versions() == {shard.version_id for shard in live_shards(world.repo())}
    damage(world.store, later.key, later.version_id)
    report = pack(world.repo(), second)
    assert (report.archived, report.equal) == (1, 3)
    assert Retriever(world.repo()).get("more", DAY) == b"more"
    assert later.version_id not in {shard.version_id for shard in live_shards(world.repo())}


def test_collectors_side_by_side(world: World) -> None:
    """Each step of one is taken by another just before it: both end well, and nothing else goes."""
    pack(world.repo(), MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(9)]))
    erase(world.repo(), "doc/1")
    repack(world.repo())
    before = living(world.repo())
    world.later(days=101)
    for kind, pattern, condemned in (("get_lock", "*.vera", 0), ("put", "*/log/*", 0)):
        racing = FaultyStore(world.store, [Rule(Action.RUN_BEFORE, kind, pattern, run=world.collect)])
        assert world.collect(racing).condemned == condemned
    world.later(hours=25)
    for kind in ("get_lock", "head", "delete"):
        racing = FaultyStore(world.store, [Rule(Action.RUN_BEFORE, kind, "*.vera", run=world.collect)])
        assert world.collect(racing).ok
    assert world.versions() == {shard.version_id for shard in live_shards(world.repo())}
    assert living(world.repo()) == before
    assert_sound(world.store, world.spool)


def test_a_real_store_deletes_what_is_condemned(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks, and without the hour that nobody may shorten: its clock can't be set on."""
    monkeypatch.setattr(gc, "LEAST_GRACE", timedelta(0))
    repo = make_repository(s3_store, tmp_path, routing=ONE_SLOT, lock_mode=LockMode.NONE)
    pack(repo, MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(6)]))
    erase(repo, "doc/1")
    before = living(repo)
    repack(repo)
    [live] = live_shards(repo)
    for condemned, deleted in ((1, 0), (0, 1), (0, 0)):
        report = execute_gc(repo, plan_gc(repo, all_slots(repo), grace=timedelta(0)))
        assert (report.condemned, report.deleted, report.kept) == (condemned, deleted, ())
    assert {info.version_id for info in s3_store.list_versions("") if info.key.endswith(".vera")} == {live.version_id}
    assert living(opened(s3_store, tmp_path)) == before
    assert_sound(s3_store, tmp_path)


def test_a_real_store_refuses_to_delete_what_is_locked(s3_store: S3Store, tmp_path: Path) -> None:
    """Also where a collector is wrong about it."""
    repo = make_repository(s3_store, tmp_path, routing=ONE_SLOT)
    pack(repo, MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(6)]))
    erase(repo, "doc/1")
    [old] = live_shards(repo)
    repack(repo)
    append(repo, next(iter(all_slots(repo))), condemn(old))
    [line] = plan_gc(repo, all_slots(repo)).lines
    assert (line.step, line.why) == (Step.WAIT, "locked")
    assert line.due == old.lock.until
    with pytest.raises(RestrictedError):
        s3_store.delete(old.key, version_id=old.version_id)
