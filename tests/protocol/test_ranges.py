"""Many ranges of a shard in the store: the right bytes, in few requests, within bounds, or an error that names it."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack
from vera_core.errors import IntegrityError
from vera_core.model import Lock, LockMode
from vera_core.operations import lookup
from vera_core.operations.lookup import GAP, IN_FLIGHT, RUN_BYTES, StoreSource
from vera_core.operations.retrieve import Retriever
from vera_core.slots import ShardRef
from vera_core.store.faulty import FaultyStore
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DATA = random.Random(1).randbytes(3 << 20)


class Watched(FaultyStore):
    """Notes which ranges are asked for together."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.together: list[list[tuple[int, int]]] = []

    def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, version_id: str | None = None
    ) -> Sequence[bytes]:
        self.together.append(list(ranges))
        return super().get_ranges(key, ranges, version_id=version_id)


def stored(data: bytes = DATA) -> tuple[Watched, StoreSource]:
    store = Watched(MemoryStore())
    made = store.put("a.vera", data)
    shard = ShardRef(
        number=1,
        key=made.key,
        version_id=made.version_id,
        sha256="0" * 64,
        size=len(data),
        content_bytes=0,
        stored_bytes=0,
        lock=Lock(LockMode.GOVERNANCE, datetime(2027, 1, 1, tzinfo=UTC)),
        retention_class="std",
        entries=1,
        min_key=0,
        max_key=0,
    )
    return store, StoreSource(store, shard)


@given(st.lists(st.tuples(st.integers(0, len(DATA) - 5000), st.integers(0, 5000)), max_size=40).map(sorted))
def test_ranges_are_what_single_reads_are(places: list[tuple[int, int]]) -> None:
    store, source = stored()
    assert list(source.read_ranges(places)) == [DATA[offset : offset + length] for offset, length in places]
    asked = [place for together in store.together for place in together]
    assert sum(length for _, length in asked) <= sum(length for _, length in places) + GAP * len(places)
    assert max((length for _, length in asked), default=0) <= RUN_BYTES


def test_what_is_asked_for_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "RUN_BYTES", 5_000)
    monkeypatch.setattr(lookup, "IN_FLIGHT", 20_000)
    assert IN_FLIGHT == 32 << 20
    store, source = stored()
    places = [(at, 1000) for at in range(0, 1 << 20, 3000)] + [(1 << 20, 50_000), ((1 << 20) + 50_000, 10)]
    assert list(source.read_ranges(places)) == [DATA[offset : offset + length] for offset, length in places]
    assert max(sum(length for _, length in together) for together in store.together) == 50_000, "one that is larger"
    assert sorted(sum(length for _, length in together) for together in store.together)[-2] <= 20_000
    assert len(store.together) < len(places) // 5


def test_errors_name_the_version() -> None:
    store, source = stored()
    with pytest.raises(IntegrityError) as caught:
        list(source.read_ranges([(0, 10), (len(DATA) - 5, 10)]))
    assert caught.value.where["version_id"] == source.shard.version_id
    store.delete("a.vera", version_id=source.shard.version_id)
    with pytest.raises(IntegrityError, match="gone from the store") as caught:
        list(source.read_ranges([(0, 10)]))
    assert caught.value.where["key"] == "a.vera"


def test_a_slot_is_listed_by_its_blocks_in_one_go(memory_store: MemoryStore, tmp_path: Path) -> None:
    rng = random.Random(3)
    files = [File(f"doc/{number}", rng.randbytes(300)) for number in range(6000)]
    pack(make_repository(memory_store, tmp_path, part_rows=10_000), MemorySource(files))
    watched = Watched(memory_store)
    reader = Retriever(opened(watched, tmp_path))
    watched.calls.clear()
    assert sorted(found.uid for found in reader.list_day(DAY)) == sorted(file.uid for file in files)
    assert len(watched.together) == 2, "once for each of the two shards"
    assert watched.count("get_range") == sum(map(len, watched.together))
    assert sum(call.size for call in watched.calls if call.kind == "get_range") < 6000 * 100
