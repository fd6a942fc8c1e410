"""Rotating the KEK and rewrapping: everything stays readable, nothing comes back, and whoever is killed can go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    PREFIX,
    MemorySource,
    copied,
    copy_bucket,
    known_bucket,
    make_repository,
    pack,
    some_files,
)
from tests.protocol.puncturing import ordinals_of
from vera_core.config import Encryption
from vera_core.errors import ErasedError
from vera_core.keys.envelope import Envelope
from vera_core.keys.keyring import seal_keyrings
from vera_core.keys.local import LocalKeys
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.key_census import take_census
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.operations.rewrap import RewrapReport, execute_rewrap, rotate
from vera_core.operations.walk import all_slots
from vera_core.store.base import Condition
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore

REGULATED = (RetentionClass("std", 100), RetentionClass("long", 3000, Erasability.REGULATED))
SOURCE = MemorySource(some_files(120))


@pytest.fixture
def kek(tmp_path: Path) -> LocalKeys:
    """A KEK of this test's own: it is rotated."""
    return LocalKeys.create(tmp_path / "kek.json")


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path, kek: LocalKeys) -> Repository:
    """A packed repository with a registered copy; shards of class `long` are regulated."""
    copy = copy_bucket()
    encryption = Encryption(kek.kek, (f"s3://{copy.bucket}/spare",))
    make_repository(memory_store, tmp_path, encryption=encryption, classes=REGULATED)
    made = opened(memory_store, tmp_path, kek)
    pack(made, SOURCE)
    return made


def opened(store: ObjectStore, spool: Path, kek: LocalKeys, copy: ObjectStore | None = None) -> Repository:
    """A new handle, with that KEK, and that bucket in the place of the registered copy's."""
    buckets = known_bucket if copy is None else lambda _: copy
    return Repository(store, PREFIX, Workplace("test", spool, key_service=lambda: kek, buckets=buckets))


def rewrap(repo: Repository) -> RewrapReport:
    return execute_rewrap(repo, take_census(repo))


def versions_in_use(repo: Repository, kek: LocalKeys) -> dict[str, list[int]]:
    """The version of the KEK of every stored version of every key, newest first, in all places."""
    found: dict[str, list[int]] = {}
    for place in repo.key_places():
        for info in place.store.list_versions(place.keys.root):
            if info.key.endswith(".keys"):
                data = place.store.get(info.key, version_id=info.version_id).data
                found.setdefault(f"{place.uri} {info.key}", []).append(kek.version(Envelope.decode(data).wrapped))
    return found


def assert_readable(repo: Repository) -> None:
    reader = Retriever(repo)
    for file in SOURCE.files:
        assert reader.get(file.uid, DAY) == file.content


def test_a_rotation_reaches_every_key_in_every_place_and_no_shard(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path, kek: LocalKeys
) -> None:
    before = {info.key: info.version_id for info in memory_store.list_versions("") if info.key.endswith(".vera")}
    census = take_census(repo)
    assert (census.current, census.oldest, census.behind) == (1, 1, 0)
    assert rotate(repo).version == 2
    census = take_census(repo)
    assert (census.current, census.oldest) == (2, 1)
    assert census.behind == census.keys == len(versions_in_use(repo, kek))
    report = rewrap(repo)
    assert (report.ok, report.rewrapped, report.before, report.behind) == (True, census.keys, 0, 0)
    assert report.raise_to == 2
    assert {versions[0] for versions in versions_in_use(repo, kek).values()} == {2}
    after = {info.key: info.version_id for info in memory_store.list_versions("") if info.key.endswith(".vera")}
    assert before == after
    assert_readable(opened(memory_store, tmp_path, kek))
    again = rewrap(repo)
    assert (again.rewrapped, again.before, again.removed) == (0, census.keys, 0)


