"""The inventory: every living file of a day once, whoever archived it, and whoever writes the catalogue when."""

from __future__ import annotations

import io
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from tests.protocol.packing import DAY, KEYS, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.test_erasure import erase
from vera_core.model import Slot
from vera_core.operations.inventory import write_inventory
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

LETTERS = MemorySource(some_files(30, prefix="letter"), name="letters")
INVOICES = MemorySource(some_files(20, prefix="invoice"), name="invoices")
BOTH = sorted(file.uid for file in LETTERS.files + INVOICES.files)
FILES = "*/inventory/*"


def listed(store: ObjectStore) -> list[str]:
    """The uids in all files of the day's catalogue, as a reader of the whole data set finds them."""
    keys = [info.key for info in store.list_objects(KEYS.inventory_day_prefix("default", DAY))]
    tables = [pq.read_table(io.BytesIO(store.get(key).data)) for key in keys]
    return sorted(str(uid) for table in tables for uid in table["uid"].to_pylist())


def assert_one_version_a_slot(store: ObjectStore) -> None:
    """Superseded files cost money, and a reader of the data set would find their rows twice."""
    infos = list(store.list_versions(KEYS.inventory_day_prefix("default", DAY)))
    assert len({KEYS.parse(info.key).index_text for info in infos}) == len(infos), infos


def archive(repo: Repository, source: MemorySource) -> None:
    """As Dagster does: packs a source's day, then writes the day's catalogue."""
    pack(repo, source)
    write_inventory(repo, source.tenant, DAY)


def test_two_sources_of_a_tenant_share_the_days_catalogue(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    archive(repo, LETTERS)
    assert listed(store) == sorted(file.uid for file in LETTERS.files)
    archive(opened(store, tmp_path), INVOICES)
    assert listed(store) == BOTH
    report = write_inventory(opened(store, tmp_path), "default", DAY)
    assert (report.files, sorted(report.keys)) == (50, sorted(keys(store)))
    assert listed(store) == BOTH
    assert_one_version_a_slot(store)


def keys(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list_objects(KEYS.inventory_day_prefix("default", DAY))]


@pytest.mark.parametrize("action", [Action.RUN_BEFORE, Action.RUN_AFTER])
@pytest.mark.parametrize(("kind", "nth"), [("put_file", 1), ("put_file", 2), ("list_versions", 1), ("delete", 1)])
def test_a_source_that_is_quicker_keeps_its_rows(
    memory_store: MemoryStore, tmp_path: Path, action: Action, kind: str, nth: int
) -> None:
    """Whoever writes what was true before the other's commits takes none of the other's files away."""
    make_repository(memory_store, tmp_path)
    archive(opened(memory_store, tmp_path), MemorySource(some_files(3, prefix="first"), name="letters"))
    pack(opened(memory_store, tmp_path), MemorySource(LETTERS.files, name="more"))
    racing = FaultyStore(memory_store)
    racing.add(Rule(action, kind, FILES, nth, run=lambda: archive(opened(memory_store, tmp_path), INVOICES)))
    write_inventory(opened(racing, tmp_path), "default", DAY)
    assert set(BOTH) <= set(listed(memory_store))
    assert len(listed(memory_store)) == 53
    assert_one_version_a_slot(memory_store)


def test_sources_side_by_side(store: ObjectStore, tmp_path: Path) -> None:
    make_repository(store, tmp_path)
    sources = [MemorySource(some_files(9, prefix=f"s{number}"), name=f"s{number}") for number in range(6)]
    threads = [
        threading.Thread(target=archive, args=(opened(store, tmp_path, source.name), source)) for source in sources
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert listed(store) == sorted(file.uid for source in sources for file in source.files)
    assert_one_version_a_slot(store)


def test_what_a_stranger_put_there_goes_whatever_its_name(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    archive(repo, LETTERS)
    sound = keys(store)
    for index in ("0", "1", "0F"):
        store.put(KEYS.inventory("default", DAY, index, 999_999), b"junk")
    empty = DAY + timedelta(1)
    store.put(KEYS.log(Slot("default", empty, 0, 1), 1), b"junk")
    store.put(KEYS.inventory("default", empty, "0", 1), b"junk")
    assert write_inventory(opened(store, tmp_path), "default", empty).files == 0
    assert not list(store.list_versions(KEYS.inventory_day_prefix("default", empty)))
    for key in sound:
        store.put(key, b"junk")
        store.delete(key)
    write_inventory(opened(store, tmp_path), "default", DAY)
    assert keys(store) == sound
    assert listed(store) == sorted(file.uid for file in LETTERS.files)
    assert_one_version_a_slot(store)


def test_a_slot_whose_last_file_was_erased_leaves_the_catalogue(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(2, prefix="few"))
    archive(repo, source)
    assert len(keys(memory_store)) == 2
    erase(opened(memory_store, tmp_path), source.files[0].uid)
    report = write_inventory(opened(memory_store, tmp_path), "default", DAY)
    assert (report.files, list(report.keys)) == (1, keys(memory_store))
    assert listed(memory_store) == [source.files[1].uid]
    assert write_inventory(repo, "default", DAY + timedelta(1)).files == 0
