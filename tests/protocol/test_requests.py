"""What reading costs: a warm read is one request, a cold one at most five, and nothing is asked for twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack, some_files
from vera_core.errors import NotFoundError
from vera_core.format import SUFFIX
from vera_core.operations.retrieve import Retriever
from vera_core.routing import uid_key
from vera_core.store.faulty import FaultyStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore


def reader_of(store: ObjectStore, spool: Path, freshness_seconds: float = 5.0) -> tuple[FaultyStore, Retriever]:
    """A new reader with its config loaded, and the store that counts what it asks."""
    watched = FaultyStore(store)
    reader = Retriever(opened(watched, spool, freshness_seconds=freshness_seconds))
    watched.calls.clear()
    return watched, reader


@pytest.mark.parametrize("tells_markers", [True, False])
def test_cold_and_warm_reads(memory_store: MemoryStore, tmp_path: Path, tells_markers: bool) -> None:
    repo = make_repository(memory_store, tmp_path, part_rows=1000, tells_markers=tells_markers)
    source = MemorySource([file for file in some_files(270) if file.retention_class == "std"])
    pack(repo, source)
    watched, reader = reader_of(memory_store, tmp_path)
    first, *others = [file for file in source.files if reader.slot(file.uid, DAY).index == 0]
    assert reader.get(first.uid, DAY) == first.content
    kinds = [call.kind for call in watched.calls]
    # Sidecar, the next record's absence, the shard's suffix, the entry.
    assert kinds[:3] == ["get", "head" if tells_markers else "list_versions", "get_suffix"]
    assert kinds[3:] in ([], ["get_range"])
    assert watched.calls[2].size == SUFFIX
    for file in others[:20]:
        watched.calls.clear()
        assert reader.get(file.uid, DAY) == file.content
        assert [call.kind for call in watched.calls] in ([], ["get_range"])


def test_a_read_asks_for_the_entry_and_nothing_more(memory_store: MemoryStore, tmp_path: Path) -> None:
    """In shards far larger than the suffix, once the group's block was read: the stored bytes."""
    rng = random.Random(3)
    files = [File(f"doc/{number}", rng.randbytes(3000)) for number in range(800)]
    repo = make_repository(memory_store, tmp_path, part_rows=10_000)
    report = pack(repo, MemorySource(files))
    watched, reader = reader_of(memory_store, tmp_path)
    sizes = {line.key: line.size for line in report.shards}
    assert min(sizes.values()) > 20 * SUFFIX
    ordered = sorted((uid_key(file.uid), file.uid) for file in files)
    slot_ends = [[uid for key, uid in ordered if key >> 63 == slot][-SUFFIX // 3000 :] for slot in (0, 1)]
    nearest_the_end = {uid for end in slot_ends for uid in end}
    slots = set()
    for file in files[::40]:
        cold = reader.slot(file.uid, DAY) not in slots
        slots.add(reader.slot(file.uid, DAY))
        stored = reader.stat(file.uid, DAY).stored_size
        if file.uid in nearest_the_end:
            continue  # the suffix has brought it
        watched.calls.clear()
        assert reader.get(file.uid, DAY) == file.content
        ranges = [call.size for call in watched.calls if call.kind == "get_range"]
        assert len(watched.calls) == 1, (cold, watched.calls)
        assert ranges == [stored], "exactly the entry's stored bytes"


def test_a_cold_read_of_a_slot_with_many_shards_asks_only_where_the_file_can_be(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo = make_repository(memory_store, tmp_path)
    for number in range(12):
        pack(repo, MemorySource([File(f"only/{number}", b"x" * number)], name=f"source-{number}"))
    watched, reader = reader_of(memory_store, tmp_path)
    assert reader.get("only/7", DAY) == b"x" * 7
    assert watched.count("get_suffix") == 1, "the small filters of the others say no"
    assert len(watched.calls) <= 5


def test_a_miss_is_asked_for_again_before_it_is_one(memory_store: MemoryStore, tmp_path: Path) -> None:
    """What was archived a moment ago is found, whatever the reader took as current."""
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(30)))
    _, reader = reader_of(memory_store, tmp_path, freshness_seconds=1e9)
    with pytest.raises(NotFoundError):
        reader.get("soon", DAY)
    pack(repo, MemorySource([File("soon", b"now")], name="late"))
    assert reader.get("soon", DAY) == b"now"


def test_a_miss_asks_few(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(30)))
    watched, reader = reader_of(memory_store, tmp_path)
    with pytest.raises(NotFoundError):
        reader.get("unheard/of", DAY)
    assert watched.count("get_suffix") + watched.count("get_range") <= 1
    assert len(watched.calls) <= 5


def test_a_stale_slot_costs_one_probe(memory_store: MemoryStore, tmp_path: Path) -> None:
    make = make_repository(memory_store, tmp_path, tells_markers=True)
    source = MemorySource(some_files(30))
    pack(make, source)
    watched, reader = reader_of(memory_store, tmp_path, freshness_seconds=0.0)
    reader.get(source.files[0].uid, DAY)
    watched.calls.clear()
    reader.get(source.files[0].uid, DAY)
    assert [call.kind for call in watched.calls] in (["head"], ["head", "get_range"])
    late = MemorySource([File(source.files[0].uid, b"newer")], name="late")
    pack(make, late)
    assert reader.get(source.files[0].uid, DAY) == b"newer"


def test_opening_a_repository_is_two_requests(memory_store: MemoryStore, tmp_path: Path) -> None:
    make_repository(memory_store, tmp_path)
    watched = FaultyStore(memory_store)
    opened(watched, tmp_path)
    assert [call.kind for call in watched.calls] == ["list_versions", "get"]
