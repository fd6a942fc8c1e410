"""Erasing files that are frozen and not packed yet: they are kept out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.protocol.erasing import UID, assert_erased, assert_readable, draft
from tests.protocol.packing import (
    CONFIG,
    DAY,
    File,
    MemorySource,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.erasures import Target
from vera_core.operations.erase import Outcome
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.erasures import plan_request, submit
from vera_core.operations.freeze import freeze_window
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.routing import UidScheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore

FILES = some_files(30)


@pytest.mark.parametrize("make", [make_repository, make_encrypted])
def test_a_frozen_file_is_kept_out(make: Callable[..., Repository], memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, source = make(memory_store, tmp_path), MemorySource(FILES)
    with repo.scratch() as scratch:
        freeze_window(repo, source, source.window(), scratch)
    asked = draft(UID, "doc/never")
    plan = plan_request(repo, asked)
    assert [file.outcome for file in plan.files] == [Outcome.AWAITED, Outcome.MISSING]
    report = submit(repo, asked)
    assert [(file.uid, file.outcome) for file in report.files] == [
        (UID, Outcome.BARRED),
        ("doc/never", Outcome.MISSING),
    ]
    assert (report.stage, report.erased, report.missing) == (Stage.DONE, 1, 1)
    packed = pack(opened(memory_store, tmp_path), source)
    assert (packed.archived, packed.rejects) == (len(FILES) - 1, {"erased": 1})
    assert_readable(memory_store, tmp_path, [(file.uid, file.content) for file in FILES if file.uid != UID])
    assert UID not in {file.uid for file in Retriever(opened(memory_store, tmp_path)).list_day(DAY)}
    again = submit(repo, asked)
    assert (again.erased, again.missing) == (1, 1)


def test_what_is_packed_and_what_was_never_frozen_are_as_before(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource(FILES))
    records = [repo.slot_log(slot).load().head.number for slot in all_slots(repo)]
    assert [file.outcome for file in plan_request(repo, draft("doc/never")).files] == [Outcome.MISSING]
    other = draft("doc/never", request="r-2")
    assert submit(repo, other).missing == 1
    assert [repo.slot_log(slot).load().head.number for slot in all_slots(repo)] == records, "no tombstone for nothing"
    submit(repo, draft(UID))
    assert_erased(memory_store, tmp_path, UID)


def test_a_file_of_the_window_beside_which_carries_its_time(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Windows go by created_at, slots by the uid's own time."""
    routing = replace(CONFIG.routing, schemes=frozenset({UidScheme.UUID7}))
    repo = make_repository(memory_store, tmp_path, routing=routing)
    made = datetime(DAY.year, DAY.month, DAY.day, 23, 59, tzinfo=UTC)
    uid = str(UUID(int=int(made.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | 1))
    source = MemorySource([File(uid, b"late in the evening", made + timedelta(minutes=2))])
    window = source.window(DAY + timedelta(1))
    with repo.scratch() as scratch:
        freeze_window(repo, source, window, scratch)
    asked = replace(draft(), targets=(Target(uid),))
    assert [file.outcome for file in submit(repo, asked).files] == [Outcome.BARRED]
    assert pack(repo, source, DAY + timedelta(1)).rejects == {"erased": 1}
