"""Which contents a shard holds already, so that each is stored once: found by their SHA-256, in arrays, not objects.

Knows nothing of files or bytes on their way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vera_core.format.groups import ELSEWHERE
from vera_core.format.layout import MAX_SHARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KNOWN = np.dtype(
    [
        ("offset", "<u8"),
        ("stored_size", "<u4"),
        ("crc32", "<u4"),
        ("parameter", "<u2"),
        ("codec", "u1"),
        ("digest", "u1", (32,)),
    ]
)
"""A stored content: its place, and what an entry that shares it takes over."""

_FILTER_BITS = 1 << 25

_TAKEN = ("stored_size", "crc32", "parameter", "codec")


class Unshared:
    """The contents of an encrypted shard, of which each is stored for itself: equal ones are sealed to other bytes."""

    def share(self, rows: NDArray[np.void]) -> NDArray[np.uint64]:
        """As `Contents`."""
        return np.zeros(len(rows), np.uint64)

    def add(self, rows: NDArray[np.void], begin: int) -> None:
        """As `Contents`."""


class Contents:
    """The first `MAX_SHARED` contents that were stored: at most 80 bytes each. A later one is stored each time."""

    def __init__(self) -> None:
        self._known = np.zeros(0, _KNOWN)
        self._count = 0
        # Runs of sorted (first 8 bytes of the digest, number in `_known`), merged when they reach the size of their
        # neighbour: logarithmic search. What came after number `_sorted` is in none yet.
        self._runs: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] = []
        self._sorted = 0
        # A Bloom filter with two bits a content, as most contents are new: of a million 0.4 % are looked for in vain.
        self._filter = np.zeros(_FILTER_BITS >> 3, np.uint8)

    def share(self, rows: NDArray[np.void]) -> NDArray[np.uint64]:
        """The column `place` of a group of `waiting.ROW`; rows that share a content take over how it is stored."""
        place = np.zeros(len(rows), np.uint64)
        storing = np.flatnonzero(rows["stored_size"] > 0)
        maybe = storing[self._may_hold(rows["digest"][storing])]
        if len(maybe):
            found, known = self._find(rows["digest"][maybe])
            found = maybe[found]
            place[found] = known["offset"] + np.uint64(ELSEWHERE)
            for name in _TAKEN:
                rows[name][found] = known[name]
        for row, holder in _repeated(rows["digest"], storing[place[storing] == 0]):
            place[row] = holder + 1
            for name in _TAKEN:
                rows[name][row] = rows[name][holder]
        return place

    def add(self, rows: NDArray[np.void], begin: int) -> None:
        """Remembers the contents that `rows` bring, which lie end to end from `begin` on."""
        rows = rows[: MAX_SHARED - self._count]
        if not len(rows):
            return
        need = self._count + len(rows)
        if need > len(self._known):
            self._known.resize(max(need, len(self._known) * 5 // 4, 1024), refcheck=False)
        fresh = self._known[self._count : need]
        fresh["offset"] = np.uint64(begin) + np.cumsum(rows["stored_size"]) - rows["stored_size"]
        for name in (*_TAKEN, "digest"):
            fresh[name] = rows[name]
        self._count = need
        bits = _filter_bits(rows["digest"])
        np.bitwise_or.at(self._filter, bits >> 3, (1 << (bits & 7)).astype(np.uint8))

    def _may_hold(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of `digests`, shape (n, 32), may be known; the others are not."""
        bits = _filter_bits(digests)
        set_bits = self._filter[bits >> 3] >> (bits & 7).astype(np.uint8) & 1
        both: NDArray[np.bool_] = set_bits.reshape(-1, 2).all(axis=1)
        return both

    def _sort(self) -> None:
        """Puts what came since the last time into a run."""
        keys = _prefixes(self._known["digest"][self._sorted : self._count])
        order = np.argsort(keys, kind="stable")
        self._runs.append((keys[order], (order + self._sorted).astype(np.uint32)))
        self._sorted = self._count
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            (keys, numbers), (more_keys, more_numbers) = self._runs[-2:]
            keys, numbers = np.concatenate((keys, more_keys)), np.concatenate((numbers, more_numbers))
            order = np.argsort(keys, kind="stable")
            self._runs[-2:] = [(keys[order], numbers[order])]

    def _find(self, digests: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """Which of `digests`, shape (n, 32), are known: their numbers, and what is known of each."""
        if self._sorted < self._count:
            self._sort()
        wanted = _prefixes(digests)
        found = np.full(len(wanted), -1, np.int64)
        for known, numbers in self._runs:
            places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            found = np.where((found < 0) & (known[places] == wanted), numbers[places].astype(np.int64), found)
        rows = np.flatnonzero(found >= 0)
        same = (self._known["digest"][found[rows]] == digests[rows]).all(axis=1)
        rows = rows[same]
        return rows, self._known[found[rows]]


def _prefixes(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of each digest as a number; `digests` has shape (n, 32)."""
    return np.ascontiguousarray(digests[:, :8]).view("<u8").reshape(-1)


def _filter_bits(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Two bits of the filter for each digest, shape (2n,), from bytes that `_prefixes` does not use."""
    return (np.ascontiguousarray(digests[:, 8:16]).view("<u4").reshape(-1) % _FILTER_BITS).astype(np.int64)


def _repeated(digests: NDArray[np.uint8], rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The rows whose content came with an earlier one of `rows`, and which."""
    if len(set(_prefixes(digests[rows]).tolist())) == len(rows):
        return []
    seen: dict[bytes, int] = {}
    every = digests.tobytes()
    holders = [(row, seen.setdefault(every[32 * row : 32 * row + 32], row)) for row in rows.tolist()]
    return [(row, holder) for row, holder in holders if row != holder]
