"""Merging small shards: fewer objects, the same files under the same names, and nothing where it does not pay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.repacking import append, assert_no_longer_locked, erase, live_shards, living, readers_agree
from tests.protocol.test_repack import ONE_SLOT, assert_sound
from vera_core.errors import UsageError
from vera_core.model import Origin
from vera_core.operations.holdings import holdings
from vera_core.operations.optimize import Worth, execute_optimize, plan_optimize
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_window
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.memory import MemoryStore


def test_many_small_shards_become_one(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, routing=ONE_SLOT)
    sources = [
        MemorySource(
            [replace(file, content=b"%d" % number + file.content) for file in some_files(15)], name=f"s{number}"
        )
        for number in range(6)
    ]
    for source in sources:
        pack(repo, source)
    erase(repo, "doc/00003.json")
    before = living(repo)
    shards = live_shards(repo)
    plan = plan_optimize(repo, all_slots(repo))
    assert {line.retention_class: (line.shards, line.saved) for line in plan.lines} == {"std": (6, 4), "long": (6, 5)}
    assert plan.size == sum(shard.size for shard in shards)
    report = execute_optimize(repo, plan)
    assert_no_longer_locked(report)
    assert (report.replaced, report.shards, report.left_out) == (12, 3, 6)
    assert living(opened(memory_store, tmp_path)) == before
    readers_agree(memory_store, tmp_path, before)
    assert_sound(memory_store, tmp_path)
    for source in sources:
        assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    assert execute_optimize(repo, plan_optimize(repo, all_slots(repo))).replaced == 0
    slot = next(iter(all_slots(repo)))
    state = repo.slot_log(slot).load()
    assert {len(holdings(state).shards_with(state, part.number)) for part in state.parts} == {1, 2}
    assert [record.body["reason"] for record in state.records if record.type == "repack"] == ["merge", "merge"]


def test_full_shards_big_files_and_too_few_small_ones_are_left_alone(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, routing=ONE_SLOT, part_rows=20)
    pack(repo, MemorySource([File(f"full/{number}", b"%d" % number) for number in range(60)], name="full"))
    pack(repo, MemorySource([File(f"big/{number}", b"%d" % number * 30_000) for number in range(4)], name="big"))
    for number in range(3):
        pack(repo, MemorySource([File(f"small/{number}", b"x" * number)], name=f"small-{number}"))
    assert len(live_shards(repo)) == 3 + 4 + 3
    assert plan_optimize(repo, all_slots(repo)).lines == ()
    [line] = plan_optimize(repo, all_slots(repo), worth=Worth(least_saved=2)).lines
    assert (line.shards, line.saved, line.files) == (3, 2, 3)
    with pytest.raises(UsageError):
        Worth(least_saved=0)


def test_copies_that_are_kept_longer_are_not_merged(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, routing=ONE_SLOT)
    for number in range(6):
        pack(repo, MemorySource([File(f"doc/{number}", b"%d" % number)], name=f"source-{number}"))
    slot = next(iter(all_slots(repo)))
    shard = live_shards(repo)[0]
    stored = memory_store.get(shard.key, version_id=shard.version_id).data
    copy = memory_store.put(shard.key, stored)
    kept = replace(shard, version_id=copy.version_id)
    append(
        repo, slot,
        {
            "type": "retain", "reason": "an audit", "actor": "records", "until": "2026-01-01T00:00:00Z", "writer": "w",
            "entries": [{"uid": "doc/0", "versions": [list(Origin(1, 0))]}], "shard": kept.to_json(),
        },
    )  # fmt: skip
    [line] = plan_optimize(repo, all_slots(repo)).lines
    assert line.shards == 6, "the original is merged, the copy is not"
    execute_optimize(repo, plan_optimize(repo, all_slots(repo)))
    assert copy.version_id in {shard.version_id for shard in live_shards(repo)}
    assert Retriever(opened(memory_store, tmp_path)).get("doc/0", DAY) == b"0"
