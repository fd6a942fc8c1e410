"""Packers side by side: one window, one slot, many processes' worth of handles; every row counts once (I2)."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    EITHER,
    KEYS,
    NOON,
    File,
    MemorySource,
    assert_archived,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import VeraError
from vera_core.model import Lock, LockMode, Slot
from vera_core.operations.commit import seal, sealed_number
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.retrieve import Retriever
from vera_core.store.chain import ChainedLog
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.protocol.packing import Make
    from vera_core.operations.pack import PackReport
    from vera_core.store.base import ObjectStore


def together(work: Sequence[Callable[[], PackReport]]) -> list[PackReport]:
    """Runs all at once, each in a thread; raises the first error."""
    barrier = threading.Barrier(len(work))
    reports: list[PackReport] = []
    errors: list[VeraError] = []

    def run(one: Callable[[], PackReport]) -> None:
        barrier.wait()
        try:
            reports.append(one())
        except VeraError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return reports


def assert_sound(store: ObjectStore, spool: Path) -> None:
    """Every committed shard is sealed, sidecars are current, nothing is left to put right but garbage."""
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())


@EITHER
def test_sixteen_packers_of_one_window(store: ObjectStore, tmp_path: Path, make: Make) -> None:
    make(store, tmp_path)
    source = MemorySource(some_files(120))
    repos = [opened(store, tmp_path, f"packer-{number}") for number in range(16)]
    reports = together([lambda repo=repo: pack(repo, source) for repo in repos])  # type: ignore[misc]
    assert {(report.rows, report.archived, report.equal, report.rejected) for report in reports} == {(120, 120, 0, 0)}
    assert len({(report.manifest, report.shards) for report in reports}) == 1, "all tell the same"
    assert_archived(store, tmp_path, source)
    assert_sound(store, tmp_path)


@EITHER
def test_threads_may_share_a_handle(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    repo = make(memory_store, tmp_path)
    sources = [MemorySource(some_files(30, prefix=f"p{number}"), name=f"source-{number}") for number in range(4)]
    together([lambda source=source: pack(repo, source) for source in sources])  # type: ignore[misc]
    everything = MemorySource([file for source in sources for file in source.files])
    assert_archived(memory_store, tmp_path, everything)


@EITHER
def test_packers_of_different_windows_share_slots(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    """Six sources with rows of one day: their commits interleave in the same slot logs."""
    make(memory_store, tmp_path)
    sources = [MemorySource(some_files(60, prefix=f"p{number}"), name=f"source-{number}") for number in range(6)]
    together(
        [lambda source=source: pack(opened(memory_store, tmp_path), source) for source in sources]  # type: ignore[misc]
    )
    everything = MemorySource([file for source in sources for file in source.files])
    assert_archived(memory_store, tmp_path, everything)
    assert_sound(memory_store, tmp_path)


@pytest.mark.parametrize("first_content", [b"same", b"other"])
@EITHER
def test_overlapping_windows_of_two_sources_make_one_version_or_two(
    memory_store: MemoryStore, tmp_path: Path, first_content: bytes, make: Make
) -> None:
    """Both sources hold the uid. Equal rows count once whoever is first; different ones are two versions."""
    make(memory_store, tmp_path)
    ours = [File(f"doc/{number}", b"same") for number in range(20)]
    one = MemorySource([replace(file, content=first_content) for file in ours], name="one")
    two = MemorySource(ours, name="two")
    reports = together([lambda source=source: pack(opened(memory_store, tmp_path), source) for source in (one, two)])  # type: ignore[misc]
    reader = Retriever(opened(memory_store, tmp_path))
    if first_content == b"same":
        assert sum(report.archived for report in reports) == 20
        assert sum(report.equal for report in reports) == 20
        assert_archived(memory_store, tmp_path, two)
    else:
        assert [report.archived for report in reports] == [20, 20]
        for file in ours:
            assert len(reader.versions(file.uid, DAY)) == 2
            assert reader.get(file.uid, DAY) in (b"same", b"other")


@EITHER
def test_a_racer_who_died_unsealed_is_sealed_by_whoever_packs_the_slot(tmp_path: Path, make: Make) -> None:
    """The survivor loaded the slot before the dead one committed: its sidecar must not say that all is sealed."""
    store = MemoryStore()
    make(store, tmp_path, part_rows=1000)
    dead_source = MemorySource(some_files(40, prefix="dead"), name="dead")
    source = MemorySource(some_files(40, prefix="live"), name="live")
    dying = FaultyStore(store, [Rule(Action.FAIL, "set_lock", "*.vera", times=None)])

    def die() -> None:
        with pytest.raises(VeraError):
            pack(opened(dying, tmp_path), dead_source)

    surviving = FaultyStore(store)
    repo = opened(surviving, tmp_path)
    # Just before the survivor's first commit of the slot, somebody else commits there and is gone.
    surviving.add(Rule(Action.RUN_BEFORE, "put", "*/log/000001.json", run=die))
    pack(repo, source)
    told = ChainedLog(store, KEYS.writer_prefix(repo.audit.writer), lambda n: KEYS.audit(repo.audit.writer, n)).read()
    assert [record.type for record in told] == ["intent", "recovered", "outcome"], "the sealer says so (I6)"
    assert dying.count("set_lock", "*.vera") == 1, "there was a commit that its packer could not seal"
    for slot in (Slot("default", DAY, index, 1) for index in (0, 1)):
        log = repo.slot_log(slot)
        for shard in log.load().live():
            held = store.get_lock(shard.key, shard.version_id)
            assert held is not None
            assert held.until >= shard.lock.until - timedelta(seconds=2), shard
    assert_sound(store, tmp_path)
    assert pack(opened(store, tmp_path), dead_source).archived == 40
    assert_archived(store, tmp_path, MemorySource([*source.files, *dead_source.files]))
    assert_sound(store, tmp_path)


def test_a_repack_that_was_not_sealed_is_rolled_forward(tmp_path: Path) -> None:
    """A shard stored again keeps its commit's number; that must not make it look sealed."""
    store = MemoryStore()
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(20))
    report = pack(repo, source)
    damaged = report.shards[0]
    damage(store, damaged.key, damaged.version_id)
    dying = FaultyStore(store, [Rule(Action.FAIL, "set_lock", "*.vera", times=None)])
    with pytest.raises(VeraError):
        pack(opened(dying, tmp_path), source)
    slot = repo.keys.parse(damaged.key).slot(1)
    log = repo.slot_log(slot)
    state = log.load()
    assert state.records[-1].type == "repack"
    assert sealed_number(log, state) < state.head.number
    assert seal(repo, log, state, sealed_number(log, state)) == 1
    assert seal(repo, log, state, 0) == 0
    assert_archived(store, tmp_path, source)


