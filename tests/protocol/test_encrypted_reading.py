"""Reading encrypted repositories: the same answers as from plain ones, few requests, and nothing without the keys."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    File,
    MemorySource,
    assert_archived,
    local_kek,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from tests.protocol.puncturing import CountedKeys, opened_with, puncture, put_keyring
from tests.protocol.repacking import append, live_shards
from tests.protocol.slots_support import tombstone
from tests.protocol.test_repack import ONE_SLOT
from vera_core.errors import (
    ErasedError,
    IntegrityError,
    NotFoundError,
    RestrictedError,
    UnavailableError,
    UsageError,
)
from vera_core.format import SUFFIX
from vera_core.keys.keyring import seal_keyrings
from vera_core.keys.local import LocalKeys
from vera_core.operations import retrieve
from vera_core.operations.find import Wanted, find_files
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.retrieve import Retriever
from vera_core.store.faulty import FaultyStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore


def files_of(person: str, count: int) -> list[File]:
    return [
        replace(file, metadata=(("customer", person), ("number", str(number))))
        for number, file in enumerate(some_files(count, prefix=person))
    ]


def slot_of(repo: Repository, uid: str) -> Slot:
    return Retriever(repo).slot(uid, DAY)


def tombstone_of(repo: Repository, *uids: str) -> None:
    """Appends the tombstone of all versions of these files, without touching their keys."""
    reader, naming = Retriever(repo), repo.naming("default")
    for uid in uids:
        versions = [tuple(map(int, report.version.split("."))) for report in reader.versions(uid, DAY)]
        append(repo, slot_of(repo, uid), tombstone(naming.name(uid), *versions))  # type: ignore[arg-type]


def flip(store: MemoryStore, key: str, at: int) -> None:
    """Flips a bit of the newest version, through the back door."""
    versions = store._keys[key]
    data = bytearray(versions[-1].data or b"")
    data[at] ^= 1
    versions[-1] = replace(versions[-1], data=bytes(data))


def test_everything_comes_back_as_it_was(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    source = MemorySource(files_of("4711", 120) + files_of("0815", 90))
    pack(repo, source)
    assert_archived(memory_store, tmp_path, source)
    changed = MemorySource([replace(file, content=file.content + b"!") for file in source.files], name="again")
    pack(repo, changed)
    assert_archived(memory_store, tmp_path, changed, versions=2)


def test_reports_say_what_was_archived(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Digest and size are those of the content, not those of the sealed file."""
    source = MemorySource(files_of("4711", 60))
    pack(make_encrypted(memory_store, tmp_path), source)
    reader = Retriever(opened(memory_store, tmp_path))
    listed = {report.uid: report for report in reader.list_day(DAY)}
    for file in source.files:
        report = reader.stat(file.uid, DAY)
        assert report.sha256 == hashlib.sha256(file.content).hexdigest()
        assert (report.size, report.created_at) == (len(file.content), file.created_at)
        assert report.metadata == dict(file.metadata)
        assert report == listed[file.uid] == reader.versions(file.uid, DAY)[0]
        entry, content = reader.stream(file.uid, DAY)
        assert (entry.uid, b"".join(content)) == (file.uid, file.content)


