"""Repacking: what lives stays, under the same names; what was erased is gone from the bytes; locks are no longer (I4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, File, MemorySource, assert_archived, make_repository, opened, pack, some_files
from tests.protocol.repacking import (
    assert_gone_from_bytes,
    erase,
    live_shards,
    living,
    readers_agree,
    repack,
)
from vera_core.errors import ErasedError
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.repack import plan_repack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots, verify_window
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore


def assert_sound(store: ObjectStore, spool: Path) -> None:
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())
    assert verify_slots(opened(store, spool), list(all_slots(opened(store, spool))), deep=True).ok


def test_what_lives_stays_and_what_was_erased_is_gone(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    gone = [file for file in source.files if int(file.uid[4:9]) % 3 == 0]
    erase(repo, *(file.uid for file in gone))
    before = living(repo)
    plan = plan_repack(repo, all_slots(repo), ratio=0.1)
    assert plan.erased == len(gone)
    report = repack(repo, 0.1)
    assert report.ok
    assert report.left_out == len(gone)
    assert report.files + report.left_out == sum(shard.entries for each in report.done for shard in each.replaced)
    assert living(opened(store, tmp_path)) == before
    readers_agree(store, tmp_path, before)
    assert_gone_from_bytes(repo, [file.uid.encode() for file in gone])
    assert_gone_from_bytes(repo, [file.content for file in gone])
    assert_sound(store, tmp_path)
    assert plan_repack(repo, all_slots(repo), ratio=0).lines == ()
    reader = Retriever(opened(store, tmp_path))
    with pytest.raises(ErasedError):
        reader.get(gone[0].uid, DAY)


def test_a_window_verifies_and_packs_again_after_a_repack(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(60))
    packed = pack(repo, source)
    erase(repo, *(file.uid for file in source.files[:20]))
    repack(repo)
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    again = pack(opened(memory_store, tmp_path), source)
    assert (again.rows, again.archived, again.packed_now) == (60, 60, 0)
    assert {(line.key, line.version_id) for line in again.shards} == {
        (shard.key, shard.version_id) for shard in live_shards(repo)
    }
    assert len(packed.shards) == 4
    changed = MemorySource([replace(file, content=b"changed") for file in source.files], name="another")
    report = pack(opened(memory_store, tmp_path), changed)
    assert report.rejects == {"erased": 20}
    assert report.archived == 40
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    assert_sound(memory_store, tmp_path)


def test_versions_of_a_uid_that_came_with_several_commits_keep_their_names(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo = make_repository(memory_store, tmp_path)
    for number in range(5):
        files = [replace(file, content=b"%d " % number + file.content) for file in some_files(30)]
        pack(repo, MemorySource(files, name=f"source-{number}"))
    erase(repo, "doc/00003.json", "doc/00004.json")
    before = living(repo)
    assert len(before) == 28 * 5
    report = repack(repo)
    assert report.left_out == 10
    assert living(opened(memory_store, tmp_path)) == before
    readers_agree(memory_store, tmp_path, before)
    erase(repo, "doc/00008.json")
    before = living(repo)
    assert repack(repo).left_out == 5, "of shards that were repacked before"
    assert living(opened(memory_store, tmp_path)) == before
    assert_sound(memory_store, tmp_path)
