"""Erasing in encrypted repositories: the keys of erased files are destroyed, in every version, in every place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol import packing
from tests.protocol.erasing import UID, assert_readable, draft
from tests.protocol.packing import (
    DAY,
    KEYS,
    PREFIX,
    File,
    MemorySource,
    copied,
    copy_bucket,
    local_kek,
    make_repository,
    opened,
    pack,
    some_files,
)
from tests.protocol.repacking import repack
from vera_core.config import Encryption
from vera_core.errors import ErasedError, NotFoundError, UnavailableError
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.keyspace import KeyKind, shard_of
from vera_core.operations import certificates
from vera_core.operations.certificates import certificates_of, verify_certificates
from vera_core.operations.deadlines import survey_requests
from vera_core.operations.destroy_again import destroy_again
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.erasures import decline, run_due, run_request, submit
from vera_core.operations.key_copies import add_copy
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.base import ColdObjectError
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vera_core.keys.service import KeyService, Outcome
    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore

FILES = some_files(60)


def assert_destroyed(repo: Repository, *stores: ObjectStore, uids: tuple[str, ...]) -> None:
    """No version of any keyring in these buckets, opened by this test itself, gives the key of any of these files."""
    names = {repo.naming("default").name(uid) for uid in uids}
    reader = Retriever(repo)
    slots = {reader.slot(uid, DAY) for uid in uids}
    shards = {}
    for slot in slots:
        state = repo.slot_log(slot).load()
        for shard in (*state.live(), *state.superseded):
            entries = [entry for name in names for entry in reader._readers.reader(shard).find(name)]
            shards[shard.sha256[:32]] = (shard.sha256, [entry.ordinal for entry in entries])
    looked = 0
    for store in stores:
        for info in store.list_versions(""):
            parsed = KEYS.parse(info.key)
            if parsed.kind is not KeyKind.KEYRING or parsed.digest not in shards:
                continue
            assert not info.is_delete_marker
            sha256, ordinals = shards[parsed.digest]
            data = store.get(info.key, version_id=info.version_id).data
            wanted = Wanted(bytes.fromhex(repo.config.repository_id), "default", bytes.fromhex(sha256))
            [keyring] = open_keyrings(local_kek(), [(wanted, data)])
            assert not isinstance(keyring, Exception)
            assert not any(keyring.tree.holds(ordinal) for ordinal in ordinals), info
            looked += 1
    assert looked


def archive(store: MemoryStore, spool: Path, *copies: MemoryStore) -> Repository:
    """Files in two slots."""
    uris = tuple(f"s3://{copy.bucket}/{PREFIX}" for copy in copies)
    repo = make_repository(store, spool, encryption=Encryption(local_kek().kek, uris))
    pack(repo, MemorySource(FILES))
    return repo


@contextmanager
def unreachable(copy: MemoryStore) -> Iterator[None]:
    """Handles that are opened in the block don't reach that bucket."""
    packing._BUCKETS[copy.bucket] = FaultyStore(copy, [Rule(Action.FAIL, times=None)])  # type: ignore[assignment]
    try:
        yield
    finally:
        packing._BUCKETS[copy.bucket] = copy


