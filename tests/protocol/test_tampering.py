"""What a stranger with PUT and DELETE rights, or with hands on the disks, can do: be found, not believed (I1, I3)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import draft
from tests.protocol.packing import (
    DAY,
    KEYS,
    File,
    MemorySource,
    archivable,
    assert_archived,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import IntegrityError, VeraError
from vera_core.keyspace import KeyKind, number_text
from vera_core.model import Lock, LockMode
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.proving import INTEGRITY, WORM_LOCK
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots, verify_window
from vera_core.operations.walk import all_slots
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore

KINDS = [KeyKind.SHARD, KeyKind.LOG, KeyKind.SIDECAR, KeyKind.MANIFEST, KeyKind.CONFIG, KeyKind.AUDIT]


def packed(store: ObjectStore, spool: Path, count: int = 40) -> tuple[Repository, MemorySource]:
    repo = make_repository(store, spool)
    source = MemorySource(some_files(count))
    pack(repo, source)
    return repo, source


def keys_of(store: ObjectStore, kind: KeyKind) -> list[str]:
    found = [info.key for info in store.list_objects(KEYS.root) if KEYS.parse(info.key).kind is kind]
    assert found, kind
    return found


def overwrite(store: ObjectStore, key: str) -> None:
    store.put(key, b"evil")


def swap_in(store: ObjectStore, key: str) -> None:
    """The bytes of another object of the same kind, as a cleverer stranger would choose."""
    kind = KEYS.parse(key).kind
    others = [other for other in keys_of(store, kind) if other != key] or [key]
    store.put(key, store.get(others[0]).data)


def delete(store: ObjectStore, key: str) -> None:
    store.delete(key)


def delete_and_put(store: ObjectStore, key: str) -> None:
    store.delete(key)
    store.put(key, b"evil")
    store.delete(key)


@pytest.mark.parametrize("attack", [overwrite, swap_in, delete, delete_and_put])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_puts_and_deletes_hide_and_change_nothing(
    store: ObjectStore, tmp_path: Path, kind: KeyKind, attack: Callable[[ObjectStore, str], None]
) -> None:
    _, source = packed(store, tmp_path, 20 if not isinstance(store, MemoryStore) else 40)
    for key in keys_of(store, kind):
        attack(store, key)
    assert_archived(store, tmp_path, source)
    again = pack(opened(store, tmp_path), source)
    assert (again.packed_now, again.rejected) == (0, 0)
    assert_archived(store, tmp_path, source)


def test_deletes_over_every_key_hide_nothing_from_anyone(store: ObjectStore, tmp_path: Path) -> None:
    """Not from readers, not from listings, not from verify, and the doctor puts it right."""
    repo, source = packed(store, tmp_path, 20)
    for info in list(store.list_objects(KEYS.root)):
        store.delete(info.key)
    assert list(store.list_objects(KEYS.root)) == []
    assert_archived(store, tmp_path, source)
    fresh = opened(store, tmp_path)
    report = verify_slots(fresh, all_slots(fresh), deep=True)
    assert report.ok
    assert report.entries == 20
    assert verify_window(fresh, source, source.window()).ok
    plan = plan_doctor(fresh)
    assert plan.slots == 2
    hidden = [keys_of_versions(store, kind) for kind in KINDS if kind is not KeyKind.SIDECAR]
    assert plan.removals == sum(map(len, hidden))
    assert plan.sidecars == 2
    done = execute_doctor(fresh, plan)
    assert (done.removed, done.sidecars) == (plan.removals, 2)
    after = plan_doctor(opened(store, tmp_path))
    assert (after.removals, after.sidecars, after.unsealed) == (0, 0, 0)
    assert after.findings == ()
    assert {repo.keys.parse(info.key).kind for info in store.list_objects(KEYS.root)} >= set(KINDS)
    assert_archived(store, tmp_path, source)
    assert repo.uri == fresh.uri


def keys_of_versions(store: ObjectStore, kind: KeyKind) -> set[str]:
    return {info.key for info in store.list_versions(KEYS.root) if KEYS.parse(info.key).kind is kind}


@pytest.mark.parametrize("kind", [KeyKind.LOG, KeyKind.MANIFEST, KeyKind.CONFIG, KeyKind.REQUEST, KeyKind.AUDIT])
def test_the_doctor_names_and_removes_what_strangers_put_over_records(
    store: ObjectStore, tmp_path: Path, kind: KeyKind
) -> None:
    """By VersionId, and nothing that is locked: neither a record nor what somebody locked over one."""
    repo, source = packed(store, tmp_path, 20)
    submit(repo, draft("unheard/of"))
    sound = {(info.key, info.version_id) for info in store.list_versions(KEYS.root)}
    keys = keys_of(store, kind)
    following = KEYS.parse(keys[-1])
    keys.append(keys[-1].replace(number_text(following.number), number_text(following.number + 1)))
    for key in keys:
        store.put(key, b"evil")
        store.delete(key)
        store.put(key, b"evil")
    locked = store.put(keys[0], b"evil", lock=Lock(LockMode.GOVERNANCE, store.now() + timedelta(hours=1)))
    put = {(info.key, info.version_id) for info in store.list_versions(KEYS.root)} - sound
    put.remove((locked.key, locked.version_id))

    plan = plan_doctor(opened(store, tmp_path))
    named = [finding for item in plan.diagnoses for finding in item.removals]
    assert {(finding.key, finding.version_id) for finding in named} == put
    assert all(finding.what for finding in named)
    assert (plan.ok, plan.removals) == (False, len(put))
    done = execute_doctor(opened(store, tmp_path), plan)
    assert (done.ok, done.removed) == (True, len(put))
    left = {(info.key, info.version_id) for info in store.list_versions(KEYS.root)}
    assert left >= sound | {(locked.key, locked.version_id)}
    assert not left & put
    assert plan_doctor(opened(store, tmp_path)).ok
    assert_archived(store, tmp_path, source)


def test_the_doctor_of_one_tenant_leaves_the_others_and_the_repository_alone(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo, _ = packed(memory_store, tmp_path, 10)
    pack(repo, MemorySource(some_files(10), tenant="other"))
    for info in list(memory_store.list_objects(KEYS.root)):
        memory_store.delete(info.key)
    plan = plan_doctor(opened(memory_store, tmp_path), tenant="other")
    assert {KEYS.parse(found.key).tenant for item in plan.diagnoses for found in item.removals} == {"other"}


def test_an_audit_trail_that_does_not_verify_is_a_finding(memory_store: MemoryStore, tmp_path: Path) -> None:
    packed(memory_store, tmp_path, 10)
    [first, _] = keys_of(memory_store, KeyKind.AUDIT)
    edit_bytes(memory_store, first, flip(20))
    plan = plan_doctor(opened(memory_store, tmp_path))
    assert [(finding.key, finding.severity) for finding in plan.findings] == [(first, "error")]
    done = execute_doctor(opened(memory_store, tmp_path), plan)
    assert not done.ok


def test_locked_versions_stay(store: ObjectStore, tmp_path: Path) -> None:
    """Deleting by VersionId is refused for everything that is truth."""
    packed(store, tmp_path, 10)
    for info in list(store.list_versions(KEYS.root)):
        if KEYS.parse(info.key).kind in {KeyKind.SHARD, KeyKind.LOG, KeyKind.MANIFEST, KeyKind.CONFIG, KeyKind.AUDIT}:
            with pytest.raises(VeraError, match="refused"):
                store.delete(info.key, version_id=info.version_id)


# ---------------------------------------------------------------------- damage under the store's feet


def edit_bytes(store: MemoryStore, key: str, change: Callable[[bytearray], None]) -> None:
    """Changes what is stored, through the back door: no lock helps against a failing or evil disk."""
    versions = store._keys[key]
    data = bytearray(versions[0].data or b"")
    change(data)
    versions[0] = replace(versions[0], data=bytes(data))


def flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 0x10

    return change


def read_all(store: ObjectStore, spool: Path, source: MemorySource) -> tuple[int, list[VeraError]]:
    """Reads every file with a new reader: how many came back right, and the errors; anything else fails the test."""
    reader = Retriever(opened(store, spool))
    right = 0
    errors: list[VeraError] = []
    for uid, file in archivable(source).items():
        try:
            content = reader.get(uid, DAY)
        except IntegrityError as error:
            errors.append(error)
            continue
        assert content == file.content, "never wrong bytes"
        right += 1
    return right, errors


def test_a_flipped_bit_anywhere_in_a_shard_is_an_error_or_harmless(tmp_path: Path) -> None:
    store = MemoryStore()
    repo = make_repository(store, tmp_path, routing=repo_routing_one_slot())
    source = MemorySource([File(f"doc/{number}", b"content %d " % number * 9) for number in range(12)])
    [line] = pack(repo, source).shards
    size = line.size
    step = max(1, size // 150)
    harmed = 0
    for at in [*range(0, size, step), *range(size - 64, size)]:
        edit_bytes(store, line.key, flip(at))
        right, errors = read_all(store, tmp_path, source)
        assert right + len(errors) == 12
        for error in errors:
            assert error.where["bucket"] == "memory"
            assert error.where["key"] == line.key
            assert error.where["version_id"] == line.version_id
        harmed += bool(errors)
        report = verify_window(opened(store, tmp_path), source, source.window())
        assert not report.check(INTEGRITY).ok, at
        deep = verify_slots(opened(store, tmp_path), all_slots(repo), deep=True)
        assert not deep.ok
        edit_bytes(store, line.key, flip(at))
    assert harmed > 20
    assert read_all(store, tmp_path, source) == (12, [])
    assert verify_window(opened(store, tmp_path), source, source.window()).ok


def repo_routing_one_slot() -> object:
    from vera_core.routing import Routing

    return Routing()


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "gone"])
def test_a_shard_that_is_cut_or_gone_is_an_error_and_repaired_by_packing_again(tmp_path: Path, damage: str) -> None:
    store = MemoryStore()
    repo, source = packed(store, tmp_path)
    report = pack(repo, source)
    for line in report.shards:
        if damage == "gone":
            store.delete(line.key, version_id=line.version_id, bypass_governance=True)
        else:
            changes: dict[str, Callable[[bytearray], None]] = {
                "cut": lambda data: data.__delitem__(slice(len(data) // 2, None)),
                "empty": bytearray.clear,
                "longer": lambda data: data.extend(b"more"),
            }
            edit_bytes(store, line.key, changes[damage])
    right, errors = read_all(store, tmp_path, source)
    assert (right, len(errors)) == (0, 40)
    assert not verify_slots(opened(store, tmp_path), all_slots(repo)).ok
    assert any(finding.severity == "error" for finding in plan_doctor(opened(store, tmp_path)).findings) == (
        damage == "gone"
    )
    again = pack(opened(store, tmp_path), source)
    assert (again.rows, again.archived) == (40, 40)
    assert {line.key for line in again.shards} == {line.key for line in report.shards}, "the same bytes, the same names"
    assert not {line.version_id for line in again.shards} & {line.version_id for line in report.shards}
    assert_archived(store, tmp_path, source)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok


def test_what_was_repaired_is_checked_and_repaired_again(tmp_path: Path) -> None:
    store = MemoryStore()
    repo, source = packed(store, tmp_path)
    for _ in range(3):
        lines = pack(repo, source).shards
        for line in lines:
            at = next(n for n, version in enumerate(store._keys[line.key]) if version.version_id == line.version_id)
            versions = store._keys[line.key]
            data = bytearray(versions[at].data or b"")
            data[len(data) // 2] ^= 1
            versions[at] = replace(versions[at], data=bytes(data))
        again = pack(opened(store, tmp_path), source)
        assert (again.rows, again.archived) == (40, 40)
        assert not {line.version_id for line in again.shards} & {line.version_id for line in lines}
        assert_archived(store, tmp_path, source)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok


def test_a_damaged_shard_whose_source_changed_is_not_replaced(tmp_path: Path) -> None:
    store = MemoryStore()
    repo, source = packed(store, tmp_path)
    line = pack(repo, source).shards[0]
    edit_bytes(store, line.key, flip(line.size // 2))
    changed = MemorySource([replace(file, content=file.content + b"!") for file in source.files])
    with pytest.raises(IntegrityError, match="does not give its bytes again") as caught:
        pack(opened(store, tmp_path), changed)
    assert caught.value.where["version_id"] == line.version_id
    assert caught.value.todo


@pytest.mark.parametrize("kind", [KeyKind.LOG, KeyKind.CONFIG])
def test_a_flipped_bit_in_a_log_record_is_found_or_stops_the_reader(tmp_path: Path, kind: KeyKind) -> None:
    """Every record but the last is vouched for by its successor, the last one by the sidecar."""
    store = MemoryStore()
    _, source = packed(store, tmp_path, 90)
    for key in keys_of(store, kind):
        size = len(store.get(key).data)
        for at in range(0, size, max(1, size // 25)):
            edit_bytes(store, key, flip(at))
            # What no reader needs is not read; what is read and does not verify is an error, and no answer.
            with suppress(IntegrityError):
                right, errors = read_all(store, tmp_path, source)
                assert right + len(errors) == 90
                assert all("log record" in error.what for error in errors)
            edit_bytes(store, key, flip(at))
    assert read_all(store, tmp_path, source) == (90, [])


def test_a_flipped_bit_in_a_manifest_stops_packing_and_not_reading(tmp_path: Path) -> None:
    store = MemoryStore()
    _, source = packed(store, tmp_path)
    [key] = keys_of(store, KeyKind.MANIFEST)
    size = len(store.get(key).data)
    for at in range(0, size, size // 40):
        edit_bytes(store, key, flip(at))
        with suppress(IntegrityError):
            report = pack(opened(store, tmp_path), source)
            assert (report.rows, report.archived, report.packed_now) == (40, 40, 0)
        assert read_all(store, tmp_path, source) == (40, [])
        edit_bytes(store, key, flip(at))


def test_a_lock_that_is_shorter_than_committed_is_found_and_extended(tmp_path: Path) -> None:
    store = MemoryStore()
    repo, source = packed(store, tmp_path)
    line = pack(repo, source).shards[0]
    versions = store._keys[line.key]
    versions[0] = replace(versions[0], lock=None)
    report = verify_window(opened(store, tmp_path), source, source.window())
    assert not report.check(WORM_LOCK).ok
    assert report.check(INTEGRITY).ok
    assert [finding.version_id for finding in report.check(WORM_LOCK).findings] == [line.version_id]
    plan = plan_doctor(opened(store, tmp_path))
    assert plan.unsealed == 1, "whatever the sidecar says, the store is asked"
    assert execute_doctor(opened(store, tmp_path), plan).sealed == 1
    assert verify_window(opened(store, tmp_path), source, source.window()).ok


def test_foreign_names_in_the_bucket_stop_nobody(store: ObjectStore, tmp_path: Path) -> None:
    repo, source = packed(store, tmp_path, 10)
    slot = next(iter(all_slots(repo)))
    for key in (
        f"{KEYS.tenants_prefix}NOT A TENANT!/20260301/0/log/000001.json",
        f"{KEYS.tenants_prefix}default/20261399/0/x",
        f"{KEYS.tenants_prefix}default/2026/0/x",
        f"{KEYS.tenants_prefix}default/20260301/ZZ/x",
        f"{KEYS.tenants_prefix}default/20260301/0F/x",
        f"{KEYS.slot_prefix(slot)}junk.vera",
        f"{KEYS.log_prefix(slot)}junk",
        f"{KEYS.root}windows/junk",
    ):
        store.put(key, b"junk")
    fresh = opened(store, tmp_path)
    assert sum(1 for _ in all_slots(fresh)) == 2
    assert verify_slots(fresh, all_slots(fresh), deep=True).ok
    assert not [finding for finding in plan_doctor(fresh).findings if finding.severity == "error"]
    assert_archived(store, tmp_path, source)
