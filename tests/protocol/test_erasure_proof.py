"""Counting what is erased, and the proof that it stays out of sight: right numbers, and a proof that can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import MIDNIGHT, draft
from tests.protocol.packing import DAY, KEYS, MemorySource, make_encrypted, make_repository, pack, some_files
from tests.protocol.repacking import repack
from vera_core.erasures import Target
from vera_core.operations.erasure_proof import ERASED, SIDECAR, prove_erased
from vera_core.operations.erasures import submit
from vera_core.operations.lookup import ShardReaders, versions_in_order
from vera_core.operations.readmit import Readmission, readmit
from vera_core.operations.tombstones import survey_tombstones
from vera_core.operations.walk import all_slots
from vera_core.slotlog import encode_sidecar
from vera_core.store.base import Condition
from vera_core.store.marked import put_marked

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore

FILES = 60
GONE = 24
Packed = tuple["Repository", MemorySource]


@pytest.fixture(params=["plain", "encrypted"])
def erased(memory_store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Packed:
    """Files of a day, of which some were erased."""
    repo = (make_encrypted if request.param == "encrypted" else make_repository)(memory_store, tmp_path)
    source = MemorySource(some_files(FILES))
    pack(repo, source)
    assert submit(repo, draft(*(file.uid for file in source.files[:GONE]))).ok
    return repo, source


def forge_sidecars(repo: Repository) -> None:
    """What somebody with the right to lock can do: sidecars that fit their logs' heads and know of no erasure."""
    for slot in all_slots(repo):
        log = repo.slot_log(slot)
        state = log.load()
        state.dead.clear()
        key = repo.keys.sidecar(slot)
        old = repo.store.get(key)
        now = repo.clock.now()
        put_marked(repo.store, key, encode_sidecar(state), condition=Condition(old.etag), marked_at=now)


def test_what_is_counted_is_what_is_there(erased: Packed) -> None:
    repo, source = erased
    report = survey_tombstones(repo, "default", DAY)
    names = {repo.naming("default").name(file.uid) for file in source.files[:GONE]}
    stored = 0
    for slot in all_slots(repo):
        readers = ShardReaders(repo)
        for shard in repo.slot_log(slot).load().live():
            stored += sum(
                version.entry.stored_size for version in versions_in_order(readers, shard) if version.entry.uid in names
            )
    assert report.ok
    assert (report.slots, report.files, report.erased, report.hidden) == (2, FILES, GONE, GONE)
    assert report.ratio == GONE / FILES
    assert report.ratio <= report.highest <= 1
    assert report.hidden_bytes == stored > 0
    assert report.left_behind == 0


def test_after_a_repack_nothing_is_hidden_in_live_shards(erased: Packed) -> None:
    repo, _ = erased
    repack(repo)
    report = survey_tombstones(repo, "default", DAY)
    assert (report.files, report.erased, report.hidden, report.hidden_bytes) == (FILES - GONE, GONE, 0, 0)
    assert (report.left_behind, report.ratio) == (GONE, 0.0)


def test_a_day_of_which_nothing_is_erased(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    assert survey_tombstones(repo, "default", DAY).slots == 0
    pack(repo, MemorySource(some_files(5)))
    assert survey_tombstones(repo, "default", DAY).ratio == 0.0
    assert prove_erased(repo, "default", DAY).check(ERASED).checked == 0


def test_what_was_erased_is_refused_before_and_after_a_repack(erased: Packed) -> None:
    repo, source = erased
    target = Target(source.files[0].uid, MIDNIGHT)
    readmit(repo, Readmission(tenant="default", target=target, request="again", reason="the person came back"))
    for tried in (GONE, 5):
        proof = prove_erased(repo, "default", DAY, sample=tried)
        assert proof.ok
        assert (proof.slots, proof.erased, proof.tried, proof.failures) == (2, GONE, tried, 0)
        assert proof.check(ERASED).checked == tried
        assert proof.check(SIDECAR).checked == 2
    repack(repo)
    assert prove_erased(repo, "default", DAY).ok


def test_a_reader_that_serves_an_erased_file_is_found(erased: Packed) -> None:
    repo, source = erased
    forge_sidecars(repo)
    proof = prove_erased(repo, "default", DAY)
    assert not proof.ok
    if repo.config.encryption is None:
        assert proof.check(ERASED).failed == GONE
        assert "of an erased file is served" in proof.check(ERASED).findings[0].what
    else:
        assert proof.check(ERASED).ok, "there is no key any more, whatever the sidecar says"
    assert proof.check(SIDECAR).failed == 2
    assert {item.what for item in proof.check(SIDECAR).findings} == {"the sidecar is not of this log"}
    assert not any(file.uid in str(proof) for file in source.files), "uids of erased files are told to nobody"


def test_a_sidecar_that_is_gone_harms_nobody_and_is_told(erased: Packed) -> None:
    repo, _ = erased
    for slot in all_slots(repo):
        repo.store.delete(repo.keys.sidecar(slot))
    proof = prove_erased(repo, "default", DAY)
    assert proof.ok
    assert {(item.what, item.severity) for item in proof.check(SIDECAR).findings} == {
        ("the sidecar is missing", "warning")
    }


def test_a_slot_that_can_not_be_read_is_no_proof(erased: Packed, memory_store: MemoryStore) -> None:
    repo, _ = erased
    del memory_store._keys[KEYS.log(next(all_slots(repo)), 1)]
    assert not prove_erased(repo, "default", DAY).ok
    assert not survey_tombstones(repo, "default", DAY).ok