def test_regulated_keys_stay_locked_and_keep_their_old_version_until_then(repo: Repository, kek: LocalKeys) -> None:
    locked = {
        (place.uri, info.key): place.store.get_lock(info.key, info.version_id)
        for place in repo.key_places()
        for info in place.store.list_versions(place.keys.root)
        if info.key.endswith(".keys")
    }
    assert {lock is None for lock in locked.values()} == {True, False}, "of both sorts"
    rotate(repo)
    report = rewrap(repo)
    assert report.kept == sum(lock is not None for lock in locked.values())
    assert report.removed == sum(lock is None for lock in locked.values())
    for place in repo.key_places():
        for info in place.store.list_versions(place.keys.root):
            if info.key.endswith(".keys"):
                assert place.store.get_lock(info.key, info.version_id) == locked[place.uri, info.key]
    assert report.raise_to == 2, "nobody needs the old versions"


def test_packing_and_reading_go_on_meanwhile(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path, kek: LocalKeys
) -> None:
    rotate(repo)
    more = MemorySource([*SOURCE.files, *some_files(60, seed=2, prefix="more")])
    racing = FaultyStore(memory_store)
    done: list[int] = []

    def meanwhile() -> None:
        assert_readable(opened(memory_store, tmp_path, kek))
        done.append(pack(opened(memory_store, tmp_path, kek), more, revision=2).archived)

    (first, *_) = [info.key for info in memory_store.list_objects("") if info.key.endswith(".keys")]
    racing.add(Rule(Action.RUN_BEFORE, "put", first, run=meanwhile))
    rewrap(opened(racing, tmp_path, kek))
    assert done == [60]
    assert rewrap(repo).behind == 0
    reader = Retriever(opened(memory_store, tmp_path, kek))
    assert all(reader.get(file.uid, DAY) == file.content for file in more.files)


def test_a_puncture_in_the_middle_is_not_undone(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path, kek: LocalKeys
) -> None:
    """Whoever is first: the keyring that is left never opens what was erased."""
    slot = next(slot for slot in all_slots(repo))
    shard = next(shard for shard in repo.slot_log(slot).load().live() if shard.retention_class == "std")
    uid = next(file.uid for file in SOURCE.files if ordinals_of(repo, shard, [file.uid]))
    (ordinal,) = ordinals_of(repo, shard, [uid])
    key = repo.keyrings.key_of(shard)
    rotate(repo)

    def puncture() -> None:
        found = repo.keyrings.fetch(shard)
        (data,) = seal_keyrings(kek, [found.keyring.puncture([ordinal])])
        memory_store.put(key, data, condition=Condition(found.etag))
        memory_store.delete(key, version_id=found.version_id)

    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "put", key, run=puncture))
    assert rewrap(opened(racing, tmp_path, kek)).behind == 0
    (left,) = memory_store.list_versions(key)
    envelope = Envelope.decode(memory_store.get(key, version_id=left.version_id).data)
    assert envelope.header.revision == 2
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path, kek)).get(uid, DAY)


class _KilledError(BaseException):
    """The process is gone."""


def _die() -> None:
    raise _KilledError


def test_killed_at_any_write_it_goes_on(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path, kek: LocalKeys
) -> None:
    rotate(repo)
    (copy,) = [place.store for place in repo.key_places()[1:]]
    assert isinstance(copy, MemoryStore)
    watched = FaultyStore(copied(memory_store))
    rewrap(opened(watched, tmp_path, kek, copied(copy)))
    writes = [number for number, call in enumerate(watched.calls, 1) if call.kind in {"put", "delete_batch"}]
    for number in writes[::3]:
        home, other = copied(memory_store), copied(copy)
        dying = FaultyStore(home, [Rule(Action.RUN_BEFORE, nth=number, times=None, run=_die)])
        with pytest.raises(_KilledError):
            rewrap(opened(dying, tmp_path, kek, other))
        alive = opened(home, tmp_path, kek, other)
        report = rewrap(alive)
        assert (report.ok, report.behind, report.raise_to) == (True, 0, 2)
        assert_readable(opened(home, tmp_path, kek, other))
