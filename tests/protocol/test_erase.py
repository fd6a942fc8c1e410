"""Erasing files: what is erased, what is refused and why, and that it stays so (I4, I6, I7)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import UID, assert_erased, assert_readable, draft
from tests.protocol.packing import (
    DAY,
    KEYS,
    File,
    MemorySource,
    make_repository,
    opened,
    pack,
    some_files,
)
from tests.protocol.slots_support import hold, put, release
from vera_core.erasures import Ground, Target
from vera_core.errors import ConflictError, ErasedError, UnavailableError, UsageError
from vera_core.keyspace import KeyKind
from vera_core.model import Erasability, Lock, LockMode, Origin, RetentionClass
from vera_core.operations import slotwise
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.erase import Outcome
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.erasures import plan_request, run_due, submit
from vera_core.operations.inventory import write_inventory
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_window
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

FILES = 60
REGULATED = (RetentionClass("std", 100), RetentionClass("long", 3000, Erasability.REGULATED))
Packed = tuple["Repository", MemorySource]


@pytest.fixture
def packed(memory_store: MemoryStore, tmp_path: Path) -> Packed:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(FILES))
    pack(repo, source)
    return repo, source


def tombstones(repo: Repository) -> list[tuple[str, set[str]]]:
    """Slot and uids of every tombstone there is."""
    return [
        (str(slot), {entry["uid"] for entry in record.body["entries"]})
        for slot in all_slots(repo)
        for record in repo.slot_log(slot).load().records
        if record.type == "tombstone"
    ]


def test_erased_files_are_gone_for_every_reader_and_the_others_are_not(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(20))
    pack(repo, source)
    gone = [file.uid for file in source.files[:5]]
    report = submit(opened(store, tmp_path, "privacy"), draft(*gone))
    assert (report.ok, report.stage, report.requested, report.erased) == (True, Stage.DONE, 5, 5)
    assert [file.uid for file in report.files] == gone, "in the order of the request"
    assert {file.outcome for file in report.files} == {Outcome.ERASED}
    assert_erased(store, tmp_path, *gone)
    assert_readable(store, tmp_path, [(file.uid, file.content) for file in source.files[5:]])
    assert len(tombstones(repo)) == len({file.slot for file in report.files}), "one record a slot"
    assert plan_doctor(opened(store, tmp_path)).ok, "sidecars are fresh, locks long enough, nothing is left behind"


def test_a_plan_says_what_would_be_and_changes_nothing(packed: Packed, memory_store: MemoryStore) -> None:
    repo, _ = packed
    before = [info.key for info in memory_store.list_versions("")]
    plan = plan_request(repo, draft(UID, "unheard/of"))
    assert [file.outcome for file in plan.files] == [Outcome.PLANNED, Outcome.MISSING]
    assert (plan.stage, plan.requested, plan.open, plan.missing, plan.ok) == (Stage.PLANNED, 2, 1, 1, False)
    assert [info.key for info in memory_store.list_versions("")] == before
    report = submit(repo, draft(UID, "unheard/of"))
    assert [file.outcome for file in report.files] == [Outcome.ERASED, Outcome.MISSING]
    assert report.files[0].versions == plan.files[0].versions
    assert report.hidden_until == plan.hidden_until


def test_the_report_says_until_when_the_bytes_are_hidden(packed: Packed) -> None:
    repo, source = packed
    [short] = [file for file in source.files if file.uid == UID]
    long = next(file for file in source.files if file.retention_class == "long")
    report = submit(repo, draft(short.uid, long.uid))
    now = repo.clock.now()
    first, second = (file.hidden_until for file in report.files)
    assert first is not None
    assert second is not None
    assert abs(first - now - timedelta(days=100)) < timedelta(minutes=5)
    assert abs(second - now - timedelta(days=3000)) < timedelta(minutes=5)
    assert report.hidden_until == second


def test_it_is_erased_once_however_often_it_is_asked_for(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, _ = packed
    first = submit(repo, draft(UID))
    objects = len(list(memory_store.list_versions(KEYS.tenants_prefix)))
    again = submit(opened(memory_store, tmp_path), draft(UID))
    assert (again.stage, again.erased, again.files) == (Stage.DONE, 1, ())
    assert again.hidden_until == first.hidden_until
    assert len(list(memory_store.list_versions(KEYS.tenants_prefix))) == objects, "nothing was written"
    other = submit(opened(memory_store, tmp_path), draft(UID, request="r-2"))
    assert [file.outcome for file in other.files] == [Outcome.ALREADY]
    assert (other.stage, other.erased, other.hidden_until) == (Stage.DONE, 1, first.hidden_until)
    assert len(tombstones(repo)) == 1


def test_every_version_is_erased_by_one_record(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    for name in ("one", "two", "three"):
        pack(repo, MemorySource([File(UID, name.encode())], name=name))
    [file] = submit(repo, draft(UID)).files
    assert file.versions == (Origin(1, 0), Origin(2, 0), Origin(3, 0))
    assert_erased(memory_store, tmp_path, UID)


def test_a_uid_without_a_trusted_time_needs_one(packed: Packed, memory_store: MemoryStore) -> None:
    repo, _ = packed
    before = len(list(memory_store.list_versions("")))
    with pytest.raises(UsageError, match="carries no time"):
        submit(repo, replace(draft(UID), targets=(Target(UID),)))
    for wrong in (draft(), draft(UID, reason=" "), replace(draft(UID), received=repo.clock.now() + timedelta(1))):
        with pytest.raises(UsageError):
            submit(repo, wrong)
    assert len(list(memory_store.list_versions(""))) == before


def test_a_file_named_twice_is_one(packed: Packed) -> None:
    repo, _ = packed
    report = submit(repo, draft(UID, UID))
    assert (report.requested, report.erased) == (1, 1)


# ---------------------------------------------------------------------- what the law keeps


def test_a_regulated_file_is_refused_with_its_ground_until_its_lock_ends(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo = make_repository(memory_store, tmp_path, classes=REGULATED)
    source = MemorySource(some_files(FILES))
    pack(repo, source)
    kept = next(file for file in source.files if file.retention_class == "long")
    report = submit(repo, draft(UID, kept.uid))
    refusal = report.files[1].refusal
    assert refusal is not None
    assert refusal.ground is Ground.OBLIGATION
    assert refusal.until == Retriever(repo).stat(kept.uid, DAY).lock_until
    assert "'" not in refusal.detail
    assert "long" in refusal.detail
    assert (report.ok, report.stage, report.erased, report.refused, report.open) == (False, Stage.REFUSED, 1, 1, 1)
    assert_erased(memory_store, tmp_path, UID)
    assert_readable(memory_store, tmp_path, [(kept.uid, kept.content)])


def test_a_file_with_one_regulated_version_is_kept_whole(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, classes=REGULATED)
    pack(repo, MemorySource([File(UID, b"one", retention_class="long")], name="one"))
    pack(repo, MemorySource([File(UID, b"two")], name="two"))
    assert submit(repo, draft(UID)).refused == 1
    assert_readable(memory_store, tmp_path, [(UID, b"two")])


def test_a_held_file_is_refused_until_nobody_holds_it(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """A hold that comes between the look and the tombstone counts too."""
    repo, source = packed
    other = source.files[0]
    slot = Retriever(repo).slot(UID, DAY)
    log = repo.slot_log(slot)
    origin = Origin(*map(int, Retriever(repo).stat(UID, DAY).version.split(".")))
    racing = FaultyStore(memory_store)
    held = hold(UID, origin, case="case-7")
    racing.add(Rule(Action.RUN_BEFORE, "put", f"*/{slot.index_text}/log/*", run=lambda: put(log, log.load(), held)))
    report = submit(opened(racing, tmp_path), draft(UID, other.uid))
    [refusal] = [file.refusal for file in report.files if file.refusal is not None]
    assert (refusal.ground, refusal.detail, refusal.until) == (Ground.CLAIMS, "held for case-7", None)
    assert_erased(memory_store, tmp_path, other.uid)
    Retriever(repo).get(UID, DAY)
    assert [item.refused for item in run_due(repo, "default").requests] == [1], "asked again, nobody knows its end"
    put(log, log.load(), release(UID, origin, case="case-7"))
    assert run_due(repo, "default").erased == 1
    assert_erased(memory_store, tmp_path, UID)


# ---------------------------------------------------------------------- it stays erased


def test_neither_a_re_run_of_the_window_nor_a_changed_row_brings_it_back(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, source = packed
    submit(repo, draft(UID))
    assert pack(opened(memory_store, tmp_path), source).packed_now == 0
    changed = [replace(file, content=b"changed") if file.uid == UID else file for file in source.files]
    report = pack(opened(memory_store, tmp_path), MemorySource(changed, name="again"))
    assert report.rejects == {"erased": 1}
    assert_erased(memory_store, tmp_path, UID)
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok


def test_old_objects_that_are_put_back_do_not_bring_it_back(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """The sidecar, and every log record, as they were before the erasure: over the present ones, and under the next."""
    repo, _ = packed
    slot = Retriever(repo).slot(UID, DAY)
    old = {
        info.key: memory_store.get(info.key).data
        for info in memory_store.list_objects(KEYS.slot_prefix(slot))
        if KEYS.parse(info.key).kind in (KeyKind.SIDECAR, KeyKind.LOG)
    }
    submit(repo, draft(UID))
    head = repo.slot_log(slot).load().head.number
    for key, data in old.items():
        memory_store.put(key, data)
    for number in range(1, head + 2):
        memory_store.put(KEYS.log(slot, number), old[KEYS.log(slot, 1)])
    assert_erased(memory_store, tmp_path, UID)
    until = memory_store.now() + timedelta(days=1)
    memory_store.put(KEYS.sidecar(slot), old[KEYS.sidecar(slot)], lock=Lock(LockMode.GOVERNANCE, until))
    assert_erased(memory_store, tmp_path, UID)
    memory_store.delete(KEYS.log(slot, head))
    memory_store.delete(KEYS.sidecar(slot))
    assert_erased(memory_store, tmp_path, UID)


def test_a_packer_that_races_with_the_erasure_does_not_bring_it_back(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Its new version of the file is committed before the tombstone, which then names it too, or never is."""
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource([File(UID, b"first")], name="first"))
    second = MemorySource([File(UID, b"second")], name="second")
    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/000002.json", run=lambda: pack(repo, second)))
    [file] = submit(opened(racing, tmp_path), draft(UID)).files
    assert file.versions == (Origin(1, 0), Origin(2, 0)), "planned again once the other commit was there"
    assert_erased(memory_store, tmp_path, UID)

    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/log/*.json", run=lambda: submit(repo, draft("other", request="r-3"))))
    pack(opened(memory_store, tmp_path), MemorySource([File("other", b"first")], name="other"))
    report = pack(opened(racing, tmp_path), MemorySource([File("other", b"second")], name="others"))
    assert report.rejects == {"erased": 1}
    assert_erased(memory_store, tmp_path, "other")


def test_sixteen_erase_the_same_and_sixteen_erase_others(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, source = packed
    barrier = threading.Barrier(16)

    def race(number: int) -> int:
        mine = opened(memory_store, tmp_path, f"worker-{number}")
        barrier.wait()
        return submit(mine, draft(UID, source.files[20 + number].uid, request=f"r-{number}")).erased

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(race, range(16))) == [2] * 16
    named = [uid for _, uids in tombstones(repo) for uid in uids]
    assert sorted(named) == sorted({UID, *(file.uid for file in source.files[20:36])}), "each once"
    assert_erased(memory_store, tmp_path, *named)
    assert plan_doctor(opened(memory_store, tmp_path)).ok


def test_sixteen_run_the_same_request(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, source = packed
    uids = [file.uid for file in source.files[:10]]
    barrier = threading.Barrier(16)

    def race(number: int) -> tuple[Stage, int]:
        mine = opened(memory_store, tmp_path, f"worker-{number}")
        barrier.wait()
        report = submit(mine, draft(*uids))
        return report.stage, report.erased

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(race, range(16))) == {(Stage.DONE, 10)}
    assert sorted(uid for _, named in tombstones(repo) for uid in named) == sorted(uids)


# ---------------------------------------------------------------------- caches, inventory


def test_a_reader_with_warm_caches_learns_of_it(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed
    reader = Retriever(opened(memory_store, tmp_path, freshness_seconds=0.0))
    reader.get(UID, DAY)
    submit(repo, draft(UID))
    with pytest.raises(ErasedError):
        reader.get(UID, DAY)


def inventory_keys(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list_versions(KEYS.inventory_prefix("default"))]


def test_no_inventory_file_that_shows_it_is_left(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed
    assert write_inventory(repo, "default", DAY).files == FILES
    before = inventory_keys(memory_store)
    slot = Retriever(repo).slot(UID, DAY)
    submit(repo, draft(UID))
    assert inventory_keys(memory_store) == [key for key in before if KEYS.parse(key).index_text != slot.index_text]
    assert write_inventory(opened(memory_store, tmp_path), "default", DAY).files == FILES - 1
    after = inventory_keys(memory_store)
    assert len(after) == len(before)
    submit(repo, draft(UID))
    assert inventory_keys(memory_store) == after, "what was written since stays"


def test_an_inventory_that_is_being_written_does_not_show_it(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, _ = packed
    racing = FaultyStore(memory_store)
    slot = Retriever(repo).slot(UID, DAY)
    key = f"*/inventory/*/{slot.index_text}-*"
    racing.add(Rule(Action.RUN_BEFORE, "put_file", key, run=lambda: submit(repo, draft(UID))))
    report = write_inventory(opened(racing, tmp_path), "default", DAY)
    head = repo.slot_log(slot).load().head.number
    assert KEYS.inventory("default", DAY, slot.index_text, head) in report.keys
    assert len(inventory_keys(memory_store)) == len(report.keys)


# ---------------------------------------------------------------------- what goes wrong


def test_a_slot_that_fails_does_not_keep_the_others(packed: Packed, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, source = packed
    slots = {file.uid: Retriever(repo).slot(file.uid, DAY) for file in source.files[:10]}
    bad = slots[source.files[0].uid]
    broken = FaultyStore(memory_store)
    broken.add(Rule(Action.FAIL, "put", f"*/{bad.index_text}/log/*", times=None))
    with pytest.raises(UnavailableError) as caught:
        submit(opened(broken, tmp_path), draft(*slots))
    assert caught.value.where["request"] == "r-1"
    assert_erased(memory_store, tmp_path, *(uid for uid, slot in slots.items() if slot != bad))
    report = submit(opened(memory_store, tmp_path), draft(*slots))
    assert (report.stage, report.erased) == (Stage.DONE, 10)
    assert {file.uid for file in report.files} == {uid for uid, slot in slots.items() if slot == bad}
    assert_erased(memory_store, tmp_path, *slots)


def test_a_request_id_stands_for_one_request(packed: Packed) -> None:
    repo, source = packed
    submit(repo, draft(UID))
    for other in (draft(UID, source.files[0].uid), draft(UID, reason="another")):
        with pytest.raises(ConflictError, match="another request"):
            submit(repo, other)


def test_tombstones_stay_below_the_size_of_a_record(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, source = packed
    monkeypatch.setattr(slotwise, "RECORD_BYTES", 500)
    uids = [file.uid for file in source.files]
    assert submit(repo, draft(*uids)).erased == FILES
    named = tombstones(repo)
    assert len(named) > 2 * len({slot for slot, _ in named})
    assert sorted(uid for _, chunk in named for uid in chunk) == sorted(uids)
    assert_erased(memory_store, tmp_path, *uids)


def test_erasing_costs_few_requests_however_many_files_a_slot_has(
    packed: Packed, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, source = packed
    slot = Retriever(repo).slot(UID, DAY)
    uids = [file.uid for file in source.files if Retriever(repo).slot(file.uid, DAY) == slot]
    watched = FaultyStore(memory_store)
    submit(opened(watched, tmp_path), draft(*uids))
    puts = [call.key for call in watched.calls if call.kind == "put"]
    assert sorted(KEYS.parse(key).kind for key in puts) == [
        KeyKind.AUDIT, KeyKind.AUDIT, KeyKind.LOG, KeyKind.OPEN_REQUEST, KeyKind.REQUEST, KeyKind.REQUEST,
        KeyKind.SIDECAR,
    ]  # fmt: skip
    assert len(watched.calls) < 60, [call.kind for call in watched.calls]
