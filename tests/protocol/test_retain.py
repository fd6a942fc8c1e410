"""Extensions: a file is kept longer, it alone, and shows once wherever files show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from tests.protocol.erasing import assert_erased, draft
from tests.protocol.law import LATER, held_shards, hold_order, retain_order
from tests.protocol.packing import DAY, KEYS, File, MemorySource, copied, make_repository, opened, pack, some_files
from tests.protocol.repacking import erase, repack
from tests.protocol.slots_support import dispose
from vera_core.errors import NotFoundError, RestrictedError, UsageError, VeraError
from vera_core.keyspace import KeyKind
from vera_core.model import Erasability, Lock, LockMode, RetentionClass
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.hold import execute_hold
from vera_core.operations.inventory import write_inventory
from vera_core.operations.retain import Outcome, RetainReport, execute_retain, plan_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots, verify_window
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore

FILES = some_files(30)
ONE, TWO = FILES[0].uid, FILES[1].uid
LONG = FILES[5].uid
"""Of another retention class."""


def retain(store: ObjectStore, spool: Path, *uids: str, until: datetime = LATER) -> RetainReport:
    return execute_retain(opened(store, spool), retain_order(*uids, until=until))


def packed(store: ObjectStore, spool: Path) -> Repository:
    repo = make_repository(store, spool)
    pack(repo, MemorySource(FILES))
    return repo


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    return packed(memory_store, tmp_path)


def locks(store: ObjectStore) -> dict[str, Lock | None]:
    """Every shard version's lock, as the store says."""
    return {
        info.version_id: store.get_lock(info.key, info.version_id)
        for info in store.list_versions(KEYS.root)
        if KEYS.parse(info.key).kind is KeyKind.SHARD
    }


def copies(store: ObjectStore, spool: Path) -> set[str]:
    """VersionIds of live copies."""
    repo = opened(store, spool)
    found = [repo.slot_log(slot).load() for slot in all_slots(repo)]
    return {shard.version_id for state in found for shard in state.live() if state.is_copy(shard)}


def assert_shown_once(store: ObjectStore, spool: Path, files: list[File]) -> None:
    """Readers, lists, inventory and verification: each file once, with its content."""
    repo = opened(store, spool)
    reader = Retriever(repo)
    for file in files:
        assert reader.get(file.uid, DAY) == file.content
        assert len(reader.versions(file.uid, DAY)) == 1
    assert sorted(report.uid for report in reader.list_day(DAY)) == sorted(file.uid for file in files)
    report = write_inventory(repo, "default", DAY)
    rows = [row for key in report.keys for row in pq.read_table(_as_file(store, spool, key))["uid"].to_pylist()]
    assert (report.files, sorted(rows)) == (len(files), sorted(file.uid for file in files))
    checked = verify_slots(repo, all_slots(repo), deep=True)
    assert (checked.ok, checked.entries) == (True, len(files))


def _as_file(store: ObjectStore, spool: Path, key: str) -> Path:
    path = spool / key.replace("/", "-")
    path.unlink(missing_ok=True)
    store.download(key, path)
    return path


# ---------------------------------------------------------------------- what it does


def test_a_file_is_kept_longer_and_nothing_else_is(store: ObjectStore, tmp_path: Path) -> None:
    packed(store, tmp_path)
    before = locks(store)
    plan = plan_retain(opened(store, tmp_path), retain_order(ONE, TWO, LONG))
    assert [file.outcome for file in plan.files] == [Outcome.PLANNED] * 3
    assert locks(store) == before

    report = retain(store, tmp_path, ONE, TWO, LONG)
    assert (report.ok, report.changed) == (True, 3)
    after = locks(store)
    fresh = set(after) - set(before)
    assert {version: after[version] for version in before} == before, "nothing else is prolonged"
    assert {version for _, version in report.shards} == fresh == copies(store, tmp_path)
    assert all(after[version] == Lock(LockMode.GOVERNANCE, LATER) for version in fresh)
    assert_shown_once(store, tmp_path, FILES)
    reader = Retriever(opened(store, tmp_path))
    for file in FILES:
        until = reader.stat(file.uid, DAY).lock_until
        assert (until == LATER) == (file.uid in {ONE, TWO, LONG})
    assert reader.stat(LONG, DAY).retention_class == "long"
    source = MemorySource(FILES)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok
    assert pack(opened(store, tmp_path), source).packed_now == 0
    plan_after = plan_doctor(opened(store, tmp_path))
    assert (plan_after.ok, plan_after.garbage) == (True, 0)
    again = retain(store, tmp_path, ONE, TWO, LONG)
    assert (again.changed, again.before, again.shards) == (0, 3, ())


