"""Registered copies: filled, kept, drilled, and what is put back from them; never anything that was erased."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import draft
from tests.protocol.packing import (
    DAY,
    MemorySource,
    copy_bucket,
    local_kek,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from tests.protocol.puncturing import ordinals_of
from tests.protocol.repacking import append
from vera_core.config import Encryption
from vera_core.errors import (
    ConflictError,
    ErasedError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    UnsafeStoreError,
    UsageError,
)
from vera_core.keys.keyring import seal_keyrings
from vera_core.model import Erasability, Lock, RetentionClass
from vera_core.operations.commit import LOCK_TOLERANCE
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.key_copies import add_copy, list_copies, remove_copy
from vera_core.operations.key_drill import drill
from vera_core.operations.key_restore import execute_restore, plan_restore
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from vera_core.operations.key_restore import RestoreReport
    from vera_core.slots import ShardRef

REGULATED = (RetentionClass("std", 100), RetentionClass("long", 3000, Erasability.REGULATED))
SOURCE = MemorySource(some_files(120))


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    made = make_encrypted(memory_store, tmp_path, classes=REGULATED)
    pack(made, SOURCE)
    return made


def names(store: MemoryStore, prefix: str) -> set[str]:
    return {info.key.removeprefix(prefix) for info in store.list_objects("") if info.key.endswith(".keys")}


def restore(repo: Repository) -> RestoreReport:
    return execute_restore(repo, plan_restore(repo))


def registered(repo: Repository) -> MemoryStore:
    """A new copy, filled."""
    copy = copy_bucket()
    add_copy(repo, f"s3://{copy.bucket}/spare/")
    assert restore(repo).ok
    return copy


def a_shard(repo: Repository, retention_class: str = "std") -> ShardRef:
    states = (repo.slot_log(slot).load() for slot in all_slots(repo))
    return next(shard for state in states for shard in state.live() if shard.retention_class == retention_class)


def assert_readable(repo: Repository) -> None:
    reader = Retriever(repo)
    for file in SOURCE.files:
        assert reader.get(file.uid, DAY) == file.content


def test_a_new_copy_is_filled_and_kept(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    copy = copy_bucket()
    assert list_copies(repo).copies == ()
    report = add_copy(repo, f"s3://{copy.bucket}/spare/")
    assert [(line.place, line.actor) for line in report.copies] == [(f"s3://{copy.bucket}/spare", "test")]
    assert not names(copy, "spare/")
    assert not list(copy.list_versions("")), "trials are removed"
    plan = plan_restore(repo)
    assert {line.why for line in plan.lines} == {"missing"}
    assert not names(copy, "spare/")
    filled = execute_restore(repo, plan)
    assert (filled.ok, filled.restored) == (True, plan.missing)
    assert names(copy, "spare/") == names(memory_store, "archive/")
    more = MemorySource([*SOURCE.files, *some_files(20, seed=9, prefix="more")])
    pack(opened(memory_store, tmp_path), more, revision=2)
    assert names(copy, "spare/") == names(memory_store, "archive/")
    assert plan_restore(opened(memory_store, tmp_path)).missing == 0
    for key in names(copy, "spare/"):
        locks = [
            store.get_lock(prefix + key, store.head(prefix + key).version_id)
            for store, prefix in ((memory_store, "archive/"), (copy, "spare/"))
        ]
        assert (locks[0] is None) == (locks[1] is None), key


def test_places_that_are_none_are_refused(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    for wrong, error in (
        ("s3://memory/archive/copy", UsageError),
        ("nothing", UsageError),
        (f"s3://{_named(MemoryStore('x', exists=False))}/a", NotFoundError),
        (f"s3://{_named(MemoryStore('x', object_lock=False))}/a", UnsafeStoreError),
        (f"s3://{_named(MemoryStore('x', versioning=False, object_lock=False))}/a", UnsafeStoreError),
    ):
        with pytest.raises(error):
            add_copy(opened_with_buckets(memory_store, tmp_path), wrong)
    copy = registered(repo)
    with pytest.raises(ConflictError):
        add_copy(repo, f"s3://{copy.bucket}/spare")
    plain = make_repository(MemoryStore(), tmp_path)
    for refused in (list_copies, plan_restore, drill):
        with pytest.raises(UsageError):
            refused(plain)


def _named(store: MemoryStore) -> str:
    _OTHERS.append(store)
    return f"other-{len(_OTHERS) - 1}"


_OTHERS: list[MemoryStore] = []


def opened_with_buckets(store: MemoryStore, spool: Path) -> Repository:
    """A handle that finds `_OTHERS` by their names."""

    def bucket(name: str) -> MemoryStore:
        return store if name == "memory" else _OTHERS[int(name.removeprefix("other-"))]

    return Repository(store, "archive", Workplace("test", spool, key_service=local_kek, buckets=bucket))


def test_a_copy_that_is_given_up_opens_nothing_any_more(repo: Repository) -> None:
    copy = registered(repo)
    report = remove_copy(repo, f"s3://{copy.bucket}/spare")
    assert report.copies == ()
    left = {info.key for info in copy.list_versions("") if info.key.endswith(".keys")}
    assert left == {finding.key for finding in report.findings}, "what is locked is told of"
    assert all(copy.get_lock(finding.key, finding.version_id) for finding in report.findings)
    with pytest.raises(NotFoundError):
        remove_copy(repo, f"s3://{copy.bucket}/spare")


def test_a_copy_that_cannot_be_reached_stops_packing_by_its_name(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    copy = registered(repo)
    dead = FaultyStore(copy, [Rule(Action.FAIL, times=None)])
    place = Workplace("test", tmp_path, key_service=local_kek, buckets=lambda _: dead)
    cut_off = Repository(memory_store, "archive", place)
    more = MemorySource([*SOURCE.files, *some_files(5, seed=9, prefix="more")])
    with pytest.raises(UnavailableError, match="keeps the repository's keys") as caught:
        pack(cut_off, more, revision=2)
    assert caught.value.where["place"] == f"s3://{copy.bucket}/spare"
    assert_readable(opened(memory_store, tmp_path))


def _gone(store: MemoryStore, key: str) -> None:
    for info in list(store.list_versions(key)):
        store.delete(key, version_id=info.version_id, bypass_governance=True)


def _hidden(store: MemoryStore, key: str) -> None:
    store.delete(key)


def _damaged(store: MemoryStore, key: str) -> None:
    data = bytearray(store.get(key).data)
    _gone(store, key)
    data[-9] ^= 1
    store.put(key, bytes(data))


def _strange(store: MemoryStore, key: str) -> None:
    store.put(key, b"somebody else's")


@pytest.mark.parametrize("harm", [_gone, _hidden, _damaged, _strange])
@pytest.mark.parametrize("where", ["home", "copy"])
def test_what_a_place_lost_is_put_back(
    repo: Repository, tmp_path: Path, memory_store: MemoryStore, harm: Callable[[MemoryStore, str], None], where: str
) -> None:
    copy = registered(repo)
    store, prefix = (memory_store, "archive/") if where == "home" else (copy, "spare/")
    before = {key: store.get(prefix + key).data for key in names(store, prefix)}
    for key in before:
        harm(store, prefix + key)
    alive = opened(memory_store, tmp_path)
    plan = plan_restore(alive)
    assert plan.missing == len(before)
    done = execute_restore(alive, plan)
    assert (done.ok, done.restored, done.lost) == (True, len(before), 0), done
    assert {key: store.get(prefix + key).data for key in names(store, prefix)} == before
    assert plan_restore(alive).missing == 0
    assert_readable(opened(memory_store, tmp_path))


def test_what_no_place_has_is_told(repo: Repository, memory_store: MemoryStore) -> None:
    shard = a_shard(repo)
    _gone(memory_store, repo.keyrings.key_of(shard))
    report = restore(repo)
    assert (report.ok, report.lost) == (False, 1)
    assert report.findings[0].key == shard.key


def punctured(repo: Repository, store: MemoryStore) -> tuple[ShardRef, str]:
    """A shard whose keyring was punctured in the repository's own bucket only, as its log says; and the erased uid."""
    shard = a_shard(repo)
    uid = next(file.uid for file in SOURCE.files if ordinals_of(repo, shard, [file.uid]))
    found = repo.keyrings.fetch(shard)
    (data,) = seal_keyrings(local_kek(), [found.keyring.puncture(ordinals_of(repo, shard, [uid]))])
    key = repo.keyrings.key_of(shard)
    _gone(store, key)
    store.put(key, data)
    slot = next(slot for slot in all_slots(repo) if shard in repo.slot_log(slot).load().live())
    body: dict[str, object] = {"type": "puncture", "shards": [{"key": shard.key, "sha256": shard.sha256, "keyring": 2}]}
    append(repo, slot, body)
    return shard, uid


