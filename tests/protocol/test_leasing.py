"""Working on leased days: side by side without doing a day twice, and letting go what was lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, MemorySource, assert_archived, opened, some_files
from tests.protocol.test_verdicts import make
from vera_core.errors import ConflictError
from vera_core.operations.due import due_windows
from vera_core.operations.leasing import first_free, the_day
from vera_core.operations.migrate import migrate
from vera_core.operations.migration_status import migration_status
from vera_core.source.leases import Days
from vera_core.source.state import WindowState

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.due import Migration
    from vera_core.store.memory import MemoryStore

END = DAY + timedelta(days=6)
NAME = ("docs", "default")


def source_of_days() -> MemorySource:
    days = [DAY + timedelta(days=n) for n in range(6)]
    return MemorySource([file for day in days for file in some_files(20, day=day, prefix=f"d{day.day}")])


def lasting(migration: Migration, seconds: float) -> Migration:
    migration.state.leases = replace(migration.state.leases, seconds=seconds)
    return migration


def test_four_workers_do_each_day_once(memory_store: MemoryStore, tmp_path: Path) -> None:
    source = source_of_days()
    first = make(memory_store, tmp_path, source)
    workers = [replace(first, repo=opened(memory_store, tmp_path, f"w{n}")) for n in range(4)]
    barrier = threading.Barrier(4)

    def work(migration: Migration) -> list[str]:
        due = due_windows(migration, end=END)
        barrier.wait()
        report = migrate(migration, due)
        assert report.ok
        return [window.day for window in report.windows]

    with ThreadPoolExecutor(4) as pool:
        done = [day for days in pool.map(work, workers) for day in days]
    assert len(done) == len(set(done)) == 6, "no day twice"
    for number in range(6):
        assert_archived(memory_store, tmp_path, source, DAY + timedelta(days=number))
    status = migration_status(first)
    assert (status.watermark, status.done, status.active) == (f"{END:%Y%m%d}", 6, 0)


def test_days_that_others_have_are_left_to_them(memory_store: MemoryStore, tmp_path: Path) -> None:
    migration = make(memory_store, tmp_path, source_of_days())
    with first_free(migration, [DAY]) as held:
        assert held is not None
        report = migrate(
            replace(migration, repo=opened(memory_store, tmp_path, "other")), due_windows(migration, end=END)
        )
        held.listener()(3, 20, 999)
        status = migration_status(migration)
        assert [line.holder for line in status.workers] == ["test"]
        assert status.due > 0
        with (
            pytest.raises(ConflictError, match="another worker has the day") as caught,
            the_day(migration, DAY, wait_seconds=0),
        ):
            pass
        assert caught.value.where["holder"] == "test"
    assert (len(report.windows), report.elsewhere) == (5, (f"{DAY:%Y%m%d}",))
    assert migrate(migration, due_windows(migration, end=END)).elsewhere == ()


def test_who_sleeps_past_the_lease_lets_the_day_go(memory_store: MemoryStore, tmp_path: Path) -> None:
    migration = lasting(make(memory_store, tmp_path, source_of_days()), 0.3)
    leases = migration.state.leases
    taken = False

    def sleep(done: int, _total: int, _bytes: int) -> None:
        """As if this worker's machine stood still until somebody else took the day."""
        nonlocal taken
        if done and not taken:
            with migration.state._writing() as connection:  # past the heart, which beats on
                table = migration.state._tables.leases
                connection.execute(table.update().values(until=1))
            taken = leases.claim(Days(*NAME, [DAY]), "quick") is not None
            time.sleep(0.5)

    report = migrate(migration, due_windows(migration, end=DAY + timedelta(days=1)), each=lambda _: sleep)
    assert taken
    assert (report.ok, report.windows, report.elsewhere) == (True, (), (f"{DAY:%Y%m%d}",))
    (record,) = migration.revisions(DAY)
    assert record.state is WindowState.FROZEN, "it recorded neither success nor failure"


def test_a_beating_heart_keeps_the_day(memory_store: MemoryStore, tmp_path: Path) -> None:
    migration = lasting(make(memory_store, tmp_path, source_of_days()), 0.4)
    with first_free(migration, [DAY]) as held:
        assert held is not None
        time.sleep(1.0)
        held.check()
        with first_free(migration, [DAY]) as other:
            assert other is None
    with first_free(migration, [DAY]) as other:
        assert other is not None, "let go at once"


def test_the_stop_is_heard_between_two_days(memory_store: MemoryStore, tmp_path: Path) -> None:
    migration = make(memory_store, tmp_path, source_of_days())
    done: list[object] = []
    report = migrate(migration, due_windows(migration, end=END), each=done.append, stop=lambda: len(done) == 2)
    assert (len(report.windows), report.elsewhere) == (2, ())
    assert {record.state for record in migration.state.windows(*NAME)} == {WindowState.VERIFIED}