def test_an_extension_is_never_a_shortening(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    execute_retain(repo, retain_order(ONE))
    before = len(list(memory_store.list_versions("")))
    for uids, until in (((ONE,), LATER - timedelta(days=1)), ((TWO, LONG), LATER - timedelta(days=3999))):
        with pytest.raises(RestrictedError, match="nothing shortens that"):
            execute_retain(repo, retain_order(*uids, until=until))
    assert not plan_retain(repo, retain_order(ONE, until=LATER - timedelta(days=1))).ok
    assert len(list(memory_store.list_versions(""))) == before, "nothing was done"
    longest = LATER + timedelta(days=900)
    execute_retain(repo, retain_order(ONE, until=longest))
    assert Retriever(opened(memory_store, tmp_path)).stat(ONE, DAY).lock_until == longest
    assert len(copies(memory_store, tmp_path)) == 1, "the first copy keeps nothing any more"
    assert_shown_once(memory_store, tmp_path, FILES)


def test_absurd_dates_are_refused_by_the_stores_clock(tmp_path: Path) -> None:
    now = datetime(2044, 3, 2, tzinfo=UTC)
    store = MemoryStore(clock=lambda: now)
    repo = packed(store, tmp_path)
    for until in (now, now - timedelta(days=1), LATER, now + timedelta(days=36_601), datetime(9999, 1, 1, tzinfo=UTC)):
        with pytest.raises(UsageError):
            execute_retain(repo, retain_order(ONE, until=until))
    execute_retain(repo, retain_order(ONE, until=now + timedelta(days=36_599, microseconds=1)))
    assert Retriever(repo).stat(ONE, DAY).lock_until == now + timedelta(days=36_599, seconds=1)


def test_nothing_is_done_if_a_file_is_unknown_or_the_order_says_too_little(
    repo: Repository, memory_store: MemoryStore
) -> None:
    submit(repo, draft(TWO))
    before = len(list(memory_store.list_versions("")))
    for unknown in ("nowhere", TWO):
        assert plan_retain(repo, retain_order(ONE, unknown)).missing == 1
        with pytest.raises(NotFoundError, match="1 of 2 files are not archived, or erased; nothing was done"):
            execute_retain(repo, retain_order(ONE, unknown))
    for wrong in (replace(retain_order(ONE), reason=" "), retain_order()):
        with pytest.raises(UsageError):
            execute_retain(repo, wrong)
    assert len(list(memory_store.list_versions(""))) == before


def test_every_version_and_big_files_and_empty_ones(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, shard_bytes=1000)
    big = File("big", b"0123456789" * 9_000)
    files = [big, File("empty"), *(File(f"small/{at}", b"%d" % at * 300) for at in range(4))]
    pack(repo, MemorySource(files))
    pack(repo, MemorySource([File("empty", b"no more", metadata=(("a", "b"),), media_type="x/y")], name="second"))
    report = execute_retain(repo, retain_order(*(file.uid for file in files)))
    assert report.changed == len(files)
    assert len(report.shards) > 3
    reader = Retriever(opened(memory_store, tmp_path))
    assert b"".join(reader.stream("big", DAY)[1]) == big.content
    assert [(item.size, item.lock_until) for item in reader.versions("empty", DAY)] == [(0, LATER), (7, LATER)]
    assert (reader.stat("empty", DAY).metadata, reader.stat("empty", DAY).media_type) == ({"a": "b"}, "x/y")
    assert len(list(reader.list_day(DAY))) == len(files)


def test_a_copy_outlives_the_shard_that_it_was_made_of(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    execute_retain(repo, retain_order(ONE))
    before = Retriever(repo).stat(ONE, DAY)
    log = repo.slot_log(Retriever(repo).slot(ONE, DAY))
    state = log.load()
    gone = [shard for shard in state.live() if not state.is_copy(shard)]
    log.append(state, dispose(*gone), lock=Lock(LockMode.GOVERNANCE, LATER), now=repo.clock.now())
    for shard in gone:
        memory_store.delete(shard.key, version_id=shard.version_id, bypass_governance=True)
    reader = Retriever(opened(memory_store, tmp_path))
    assert reader.get(ONE, DAY) == FILES[0].content
    assert (reader.stat(ONE, DAY).version, reader.stat(ONE, DAY).version_id) == (before.version, before.version_id)
    slot = Retriever(repo).slot(ONE, DAY)
    lost = next(file.uid for file in FILES[1:] if reader.slot(file.uid, DAY) == slot)
    with pytest.raises(NotFoundError):
        reader.get(lost, DAY)
    assert plan_doctor(opened(memory_store, tmp_path)).findings == ()
    assert pack(opened(memory_store, tmp_path), MemorySource(FILES)).packed_now == 0, "nothing brings it back"


# ---------------------------------------------------------------------- beside holds, erasures and repacks


def test_a_kept_file_can_be_erased_and_its_bytes_stay_hidden_as_long(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    execute_retain(repo, retain_order(ONE))
    report = submit(repo, draft(ONE))
    assert (report.erased, report.hidden_until) == (1, LATER)
    assert_erased(memory_store, tmp_path, ONE)


def test_a_regulated_file_is_kept_from_erasure_as_long(memory_store: MemoryStore, tmp_path: Path) -> None:
    ledger = RetentionClass("ledger", 30, Erasability.REGULATED)
    repo = make_repository(memory_store, tmp_path, classes=(ledger,), default_class="ledger")
    pack(repo, MemorySource([File("l/1", b"paid", retention_class="ledger")]))
    execute_retain(repo, retain_order("l/1"))
    [file] = submit(repo, draft("l/1")).files
    assert file.refusal is not None
    assert file.refusal.until == LATER


def test_a_copy_of_a_held_file_is_held_too(repo: Repository, memory_store: MemoryStore) -> None:
    execute_hold(repo, hold_order(ONE))
    execute_retain(repo, retain_order(ONE))
    assert len(held_shards(memory_store)) == 2
    execute_hold(repo, hold_order(ONE, release=True))
    assert held_shards(memory_store) == set()


def test_a_repack_leaves_copies_as_they_are(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    execute_retain(repo, retain_order(ONE, TWO))
    kept = copies(memory_store, tmp_path)
    gone = {file.uid for file in FILES[2::2]}
    erase(opened(memory_store, tmp_path), *gone)
    repack(opened(memory_store, tmp_path))
    assert copies(memory_store, tmp_path) == kept
    reader = Retriever(opened(memory_store, tmp_path))
    assert {reader.stat(uid, DAY).lock_until for uid in (ONE, TWO)} == {LATER}
    left = sorted({file.uid for file in FILES} - gone)
    assert sorted(report.uid for report in reader.list_day(DAY)) == left
    assert all(len(reader.versions(uid, DAY)) == 1 for uid in left)


# ---------------------------------------------------------------------- crashes and races


def test_an_extension_that_dies_at_any_request_is_finished_by_whoever_comes_next(tmp_path: Path) -> None:
    begin = MemoryStore()
    files = [*FILES[:6], FILES[7]]
    pack(make_repository(begin, tmp_path), MemorySource(files))
    watched = FaultyStore(copied(begin))
    repo = opened(watched, tmp_path)
    watched.calls.clear()
    execute_retain(repo, retain_order(ONE, TWO, LONG))
    for number in range(1, len(watched.calls) + 1):
        for action in (Action.FAIL, Action.LOSE_REPLY):
            store = copied(begin)
            dying = FaultyStore(store)
            repo = opened(dying, tmp_path)
            dying.add(Rule(action, nth=number))
            dying.add(Rule(Action.FAIL, nth=number + 1, times=None))
            with pytest.raises(VeraError):
                execute_retain(repo, retain_order(ONE, TWO, LONG))
            if number % 2:
                doctor = opened(store, tmp_path)
                execute_doctor(doctor, plan_doctor(doctor))
                stored = locks(store)
                assert all(stored[version] == Lock(LockMode.GOVERNANCE, LATER) for version in copies(store, tmp_path))
            assert retain(store, tmp_path, ONE, TWO, LONG).ok
            stored = locks(store)
            assert all(stored[version] == Lock(LockMode.GOVERNANCE, LATER) for version in copies(store, tmp_path))
            reader = Retriever(opened(store, tmp_path))
            for file in files:
                assert reader.get(file.uid, DAY) == file.content
                assert len(reader.versions(file.uid, DAY)) == 1
                kept = file.uid in {ONE, TWO, LONG}
                assert (reader.stat(file.uid, DAY).lock_until == LATER) == kept
            plan = plan_doctor(opened(store, tmp_path))
            assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
            assert plan.garbage <= 1


def test_an_erasure_that_comes_first_leaves_nothing_to_keep(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    racing = FaultyStore(memory_store)
    keeping = opened(racing, tmp_path)
    racing.add(
        Rule(Action.RUN_BEFORE, "put", "*/log/*", run=lambda: submit(opened(memory_store, tmp_path), draft(ONE)))
    )
    report = execute_retain(keeping, retain_order(ONE))
    assert [file.outcome for file in report.files] == [Outcome.ERASED]
    assert copies(memory_store, tmp_path) == set()
    assert_erased(memory_store, tmp_path, ONE)


def test_a_version_that_is_archived_meanwhile_is_kept_too(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    racing = FaultyStore(memory_store)
    keeping = opened(racing, tmp_path)
    late = MemorySource([File(ONE, b"changed")], name="late")
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/*", run=lambda: pack(opened(memory_store, tmp_path), late)))
    [file] = execute_retain(keeping, retain_order(ONE)).files
    assert len(file.versions) == 2
    found = Retriever(opened(memory_store, tmp_path)).versions(ONE, DAY)
    assert [item.lock_until for item in found] == [LATER, LATER]
