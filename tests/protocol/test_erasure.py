"""Tombstones as readers, packers and the doctor must honour them: erased stays erased (I4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, KEYS, File, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.slots_support import tombstone
from tests.protocol.test_races import damage
from vera_core.errors import ErasedError, NotFoundError
from vera_core.model import Lock, Origin
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_window
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

UID = "doc/00007.json"


def erase(repo: Repository, uid: str, *, sidecar: bool = False) -> None:
    """Appends the tombstone of all versions of a uid, as an erasure will."""
    reader = Retriever(repo)
    slot = reader.slot(uid, DAY)
    versions = [report.version.split(".") for report in reader.versions(uid, DAY)]
    log = repo.slot_log(slot)
    state = log.load()
    now = repo.clock.now()
    longest = state.longest_lock()
    assert longest is not None
    log.append(
        state,
        tombstone(uid, *((int(commit), int(at)) for commit, at in versions)),
        lock=Lock(repo.config.lock_mode, repo.record_until(longest)),
        now=now,
    )
    if sidecar:
        log.write_sidecar(state, now)


def assert_erased(store: ObjectStore, spool: Path, uid: str = UID) -> None:
    reader = Retriever(opened(store, spool))
    for read in (reader.get, reader.stat, reader.stream):
        with pytest.raises(ErasedError, match="erased"):
            read(uid, DAY)
    assert all(report.erased for report in reader.versions(uid, DAY))
    assert uid not in [report.uid for report in reader.list_day(DAY)]


@pytest.fixture
def packed(memory_store: MemoryStore, tmp_path: Path) -> tuple[Repository, MemorySource]:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    return repo, source


Packed = tuple["Repository", MemorySource]


@pytest.mark.parametrize("sidecar", [False, True])
def test_an_erased_file_is_gone_for_every_reader(store: ObjectStore, tmp_path: Path, sidecar: bool) -> None:
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(20))
    pack(repo, source)
    erase(repo, UID, sidecar=sidecar)
    assert_erased(store, tmp_path)
    reader = Retriever(opened(store, tmp_path))
    assert len(list(reader.list_day(DAY))) == 19
    for file in source.files:
        if file.uid != UID:
            assert reader.get(file.uid, DAY) == file.content
    with pytest.raises(ErasedError):
        reader.get(UID, DAY, version=reader.versions(UID, DAY)[0].version)


def test_a_reader_that_knew_the_file_learns_of_its_erasure(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, _ = packed
    reader = Retriever(opened(memory_store, tmp_path, freshness_seconds=0.0))
    reader.get(UID, DAY)
    erase(repo, UID)
    with pytest.raises(ErasedError):
        reader.get(UID, DAY)


def test_an_old_sidecar_does_not_bring_it_back(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed
    slot = Retriever(repo).slot(UID, DAY)
    old = memory_store.get(KEYS.sidecar(slot)).data
    erase(repo, UID, sidecar=True)
    memory_store.put(KEYS.sidecar(slot), old)
    assert_erased(memory_store, tmp_path)
    memory_store.delete(KEYS.sidecar(slot))
    assert_erased(memory_store, tmp_path)


def test_a_re_run_and_a_later_revision_do_not_bring_it_back(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, source = packed
    erase(repo, UID)
    assert pack(opened(memory_store, tmp_path), source).packed_now == 0
    assert_erased(memory_store, tmp_path)
    changed = MemorySource(
        [replace(file, content=b"changed", media_type="x") if file.uid == UID else file for file in source.files],
        name="another",
    )
    report = pack(opened(memory_store, tmp_path), changed)
    assert report.rejects == {"erased": 1}
    assert report.equal == 59
    assert_erased(memory_store, tmp_path)


def test_an_erasure_between_build_and_commit_is_not_outrun(memory_store: MemoryStore, tmp_path: Path) -> None:
    """The uid is erased after a packer judged its row and before it commits: the packer plans again."""
    repo = make_repository(memory_store, tmp_path, part_rows=1000)
    first = MemorySource([File(UID, b"first")], name="first")
    pack(repo, first)
    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/000002.json", run=lambda: erase(repo, UID)))
    report = pack(
        opened(racing, tmp_path), MemorySource([File(UID, b"second"), *some_files(30, prefix="more")], name="second")
    )
    assert report.rejects == {"erased": 1}
    assert_erased(memory_store, tmp_path)
    assert len(Retriever(repo).versions(UID, DAY)) == 1


def test_the_doctor_does_not_bring_it_back(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed
    erase(repo, UID)
    plan = plan_doctor(opened(memory_store, tmp_path))
    assert plan.sidecars == 1
    execute_doctor(opened(memory_store, tmp_path), plan)
    assert_erased(memory_store, tmp_path)
    slot = Retriever(repo).slot(UID, DAY)
    claim = repo.slot_log(slot).read_sidecar()
    assert claim is not None
    assert [len(ordinals) for ordinals in claim.dead.values()] == [1]


def test_a_repair_of_the_shard_does_not_bring_it_back(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """A shard stored again keeps its entries' origins, and so their tombstones."""
    repo, source = packed
    erase(repo, UID)
    before = Retriever(repo).versions(UID, DAY)[0]
    damage(memory_store, before.shard, before.version_id)
    pack(opened(memory_store, tmp_path), source)
    after = Retriever(opened(memory_store, tmp_path)).versions(UID, DAY)[0]
    assert after.version_id != before.version_id
    assert after.version == before.version
    assert_erased(memory_store, tmp_path)


def test_one_erased_version_leaves_the_others(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    for name in ("one", "two"):
        pack(repo, MemorySource([File(UID, name.encode())], name=name))
    slot = Retriever(repo).slot(UID, DAY)
    log = repo.slot_log(slot)
    state = log.load()
    now = repo.clock.now()
    log.append(state, tombstone(UID, (2, 0)), lock=Lock(repo.config.lock_mode, now + timedelta(days=500)), now=now)
    reader = Retriever(opened(memory_store, tmp_path))
    assert reader.get(UID, DAY) == b"one"
    assert [report.erased for report in reader.versions(UID, DAY)] == [False, True]
    with pytest.raises(ErasedError):
        reader.get(UID, DAY, version="2.0")
    assert state.is_dead(Origin(2, 0))


def test_verification_accounts_for_erased_files(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    """An erased file is still in its locked shard: integrity, locks and accounts of its window hold."""
    repo, source = packed
    erase(repo, UID)
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok


def test_erasing_tells_nobody_about_other_slots(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed
    erase(repo, UID)
    with pytest.raises(NotFoundError):
        Retriever(opened(memory_store, tmp_path)).get(UID, DAY + timedelta(1))
