"""`vera init`: a repository is made once, in a store that keeps its promises; and life in one without locks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    KEYS,
    MemorySource,
    assert_archived,
    local_kek,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import ConflictError, NotFoundError, RestrictedError, UnsafeStoreError, UsageError
from vera_core.keys.local import LocalKeys
from vera_core.model import LockMode, RetentionClass
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.initialise import InitOptions, init, plan_init
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_window
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore
from vera_core.store.probe import ProbeReport, probe

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = InitOptions(
    lock_mode=LockMode.GOVERNANCE,
    classes=(RetentionClass("std", 2555), RetentionClass("short", 30)),
    default_class="std",
    n_bits=1,
)


@pytest.fixture(scope="module")
def good_store() -> ProbeReport:
    """What the probe says of a store that keeps every promise; it waits for its own locks to end."""
    return probe(MemoryStore(), lock_seconds=3, racers=4)


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch, good_store: ProbeReport) -> None:
    """Spares tests that are not about the probe its waiting."""
    monkeypatch.setattr("vera_core.operations.initialise.probe", lambda _store, **_options: good_store)


@pytest.fixture
def short_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe as it is, with locks that end soon (test_store_probe.py runs it with its own)."""
    monkeypatch.setattr("vera_core.operations.initialise.probe", partial(probe, lock_seconds=4, racers=4))


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    return Workplace(actor="somebody", spool=tmp_path)


@pytest.mark.usefixtures("short_locks")
def test_a_repository_is_made_and_used(memory_store: MemoryStore, work: Workplace, tmp_path: Path) -> None:
    store = memory_store
    planned = plan_init(store, "archive", OPTIONS, work)
    assert list(store.list_versions("")) == [], "a plan changes nothing"
    report = init(store, "archive", OPTIONS, work)
    assert report.repository == planned.repository == f"s3://{store.bucket}/archive"
    assert (report.lock_mode, report.classes, report.revision) == ("GOVERNANCE", OPTIONS.classes, 1)
    assert not report.created_bucket
    assert report.promises
    assert {KEYS.parse(info.key).kind.value for info in store.list_objects("")} <= {"config", "audit", "probe"}
    source = MemorySource([replace(file, retention_class="std") for file in some_files(20)])
    pack(Repository(store, "archive", work), source)
    assert_archived(store, tmp_path, source)


@pytest.mark.usefixtures("probed")
def test_the_bucket_is_made_where_there_is_none(work: Workplace) -> None:
    store = MemoryStore(exists=False)
    assert plan_init(store, "", OPTIONS, work).created_bucket
    assert not store.bucket_state().exists
    assert init(store, "", OPTIONS, work).created_bucket
    state = store.bucket_state()
    assert (state.versioning, state.object_lock) == (True, True)
    assert Repository(store, "", work).uri == "s3://memory"


@pytest.mark.usefixtures("probed")
def test_a_second_init_is_refused_and_changes_nothing(memory_store: MemoryStore, work: Workplace) -> None:
    made = init(memory_store, "archive", OPTIONS, work)
    with pytest.raises(ConflictError, match=made.repository_id):
        plan_init(memory_store, "archive", OPTIONS, work)
    with pytest.raises(ConflictError, match=made.repository_id):
        init(memory_store, "archive", OPTIONS, work)
    assert Repository(memory_store, "archive", work).config.repository_id == made.repository_id
    assert init(memory_store, "elsewhere", OPTIONS, work).repository_id != made.repository_id


@pytest.mark.usefixtures("probed")
def test_of_two_inits_at_once_one_is_told(memory_store: MemoryStore, work: Workplace) -> None:
    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "put", KEYS.config(1), run=lambda: init(memory_store, "archive", OPTIONS, work)))
    with pytest.raises(ConflictError, match="at the same moment"):
        init(racing, "archive", OPTIONS, work)
    assert Repository(memory_store, "archive", work).config.revision == 1


@pytest.mark.usefixtures("probed")
def test_an_init_hidden_by_a_delete_marker_is_one(memory_store: MemoryStore, work: Workplace) -> None:
    init(memory_store, "archive", OPTIONS, work)
    memory_store.delete(KEYS.config(1))
    with pytest.raises(ConflictError):
        init(memory_store, "archive", OPTIONS, work)


@pytest.mark.usefixtures("probed")
def test_compliance_without_encryption_needs_a_word(memory_store: MemoryStore, work: Workplace) -> None:
    strict = replace(OPTIONS, lock_mode=LockMode.COMPLIANCE)
    with pytest.raises(RestrictedError, match=r"Art\. 17"):
        init(memory_store, "archive", strict, work)
    assert init(memory_store, "archive", replace(strict, accept_unerasable=True), work).lock_mode == "COMPLIANCE"


@pytest.mark.usefixtures("probed")
def test_an_encrypted_repository_has_its_first_key_from_the_beginning(
    memory_store: MemoryStore, work: Workplace, tmp_path: Path
) -> None:
    strict = replace(OPTIONS, lock_mode=LockMode.COMPLIANCE, encrypt=True)
    holding = replace(work, key_service=local_kek)
    assert plan_init(memory_store, "archive", strict, holding).kek == local_kek().kek
    assert list(memory_store.list_versions("")) == [], "a plan changes nothing"
    report = init(memory_store, "archive", strict, holding)
    assert (report.lock_mode, report.kek) == ("COMPLIANCE", local_kek().kek)
    (key,) = memory_store.list_versions(KEYS.tenant_key("default"))
    assert memory_store.get_lock(key.key, key.version_id) is not None
    source = MemorySource([replace(file, retention_class="std") for file in some_files(20)])
    pack(Repository(memory_store, "archive", holding), source)
    reader = Retriever(Repository(memory_store, "archive", holding))
    assert all(reader.get(file.uid, DAY) == file.content for file in source.files)


