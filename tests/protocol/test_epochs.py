"""Setting a routing epoch while others pack: no file is ever where no reader looks for it (I1, I7)."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, KEYS, MemorySource, assert_archived, make_repository, opened, pack, some_files
from vera_core.errors import RestrictedError, UnavailableError, UsageError
from vera_core.model import LockMode, Slot
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.epochs import first_commit, plan_epoch, set_epoch
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

NEXT = DAY + timedelta(1)


def test_an_epoch_splits_the_days_from_it_on(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    before = MemorySource(some_files(20))
    pack(repo, before)
    report = set_epoch(opened(store, tmp_path), NEXT, 4)
    assert (report.state, report.n_bits, report.revision, report.ok) == ("active", 4, 3, True)
    after = MemorySource(some_files(40, day=NEXT))
    pack(repo, after, NEXT)
    assert_archived(store, tmp_path, before)
    assert_archived(store, tmp_path, after, NEXT)
    slots = list(all_slots(opened(store, tmp_path), first=NEXT))
    assert {slot.n_bits for slot in slots} == {4}
    assert len(slots) > 8


def test_a_day_with_commits_keeps_its_epoch(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    pack(repo, MemorySource(some_files(5)))
    for day in (DAY, DAY - timedelta(30)):
        with pytest.raises(RestrictedError, match="can't change any more") as caught:
            set_epoch(repo, day, 4)
        assert KEYS.parse(caught.value.where["key"]).day == DAY
        with pytest.raises(RestrictedError):
            plan_epoch(repo, day, 4)
    assert repo.refresh_config().revision == 1


def test_commits_hidden_by_delete_markers_are_commits(store: ObjectStore, tmp_path: Path) -> None:
    """A stranger deletes the day's keys, so that an epoch would lose its files."""
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(5))
    pack(repo, source)
    for info in list(store.list_objects(KEYS.tenants_prefix)):
        store.delete(info.key)
    assert first_commit(repo, DAY) is not None
    with pytest.raises(RestrictedError):
        set_epoch(repo, DAY, 4)
    assert_archived(store, tmp_path, source)


def test_what_a_stranger_put_under_a_coming_days_keys_is_no_commit(store: ObjectStore, tmp_path: Path) -> None:
    """An unlocked version is never a record, wherever it lies; a record under it is one all the same."""
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(5))
    pack(repo, source)
    key = KEYS.log(Slot("default", NEXT, 0, 1), 1)
    for number in (1, 2):
        store.put(KEYS.log(Slot("default", NEXT, 0, 1), number), b"junk")
    store.delete(key)
    store.put(key, b"more junk")
    assert first_commit(repo, NEXT) is None
    assert plan_epoch(repo, NEXT, 4).state == "active"
    assert set_epoch(repo, NEXT, 4).state == "active"
    after = MemorySource(some_files(40, day=NEXT))
    assert pack(repo, after, NEXT).archived == 40
    assert_archived(store, tmp_path, after, NEXT)
    for info in list(store.list_objects(KEYS.tenants_prefix)):
        store.put(info.key, b"junk")
    assert first_commit(opened(store, tmp_path), NEXT) is not None
    assert first_commit(opened(store, tmp_path), DAY) is not None


def test_without_locks_the_earliest_version_is_the_commit(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, lock_mode=LockMode.NONE)
    pack(repo, MemorySource(some_files(5)))
    with pytest.raises(RestrictedError, match="can't change any more"):
        set_epoch(repo, DAY, 4)


@pytest.mark.parametrize("bits", [-1, 17])
def test_bits_out_of_range_are_refused(memory_store: MemoryStore, tmp_path: Path, bits: int) -> None:
    with pytest.raises(UsageError):
        set_epoch(make_repository(memory_store, tmp_path), DAY, bits)


def test_an_epoch_before_an_active_one_is_refused(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    set_epoch(repo, NEXT, 4)
    for day in (NEXT, DAY):
        with pytest.raises(UsageError, match="after every active one"):
            set_epoch(repo, day, 5)


def test_a_plan_changes_nothing(memory_store: MemoryStore, tmp_path: Path) -> None:
    make_repository(memory_store, tmp_path)
    watched = FaultyStore(memory_store)
    report = plan_epoch(opened(watched, tmp_path), DAY, 4)
    assert (report.state, report.revision) == ("active", 1)
    assert watched.count("put*") == watched.count("delete*") == watched.count("set_lock") == 0


def test_a_commit_between_the_two_looks_withdraws_the_epoch(memory_store: MemoryStore, tmp_path: Path) -> None:
    """A packer that had read the config before commits before the second look: its files stay where they are."""
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(20))
    packing = FaultyStore(memory_store)
    packer = opened(packing, tmp_path)
    setting = FaultyStore(memory_store)
    setter = opened(setting, tmp_path)
    stopped: list[bool] = []

    def commit_before_the_second_look() -> None:
        if stopped:
            return
        stopped.append(True)
        # The packer planned before: it is let through up to its commits, and then waits for the outcome in vain.
        packer.settled_config = lambda days: packer.config  # type: ignore[method-assign]
        pack(packer, source)

    setting.add(Rule(Action.RUN_AFTER, "put", "*/config/000002.json", run=commit_before_the_second_look))
    report = set_epoch(setter, DAY, 4)
    assert (report.state, report.ok) == ("withdrawn", False)
    assert_archived(memory_store, tmp_path, source)
    assert pack(opened(memory_store, tmp_path), source).packed_now == 0
    assert repo.refresh_config().routing.n_bits(DAY) == 1


