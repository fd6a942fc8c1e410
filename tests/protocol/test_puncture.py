"""Erasing in encrypted repositories: the keys of erased files are destroyed, in every version, in every place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import UID, assert_readable, draft
from tests.protocol.packing import (
    DAY,
    PREFIX,
    MemorySource,
    local_kek,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.config import Encryption
from vera_core.errors import ErasedError
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.keyspace import KeyKind, Keyspace
from vera_core.operations.certificates import show_certificates, verify_certificates
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.erasures import submit
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore

FILES = some_files(60)


def assert_destroyed(repo: Repository, *stores: MemoryStore, uids: tuple[str, ...]) -> None:
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
            parsed = Keyspace(PREFIX).parse(info.key)
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
    found = show_certificates(opened(memory_store, tmp_path), "default", "r-1")
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
