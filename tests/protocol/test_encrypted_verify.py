"""Verifying encrypted repositories: sums, seals, keyrings, and agreement with the source by keyed names and digests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, File, MemorySource, local_kek, make_encrypted, opened, pack, some_files
from tests.protocol.puncturing import CountedKeys, opened_with, ordinals_of, puncture, put_keyring
from tests.protocol.repacking import live_shards
from tests.protocol.test_encrypted_reading import flip, slot_of, tombstone_of
from tests.protocol.test_repack import ONE_SLOT
from vera_core.errors import UnavailableError, UsageError
from vera_core.keys.keyring import seal_keyrings
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import VerifyReport, verify_slots, verify_window
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.report import Finding
    from vera_core.store.memory import MemoryStore


def verified(repo: Repository, *, deep: bool = True) -> VerifyReport:
    return verify_slots(repo, all_slots(repo), deep=deep)


def findings(report: VerifyReport, check: str = "integrity") -> tuple[Finding, ...]:
    return report.check(check).findings


@pytest.mark.parametrize("deep", [True, False])
def test_a_whole_repository_verifies(memory_store: MemoryStore, tmp_path: Path, deep: bool) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    files = some_files(100)
    pack(repo, MemorySource(files))
    tombstone_of(repo, files[0].uid, files[1].uid)
    puncture(memory_store, repo, slot_of(repo, files[0].uid), files[0].uid)
    report = verified(opened(memory_store, tmp_path), deep=deep)
    assert report.ok, findings(report)
    assert report.entries == 100


@pytest.mark.parametrize("deep", [True, False])
def test_without_the_key_service_nothing_is_verified(memory_store: MemoryStore, tmp_path: Path, deep: bool) -> None:
    """Not a finding about the archive, and not a good word for it either."""
    source = MemorySource(some_files(10))
    pack(make_encrypted(memory_store, tmp_path), source)
    stranger = Repository(memory_store, "archive", Workplace(actor="stranger", spool=tmp_path))
    with pytest.raises(UsageError, match="not configured"):
        verified(stranger, deep=deep)
    sealed = opened_with(memory_store, tmp_path, CountedKeys(error=UnavailableError("sealed")))
    with pytest.raises(UnavailableError):
        verified(sealed, deep=deep)
    with pytest.raises(UnavailableError):
        verify_window(sealed, source, source.window())


def test_a_keyring_that_opens_nothing_is_found(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(100)))
    missing, swapped, *_ = live_shards(repo)
    other = repo.keyrings.fetch(missing).keyring
    memory_store.delete(repo.keyrings.key_of(missing))
    for info in list(memory_store.list_versions(repo.keyrings.key_of(missing))):
        memory_store.delete(info.key, version_id=info.version_id)
    put_keyring(memory_store, repo, swapped, seal_keyrings(local_kek(), [other])[0])
    for deep in (True, False):
        found = findings(verified(opened(memory_store, tmp_path), deep=deep))
        assert sorted(finding.key for finding in found) == sorted(map(repo.keyrings.key_of, (missing, swapped)))
        assert all("copy" in finding.todo for finding in found)


def test_a_file_whose_key_is_gone_without_an_erasure_is_found(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Once, however many they are; and only the bytes of all the others are proved then."""
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    files = [replace(file, retention_class="std") for file in some_files(30)]
    pack(repo, MemorySource(files))
    tombstone_of(repo, files[0].uid)
    puncture(memory_store, repo, slot_of(repo, files[0].uid), *[file.uid for file in files[:3]])
    report = verified(opened(memory_store, tmp_path))
    (finding,) = findings(report)
    assert finding.what.startswith("2 files have no key")
    assert finding.uid in {repo.naming("default").name(file.uid) for file in files[1:3]}
    assert not any(file.uid in str(report) for file in files), "names stand in it, no uids"


def test_a_sealed_file_with_other_bytes_is_found_by_its_name(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    files = [File(f"file/{number}", b"%d" % number * 100) for number in range(10)]
    pack(repo, MemorySource(files))
    (shard,) = live_shards(repo)
    (ordinal,) = ordinals_of(repo, shard, [files[4].uid])
    entries = list(ShardReaders(repo).reader(shard).entries())
    flip(memory_store, shard.key, entries[ordinal].offset + 40)
    names = {finding.uid for finding in findings(verified(opened(memory_store, tmp_path)))}
    assert repo.naming("default").name(files[4].uid) in names


def test_a_window_agrees_with_its_source(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    source = MemorySource([*some_files(90), File("bad", b"x", fails="unreadable")])
    pack(repo, source)
    report = verify_window(opened(memory_store, tmp_path), source, source.window())
    assert report.ok, [check.findings for check in report.checks]
    pack(repo, source, revision=2)
    assert verify_window(opened(memory_store, tmp_path), source, source.window(revision=2)).ok


def test_differences_between_source_and_archive_are_found(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    changed, unread = source.files[7], source.files[11]
    source.files[7] = replace(changed, content=b"something else")
    source.files[11] = replace(unread, fails="unreadable")
    report = verify_window(opened(memory_store, tmp_path), source, source.window())
    found = findings(report, "reconciliation")
    name = repo.naming("default").name
    assert sorted((finding.uid, finding.what[:15]) for finding in found) == sorted(
        [
            (changed.uid, "not archived: t"),
            (name(changed.uid), "not in the sour"),
            (unread.uid, "the source does"),
        ]
    )


def test_a_window_with_erased_files_agrees(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    gone = source.files[3]
    tombstone_of(repo, gone.uid)
    puncture(memory_store, repo, slot_of(repo, gone.uid), gone.uid)
    report = verify_window(opened(memory_store, tmp_path), source, source.window())
    assert report.ok, [check.findings for check in report.checks]
    assert Retriever(repo).get(source.files[4].uid, DAY) == source.files[4].content
