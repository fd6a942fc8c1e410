"""Packing end to end: every file comes back bit for bit, once, whatever the rows look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.packing import DAY, MemorySource, assert_archived, make_repository, pack, some_files

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore


def test_a_day_comes_back_bit_for_bit(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(200))
    report = pack(repo, source)
    assert (report.rows, report.archived, report.equal, report.rejected) == (200, 200, 0, 0)
    assert_archived(store, tmp_path, source, DAY)
