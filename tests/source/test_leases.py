"""Leases: one worker a day, by the database's clock, and nobody speaks for a day that is somebody else's."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from vera_core.errors import ConflictError
from vera_core.source.base import Window
from vera_core.source.database import connect
from vera_core.source.leases import Days, LeaseLostError, Leases
from vera_core.source.state import MigrationState, WindowState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.source.conftest import Business

FIRST = date(2026, 3, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(12)]


@pytest.fixture
def state(business: Business) -> Iterator[MigrationState]:
    engine = connect(business.url, writable=True)
    made = MigrationState(engine)
    made.create()
    yield made
    engine.dispose()


def days(*some: date, tenant: str = "default") -> Days:
    return Days("docs", tenant, some)


def brief(state: MigrationState, seconds: float) -> Leases:
    return replace(state.leases, seconds=seconds)


def test_a_day_is_one_workers(state: MigrationState) -> None:
    leases = state.leases
    one = leases.claim(days(*DAYS), "one")
    two = leases.claim(days(*DAYS), "two")
    assert one is not None
    assert two is not None
    assert (one.day, one.token, two.day) == (DAYS[0], 1, DAYS[1])
    assert leases.claim(days(one.day, two.day), "three") is None
    assert leases.claim(days(), "three") is None
    other = leases.claim(days(one.day, tenant="other"), "three")
    assert other is not None, "another tenant's day is another day"
    leases.release(one)
    again = leases.claim(days(*DAYS), "three")
    assert again is not None
    assert (again.day, again.token) == (DAYS[0], 2)


def test_days_are_taken_in_the_order_that_is_asked_for(state: MigrationState) -> None:
    found = [state.leases.claim(days(DAYS[3], DAYS[1], DAYS[2]), "w") for _ in range(3)]
    assert [lease.day for lease in found if lease] == [DAYS[3], DAYS[1], DAYS[2]]


def test_a_lease_ends_by_itself_and_its_holder_is_told(state: MigrationState) -> None:
    leases = brief(state, 0.3)
    slow = leases.claim(days(FIRST), "slow")
    assert slow is not None
    leases.beat(slow, {"done": 5})
    (known,) = leases.known("docs", "default")
    assert known.progress == {"done": 5}
    assert 0 < known.left <= 0.3
    assert 0 <= known.age < 5
    time.sleep(0.4)
    assert leases.known("docs", "default")[0].left <= 0, "ended, and told of"
    leases.beat(slow, {}), "nobody took it meanwhile"
    time.sleep(0.4)
    quick = leases.claim(days(FIRST), "quick")
    assert quick is not None
    assert quick.token == slow.token + 1
    with pytest.raises(LeaseLostError, match="was lost"):
        leases.beat(slow, {})
    leases.release(slow)
    leases.beat(quick, {})


def test_who_lost_the_lease_records_nothing(state: MigrationState) -> None:
    leases, window = brief(state, 0.2), Window("docs", "default", FIRST)
    slow = leases.claim(days(FIRST), "slow")
    time.sleep(0.3)
    quick = leases.claim(days(FIRST), "quick")
    assert quick is not None
    state.record(window, WindowState.PACKED, lease=quick)
    with pytest.raises(LeaseLostError):
        state.record(window, WindowState.FAILED, lease=slow)
    found = state.window(window)
    assert found is not None
    assert found.state is WindowState.PACKED
    leases.release(quick)
    with pytest.raises(LeaseLostError):
        state.record(window, WindowState.VERIFIED, lease=quick)
    assert not isinstance(LeaseLostError("x"), ConflictError), "which would be answered by looking again"


def test_sixteen_claim_at_once(state: MigrationState) -> None:
    barrier, lock = threading.Barrier(16), threading.Lock()
    taken: list[tuple[date, int]] = []

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(40):
            lease = state.leases.claim(days(*DAYS), f"w{number}")
            if lease is None:
                if len(taken) >= len(DAYS):
                    return
                continue
            with lock:
                taken.append((lease.day, lease.token))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert sorted(taken) == [(day, 1) for day in DAYS], "each once"


def test_while_one_records_nobody_takes_the_day(state: MigrationState) -> None:
    """The check and what it guards are one transaction: between the two no other worker can come."""
    if state._engine.dialect.name == "sqlite":
        return  # one writer at a time anyway; the claim would wait for it
    leases = brief(state, 0.1)
    lease = leases.claim(days(FIRST), "one")
    assert lease is not None
    time.sleep(0.2)
    with state._writing() as connection:
        leases.insist(connection, lease)
        assert leases.claim(days(FIRST), "two") is None, "the row is passed over while it is locked"
    assert leases.claim(days(FIRST), "two") is not None