def test_an_older_keyring_of_a_copy_is_never_put_back(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    copy = registered(repo)
    shard, uid = punctured(repo, memory_store)
    key = repo.keyrings.key_of(shard)
    kept = memory_store.get(key).data
    _gone(memory_store, key)
    report = restore(opened(memory_store, tmp_path))
    assert (report.ok, report.lost) == (False, 1)
    assert "older keyring" in report.findings[0].what
    assert not list(memory_store.list_versions(key))
    memory_store.put(key, kept)
    healed = restore(opened(memory_store, tmp_path))
    assert (healed.ok, healed.restored) == (True, 1), "the copy gets the newer one"
    theirs = key.replace("archive/", "spare/")
    assert copy.get(theirs).data == kept
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path)).get(uid, DAY)


def test_a_puncture_while_a_keyring_is_put_back_wins(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    copy = registered(repo)
    shard = a_shard(repo)
    theirs = repo.keyrings.key_of(shard).replace("archive/", "spare/")
    _gone(copy, theirs)
    racing = FaultyStore(copy, [Rule(Action.RUN_AFTER, "put", theirs, run=lambda: punctured(repo, memory_store))])
    place = Workplace("test", tmp_path, key_service=local_kek, buckets=lambda _: racing)
    report = restore(Repository(memory_store, "archive", place))
    assert not report.ok
    assert report.restored == 0
    assert not list(copy.list_versions(theirs)), "what was put back came too late, and went again"
    assert restore(opened(memory_store, tmp_path)).ok


def test_a_copy_that_is_registered_while_files_are_erased_has_no_key_of_them(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """Whether it is filled before the keyring is punctured or after."""
    shard = a_shard(repo)
    uid = next(file.uid for file in SOURCE.files if ordinals_of(repo, shard, [file.uid]))
    copies: list[MemoryStore] = []
    racing = FaultyStore(memory_store)
    run = partial(_register, opened(memory_store, tmp_path), copies)
    racing.add(Rule(Action.RUN_BEFORE, "put", repo.keyrings.key_of(shard), run=run))
    eraser = opened(racing, tmp_path, "privacy")
    submit(eraser, draft(uid, request="gdpr-1"))
    report = survey_keys(opened(memory_store, tmp_path), "default", DAY)
    assert report.ok, report
    (copy,) = copies
    assert names(copy, "spare/") == names(memory_store, "archive/")
    assert plan_restore(opened(memory_store, tmp_path)).missing == 0


def _register(repo: Repository, copies: list[MemoryStore]) -> None:
    copies.append(registered(repo))


def test_regulated_keyrings_and_tenant_keys_are_locked_as_long_as_shards_are(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    copy = registered(repo)
    shard = a_shard(repo, "long")
    key = repo.keyrings.key_of(shard)
    for store, name in ((memory_store, key), (copy, key.replace("archive/", "spare/"))):
        assert locked_until(store, name) >= shard.lock.until - LOCK_TOLERANCE
    short = Lock(shard.lock.mode, memory_store.now() + timedelta(hours=1))
    for store, name in ((memory_store, key), (copy, "spare/t/default/tenant.keys")):
        store.set_lock(name, store.head(name).version_id, short, bypass_governance=True)
    plan = plan_doctor(opened(memory_store, tmp_path))
    assert (plan.unsealed, plan.tenant_keys) == (1, 1)
    execute_doctor(opened(memory_store, tmp_path), plan)
    assert locked_until(memory_store, key) >= shard.lock.until - LOCK_TOLERANCE
    assert locked_until(copy, "spare/t/default/tenant.keys") >= shard.lock.until
    healthy = plan_doctor(opened(memory_store, tmp_path))
    assert healthy.ok
    assert healthy.keys is not None
    assert (healthy.keys.kek, healthy.keys.tenant_keys) == (local_kek().kek, 1)
    assert healthy.keys.places == ("s3://memory/archive", f"s3://{copy.bucket}/spare")


def test_the_doctor_tells_of_keys_that_are_missing_and_a_service_that_does_not_answer(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    copy = registered(repo)
    key = repo.keyrings.key_of(a_shard(repo))
    memory_store.delete(key)
    _gone(copy, "spare/t/default/tenant.keys")
    plan = plan_doctor(opened(memory_store, tmp_path))
    assert {finding.key for finding in plan.findings} == {key, "spare/t/default/tenant.keys"}
    assert all("vera keys restore" in finding.todo for finding in plan.findings)
    assert restore(opened(memory_store, tmp_path)).ok
    assert plan_doctor(opened(memory_store, tmp_path)).ok
    place = Workplace("stranger", tmp_path, buckets=lambda _: copy)
    blind = plan_doctor(Repository(memory_store, "archive", place))
    assert blind.keys is not None
    assert blind.keys.current == 0
    assert ["not configured" in finding.what for finding in blind.findings] == [True]


def locked_until(store: MemoryStore, key: str) -> datetime:
    lock = store.get_lock(key, store.head(key).version_id)
    assert lock is not None
    return lock.until


def test_a_tenant_without_its_key_gets_no_second_one(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    _gone(memory_store, "archive/t/default/tenant.keys")
    with pytest.raises(IntegrityError, match="gone"):
        pack(opened(memory_store, tmp_path), SOURCE, revision=2)


def test_the_drill_reads_with_each_place_alone(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    copy = registered(repo)
    report = drill(repo, percent=100)
    assert report.ok
    assert report.opened == report.files == 2 * report.shards > 2
    assert all(line.newest is not None for line in report.places)
    assert drill(repo, percent=0.0001).shards == 1
    _gone(copy, "spare/t/default/tenant.keys")
    failed = drill(opened(memory_store, tmp_path), percent=100)
    assert not failed.ok
    assert [line.files for line in failed.places] == [failed.shards, 0]
    assert {"alone" in finding.what for finding in failed.findings} == {True}


def test_config_says_which_copies_there_are(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    copy = copy_bucket()
    add_copy(repo, f"s3://{copy.bucket}")
    assert opened(memory_store, tmp_path).config.encryption == Encryption(local_kek().kek, (f"s3://{copy.bucket}",))
