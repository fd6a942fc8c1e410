"""The writer's memory of what it wrote: one fixed-size row an entry, and where a content was stored first.

About 115 bytes an entry besides its uid, in arrays, not objects. Knows nothing of files or bytes on their way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROW = np.dtype(
    [
        ("key", "<u8"),
        ("created_at", "<u8"),
        ("size", "<u8"),
        ("stored_size", "<u8"),
        ("offset", "<u8"),
        ("crc32", "<u4"),
        ("origin_commit", "<u4"),
        ("origin_ordinal", "<u4"),
        ("attributes", "<u4"),
        ("parameter", "<u2"),
        ("uid_length", "<u2"),
        ("codec", "u1"),
        ("flags", "u1"),
        ("digest", "u1", (32,)),
    ]
)
"""`created_at` is biased as in its column; `attributes` numbers a string of the writer's table."""


class Rows:
    """A growing array of `ROW`."""

    def __init__(self) -> None:
        self._rows = np.zeros(0, ROW)
        self.count = 0

    def extend(self, rows: NDArray[np.void]) -> None:
        """Appends `rows`. Grows by a quarter, so that nearly all memory taken is used."""
        need = self.count + len(rows)
        if need > len(self._rows):
            self._rows.resize(max(need, len(self._rows) * 5 // 4, 1024), refcheck=False)
        self._rows[self.count : need] = rows
        self.count = need

    def all(self) -> NDArray[np.void]:
        """All rows, a view that the next `extend` makes invalid."""
        return self._rows[: self.count]


class Contents:
    """Finds the ordinal of the entry that stored a content first, by the first 8 bytes of its SHA-256.

    Sorted runs that are merged when they reach the size of their neighbour: 12 bytes an entry, logarithmic search. Two
    contents with the same 8 bytes are told apart by the caller; then the later may be stored twice, which is no error.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] = []

    def find(self, prefixes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The ordinal of each, or -1."""
        found = np.full(len(prefixes), -1, np.int64)
        for known, ordinals in self._runs:
            places = np.minimum(np.searchsorted(known, prefixes), len(known) - 1)
            found = np.where((found < 0) & (known[places] == prefixes), ordinals[places].astype(np.int64), found)
        return found

    def add(self, prefixes: NDArray[np.uint64], ordinals: NDArray[np.uint32]) -> None:
        """Remembers contents stored under `ordinals`."""
        if not len(prefixes):
            return
        order = np.argsort(prefixes, kind="stable")
        self._runs.append((prefixes[order], ordinals[order]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            (keys, values), (more_keys, more_values) = self._runs[-2:]
            keys, values = np.concatenate((keys, more_keys)), np.concatenate((values, more_values))
            order = np.argsort(keys, kind="stable")
            self._runs[-2:] = [(keys[order], values[order])]


def sort_order(
    keys: NDArray[np.uint64], starts: NDArray[np.uint64], lengths: NDArray[np.uint64], uids: bytes | bytearray
) -> NDArray[np.int64]:
    """The permutation that sorts entries, given in ordinal order, by (key, uid, ordinal).

    Uid i is `uids[starts[i] : starts[i] + lengths[i]]`. Different uids under one key are rare (2**-64 a pair), so keys
    are sorted as numbers and only runs of equal keys are looked into.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    equal = ordered[1:] == ordered[:-1]
    bounds = np.flatnonzero(np.diff(np.concatenate(([False], equal, [False])).astype(np.int8)))
    for first, last in bounds.reshape(-1, 2):
        run = order[first : last + 1].tolist()
        run.sort(key=lambda at: (bytes(uids[int(starts[at]) : int(starts[at] + lengths[at])]), at))
        order[first : last + 1] = run
    return order
