"""How many slots days should have: routing epochs for a backlog of known size. Pure; setting them is epochs.py."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date

AIM = 512 << 20
"""Stored bytes of a slot that a day's routing aims at: between 64 MiB and 1 GiB (DESIGN section 2)."""
MOST_BITS = 16


class ProposedEpoch(NamedTuple):
    """From a day on, 2 ** `n_bits` slots a day; `busy_day` is the stored bytes of a busy day that it is made for."""

    from_day: date
    n_bits: int
    busy_day: int


def bits_for(stored: int) -> int:
    """The fewest bits by which a day of that many stored bytes has at most `AIM` a slot; never above 16."""
    if stored <= AIM:
        return 0
    return min(MOST_BITS, math.ceil(math.log2(stored / AIM)))


def propose_epochs(days: Mapping[date, int]) -> list[ProposedEpoch]:
    """Epochs for days with those stored bytes, month by month: one for each month that needs other bits than before.

    A month is made for its busy days: only one in twenty is larger.
    """
    months: dict[date, list[int]] = defaultdict(list)
    for day, stored in days.items():
        months[day.replace(day=1)].append(stored)
    found: list[ProposedEpoch] = []
    for month, stored_bytes in sorted(months.items()):
        busy = _busy(stored_bytes)
        if not found or bits_for(busy) != found[-1].n_bits:
            found.append(ProposedEpoch(month, bits_for(busy), busy))
    return found


def _busy(stored: Iterable[int]) -> int:
    """The 95th percentile."""
    ordered = sorted(stored)
    return ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)]
