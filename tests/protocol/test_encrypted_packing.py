"""What packing an encrypted repository leaves in the bucket: keyrings with their locks, and none without its shard."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import draft
from tests.protocol.packing import (
    CONFIG,
    DAY,
    File,
    MemorySource,
    assert_archived,
    copy_bucket,
    local_kek,
    make_repository,
    opened,
    pack,
)
from tests.protocol.repacking import append
from tests.protocol.test_races import damage
from tests.protocol.test_repack import ONE_SLOT, Clock
from vera_core.config import Encryption
from vera_core.errors import IntegrityError, UnavailableError, UsageError
from vera_core.format.sealed import MAX_SEALED_CONTENT
from vera_core.keyspace import keyring_of, shard_of
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.gc import GcPlan, GcReport, execute_gc, plan_gc
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.putback import put_back
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.source.rows import RejectReason
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore


class World:
    """An encrypted repository with one slot a day and a registered copy of its keys, and a clock of its own."""

    def __init__(self, spool: Path) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.spool = spool
        self.copy = copy_bucket()
        encryption = Encryption(local_kek().kek, (f"s3://{self.copy.bucket}/spare",))
        make_repository(self.store, spool, routing=ONE_SLOT, encryption=encryption)

    def repo(self, store: ObjectStore | None = None) -> Repository:
        """A new handle."""
        return opened(store or self.store, self.spool)

    def leave(self, kind: str, key: str) -> set[str]:
        """Packs a file with a store that fails at that request; the keys of what lies there since."""
        before = self.keys(self.store)
        dying = FaultyStore(self.store, [Rule(Action.FAIL, kind, key, times=None)])
        with pytest.raises(UnavailableError):
            pack(self.repo(dying), MemorySource([File("lost", b"lost")], name="lost"))
        return self.keys(self.store) - before

    def keys(self, store: MemoryStore) -> set[str]:
        """Keys of shards and keyrings, without what stands before the tenant."""
        names = {info.key[info.key.index("t/default") :] for info in store.list_versions("") if "t/default" in info.key}
        return {name for name in names if name.endswith((".vera", ".keys")) and "tenant.keys" not in name}

    def plan(self) -> GcPlan:
        repo = self.repo()
        return plan_gc(repo, all_slots(repo))

    def collect(self, *, after: timedelta = timedelta()) -> GcReport:
        """Collects once that time has passed."""
        self.clock.moment += after
        return execute_gc(self.repo(), self.plan())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


DAY_AND_MORE = timedelta(days=1, seconds=2)


def test_a_keyring_without_a_shard_is_collected_everywhere(world: World) -> None:
    pack(world.repo(), MemorySource([File("doc/1", b"1")]))
    needed = world.keys(world.store)
    [orphan] = world.leave("put_file", "*.vera")
    assert orphan.endswith(".keys")
    assert orphan in world.keys(world.copy)
    assert [(line.step, line.why) for line in world.plan().lines] == [("wait", "uploaded within a day")]
    assert world.collect(after=DAY_AND_MORE).condemned == 1
    [slot] = all_slots(world.repo())
    assert world.repo().slot_log(slot).load().is_condemned(f"archive/{shard_of(orphan)}")
    assert world.collect().deleted == 0, "in its grace period"
    assert world.collect(after=DAY_AND_MORE).deleted == 1
    assert world.keys(world.store) == needed
    assert world.keys(world.copy) == {key for key in needed if key.endswith(".keys")}
    assert world.plan().lines == ()


LAW = RetentionClass("law", 3000, Erasability.REGULATED)


def test_a_regulated_keyring_is_locked_like_its_shard_everywhere_and_others_not_at_all(tmp_path: Path) -> None:
    store, copy = MemoryStore(), copy_bucket()
    encryption = Encryption(local_kek().kek, (f"s3://{copy.bucket}/spare",))
    make_repository(store, tmp_path, routing=ONE_SLOT, encryption=encryption, classes=(*CONFIG.classes, LAW))
    source = MemorySource([File("std", b"1"), File("law", b"2", retention_class="law")])
    unsealed = FaultyStore(store, [Rule(Action.FAIL, "set_lock", "*.vera", times=None)])
    with pytest.raises(UnavailableError):
        pack(opened(unsealed, tmp_path), source)
    plan = plan_doctor(opened(store, tmp_path))
    assert plan.unsealed == 1
    assert execute_doctor(opened(store, tmp_path), plan).ok
    pack(opened(store, tmp_path), source)
    repo = opened(store, tmp_path)
    [slot] = all_slots(repo)
    by_class = {shard.retention_class: shard for shard in repo.slot_log(slot).load().live()}
    for name, shard in by_class.items():
        for place in repo.key_places():
            [info] = list(place.store.list_versions(place.keyring(shard)))
            assert place.store.get_lock(info.key, info.version_id) == (shard.lock if name == "law" else None)


def test_a_keyring_that_was_stored_though_its_reply_was_lost_is_not_refused(world: World) -> None:
    """A client of S3 that asks again is told 412 by what it stored itself."""
    source = MemorySource([File("doc/1", b"1")])
    repeating = FaultyStore(world.store, [Rule(Action.REPEAT, "put", "*.keys", times=None)])
    pack(world.repo(repeating), source)
    assert_archived(world.store, world.spool, source)
    assert len([info for info in world.store.list_versions("") if info.key.endswith(".keys")]) == 2, "tenant's too"


def test_an_erasure_while_rows_are_judged_is_no_error(world: World) -> None:
    """The latest version of a row's file loses its key after the packer has read the log, and before it is compared."""
    source = MemorySource([File("doc/1", b"1"), File("doc/2", b"2")])
    pack(world.repo(), source)
    erased: list[int] = []

    def erase() -> None:
        if not erased:
            erased.append(0)
            erased[0] = submit(world.repo(), draft("doc/1")).erased

    keyring = f"*/{'?' * 32}.keys"
    racing = FaultyStore(world.store, [Rule(Action.RUN_BEFORE, "get", keyring, run=erase)])
    report = pack(world.repo(racing), MemorySource(source.files, name="again"))
    assert erased == [1]
    assert (report.equal, report.rejects) == (1, {RejectReason.ERASED: 1})


