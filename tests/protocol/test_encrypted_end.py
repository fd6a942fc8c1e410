"""How encrypted shards leave the archive: their keyrings go with them, from every place; at a disposal, at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.law import hold_order, retain_order
from tests.protocol.packing import DAY, File, MemorySource, copy_bucket, local_kek, make_repository, opened, pack
from tests.protocol.repacking import erase, live_shards, living, repack
from tests.protocol.test_repack import ONE_SLOT
from vera_core.config import Encryption
from vera_core.errors import NotFoundError, UnavailableError, UsageError
from vera_core.keyspace import keyring_of
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.disposals import DisposalDraft, run_disposal, submit_disposal
from vera_core.operations.gc import execute_gc, plan_gc
from vera_core.operations.hold import execute_hold
from vera_core.operations.keyring_survey import survey_keyrings
from vera_core.operations.optimize import execute_optimize, plan_optimize
from vera_core.operations.retain import execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.gc import GcReport
    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore

DRAFT = DisposalDraft(tenant="default", id="year-1", reason="retention has ended")
FILES = [File(f"doc/{number}", b"%d" % number * 9) for number in range(8)]


class World:
    """A packed encrypted repository with a registered copy of its keys, and a clock of its own."""

    def __init__(self, spool: Path, *sources: MemorySource, **changes: Any) -> None:
        self.now = datetime(2026, 3, 2, tzinfo=UTC)
        self.store = MemoryStore(clock=lambda: self.now)
        self.copy = copy_bucket(clock=lambda: self.now)
        self.spool = spool
        encryption = Encryption(local_kek().kek, (f"s3://{self.copy.bucket}/spare",))
        make_repository(self.store, spool, routing=ONE_SLOT, encryption=encryption, **changes)
        for source in sources:
            pack(self.repo(), source)

    def repo(self, store: ObjectStore | None = None) -> Repository:
        """A new handle."""
        return opened(store or self.store, self.spool)

    def keyrings(self) -> list[set[str]]:
        """The keyrings that are there in any version, in the bucket and in the copy."""
        return [
            {info.key.partition("/")[2] for info in store.list_versions("") if self._is_keyring(info.key)}
            for store in (self.store, self.copy)
        ]

    @staticmethod
    def _is_keyring(key: str) -> bool:
        return key.endswith(".keys") and "tenant.keys" not in key

    def wanted(self) -> list[set[str]]:
        """Those of live shards."""
        return [{keyring_of(shard.key).partition("/")[2] for shard in live_shards(self.repo())}] * 2

    def collect(self) -> GcReport:
        """Collects what may go, in the two runs that it takes."""
        self.collect_once()
        return self.collect_once()

    def collect_once(self) -> GcReport:
        """Collects, and lets the grace period pass."""
        repo = self.repo()
        report = execute_gc(repo, plan_gc(repo, all_slots(repo)))
        self.now += timedelta(days=1, seconds=2)
        return report


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, MemorySource(FILES))


def test_a_keyring_is_there_as_long_as_its_shard(world: World) -> None:
    erase(world.repo(), "doc/1", "doc/2")
    before = living(world.repo())
    repack(world.repo())
    assert [len(names) for names in world.keyrings()] == [2, 2], "the old shard is locked, and can be read"
    world.collect()
    assert [len(names) for names in world.keyrings()] == [2, 2]
    world.now += timedelta(days=100)
    assert world.collect().deleted == 1
    assert world.keyrings() == world.wanted()
    assert living(world.repo()) == before


def test_a_collector_that_dies_leaves_a_keyring_that_the_next_one_takes(world: World) -> None:
    erase(world.repo(), "doc/1")
    repack(world.repo())
    world.now += timedelta(days=101)
    world.collect_once()
    dying = world.repo(FaultyStore(world.store, [Rule(Action.FAIL, "delete", "*.keys", times=None)]))
    with pytest.raises(UnavailableError):
        execute_gc(dying, plan_gc(dying, all_slots(dying)))
    assert len(world.keyrings()[0]) == 2
    world.collect()
    assert world.keyrings() == world.wanted()


def test_what_is_disposed_of_is_unreadable_at_once(world: World) -> None:
    execute_retain(world.repo(), retain_order("doc/3"))
    world.now += timedelta(days=150)
    report = submit_disposal(world.repo(), DRAFT)
    assert report.disposed == 1
    assert world.keyrings() == world.wanted(), "that of the copy which keeps a file"
    reader = Retriever(world.repo())
    assert reader.get("doc/3", DAY) == FILES[3].content
    with pytest.raises(NotFoundError):
        reader.get("doc/4", DAY)
    assert survey_keyrings(world.repo(), "default", DAY).ok
    world.collect()
    assert world.keyrings() == world.wanted()


def test_a_disposal_that_died_before_the_keys_goes_on(world: World) -> None:
    world.now += timedelta(days=150)
    dying = FaultyStore(world.store, [Rule(Action.FAIL, "delete", "*.keys", times=None)])
    with pytest.raises(UnavailableError):
        submit_disposal(world.repo(dying), DRAFT)
    assert [len(names) for names in world.keyrings()] == [1, 0], "copies first"
    assert run_disposal(world.repo(), "default", DRAFT.id).disposed == 1
    assert world.keyrings() == [set(), set()]


def test_what_is_held_keeps_its_keys(world: World) -> None:
    execute_hold(world.repo(), hold_order("doc/3"))
    world.now += timedelta(days=150)
    before = world.keyrings()
    assert [len(names) for names in before] == [1, 1]
    with pytest.raises(UsageError, match="nothing to dispose of"):
        submit_disposal(world.repo(), DRAFT)
    assert world.keyrings() == before
    assert Retriever(world.repo()).get("doc/4", DAY) == FILES[4].content


def test_regulated_keyrings_are_locked_as_long_as_what_they_open(tmp_path: Path) -> None:
    """Those of merged shards and of copies, too; what was replaced goes when its lock has ended, with its keyring."""
    classes = (RetentionClass("std", 100, Erasability.REGULATED), RetentionClass("long", 3000))
    sources = [MemorySource([file], name=f"source-{number}") for number, file in enumerate(FILES[:5])]
    world = World(tmp_path, *sources, classes=classes)
    repo = world.repo()
    report = execute_optimize(repo, plan_optimize(repo, all_slots(repo)))
    assert (report.replaced, report.shards) == (5, 1)
    execute_retain(world.repo(), retain_order("doc/3"))

    def assert_locked() -> None:
        for shard in live_shards(world.repo()):
            for place in world.repo().keyrings.places():
                [info] = place.store.list_versions(place.keyring(shard))
                lock = place.store.get_lock(info.key, info.version_id)
                assert lock is not None
                assert lock.until >= shard.lock.until - timedelta(seconds=2)

    assert_locked()
    world.now += timedelta(days=50)
    world.collect()
    assert [len(names) for names in world.keyrings()] == [7, 7]
    world.now += timedelta(days=60)
    assert world.collect().deleted == 5
    assert world.keyrings() == world.wanted()
    assert_locked()
    assert [Retriever(world.repo()).get(file.uid, DAY) for file in FILES[:5]] == [file.content for file in FILES[:5]]
