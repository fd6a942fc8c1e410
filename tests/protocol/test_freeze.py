"""Freezing a window: the earliest locked manifest counts, whoever comes later adopts it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    EITHER,
    KEYS,
    File,
    MemorySource,
    assert_archived,
    opened,
    pack,
    some_files,
)
from vera_core.errors import ConflictError, IntegrityError, VeraError
from vera_core.model import Lock, LockMode
from vera_core.operations.freeze import freeze_window
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from tests.protocol.packing import Make
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

KEY = KEYS.manifest("default", "docs", DAY, 1)
FAR = Lock(LockMode.GOVERNANCE, datetime(2090, 1, 1, tzinfo=UTC))


@EITHER
def test_whoever_comes_second_adopts_the_first_manifest(store: ObjectStore, tmp_path: Path, make: Make) -> None:
    """The source changed in between; what was frozen first is what is packed."""
    repo = make(store, tmp_path)
    first, second = MemorySource(some_files(20)), MemorySource(some_files(25))
    with repo.scratch() as scratch:
        frozen = freeze_window(repo, first, first.window(), scratch)
        adopted = freeze_window(repo, second, second.window(), scratch)
        assert (adopted.digest, adopted.version_id, adopted.key) == (frozen.digest, frozen.version_id, KEY)
        assert adopted.manifest.row_count == 20
        held = store.get_lock(KEY, frozen.version_id)
        assert held is not None
        assert held.until - store.now() > timedelta(days=3000)
    assert pack(repo, second).rows == 20


@EITHER
def test_two_freezers_at_once_adopt_one(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    make(memory_store, tmp_path)
    winner, loser = MemorySource(some_files(20)), MemorySource(some_files(25))
    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "put_file", KEY, run=lambda: pack(opened(memory_store, tmp_path), winner)))
    report = pack(opened(racing, tmp_path), loser)
    assert (report.rows, report.packed_now) == (20, 0)
    assert_archived(memory_store, tmp_path, winner)


@EITHER
def test_a_marker_lets_a_second_manifest_in_and_the_first_stays_the_one(
    memory_store: MemoryStore, tmp_path: Path, make: Make
) -> None:
    make(memory_store, tmp_path)
    first, second = MemorySource(some_files(20)), MemorySource(some_files(25))
    pack(opened(memory_store, tmp_path), first)
    memory_store.delete(KEY)
    # The second one does not even see the first, and its PUT succeeds over the marker.
    blind = FaultyStore(memory_store)
    repo = opened(blind, tmp_path)
    listed = memory_store.list_versions
    calls: list[str] = []

    def blind_once(prefix: str) -> object:
        calls.append(prefix)
        return iter(()) if prefix == KEYS.window_prefix("default", "docs", DAY) and len(calls) == 1 else listed(prefix)

    blind.inner.list_versions = blind_once  # type: ignore[method-assign, assignment]
    with repo.scratch() as scratch:
        frozen = freeze_window(repo, second, second.window(), scratch)
    assert frozen.manifest.row_count == 20
    versions = [info for info in listed(KEY) if not info.is_delete_marker]
    assert len(versions) == 2
    assert frozen.version_id == versions[-1].version_id


@pytest.mark.parametrize("steps", [["put"], ["delete"], ["put", "delete"], ["put", "put"]])
@EITHER
def test_what_somebody_put_there_before_is_no_manifest(
    store: ObjectStore, tmp_path: Path, steps: list[str], make: Make
) -> None:
    make(store, tmp_path)
    for step in steps:
        if step == "put":
            store.put(KEY, b"no manifest")
        else:
            store.delete(KEY)
    source = MemorySource(some_files(10))
    assert pack(opened(store, tmp_path), source).rows == 10
    assert_archived(store, tmp_path, source)


@EITHER
def test_somebody_who_keeps_putting_objects_there_is_named(
    memory_store: MemoryStore, tmp_path: Path, make: Make
) -> None:
    make(memory_store, tmp_path)
    pest = FaultyStore(memory_store)
    pest.add(Rule(Action.RUN_BEFORE, "put_file", KEY, times=None, run=lambda: memory_store.put(KEY, b"again")))
    source = MemorySource(some_files(3))
    with pytest.raises(ConflictError, match="keep appearing") as caught:
        pack(opened(pest, tmp_path), source)
    assert caught.value.where["key"] == KEY
    assert pack(opened(memory_store, tmp_path), source).rows == 3


@EITHER
def test_a_locked_version_that_is_no_manifest_stops_the_window(
    memory_store: MemoryStore, tmp_path: Path, make: Make
) -> None:
    repo = make(memory_store, tmp_path)
    made = memory_store.put(KEY, b"junk", lock=FAR)
    with pytest.raises(IntegrityError, match="does not verify") as caught:
        pack(repo, MemorySource(some_files(3)))
    assert caught.value.where["key"] == KEY
    assert caught.value.where["version_id"] == made.version_id
    assert pack(repo, MemorySource(some_files(3), name="other")).archived == 3, "other windows go on"


@EITHER
def test_a_manifest_of_another_window_is_refused(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    repo = make(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(3), name="other"))
    other = memory_store.get(KEYS.manifest("default", "other", DAY, 1)).data
    memory_store.put(KEY, other, lock=FAR)
    with pytest.raises(IntegrityError, match="another window"):
        pack(repo, MemorySource(some_files(3)))


@EITHER
def test_a_lost_reply_leaves_one_manifest(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    make(memory_store, tmp_path)
    source = MemorySource(some_files(10))
    for action in (Action.LOSE_REPLY, Action.FAIL, Action.REPEAT):
        try:
            pack(opened(FaultyStore(memory_store, [Rule(action, "put_file", KEY)]), tmp_path), source)
        except VeraError:
            assert action is not Action.REPEAT
    assert pack(opened(memory_store, tmp_path), source).rows == 10
    assert len(list(memory_store.list_versions(KEY))) == 1
    assert_archived(memory_store, tmp_path, source)


@EITHER
def test_changed_rows_are_in_the_next_revision(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    repo = make(memory_store, tmp_path)
    files = some_files(10)
    pack(repo, MemorySource(files))
    moved = replace(files[4], created_at=files[4].created_at.replace(hour=23, minute=59))
    changed = [moved if at == 4 else file for at, file in enumerate(files)]
    report = pack(repo, MemorySource([*changed, File("late", b"late")]), revision=2)
    assert (report.rows, report.archived) == (2, 2)
