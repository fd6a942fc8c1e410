"""Encrypted repositories as a whole: packed, read by others who hold the keys, and by nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    MemorySource,
    copy_bucket,
    local_kek,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.config import Encryption
from vera_core.errors import UsageError
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.memory import MemoryStore


def test_what_is_packed_is_read_by_who_holds_the_keys(memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(150))
    report = pack(make_encrypted(memory_store, tmp_path), source)
    assert (report.archived, report.rejects) == (150, {})
    reader = Retriever(opened(memory_store, tmp_path, "reader"))
    for file in source.files:
        assert reader.get(file.uid, DAY) == file.content
        found = reader.stat(file.uid, DAY)
        assert (found.uid, found.created_at, found.media_type) == (file.uid, file.created_at, file.media_type)
    again = pack(opened(memory_store, tmp_path), source)
    assert again.packed_now == 0


def test_without_the_key_service_nothing_is_read(memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(5))
    pack(make_encrypted(memory_store, tmp_path), source)
    stranger = Retriever(Repository(memory_store, "archive", Workplace(actor="stranger", spool=tmp_path)))
    with pytest.raises(UsageError, match="not configured here"):
        stranger.get(source.files[0].uid, DAY)


def test_keyrings_are_stored_in_every_registered_copy(memory_store: MemoryStore, tmp_path: Path) -> None:
    copy = copy_bucket()
    kek = local_kek().kek
    repo = make_repository(memory_store, tmp_path, encryption=Encryption(kek, (f"s3://{copy.bucket}/spare",)))
    pack(repo, MemorySource(some_files(20)))
    mine = {info.key.removeprefix("archive/") for info in memory_store.list_objects("") if info.key.endswith(".keys")}
    theirs = {info.key.removeprefix("spare/") for info in copy.list_objects("")}
    assert len(mine) > 1
    assert mine == theirs
