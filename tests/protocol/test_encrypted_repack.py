"""Rewriting encrypted shards: what lives stays what it was, under fresh keys; what was erased opens with none."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.law import LATER, held_shards, held_uids, hold_order, retain_order, shards_of
from tests.protocol.packing import DAY, File, MemorySource, make_encrypted, opened, pack, some_files
from tests.protocol.puncturing import puncture
from tests.protocol.repacking import assert_gone_from_bytes, erase, live_shards, living, readers_agree, repack
from tests.protocol.test_repack import ONE_SLOT, dictionaries_of, letters, secret
from vera_core.errors import ErasedError
from vera_core.operations.hold import execute_hold
from vera_core.operations.locks import survey_locks
from vera_core.operations.optimize import Worth, execute_optimize, plan_optimize
from vera_core.operations.repack import plan_repack
from vera_core.operations.retain import execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.tombstones import survey_tombstones
from vera_core.operations.verify import verify_window
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore


def test_what_lives_stays_and_what_was_erased_is_gone(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_encrypted(store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    gone = [file for file in source.files if int(file.uid[4:9]) % 3 == 0]
    erase(repo, *(file.uid for file in gone))
    before = living(repo)
    assert len(before) == 60 - len(gone)
    plan = plan_repack(repo, all_slots(repo), ratio=0.1)
    assert plan.erased == len(gone)
    report = repack(repo, 0.1)
    assert report.ok, report.findings
    assert report.left_out == len(gone)
    assert report.files + report.left_out == sum(shard.entries for each in report.done for shard in each.replaced)
    assert living(opened(store, tmp_path)) == before
    readers_agree(store, tmp_path, before)
    assert_gone_from_bytes(repo, [file.uid.encode() for file in gone])
    assert_gone_from_bytes(repo, [file.content for file in gone])
    assert plan_repack(repo, all_slots(repo), ratio=0).lines == ()
    assert {shard.keyring for shard in live_shards(repo)} == {1}
    reader = Retriever(opened(store, tmp_path))
    with pytest.raises(ErasedError):
        reader.get(gone[0].uid, DAY)


def test_a_merge_keeps_every_version_under_its_name(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    for number in range(5):
        files = [replace(file, content=b"%d " % number + file.content) for file in some_files(30)]
        pack(repo, MemorySource(files, name=f"source-{number}"))
    before = living(repo)
    assert len(before) == 30 * 5
    report = execute_optimize(repo, plan_optimize(repo, all_slots(repo), worth=Worth(least_saved=1)))
    assert report.ok, report.findings
    assert report.shards < report.replaced
    assert living(opened(memory_store, tmp_path)) == before
    readers_agree(memory_store, tmp_path, before)


def test_contents_of_every_sort_move(memory_store: MemoryStore, tmp_path: Path) -> None:
    rng = random.Random(4)
    words = [rng.randbytes(3).hex().encode() for _ in range(99)]
    limit = 1 << 20
    repo = make_encrypted(memory_store, tmp_path, part_rows=1000, inline_limit=limit)
    files = [
        File("empty"),
        File("constant", b"\x07" * 5000),
        File("noise", rng.randbytes(limit)),
        File("long text", b" ".join(rng.choices(words, k=30_000))),
        File("zeros", bytes(limit - 1) + b"\x01"),
        File("short text", b" ".join(rng.choices(words, k=300))),
        *[File(f"shared/{number}", b" ".join(words) * 3) for number in range(20)],
        File("with facts", b"x", media_type="text/plain", metadata=(("a", "1"), ("b", "2"))),
    ]
    pack(repo, MemorySource(files, big=limit))
    erase(repo, "shared/0", "shared/9")
    before = living(repo)
    assert len(before) == len(files) - 2
    assert repack(repo).left_out == 2
    assert living(opened(memory_store, tmp_path)) == before
    execute_retain(repo, retain_order(*(uid for _, uid, _ in before)))
    assert {shard.lock.until for shard in live_shards(repo) if shard.lock.until == LATER} == {LATER}
    readers_agree(memory_store, tmp_path, before)


def test_a_dictionary_keeps_nothing_of_a_single_file(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, part_rows=10_000)
    files = letters(2400)
    pack(repo, MemorySource(files))
    erase(repo, *{file.uid for file in files[:1000]})
    before = living(repo)
    repack(repo)
    assert dictionaries_of(repo), "it pays"
    told = b"".join(dictionaries_of(repo))
    assert not [file for file in files if secret(file) in told]
    assert living(opened(memory_store, tmp_path)) == before


def test_a_copy_is_sealed_under_keys_of_its_own(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_encrypted(store, tmp_path)
    source = MemorySource(some_files(30))
    pack(repo, source)
    wanted = [file.uid for file in source.files[3:9]]
    report = execute_retain(repo, retain_order(*wanted))
    assert (report.ok, report.changed) == (True, 6)
    assert sorted(file.uid for file in report.files) == wanted
    reader = Retriever(opened(store, tmp_path))
    for file in source.files:
        found = reader.stat(file.uid, DAY)
        assert (found.lock_until == LATER) == (file.uid in wanted)
        assert reader.get(file.uid, DAY) == file.content
        assert (found.created_at, found.media_type) == (file.created_at, file.media_type)
    for shard in live_shards(repo):
        assert repo.keyrings.get(shard).header.shard.hex() == shard.sha256
    again = execute_retain(opened(store, tmp_path), retain_order(*wanted))
    assert (again.changed, again.before, again.shards) == (0, 6, ())
    assert verify_window(opened(store, tmp_path), source, source.window()).ok


def test_a_living_file_whose_key_is_gone_stops_the_repack(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, routing=ONE_SLOT)
    source = MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(12)])
    pack(repo, source)
    erase(repo, "doc/3", "doc/4")
    puncture(memory_store, repo, next(iter(all_slots(repo))), "doc/5")
    old = live_shards(repo)
    report = repack(opened(memory_store, tmp_path))
    [finding] = report.findings
    assert "the key of a file was destroyed that no tombstone names" in finding.what
    assert finding.key == old[0].key
    assert live_shards(repo) == old


def test_what_is_erased_or_held_is_counted_by_names(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    source = MemorySource(some_files(40))
    pack(repo, source)
    gone, kept = [file.uid for file in source.files[:10]], [file.uid for file in source.files[10:13]]
    sizes = [Retriever(repo).stat(uid, DAY).stored_size for uid in gone]
    execute_hold(repo, hold_order(*kept))
    erase(repo, *gone)
    report = survey_tombstones(repo, "default", DAY)
    assert (report.ok, report.files, report.erased, report.hidden, report.left_behind) == (True, 40, 10, 10, 0)
    assert report.hidden_bytes == sum(sizes)
    assert held_uids(memory_store, tmp_path) == {repo.naming("default").name(uid) for uid in kept}
    assert held_shards(memory_store) == shards_of(memory_store, tmp_path, *kept)
    repack(repo)
    report = survey_tombstones(repo, "default", DAY)
    assert (report.files, report.hidden, report.left_behind, report.hidden_bytes) == (30, 0, 10, 0)
    assert held_shards(memory_store) == shards_of(memory_store, tmp_path, *kept), "the holds followed"
    locks = survey_locks(repo)
    assert (locks.held, [(line.case, line.files) for line in locks.cases]) == (3, [("LIT-417", 3)])
    released = execute_hold(repo, hold_order(*kept, release=True))
    assert sorted(file.uid for file in released.files) == sorted(kept)
    assert held_shards(memory_store) == set()
