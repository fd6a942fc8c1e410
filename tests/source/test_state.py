"""Migration state: our own tables, windows and their verdicts, and a watermark that nobody can push too far."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vera_core.errors import ConflictError, IncompatibleError, UsageError
from vera_core.source.base import Window
from vera_core.source.database import connect
from vera_core.source.rows import Reject
from vera_core.source.schema import NAMELESS
from vera_core.source.state import MigrationState, Watermark, WindowState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.source.conftest import Business

START = date(2026, 3, 1)
MOVERS = 16
NUMBERS = count()


def day(number: int) -> date:
    return START + timedelta(days=number)


def window(number: int, revision: int = 1, source: str = "documents") -> Window:
    return Window(source, "default", day(number), revision)


@pytest.fixture
def state(business: Business) -> Iterator[MigrationState]:
    engine = connect(business.url, writable=True)
    made = MigrationState(engine)
    made.create()
    made.check()
    yield made
    engine.dispose()


def test_nothing_is_made_unasked_and_the_error_says_how(business: Business) -> None:
    engine = connect(business.url, writable=True)
    state = MigrationState(engine)
    tables_before = sa.inspect(business.engine).get_table_names()
    with pytest.raises(UsageError, match="are not in the database") as caught:
        state.check()
    assert "CREATE TABLE" in caught.value.todo
    assert "--create-schema" in caught.value.todo
    assert len(state.missing_tables()) == 6
    assert sa.inspect(business.engine).get_table_names() == tables_before
    engine.dispose()


def test_the_printed_statements_make_what_create_makes(business: Business) -> None:
    engine = connect(business.url, writable=True)
    state = MigrationState(engine)
    for statement in state.ddl().split(";\n"):
        if statement.strip():
            business.run(statement)
    state.check()
    assert state.missing_tables() == []
    state.create()
    state.check()
    schema = None if business.dialect in NAMELESS else "vera"
    names = set(sa.inspect(business.engine).get_table_names(schema=schema))
    own = {"late_marks", "leases", "rejects", "schema_version", "watermark", "windows"}
    assert names - {"documents"} == ({f"vera_{name}" for name in own} if schema is None else own)
    engine.dispose()


def test_a_newer_schema_is_refused(business: Business, state: MigrationState) -> None:
    table = "vera_schema_version" if business.dialect in NAMELESS else "vera.schema_version"
    business.run(f"UPDATE {table} SET version = 2")
    with pytest.raises(IncompatibleError, match="version 2"):
        state.check()


@pytest.mark.parametrize("schema", ["", "Vera", 'x"; DROP TABLE documents', "a" * 41])
def test_schema_names_are_plain(business: Business, schema: str) -> None:
    with pytest.raises(UsageError, match="no schema name"):
        MigrationState(business.engine, schema)


def test_a_window_and_what_became_of_it(state: MigrationState) -> None:
    assert state.window(window(0)) is None
    first = state.record(window(0), WindowState.FROZEN, manifest="ab" * 32)
    assert (first.state, first.manifest, first.fence, first.verdict) == (WindowState.FROZEN, "ab" * 32, 1, {})
    rejects = [Reject(f"u{n}", "missing-file", f"no {n}") for n in range(3)]
    second = state.record(window(0), WindowState.REJECTS, verdict={"rejected": 3}, rejects=rejects)
    assert (second.fence, second.verdict) == (2, {"rejected": 3})
    assert [reject for _, reject in state.rejects("documents", "default")] == rejects
    state.record(window(0), WindowState.VERIFIED, rejects=rejects[:1])
    assert [reject for _, reject in state.rejects("documents", "default", day=day(0))] == rejects[:1]
    state.record(window(0, 2), WindowState.FROZEN)
    state.record(window(2), WindowState.FAILED)
    assert [(r.day, r.revision) for r in state.windows("documents", "default")] == [
        (day(0), 1),
        (day(0), 2),
        (day(2), 1),
    ]
    assert [(r.day, r.revision) for r in state.latest("documents", "default", end=day(2))] == [(day(0), 2)]
    assert state.windows("documents", "other") == []


def test_a_record_that_changed_is_not_overwritten(state: MigrationState) -> None:
    read = state.record(window(0), WindowState.FROZEN)
    state.record(window(0), WindowState.PACKED, fence=read.fence)
    with pytest.raises(ConflictError, match="somebody else"):
        state.record(window(0), WindowState.FAILED, fence=read.fence)
    with pytest.raises(ConflictError, match="somebody else"):
        state.record(window(0), WindowState.FAILED, fence=0)
    found = state.window(window(0))
    assert found is not None
    assert (found.state, found.fence) == (WindowState.PACKED, 2)


def test_the_watermark_passes_verified_days_without_a_gap(state: MigrationState) -> None:
    with pytest.raises(UsageError, match="never started"):
        state.advance("documents", "default")
    assert state.start_watermark("documents", "default", day(0)) == Watermark(day(0), 0)
    assert state.start_watermark("documents", "default", day(9)) == Watermark(day(0), 0)
    for number in (0, 1, 3):
        state.record(window(number), WindowState.VERIFIED)
    assert state.advance("documents", "default")[1] == Watermark(day(2), 1)
    state.record(window(2), WindowState.PACKED)
    assert state.advance("documents", "default")[1].day == day(2)
    state.record(window(2), WindowState.REJECTS)
    assert state.advance("documents", "default")[1].day == day(2)
    assert state.advance("documents", "default", past_rejects=True) == (Watermark(day(2), 1), Watermark(day(4), 2))
    state.record(window(4), WindowState.VERIFIED)
    state.record(window(4, 2), WindowState.FROZEN)
    assert state.advance("documents", "default")[1].day == day(4)
    state.record(window(4, 2), WindowState.VERIFIED)
    assert state.advance("documents", "default")[1].day == day(5)


def test_the_watermark_cannot_be_moved_wrongly(state: MigrationState) -> None:
    seen = state.start_watermark("documents", "default", day(0))
    for number in range(4):
        state.record(window(number), WindowState.VERIFIED)
    state.record(window(4), WindowState.FAILED)
    state.record(window(5, source="other"), WindowState.VERIFIED)
    moved = state.move_watermark("documents", "default", seen, day(2))
    assert moved == Watermark(day(2), 1)
    assert moved is not None
    for stale, to in (
        (seen, day(3)),  # somebody moved it since
        (Watermark(day(2), 0), day(3)),  # the fence is another
        (moved, day(2)),  # not forward
        (moved, day(1)),  # back
        (moved, day(5)),  # over a day that failed
        (moved, day(6)),  # over a day without a window
    ):
        assert state.move_watermark("documents", "default", stale, to) is None
    assert state.watermark("documents", "default") == moved
    assert state.watermark("documents", "other") is None


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(st.lists(st.sampled_from(list(WindowState)), max_size=2), max_size=6), past=st.booleans())
def test_the_watermark_stands_before_the_first_day_that_is_not_done(
    state: MigrationState, states: list[list[WindowState]], past: bool
) -> None:
    source = f"s{next(NUMBERS)}"
    state.start_watermark(source, "default", day(0))
    for number, revisions in enumerate(states):
        for revision, known in enumerate(revisions, 1):
            state.record(window(number, revision, source), known)
    passed = {WindowState.VERIFIED, WindowState.REJECTS} if past else {WindowState.VERIFIED}
    done = [bool(revisions) and set(revisions) <= passed for revisions in states]
    expected = done.index(False) if False in done else len(done)
    assert state.advance(source, "default", past_rejects=past)[1].day == day(expected)


def test_sixteen_movers_race(state: MigrationState) -> None:
    days = 24
    state.start_watermark("documents", "default", day(0))
    barrier = threading.Barrier(MOVERS)
    moves: list[tuple[date, date]] = []

    def move(number: int) -> None:
        barrier.wait()
        for at in range(number, days, MOVERS):
            state.record(window(at), WindowState.VERIFIED)
            before, after = state.advance("documents", "default")
            assert after.day >= before.day
            moves.append((before.day, after.day))

    with ThreadPoolExecutor(MOVERS) as pool:
        for done in [pool.submit(move, number) for number in range(MOVERS)]:
            done.result()
    final = state.watermark("documents", "default")
    assert final is not None
    assert final.day == day(days)
    # Each move is one step of the fence, and none was lost: it can't have moved more often than there were days.
    assert 1 <= final.fence <= days
    assert max(after for _, after in moves) == day(days)


def test_one_of_sixteen_wins_each_step(state: MigrationState) -> None:
    seen = state.start_watermark("documents", "default", day(0))
    for number in range(MOVERS):
        state.record(window(number), WindowState.VERIFIED)
    barrier = threading.Barrier(MOVERS)

    def move(number: int) -> Watermark | None:
        barrier.wait()
        return state.move_watermark("documents", "default", seen, day(number + 1))

    with ThreadPoolExecutor(MOVERS) as pool:
        won = [mark for mark in pool.map(move, range(MOVERS)) if mark is not None]
    assert len(won) == 1
    assert state.watermark("documents", "default") == won[0]


def test_sixteen_record_one_window(state: MigrationState) -> None:
    barrier = threading.Barrier(MOVERS)

    def record(number: int) -> None:
        barrier.wait()
        state.record(window(0), WindowState.VERIFIED, verdict={"by": number}, rejects=[Reject(f"u{number}", "gone")])

    with ThreadPoolExecutor(MOVERS) as pool:
        list(pool.map(record, range(MOVERS)))
    found = state.window(window(0))
    assert found is not None
    assert found.fence == MOVERS
    ((_, reject),) = state.rejects("documents", "default")
    assert reject.uid == f"u{found.verdict['by']}"


def test_late_marks_move_by_compare_and_swap(state: MigrationState) -> None:
    assert state.late_mark("documents", "default") == ""
    assert not state.move_late_mark("documents", "default", "wrong", "a")
    assert state.move_late_mark("documents", "default", "", "a")
    assert not state.move_late_mark("documents", "default", "", "b")
    assert state.move_late_mark("documents", "default", "a", "b")
    assert not state.move_late_mark("documents", "default", "a", "c")
    assert state.late_mark("documents", "default") == "b"


def test_reading_takes_no_lock(sqlite_business: Business) -> None:
    state = MigrationState(connect(sqlite_business.url, writable=True))
    state.create()
    with sqlite_business.engine.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        state.check()
        assert state.watermark("documents", "default") is None
        assert state.late_mark("documents", "default") == ""
        writer.rollback()


def test_the_business_tables_stay_as_they_are(business: Business, state: MigrationState) -> None:
    business.add({"uid": "u", "body": b"x"})
    before = business.query("SELECT * FROM documents")
    state.record(window(0), WindowState.VERIFIED)
    assert business.query("SELECT * FROM documents") == before