def damage(store: MemoryStore, key: str, version_id: str) -> None:
    """Flips a bit of a stored version through the store's back door."""
    versions = store._keys[key]
    at = next(place for place, version in enumerate(versions) if version.version_id == version_id)
    data = bytearray(versions[at].data or b"")
    data[len(data) // 2] ^= 1
    versions[at] = replace(versions[at], data=bytes(data))


@EITHER
def test_a_reply_lost_after_the_commit_is_no_second_commit(
    memory_store: MemoryStore, tmp_path: Path, make: Make
) -> None:
    make(memory_store, tmp_path)
    flaky = FaultyStore(memory_store, [Rule(Action.LOSE_REPLY, "put", "*/log/*", times=None)])
    source = MemorySource(some_files(60))
    assert pack(opened(flaky, tmp_path), source).archived == 60
    assert pack(opened(memory_store, tmp_path), source).packed_now == 0
    assert_archived(memory_store, tmp_path, source)


@pytest.mark.parametrize("action", [Action.REPEAT, Action.LOSE_REPLY])
def test_an_upload_whose_reply_was_lost_is_adopted_by_the_next_run(tmp_path: Path, action: Action) -> None:
    store = MemoryStore()
    make_repository(store, tmp_path)
    source = MemorySource(some_files(30))
    flaky = FaultyStore(store, [Rule(action, "put_file", "*.vera")])
    try:
        pack(opened(flaky, tmp_path), source)
    except VeraError:
        pack(opened(store, tmp_path), source)
    assert_archived(store, tmp_path, source)
    plan = plan_doctor(opened(store, tmp_path))
    assert plan.garbage == 0, "the version that was there already is the one committed"


def test_an_adopted_shard_must_verify(tmp_path: Path) -> None:
    """Somebody's other bytes under the digest name are left alone."""
    store = MemoryStore()
    make_repository(store, tmp_path)
    source = MemorySource(some_files(30))
    shadow = MemoryStore()
    make_repository(shadow, tmp_path)
    lines = pack(opened(shadow, tmp_path), source).shards
    for line in lines:
        store.put(line.key, b"junk", lock=Lock(LockMode.GOVERNANCE, NOON.replace(year=2090)))
    assert pack(opened(store, tmp_path), source).archived == 30
    assert_archived(store, tmp_path, source)
    assert plan_doctor(opened(store, tmp_path)).garbage == len(
        {line.key for line in pack(opened(shadow, tmp_path), source).shards}
    )


@EITHER
def test_a_version_condemned_before_its_commit_is_not_committed(tmp_path: Path, make: Make) -> None:
    """gc condemns a version between upload and commit: the packer stores another one."""
    store = MemoryStore()
    repo = make(store, tmp_path, part_rows=1000)
    source = MemorySource([File(f"doc/{number}", b"x" * number) for number in range(1, 20)])
    racing = FaultyStore(store)
    condemned: list[str] = []

    def condemn() -> None:
        if condemned:
            return
        for info in list(store.list_versions("archive/t/default/20260301/")):
            parsed = repo.keys.parse(info.key)
            if parsed.digest:
                log = repo.slot_log(parsed.slot(1))
                state = log.load()
                body = {"type": "condemn", "versions": [{"key": info.key, "version_id": info.version_id}]}
                now = repo.clock.now()
                log.append(state, body, lock=Lock(repo.config.lock_mode, now + timedelta(days=200)), now=now)
                condemned.append(info.version_id)

    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/000001.json", run=condemn))
    report = pack(opened(racing, tmp_path), source)
    assert condemned
    assert not {line.version_id for line in report.shards} & set(condemned)
    assert_archived(store, tmp_path, source)