def test_what_is_too_large_to_be_sealed_whole_is_sealed_as_a_stream(tmp_path: Path) -> None:
    """Whatever its uid and attributes, what is not above the inline limit can be sealed."""
    store, encryption = MemoryStore(), Encryption(local_kek().kek)
    with pytest.raises(UsageError, match="inline limit"):
        make_repository(MemoryStore(), tmp_path, encryption=encryption, inline_limit=MAX_SEALED_CONTENT + 1)
    repo = make_repository(store, tmp_path, encryption=encryption, inline_limit=MAX_SEALED_CONTENT)
    attributes = ("m" * 127, (("k", "v" * 4091),))
    files = [
        File(
            "u" * 512, random.Random(1).randbytes(MAX_SEALED_CONTENT), media_type=attributes[0], metadata=attributes[1]
        ),
        File("large", bytes(MAX_SEALED_CONTENT + 1)),
    ]
    source = MemorySource(files, big=MAX_SEALED_CONTENT)
    report = pack(repo, source)
    assert (report.archived, report.rejects) == (2, {})
    readers, places = ShardReaders(repo), []
    for file in files:
        assert Retriever(opened(store, tmp_path)).get(file.uid, DAY) == file.content
        slot = Retriever(repo).slot(file.uid, DAY)
        name = repo.naming("default").name(file.uid)
        places += [
            readers.reader(s).streamed for s in repo.slot_log(slot).load().live() if readers.reader(s).find(name)
        ]
    assert places == [False, True]


@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_shard_is_no_reason_to_build_another(world: World, gone: bool) -> None:
    """The source may give other bytes today, and nothing would tell; so it is put back, or packing stops."""
    source = MemorySource([File(f"doc/{number}", b"%d" % number * 50) for number in range(9)])
    [line] = pack(world.repo(), source).shards
    replica = world.spool / "replica.vera"
    replica.write_bytes(world.store.get(line.key).data)
    before = world.keys(world.store)
    if gone:
        world.clock.moment += timedelta(days=101)
        world.store.delete(line.key, version_id=line.version_id)
    else:
        damage(world.store, line.key, line.version_id)
    with pytest.raises(IntegrityError, match="no build of an encrypted shard gives the same bytes") as caught:
        pack(world.repo(), source)
    assert f"--put-back --key {line.key.removeprefix('archive/')}" in caught.value.todo
    assert world.keys(world.store) <= before, "nothing was built"
    put_back(world.repo(), line.key, replica)
    assert pack(world.repo(), source).packed_now == 0
    assert_archived(world.store, world.spool, source)


def test_a_committed_part_without_its_keyring_is_an_error(world: World) -> None:
    source = MemorySource([File("doc/1", b"1")])
    [line] = pack(world.repo(), source).shards
    for info in list(world.store.list_versions(keyring_of(line.key))):
        world.store.delete(info.key, version_id=info.version_id)
    with pytest.raises(IntegrityError, match="keyring can't be used"):
        pack(world.repo(), source)


def test_a_keyring_goes_after_its_shard(world: World) -> None:
    pack(world.repo(), MemorySource([File("doc/1", b"1")]))
    shard, keyring = sorted(world.leave("put", "*/log/*"), reverse=True)
    assert keyring_of(shard) == keyring
    world.collect(after=DAY_AND_MORE)
    assert world.collect(after=DAY_AND_MORE).deleted == 1
    assert keyring in world.keys(world.store), "as long as anything might read the shard"
    world.collect()
    assert world.collect(after=DAY_AND_MORE).deleted == 1
    assert keyring not in world.keys(world.store) | world.keys(world.copy)
    assert world.plan().lines == ()


def test_what_counts_keeps_its_keyring_though_a_stranger_deleted_the_shard(world: World) -> None:
    """It can be put back from a replica."""
    [line] = pack(world.repo(), MemorySource([File("doc/1", b"1")])).shards
    world.clock.moment += timedelta(days=101)
    world.store.delete(line.key, version_id=line.version_id)
    assert world.plan().lines == ()


@pytest.mark.parametrize(("kind", "key"), [("list_versions", "*/log/*"), ("put_file", "*.vera"), ("put", "*/log/*")])
def test_a_shard_that_is_given_up_before_its_commit_is_built_again(world: World, kind: str, key: str) -> None:
    """A condemn of its digest, which collectors and erasers append, comes between keyring and commit."""
    source = MemorySource([File("doc/1", b"1")])
    given_up: set[str] = set()

    def give_up() -> None:
        keyrings = [name for name in world.keys(world.store) if name.endswith(".keys")]
        if keyrings and not given_up:
            given_up.update(f"archive/{shard_of(name)}" for name in keyrings)
            [slot] = all_slots(world.repo())
            versions = [{"key": name, "version_id": ""} for name in given_up]
            append(world.repo(), slot, {"type": "condemn", "versions": versions})

    racing = FaultyStore(world.store, [Rule(Action.RUN_BEFORE, kind, key, run=give_up, times=None)])
    [line] = pack(world.repo(racing), source).shards
    assert len(given_up) == 1
    assert line.key not in given_up
    assert_archived(world.store, world.spool, source)