@pytest.mark.parametrize("encrypted", [False, True])
def test_lists_are_made_in_batches(
    memory_store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    """Wherever a batch ends, and though versions of a file lie in several shards."""
    repo = (make_encrypted if encrypted else make_repository)(memory_store, tmp_path, part_rows=17)
    files = files_of("4711", 50) + files_of("0815", 50)
    pack(repo, MemorySource(files))
    late = [replace(file, metadata=(("customer", "moved"),)) for file in files[::3]]
    pack(repo, MemorySource(late, name="late"))
    for versions, stored in ((1, 1 << 20), (7, 1 << 20), (1000, 1), (1000, 1 << 20)):
        monkeypatch.setattr(retrieve, "BATCH_VERSIONS", versions)
        monkeypatch.setattr(retrieve, "BATCH_BYTES", stored)
        reader = Retriever(opened(memory_store, tmp_path))
        for slot in {slot_of(repo, file.uid) for file in files}:
            here = [file for file in files if slot_of(repo, file.uid) == slot]
            assert sorted(report.uid for report in reader.list_slot(slot)) == sorted(file.uid for file in here)
        found = {report.uid: report.metadata for report in find_files(repo, Wanted("default", {"customer": "4711"}))}
        assert sorted(found) == sorted(file.uid for file in files[:50]), "some version has it, not always the last"
        assert all(found[file.uid] == {"customer": "moved"} for file in files[:50:3])


def test_what_was_erased_is_neither_opened_nor_found(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    files = files_of("4711", 40)
    pack(repo, MemorySource(files))
    hidden, destroyed, *living = files
    tombstone_of(repo, hidden.uid, destroyed.uid)
    puncture(memory_store, repo, slot_of(repo, hidden.uid), destroyed.uid)
    reader = Retriever(opened(memory_store, tmp_path))
    for file in (hidden, destroyed):
        for read in (reader.get, reader.stat, reader.stream):
            with pytest.raises(ErasedError, match=file.uid):
                read(file.uid, DAY)
        (report,) = reader.versions(file.uid, DAY)
        assert (report.uid, report.erased, report.created_at, report.created) == (file.uid, True, None, "")
        assert (report.size, report.sha256, report.media_type, report.metadata) == (0, "", "", {})
    assert {report.uid for report in reader.list_day(DAY)} == {file.uid for file in living}
    assert {report.uid for report in find_files(repo, Wanted("default", {"customer": "4711"}))} == {
        file.uid for file in living
    }


def test_a_destroyed_key_is_an_erasure_whatever_the_reader_knows(memory_store: MemoryStore, tmp_path: Path) -> None:
    """A reader whose state is older than the tombstone says 410 as well, and neither serves nor lists the file."""
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    files = files_of("4711", 30)
    pack(repo, MemorySource(files))
    reader = Retriever(opened(memory_store, tmp_path, freshness_seconds=1e9))
    slot = reader.slot(files[0].uid, DAY)
    with pytest.raises(NotFoundError):
        reader.get("unheard/of", DAY)  # now it knows the slot, and has fetched no keyring
    tombstone_of(repo, files[0].uid)
    puncture(memory_store, repo, slot, files[0].uid)
    for read in (reader.get, reader.stat, reader.stream):
        with pytest.raises(ErasedError) as caught:
            read(files[0].uid, DAY)
        assert caught.value.where["uid"] == files[0].uid
    assert [report.erased for report in reader.versions(files[0].uid, DAY)] == [True]
    assert files[0].uid not in {report.uid for report in reader.list_slot(slot)}
    assert reader.get(files[1].uid, DAY) == files[1].content


def test_a_reader_that_reads_of_a_puncture_fetches_the_keyring_again(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    files = files_of("4711", 30)
    pack(repo, MemorySource(files))
    keys = CountedKeys()
    reader = Retriever(opened_with(memory_store, tmp_path, keys, freshness_seconds=0))
    same_shard = [file for file in files if file.retention_class == "std"]
    for file in same_shard:
        assert reader.get(file.uid, DAY) == file.content
    asked = keys.unwrapped
    puncture(memory_store, repo, slot_of(repo, files[0].uid), same_shard[0].uid)
    with pytest.raises(ErasedError):
        reader.get(same_shard[0].uid, DAY)
    assert reader.get(same_shard[1].uid, DAY) == same_shard[1].content
    assert keys.unwrapped == asked + 1, "the keyring that it had is not used any more"


@pytest.mark.parametrize("tells_markers", [True, False])
def test_what_reading_costs(memory_store: MemoryStore, tmp_path: Path, tells_markers: bool) -> None:
    """Cold at most six requests and one call of the key service a shard; warm at most one request and no call."""
    repo = make_encrypted(memory_store, tmp_path, part_rows=10_000, tells_markers=tells_markers)
    source = MemorySource([replace(file, retention_class="std") for file in some_files(600)])
    pack(repo, source)
    watched, keys = FaultyStore(memory_store), CountedKeys()
    process = opened_with(watched, tmp_path, keys)
    watched.calls.clear()
    process.naming("default")
    assert len(watched.calls) <= 4, "the tenant's key, once in a process"
    assert keys.unwrapped == 1
    reader = Retriever(process)
    for index in (0, 1):
        watched.calls.clear()
        keys.unwrapped = 0
        first, *others = [file for file in source.files if reader.slot(file.uid, DAY).index == index]
        assert reader.get(first.uid, DAY) == first.content
        kinds = [call.kind for call in watched.calls]
        # Sidecar, the next record's absence, the shard's suffix, perhaps its group, the keyring, the entry.
        probe = "head" if tells_markers else "list_versions"
        assert [kind for kind in kinds if kind != "get_range"] == ["get", probe, "get_suffix", "get"]
        assert len(kinds) <= 6
        assert next(call.size for call in watched.calls if call.kind == "get_suffix") == SUFFIX
        assert keys.unwrapped == 1
        for file in others[:50]:
            reader.get(file.uid, DAY)
        for file in others:
            watched.calls.clear()
            assert reader.get(file.uid, DAY) == file.content
            assert [call.kind for call in watched.calls] in ([], ["get_range"], ["get_range", "get_range"])
        assert keys.unwrapped == 1, "one call for the shard"


def test_a_wrong_or_missing_key_service_serves_nothing(memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(5))
    pack(make_encrypted(memory_store, tmp_path), source)
    uid = source.files[0].uid
    LocalKeys.create(tmp_path / "other.json")

    def listed(reader: Retriever) -> object:
        return list(reader.list_day(DAY))

    def gotten(reader: Retriever) -> object:
        return reader.get(uid, DAY)

    for service, error in (
        (LocalKeys(tmp_path / "other.json"), UsageError),
        (CountedKeys(error=UnavailableError("sealed", todo="Unseal it.")), UnavailableError),
        (CountedKeys(error=RestrictedError("denied", todo="Renew the token.")), RestrictedError),
    ):
        for read in (gotten, listed):
            with pytest.raises(error) as caught:
                read(Retriever(opened_with(memory_store, tmp_path, service)))
            assert caught.value.todo


def keyring_errors(memory_store: MemoryStore, repo: Repository) -> dict[str, bytes | None]:
    """What may lie under a shard's keyring key instead of it; None for nothing."""
    shards = live_shards(repo)
    mine, other = (repo.keyrings.fetch(shard).keyring for shard in shards[:2])
    data = memory_store.get(repo.keyrings.key_of(shards[0])).data
    return {
        "missing": None,
        "damaged": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[:40],
        "another's": seal_keyrings(local_kek(), [other])[0],
        "older": seal_keyrings(local_kek(), [mine])[0],
    }


@pytest.mark.parametrize("fault", ["missing", "damaged", "cut", "another's", "older"])
def test_without_its_keyring_a_shard_is_an_error(memory_store: MemoryStore, tmp_path: Path, fault: str) -> None:
    """Which names the keyring and says what to do; where the true one lies beneath, it is found."""
    repo = make_encrypted(memory_store, tmp_path)
    source = MemorySource(some_files(40))
    pack(repo, source)
    wrong = keyring_errors(memory_store, repo)[fault]
    shard = live_shards(repo)[0]
    slot, key = repo.keys.parse(shard.key).slot(1), repo.keyrings.key_of(shard)
    (victim, *_) = [
        file for file in source.files if file.retention_class == shard.retention_class
        and slot_of(repo, file.uid) == slot
    ]  # fmt: skip
    append(repo, slot, {"type": "puncture", "shards": [{"sha256": shard.sha256, "keyring": 2}], "writer": "test"})
    fresh = replace(repo.keyrings.fetch(replace(shard, keyring=1)).keyring)
    fresh = replace(fresh, header=replace(fresh.header, revision=2))
    put_keyring(memory_store, repo, shard, seal_keyrings(local_kek(), [fresh])[0])
    true = memory_store.get(key).version_id
    if wrong is None:
        memory_store.delete(key)
    else:
        put_keyring(memory_store, repo, shard, wrong, alone=False)
    reader = Retriever(opened(memory_store, tmp_path))
    assert reader.get(victim.uid, DAY) == victim.content, "found among the versions"
    memory_store.delete(key, version_id=true)
    reader = Retriever(opened(memory_store, tmp_path))
    for read in (reader.get, reader.stat, reader.stream, reader.versions):
        with pytest.raises(IntegrityError, match="keyring") as caught:
            read(victim.uid, DAY)
        assert caught.value.where["key"] == key
        assert caught.value.where["bucket"] == memory_store.bucket
        assert "copy" in caught.value.todo
    with pytest.raises(IntegrityError):
        list(reader.list_slot(slot))


def test_a_keyring_of_another_kek_is_an_error_that_says_so(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    source = MemorySource([File("one", b"1")])
    pack(repo, source)
    (shard,) = live_shards(repo)
    LocalKeys.create(tmp_path / "other.json")
    stranger = seal_keyrings(LocalKeys(tmp_path / "other.json"), [repo.keyrings.fetch(shard).keyring])[0]
    put_keyring(memory_store, repo, shard, stranger, alone=False)
    assert Retriever(opened(memory_store, tmp_path)).get("one", DAY) == b"1", "the true one lies beneath"
    put_keyring(memory_store, repo, shard, stranger)
    with pytest.raises(UsageError, match="another KEK") as caught:
        Retriever(opened(memory_store, tmp_path)).get("one", DAY)
    assert caught.value.where["key"] == repo.keyrings.key_of(shard)


def test_errors_about_a_file_name_its_uid(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Whoever asks for a uid must not get a keyed one in the answer."""
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    pack(repo, MemorySource([File("one", b"1" * 100)]))
    (shard,) = live_shards(repo)
    (entry,) = ShardReaders(repo).reader(shard).entries()
    flip(memory_store, shard.key, entry.offset + 40)
    with pytest.raises(IntegrityError) as caught:
        Retriever(opened(memory_store, tmp_path)).get("one", DAY)
    assert caught.value.where["uid"] == "one"
    assert {"bucket", "key", "version_id"} <= set(caught.value.where)
