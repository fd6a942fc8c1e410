"""Verdicts on a day, whoever records them and when: the watermark is never ahead of one that failed (I5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.packing import (
    DAY,
    File,
    MemorySource,
    assert_archived,
    make_repository,
    opened,
    some_files,
)
from vera_core.errors import ConflictError, UnavailableError
from vera_core.operations.due import Migration, due_windows
from vera_core.operations.epochs import set_epoch
from vera_core.operations.migrate import advance_watermark, migrate_window, pack_due, verify_packed
from vera_core.source.database import connect
from vera_core.source.mapping import OnRejects
from vera_core.source.state import MigrationState, WindowState
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vera_core.operations.verdicts import WindowReport
    from vera_core.source.base import Window
    from vera_core.source.state import WindowRecord
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

LATE = File("doc/late.json", b"came late")


class RacedState(MigrationState):
    """A state in which somebody else is quicker: `race` runs once, just before a window is recorded as verified."""

    race: Callable[[], object] | None = None

    def record(self, window: Window, state: WindowState, **options: Any) -> WindowRecord:
        """See `MigrationState.record`."""
        if self.race is not None and window.revision == 1 and state is WindowState.VERIFIED:
            race, self.race = self.race, None
            race()
        return super().record(window, state, **options)


def make(store: ObjectStore, spool: Path, source: MemorySource, **options: Any) -> Migration:
    """A migration of the source in a new repository, and our tables in a new database."""
    make_repository(store, spool)
    (spool / "business.db").touch()
    state = RacedState(connect(f"sqlite:///{spool}/business.db", writable=True))
    state.create()
    return Migration(repo=opened(store, spool), source=source, state=state, begin=DAY, **options)


def states(migration: Migration) -> dict[int, str]:
    """How far each revision of the day is."""
    return {record.revision: record.state.value for record in migration.state.windows(*migration.name, first=DAY)}


def passes(migration: Migration) -> bool:
    """Whether the watermark passes the day."""
    return advance_watermark(migration).after > f"{DAY:%Y%m%d}"


def damage(store: MemoryStore, report: WindowReport) -> None:
    """Flips a bit of the window's first shard, through the back door; doing it again takes it back."""
    line = report.pack.shards[0]
    versions = store._keys[line.key]
    at = next(n for n, version in enumerate(versions) if version.version_id == line.version_id)
    data = bytearray(versions[at].data or b"")
    data[len(data) // 2] ^= 1
    versions[at] = replace(versions[at], data=bytes(data))


def test_a_revision_that_failed_a_new_look_is_not_closed_by_a_later_one(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    source = MemorySource(some_files(30))
    migration = make(memory_store, tmp_path, source)
    first = migrate_window(migration, source.window())
    source.files.append(LATE)
    pack_due(migration, source.window(revision=2))
    damage(memory_store, first)
    assert verify_packed(migration, source.window()).verdict is WindowState.FAILED
    assert verify_packed(migration, source.window(revision=2)).verdict is WindowState.VERIFIED
    assert states(migration) == {1: "failed", 2: "verified"}
    assert not passes(migration)

    # It is due again, and then the day is done.
    assert due_windows(migration, end=DAY.replace(day=2)) == [source.window()]
    assert migrate_window(migration, source.window()).verdict is WindowState.VERIFIED
    assert states(migration) == {1: "verified", 2: "verified"}
    assert passes(migration)
    assert_archived(memory_store, tmp_path, source)


def test_a_failure_that_is_recorded_while_a_later_revision_closes_the_earlier_stands(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    source = MemorySource([*some_files(30), File("doc/gone.json", fails="missing-file")])
    migration = make(memory_store, tmp_path, source)
    first = migrate_window(migration, source.window())
    assert first.verdict is WindowState.REJECTS
    source.files[-1] = File("doc/gone.json", b"found again")

    def fail() -> None:
        damage(memory_store, first)
        assert verify_packed(migration, source.window()).verdict is WindowState.FAILED

    assert isinstance(migration.state, RacedState)
    migration.state.race = fail
    assert migrate_window(migration, source.window(revision=2)).verdict is WindowState.VERIFIED
    assert states(migration) == {1: "failed", 2: "verified"}
    assert not passes(migration)

    # Its next good verdict says `rejects`, which the later revision has answered for already.
    assert migrate_window(migration, source.window()).verdict is WindowState.REJECTS
    assert states(migration) == {1: "verified", 2: "verified"}
    assert passes(migration)


def test_a_failure_that_is_recorded_while_a_good_look_goes_on_stands(memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(30))
    raced = FaultyStore(memory_store)
    migration = make(raced, tmp_path, source)
    pack_due(migration, source.window())
    elsewhere = replace(migration, repo=opened(memory_store, tmp_path))

    def fail() -> None:
        report = verify_packed(elsewhere, source.window())
        damage(memory_store, report)
        assert verify_packed(elsewhere, source.window()).verdict is WindowState.FAILED
        damage(memory_store, report)

    # Reconciliation comes after integrity: the look that began first has not seen the damage.
    raced.add(Rule(Action.RUN_BEFORE, "download", "*.vera", run=fail))
    with pytest.raises(ConflictError, match="somebody else"):
        verify_packed(migration, source.window())
    assert states(migration) == {1: "failed"}
    assert not passes(migration)
    assert migrate_window(migration, source.window()).verdict is WindowState.VERIFIED
    assert passes(migration)


def test_workers_side_by_side_on_one_window_both_succeed(memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource([*some_files(30), File("doc/gone.json", fails="missing-file")])
    raced = FaultyStore(memory_store)
    migration = make(raced, tmp_path, source, on_rejects=OnRejects.ADVANCE)
    elsewhere = replace(migration, repo=opened(memory_store, tmp_path))
    pack_due(migration, source.window())
    # The other one notes that the window is packed, and the next time its verdict, while this one looks.
    raced.add(Rule(Action.RUN_BEFORE, "download", "*.vera", run=lambda: pack_due(elsewhere, source.window())))
    assert verify_packed(migration, source.window()).verdict is WindowState.REJECTS
    raced.add(Rule(Action.RUN_BEFORE, "download", "*.vera", run=lambda: migrate_window(elsewhere, source.window())))
    assert verify_packed(migration, source.window()).verdict is WindowState.REJECTS
    assert states(migration) == {1: "rejects"}
    assert [reject.uid for _, reject in migration.state.rejects(*migration.name)] == ["doc/gone.json"]
    assert passes(migration)


def test_rejects_are_answered_for_by_the_revision_that_tried_them_again(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    source = MemorySource([*some_files(30), File("doc/gone.json", fails="missing-file")])
    migration = make(memory_store, tmp_path, source)
    assert migrate_window(migration, source.window()).verdict is WindowState.REJECTS
    assert migrate_window(migration, source.window(revision=2)).verdict is WindowState.REJECTS
    assert states(migration) == {1: "verified", 2: "rejects"}
    assert not passes(migration)
    source.files[-1] = File("doc/gone.json", b"found again")
    (due,) = due_windows(migration, end=DAY.replace(day=2), retry_rejects=True)
    assert migrate_window(migration, due).verdict is WindowState.VERIFIED
    assert states(migration) == {1: "verified", 2: "verified", 3: "verified"}
    first = migration.state.window(source.window())
    assert first is not None
    assert first.answered_by == 2
    assert passes(migration)


@pytest.mark.parametrize("killed", ["*.vera", "*/log/*"])
def test_a_revision_that_an_epoch_made_stale_is_answered_for_by_the_next(
    memory_store: MemoryStore, tmp_path: Path, killed: str
) -> None:
    """Failed or only begun: all its rows went again in the next revision, and no commit of its own counts."""
    source = MemorySource(some_files(30))
    migration = make(memory_store, tmp_path, source)
    dying = FaultyStore(memory_store, [Rule(Action.FAIL, "put*", killed, times=None)])
    with pytest.raises(UnavailableError):
        migrate_window(replace(migration, repo=opened(dying, tmp_path)), source.window())
    assert states(migration) == {1: "failed"}
    set_epoch(opened(memory_store, tmp_path), DAY, 3)
    report = migrate_window(migration, source.window())
    assert (report.revision, report.verdict) == (2, WindowState.VERIFIED)
    assert states(migration) == {1: "verified", 2: "verified"}
    assert passes(migration)
    assert_archived(memory_store, tmp_path, source)