@pytest.mark.usefixtures("probed")
def test_a_key_service_that_is_missing_or_does_not_work_is_found_before_anything_is_made(
    memory_store: MemoryStore, work: Workplace, tmp_path: Path
) -> None:
    options = replace(OPTIONS, encrypt=True)
    with pytest.raises(UsageError, match="none is configured"):
        init(memory_store, "archive", options, work)
    LocalKeys.create(tmp_path / "kek.json")
    service = LocalKeys(tmp_path / "kek.json")
    (tmp_path / "kek.json").unlink()
    with pytest.raises(NotFoundError, match="no such key file"):
        init(memory_store, "archive", options, replace(work, key_service=lambda: service))
    assert list(memory_store.list_versions("")) == []


@pytest.mark.usefixtures("short_locks")
def test_a_store_without_versioning_is_refused(work: Workplace) -> None:
    store = MemoryStore(versioning=False, object_lock=False)
    with pytest.raises(UnsafeStoreError):
        init(store, "archive", replace(OPTIONS, accept_unlocked=True), work)


@pytest.mark.usefixtures("short_locks")
def test_a_store_without_locks_is_refused_unless_accepted(work: Workplace, tmp_path: Path) -> None:
    store = MemoryStore(object_lock=False)
    with pytest.raises(UnsafeStoreError):
        init(store, "archive", OPTIONS, work)
    report = init(store, "archive", replace(OPTIONS, accept_unlocked=True), work)
    assert report.lock_mode == "NONE"
    source = MemorySource([replace(file, retention_class="std") for file in some_files(30)])
    repo = Repository(store, "archive", work)
    assert pack(repo, source).archived == 30
    assert_archived(store, tmp_path, source)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok
    assert plan_doctor(opened(store, tmp_path)).ok
    assert pack(opened(store, tmp_path), source).packed_now == 0


@pytest.mark.usefixtures("probed")
def test_wrong_options_are_refused(memory_store: MemoryStore, work: Workplace) -> None:
    for wrong in (
        {"default_class": "none"},
        {"classes": ()},
        {"classes": (RetentionClass("std", 0),)},
        {"classes": (RetentionClass("STD", 3),), "default_class": "STD"},
        {"n_bits": 17},
    ):
        with pytest.raises(UsageError):
            init(memory_store, "archive", replace(OPTIONS, **wrong), work)
    with pytest.raises(UsageError, match="prefix"):
        init(memory_store, "a//b", OPTIONS, work)
    assert list(memory_store.list_versions("")) == []


@pytest.mark.usefixtures("probed")
def test_there_is_no_repository(memory_store: MemoryStore, work: Workplace) -> None:
    with pytest.raises(NotFoundError, match="no VERA repository"):
        Repository(memory_store, "archive", work)


def test_a_repository_without_locks_finds_its_files_behind_later_puts(tmp_path: Path) -> None:
    """Nothing is protected there, but the earliest version still is the record, and later ones are found."""
    store = MemoryStore(object_lock=False)
    make_repository(store, tmp_path, lock_mode=LockMode.NONE)
    source = MemorySource(some_files(20))
    pack(opened(store, tmp_path), source)
    for info in list(store.list_objects(KEYS.tenants_prefix)):
        if info.key.endswith(".json"):
            store.put(info.key, b"evil")
        if info.key.endswith(".vera"):
            store.delete(info.key)
    assert_archived(store, tmp_path, source)
    plan = plan_doctor(opened(store, tmp_path))
    assert plan.removals > 0
    execute_doctor(opened(store, tmp_path), plan)
    assert plan_doctor(opened(store, tmp_path)).removals == 0
    assert_archived(store, tmp_path, source)


def test_what_killed_processes_left_in_the_spool_is_swept(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    left = tmp_path / "vera-left"
    left.mkdir()
    (left / ".alive").touch()
    (left / "part-1.vera").write_bytes(b"x")
    (tmp_path / "vera-file").write_text("not a directory, not ours")
    (tmp_path / "other").mkdir()
    with repo.scratch() as mine:
        assert not left.exists()
        with repo.scratch() as another:
            assert mine.exists(), "somebody lives in it"
            assert another != mine
        assert not another.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "vera-file"]


def test_nothing_is_written_before_the_intent_nor_acknowledged_before_the_outcome(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    make_repository(memory_store, tmp_path)
    watched = FaultyStore(memory_store)
    pack(opened(watched, tmp_path), MemorySource(some_files(20)))
    writes = [call.key for call in watched.calls if call.kind in {"put", "put_file", "set_lock", "delete"}]
    assert KEYS.parse(writes[0]).kind.value == "audit"
    assert KEYS.parse(writes[-1]).kind.value == "audit"
    assert len(Retriever(opened(memory_store, tmp_path)).versions("doc/00001.json", DAY)) == 1
