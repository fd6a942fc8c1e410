"""The store's clock: asked rarely, never short of the truth."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from vera_core.errors import UnavailableError
from vera_core.store import clock as clock_module
from vera_core.store.clock import RESYNC_SECONDS, StoreClock
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

START = datetime(2026, 3, 1, tzinfo=UTC)


class Clocks:
    """A store's clock and this machine's two, moved by hand."""

    def __init__(self) -> None:
        self.store = START
        self.monotonic_seconds = 1000.0
        self.wall_seconds = 5_000_000.0

    def monotonic(self) -> float:
        return self.monotonic_seconds

    def time(self) -> float:
        return self.wall_seconds

    def run(self, seconds: float, *, asleep: bool = False) -> None:
        self.store += timedelta(seconds=seconds)
        self.wall_seconds += seconds
        self.monotonic_seconds += 0 if asleep else seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(clock_module, "time", made)
    return made


def test_it_is_the_stores_time_whatever_the_machine_says(memory_store: MemoryStore) -> None:
    store = MemoryStore(clock=lambda: datetime(1999, 1, 1, tzinfo=UTC))
    now = StoreClock(store).now()
    assert datetime(1999, 1, 1, tzinfo=UTC) <= now < datetime(1999, 1, 1, 0, 0, 5, tzinfo=UTC)
    assert now.tzinfo is not None


def test_it_is_asked_once_in_a_while(clocks: Clocks) -> None:
    store = FaultyStore(MemoryStore(clock=lambda: clocks.store))
    clock = StoreClock(store)
    for _ in range(10):
        clocks.run(RESYNC_SECONDS / 20)
        assert clock.now() == clocks.store
    assert store.count("now") == 1
    clocks.run(RESYNC_SECONDS)
    assert clock.now() == clocks.store
    assert store.count("now") == 2


def test_a_machine_that_slept_asks_again(clocks: Clocks) -> None:
    """The monotonic clock stood still: locks counted from it would be hours too short."""
    store = FaultyStore(MemoryStore(clock=lambda: clocks.store))
    clock = StoreClock(store)
    clock.now()
    clocks.run(36_000, asleep=True)
    assert clock.now() == clocks.store
    clocks.wall_seconds -= 90_000
    assert clock.now() == clocks.store
    assert store.count("now") == 3


def test_an_unanswered_question_is_an_error_and_asked_again(clocks: Clocks) -> None:
    store = FaultyStore(MemoryStore(clock=lambda: clocks.store), [Rule(Action.FAIL, "now", nth=2)])
    clock = StoreClock(store)
    assert clock.now() == START
    clocks.run(RESYNC_SECONDS + 1)
    with pytest.raises(UnavailableError):
        clock.now()
    clocks.run(1)
    assert clock.now() == clocks.store


def test_threads_may_share_it(memory_store: MemoryStore) -> None:
    clock = StoreClock(memory_store)
    before = time.time()
    assert abs(clock.now().timestamp() - before) < 5