def test_a_packer_that_commits_after_the_activation_plans_again(memory_store: MemoryStore, tmp_path: Path) -> None:
    """It read the config before the epoch was pending, and commits after it is active: nothing of that counts."""
    make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(40))
    racing = FaultyStore(memory_store)
    racing.add(
        Rule(
            Action.RUN_BEFORE, "put", "*/log/000001.json", run=lambda: set_epoch(opened(memory_store, tmp_path), DAY, 2)
        )
    )
    report = pack(opened(racing, tmp_path), source)
    assert report.revision == 2, "the stale revision is frozen anew"
    assert (report.rows, report.archived) == (40, 40)
    assert_archived(memory_store, tmp_path, source)
    slots = list(all_slots(opened(memory_store, tmp_path)))
    assert {slot.n_bits for slot in slots} == {2}
    again = pack(opened(memory_store, tmp_path), source)
    assert (again.revision, again.packed_now) == (2, 0)
    assert not [item for item in plan_doctor(opened(memory_store, tmp_path)).findings if item.severity == "error"]


@pytest.mark.parametrize("bits", [0, 2, 4, 5, 8])
def test_a_manifest_that_an_epoch_overtook_is_frozen_again(
    memory_store: MemoryStore, tmp_path: Path, bits: int
) -> None:
    make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(40))
    dying = FaultyStore(memory_store, [Rule(Action.FAIL, "put_file", "*.vera", times=None)])
    with pytest.raises(UnavailableError):
        pack(opened(dying, tmp_path), source)
    set_epoch(opened(memory_store, tmp_path), DAY, bits)
    report = pack(opened(memory_store, tmp_path), source)
    assert (report.revision, report.archived) == (2, 40)
    assert_archived(memory_store, tmp_path, source)


def test_a_long_lived_reader_learns_of_a_new_epoch(memory_store: MemoryStore, tmp_path: Path) -> None:
    make_repository(memory_store, tmp_path)
    reader = Retriever(opened(memory_store, tmp_path))
    source = MemorySource(some_files(40))
    assert list(reader.list_day(DAY)) == []
    set_epoch(opened(memory_store, tmp_path), DAY, 3)
    pack(opened(memory_store, tmp_path), source)
    for file in source.files:
        assert reader.get(file.uid, DAY) == file.content
    assert len(list(reader.list_day(DAY))) == 40


@pytest.mark.parametrize("at", ["*/config/000002.json", "*/config/000003.json"])
@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_an_epoch_whose_setter_died_is_settled_by_the_next(
    memory_store: MemoryStore, tmp_path: Path, at: str, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repository(memory_store, tmp_path)
    dying = FaultyStore(memory_store, [Rule(action, "put", at), Rule(Action.FAIL, "list_versions", at)])
    source = MemorySource(some_files(10))
    with pytest.raises(UnavailableError):
        set_epoch(opened(dying, tmp_path), DAY, 3)
    pending = opened(memory_store, tmp_path).config.routing.pending(DAY)
    if pending is not None:
        monkeypatch.setattr("vera_core.operations.repository.PENDING_WAIT_SECONDS", 0.0)
        with pytest.raises(UnavailableError, match="stays pending") as caught:
            pack(opened(memory_store, tmp_path), source)
        assert "vera epoch 2026-03-01 3" in caught.value.todo
        findings = plan_doctor(opened(memory_store, tmp_path)).findings
        assert [finding.severity for finding in findings] == ["warning"]
        with pytest.raises(RestrictedError, match="another epoch is pending"):
            set_epoch(opened(memory_store, tmp_path), DAY, 5)
        early = date(2025, 1, 1)
        assert pack(opened(memory_store, tmp_path), MemorySource(some_files(3, day=early)), early).archived == 3
    config = opened(memory_store, tmp_path).config
    if config.routing.n_bits(DAY) != 3:
        assert set_epoch(opened(memory_store, tmp_path), DAY, 3).state == "active"
    pack(opened(memory_store, tmp_path), source)
    assert_archived(memory_store, tmp_path, source)


def test_two_setters_at_once_leave_one_epoch(memory_store: MemoryStore, tmp_path: Path) -> None:
    make_repository(memory_store, tmp_path)
    racing = FaultyStore(memory_store)
    racing.add(
        Rule(
            Action.RUN_BEFORE,
            "put",
            "*/config/000002.json",
            run=lambda: set_epoch(opened(memory_store, tmp_path), DAY, 3),
        )
    )
    with pytest.raises(RestrictedError, match="at the same moment"):
        set_epoch(opened(racing, tmp_path), DAY, 7)
    config = opened(memory_store, tmp_path).config
    assert (config.revision, config.routing.n_bits(DAY)) == (3, 3)
