"""Rewriting encrypted shards: what lives stays what it was, under fresh keys; what was erased opens with none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, MemorySource, make_encrypted, opened, pack, some_files
from tests.protocol.repacking import assert_gone_from_bytes, erase, live_shards, living, readers_agree, repack
from vera_core.errors import ErasedError
from vera_core.operations.repack import plan_repack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore


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
