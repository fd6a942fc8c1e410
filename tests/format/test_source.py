"""Joining ranges: each comes in one request with its neighbours, and no request is larger or emptier than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vera_core.format.source import coalesce

places = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=30)


@given(places, st.booleans(), st.integers(0, 50), st.integers(1, 120))
def test_runs_hold_all_places_and_keep_to_their_bounds(
    wanted: list[tuple[int, int]], in_order: bool, gap: int, most: int
) -> None:
    wanted = sorted(wanted) if in_order else wanted
    runs = list(coalesce(wanted, gap=gap, most=most))
    assert [place for run in runs for place in run.places] == wanted
    for run in runs:
        assert run.start == run.places[0][0]
        assert run.end == max(offset + length for offset, length in run.places)
        assert all(run.start <= offset for offset, _ in run.places)
        assert run.end - run.start <= max(most, *(length for _, length in run.places)), "a larger one comes alone"
        reached = run.start
        for offset, length in run.places:
            assert offset - reached <= gap, "what is read along is bounded"
            reached = max(reached, offset + length)


def test_neighbours_come_together() -> None:
    assert list(coalesce([(0, 10), (12, 5), (30, 1)], gap=2, most=99)) == [
        (0, 17, [(0, 10), (12, 5)]),
        (30, 31, [(30, 1)]),
    ]
    assert len(list(coalesce([(0, 10), (10, 10), (20, 10)], gap=0, most=20))) == 2
    assert list(coalesce([], gap=1, most=1)) == []