class Sealable:
    """A key service that is sealed after `left` more calls."""

    def __init__(self, inner: KeyService) -> None:
        self.inner = inner
        self.left = 0

    @property
    def kek(self) -> str:
        return self.inner.kek

    def _call(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise UnavailableError("the key service is sealed", todo="Unseal it, then run it again.")

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        self._call()
        return self.inner.wrap(payloads)

    def unwrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        self._call()
        return self.inner.unwrap(wrapped)


def readable(store: MemoryStore, spool: Path, *but: str) -> None:
    assert_readable(store, spool, [(file.uid, file.content) for file in FILES if file.uid not in but])


def test_an_erasure_destroys_the_files_keys_and_says_so(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = archive(memory_store, tmp_path)
    before = {info.key: info.version_id for info in memory_store.list_versions("") if info.key.endswith(".keys")}
    uids = (UID, FILES[8].uid, FILES[9].uid)
    report = submit(repo, draft(*uids))
    assert (report.stage, report.erased, report.destroyed, report.hidden_until) == (Stage.DONE, 3, 3, None)
    assert {file.uid for file in report.files} == set(uids)
    assert_destroyed(repo, memory_store, uids=uids)
    readable(memory_store, tmp_path, *uids)
    reader = Retriever(opened(memory_store, tmp_path))
    for uid in uids:
        with pytest.raises(ErasedError):
            reader.get(uid, DAY)
    after = {info.key: info.version_id for info in memory_store.list_versions("") if info.key.endswith(".keys")}
    assert before != after
    found = certificates_of(opened(memory_store, tmp_path), "default", "r-1")
    assert (found.files, found.open, found.check) == (3, 0, None)
    assert {item["name"] for item in found.documents[0]["files"]} == {repo.naming("default").name(uid) for uid in uids}
    assert {(item["revision_before"], item["revision"]) for item in found.documents[0]["keyrings"]} == {(1, 2)}
    again = verify_certificates(opened(memory_store, tmp_path), "default", "r-1")
    assert again.ok
    assert again.versions
    assert show_request(opened(memory_store, tmp_path), "default", "r-1").destroyed == 3
    survey = survey_keys(opened(memory_store, tmp_path), "default", DAY)
    assert (survey.ok, survey.erased) == (True, 3)
    raw = b"".join(
        memory_store.get(info.key, version_id=info.version_id).data
        for info in memory_store.list_versions("")
        if not info.is_delete_marker and "/windows/" not in info.key
    )
    for uid in uids:
        assert uid.encode() not in raw


def test_all_erasures_of_a_slot_are_one_puncture(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = archive(memory_store, tmp_path)
    submit(repo, draft(*(file.uid for file in FILES[:20])))
    for slot in all_slots(repo):
        records = repo.slot_log(slot).load().records
        assert [record.type for record in records].count("puncture") == 1
    submit(repo, draft(FILES[21].uid, request="r-2"))
    assert_destroyed(repo, memory_store, uids=tuple(file.uid for file in (*FILES[:20], FILES[21])))
    readable(memory_store, tmp_path, *(file.uid for file in (*FILES[:20], FILES[21])))


def test_copies_are_punctured_and_purged_too(memory_store: MemoryStore, tmp_path: Path) -> None:
    copies = copy_bucket(), copy_bucket()
    repo = archive(memory_store, tmp_path, *copies)
    assert submit(repo, draft(UID)).destroyed == 1
    assert_destroyed(repo, memory_store, *copies, uids=(UID,))
    [document] = certificates_of(repo, "default", "r-1").documents
    assert document["places"] == [repo.uri, *(f"s3://{copy.bucket}/{PREFIX}" for copy in copies)]
    readable(memory_store, tmp_path, UID)


def test_a_copy_that_cant_be_reached_leaves_the_request_open(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Its files are out of sight, and their keys at home gone; the next run finishes it."""
    copy = copy_bucket()
    repo = archive(memory_store, tmp_path, copy)
    with unreachable(copy), pytest.raises(UnavailableError, match="a place that keeps the repository's keys") as told:
        submit(opened(memory_store, tmp_path), draft(UID))
    assert told.value.where["request"] == "r-1"
    shown = show_request(opened(memory_store, tmp_path), "default", "r-1")
    assert (shown.stage, shown.erased, shown.destroyed) == (Stage.HIDDEN, 1, 0)
    assert_destroyed(repo, memory_store, uids=(UID,))
    with pytest.raises(NotFoundError, match="nothing of the request is certified yet"):
        certificates_of(repo, "default", "r-1")
    late = survey_requests(repo, "default", timedelta(minutes=-1))
    assert (late.unfinished, late.ok) == (1, False)
    assert [finding.what for finding in late.findings] == [
        "a file can't be seen any more, but can still be decrypted: the keys are not destroyed yet"
    ]
    assert survey_requests(repo, "default", timedelta(hours=48)).ok
    with unreachable(copy):
        assert run_due(opened(memory_store, tmp_path), "default").findings
    run = run_due(opened(memory_store, tmp_path), "default")
    assert (run.ok, [item.stage for item in run.requests]) == (True, [Stage.DONE])
    assert_destroyed(repo, memory_store, copy, uids=(UID,))
    assert run_due(opened(memory_store, tmp_path), "default").requests == ()


def test_a_declined_request_still_destroys_what_it_erased(memory_store: MemoryStore, tmp_path: Path) -> None:
    copy = copy_bucket()
    repo = archive(memory_store, tmp_path, copy)
    with unreachable(copy), pytest.raises(UnavailableError):
        submit(opened(memory_store, tmp_path), draft(UID))
    assert decline(repo, "default", "r-1", "asked by mistake").stage is Stage.HIDDEN
    run_due(repo, "default")
    assert show_request(repo, "default", "r-1").stage is Stage.DECLINED
    assert_destroyed(repo, memory_store, copy, uids=(UID,))


def test_a_sealed_key_service_leaves_the_keys_to_the_next_run(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = archive(memory_store, tmp_path)
    service = Sealable(local_kek())
    repo.naming("default")
    repo._service = service  # type: ignore[assignment]
    with pytest.raises(UnavailableError, match="sealed") as told:
        submit(repo, draft(UID))
    assert "their keys are not destroyed yet" in told.value.todo
    assert show_request(repo, "default", "r-1").stage is Stage.HIDDEN
    for left in range(1, 4):
        service.left = left
        with suppress(UnavailableError):
            run_due(repo, "default")
    service.left = 100
    run_due(repo, "default")
    assert show_request(repo, "default", "r-1").stage is Stage.DONE
    assert_destroyed(repo, memory_store, uids=(UID,))
    readable(memory_store, tmp_path, UID)


def test_old_keyrings_that_come_back_are_refused_found_and_purged(memory_store: MemoryStore, tmp_path: Path) -> None:
    """As from a restored backup of the bucket: over the newest version, and beside a delete marker."""
    copy = copy_bucket()
    repo = archive(memory_store, tmp_path, copy)
    kept = {
        (store, info.key): store.get(info.key).data
        for store in (memory_store, copy)
        for info in store.list_objects("")
        if KeyKind.KEYRING is KEYS.parse(info.key).kind
    }
    submit(repo, draft(UID))
    replaced = [(store, key, data) for (store, key), data in kept.items() if store.get(key).data != data]
    for number, (store, key, data) in enumerate(replaced):
        if number % 2:
            store.delete(key)
        store.put(key, data)
    readable(memory_store, tmp_path, UID)
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path)).get(UID, DAY)
    survey = survey_keys(repo, "default", DAY)
    assert (survey.ok, survey.failures) == (False, 2), "the keyring of one shard, in two places"
    assert not verify_certificates(repo, "default", "r-1").ok
    assert destroy_again(repo, "default").purged > 0
    assert survey_keys(repo, "default", DAY).ok
    assert_destroyed(repo, memory_store, copy, uids=(UID,))
    readable(memory_store, tmp_path, UID)
    assert destroy_again(repo, "default").purged == 0
    assert len(certificates_of(repo, "default", "r-1").documents) == 1


def test_the_newest_keyring_lost_and_an_older_one_left(memory_store: MemoryStore, tmp_path: Path) -> None:
    """An erasure makes of the older one a keyring that readers take, and that opens nothing erased."""
    repo = archive(memory_store, tmp_path)
    kept = {
        info.key: memory_store.get(info.key).data
        for info in memory_store.list_objects("")
        if KEYS.parse(info.key).kind is KeyKind.KEYRING
    }
    submit(repo, draft(UID))
    for key, data in kept.items():
        for info in list(memory_store.list_versions(key)):
            memory_store.delete(key, version_id=info.version_id)
        memory_store.put(key, data)
    run_request(opened(memory_store, tmp_path), "default", "r-1")
    assert_destroyed(repo, memory_store, uids=(UID,))
    readable(memory_store, tmp_path, UID)


def test_two_erasures_on_one_keyring(memory_store: MemoryStore, tmp_path: Path) -> None:
    copy = copy_bucket()
    archive(memory_store, tmp_path, copy)
    uids = [file.uid for file in FILES[:24]]

    def erase(number: int) -> None:
        submit(opened(memory_store, tmp_path), draft(*uids[number::4], request=f"r-{number}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(erase, range(4)))
    repo = opened(memory_store, tmp_path)
    assert_destroyed(repo, memory_store, copy, uids=tuple(uids))
    readable(memory_store, tmp_path, *uids)
    for number in range(4):
        assert show_request(repo, "default", f"r-{number}").stage is Stage.DONE
        assert verify_certificates(repo, "default", f"r-{number}").ok


BEFORE = {"its upload": ("put_file", "*.vera"), "its commit": ("put", "*/log/*")}


@pytest.mark.parametrize("point", BEFORE)
def test_a_shard_built_before_a_tombstone_is_not_committed(
    point: str, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """A packer has stored keyrings, and shards, of files that are then erased: it builds again, nothing opens them."""
    repo = archive(memory_store, tmp_path)
    late = [File(file.uid, file.content + b" late", file.created_at, media_type=file.media_type) for file in FILES]
    uids = tuple(file.uid for file in FILES[:3])
    erased: list[int] = []

    def erase() -> None:
        erased.append(submit(opened(memory_store, tmp_path), draft(*uids)).destroyed)

    packer = FaultyStore(memory_store, [Rule(Action.RUN_BEFORE, *BEFORE[point], run=erase)])
    report = pack(opened(packer, tmp_path, "packer"), MemorySource(late, name="late"))
    assert erased == [3]
    assert report.rejects == {"erased": 3}
    assert_destroyed(repo, memory_store, uids=uids)
    reader = Retriever(opened(memory_store, tmp_path))
    assert all(reader.get(file.uid, DAY) == file.content for file in late if file.uid not in uids)
    states = [repo.slot_log(slot).load() for slot in all_slots(repo)]
    assert any(record.type == "condemn" for state in states for record in state.records)
    live = {shard.key for state in states for shard in state.live()}
    keyrings = {info.key for info in memory_store.list_versions("") if KEYS.parse(info.key).kind is KeyKind.KEYRING}
    assert {shard_of(key) for key in keyrings} == live, "those of condemned shards are gone"


def test_a_window_run_again_after_the_erasure(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = archive(memory_store, tmp_path)
    submit(repo, draft(UID))
    assert pack(repo, MemorySource(FILES)).packed_now == 0
    other = pack(repo, MemorySource(FILES, name="other"))
    assert (other.archived, other.equal, other.rejects) == (0, len(FILES) - 1, {"erased": 1})
    assert_destroyed(repo, memory_store, uids=(UID,))


@pytest.mark.parametrize("last", [True, False], ids=["and nothing more gets through", "and the store answers again"])
@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_any_request_of_an_erasure_may_fail(action: Action, last: bool, tmp_path: Path) -> None:
    """Run again it converges: destroyed everywhere, one certificate, everything else readable."""
    files = some_files(8)
    uids = tuple(file.uid for file in files[:3])
    begin = MemoryStore()
    pack(make_repository(begin, tmp_path, encryption=Encryption(local_kek().kek)), MemorySource(files))
    watched = FaultyStore(copied(begin))
    submit(opened(watched, tmp_path), draft(*uids))
    for nth in range(1, len(watched.calls) + 1):
        store = copied(begin)
        hurt = FaultyStore(store, [Rule(action, nth=nth)])
        if last:
            hurt.add(Rule(Action.FAIL, nth=nth + 1, times=None))
        with suppress(UnavailableError):
            if submit(opened(hurt, tmp_path), draft(*uids)).ok:
                assert_destroyed(opened(store, tmp_path), store, uids=uids)
        repo = opened(store, tmp_path)
        report = submit(repo, draft(*uids))
        assert (report.stage, report.destroyed) == (Stage.DONE, 3), nth
        assert_destroyed(repo, store, uids=uids)
        found = verify_certificates(repo, "default", "r-1")
        assert (found.ok, sum(len(document["files"]) for document in found.documents)) == (True, 3)
        assert_readable(store, tmp_path, [(file.uid, file.content) for file in files[3:]])


class ColdStore(FaultyStore):
    """A store in which the bytes of some keys lie in a cold storage class."""

    cold: frozenset[str] = frozenset()

    def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
        if key in self.cold:
            raise ColdObjectError("the object lies in a cold storage class, where nothing can be read", key=key)
        return super().get_suffix(key, length, version_id=version_id)


def test_a_superseded_shard_that_was_put_away_loses_all_keys(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Its index can't be read, and what lives of it lies in the shard that replaced it; a live one is an error."""
    repo = archive(memory_store, tmp_path)
    uids = [file.uid for file in FILES]
    gone = uids[:45]
    for number, some in enumerate((uids[:30], uids[30:45])):
        submit(repo, draft(*some, request=f"before-{number}"))
        repack(repo)
    states = [repo.slot_log(slot).load() for slot in all_slots(repo)]
    store = ColdStore(memory_store)
    store.cold = frozenset(shard.key for state in states for shard in state.superseded)
    last = uids[50]
    assert submit(opened(store, tmp_path), draft(last, request="cold")).stage is Stage.DONE
    readable(memory_store, tmp_path, *gone, last)
    survey = survey_keys(opened(store, tmp_path), "default", DAY)
    assert (survey.ok, {finding.severity for finding in survey.check.findings}) == (True, {"warning"})
    destroy_again(opened(store, tmp_path), "default")
    assert survey_keys(opened(store, tmp_path), "default", DAY).check.findings == ()
    readable(memory_store, tmp_path, *gone, last)
    store.cold = frozenset(shard.key for state in states for shard in state.live())
    with pytest.raises(UnavailableError, match="cold storage class"):
        submit(opened(store, tmp_path), draft(uids[51], request="live"))


def test_a_large_request_has_several_certificates(
    memory_store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "FILES_OF_A_PIECE", 3)
    monkeypatch.setattr(certificates, "FILES_OF_ONE", 5)
    repo = archive(memory_store, tmp_path)
    assert submit(repo, draft(*(file.uid for file in FILES[:20]))).stage is Stage.DONE
    found = verify_certificates(repo, "default", "r-1")
    assert (found.ok, found.files, found.open) == (True, 20, 0)
    files = [item["place"] for document in found.documents for item in document["files"]]
    assert sorted(files) == list(range(20))
    assert len(found.documents) >= 4
    assert all(document["keyrings"] for document in found.documents)


def test_several_runs_of_one_request_certify_each_file_once(memory_store: MemoryStore, tmp_path: Path) -> None:
    copy = copy_bucket()
    archive(memory_store, tmp_path, copy)
    uids = [file.uid for file in FILES[:6]]
    with unreachable(copy), pytest.raises(UnavailableError):
        submit(opened(memory_store, tmp_path), draft(*uids))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: run_due(opened(memory_store, tmp_path), "default"), range(3)))
    found = verify_certificates(opened(memory_store, tmp_path), "default", "r-1")
    assert (found.ok, found.files) == (True, 6)
    assert sorted(item["place"] for document in found.documents for item in document["files"]) == list(range(6))


def test_a_copy_that_is_registered_meanwhile_is_punctured_too(memory_store: MemoryStore, tmp_path: Path) -> None:
    """It is registered, then filled with what lies at home: the erasure has looked at the places before."""
    copy = copy_bucket()
    repo = archive(memory_store, tmp_path)

    def register() -> None:
        other = opened(memory_store, tmp_path, "somebody else")
        add_copy(other, f"s3://{copy.bucket}/{PREFIX}")
        for info in memory_store.list_objects(""):
            if KEYS.parse(info.key).kind is KeyKind.KEYRING:
                copy.put(info.key, memory_store.get(info.key).data)

    eraser = FaultyStore(memory_store, [Rule(Action.RUN_BEFORE, "put", "*.keys", run=register)])
    assert submit(opened(eraser, tmp_path), draft(UID)).stage is Stage.DONE
    assert_destroyed(repo, memory_store, copy, uids=(UID,))
