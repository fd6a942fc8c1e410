"""Training of zstd dictionaries from a sample of files, and the rule that keeps secrets out of them.

A dictionary that libzstd trains is made of pieces of the files it saw: names and account numbers stand in it verbatim.
That is harmless where it lies beside the very same files, but not in an encrypted shard, where it would outlive an
erasure: `train_common` takes only what many files have in common. Pure; whether a dictionary pays is decided by
training.py.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import zstandard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DICTIONARY_BYTES = 16 << 10
"""Larger ones gain nothing on small records and cost a cold read more."""
TRAINING_FILES = 200
"""Files that a dictionary is trained on; 10,000 train none that is better (docs/performance.md)."""
COMMON_FILES = 50
"""k: every piece of a `train_common` dictionary occurs in at least so many files."""
WINDOW = 8
"""Bytes of the pieces that are counted; zstd itself looks for matches of 3 to 8 bytes."""
SEPARATOR = bytes(WINDOW - 1)
"""Stands before every piece, so that no 8 bytes of the dictionary hold parts of two, and none begins like a table."""

_MIN_TRAINING_BYTES = 4 << 10
_MAX_TRAINING_BYTES = 640 << 10


def train(samples: Sequence[bytes], level: int, size: int = DICTIONARY_BYTES) -> bytes | None:
    """A dictionary of at most `size` bytes for files like `samples`; None if they are too few or too small for one.

    The same samples and libzstd give the same dictionary. Looks at 640 KiB of them at most, which takes some 0.04 s.
    """
    ends = list(accumulate(map(len, samples)))
    seen = samples[: bisect_right(ends, _MAX_TRAINING_BYTES)]
    if not seen or ends[len(seen) - 1] < _MIN_TRAINING_BYTES:
        return None
    try:
        return zstandard.train_dictionary(size, list(seen), level=level).as_bytes()
    except zstandard.ZstdError:
        return None


def train_common(samples: Sequence[bytes], size: int = DICTIONARY_BYTES, *, k: int = COMMON_FILES) -> bytes | None:
    """A dictionary of pieces that occur in at least `k` of `samples`, for shards that will be encrypted.

    Every 8 bytes in a row that hold no byte of a `SEPARATOR` occur in at least `k` different files, so that what stands
    in fewer of them (a name, an account number) can't be read from it. A raw content dictionary: it has no tables,
    which would count the rare bytes too. Looks at the beginnings of the files, 640 KiB in all. None if there is no such
    piece.
    """
    samples = list(dict.fromkeys(samples))  # a private letter that came in many copies is one file
    most = _MAX_TRAINING_BYTES // max(1, len(samples))
    windows = [_windows(sample[:most]) for sample in samples]
    every, counts = np.unique(np.concatenate([_NONE, *map(np.unique, windows)]), return_counts=True)
    common, counts = every[counts >= k], counts[counts >= k]
    if not len(common):
        return None
    pieces: dict[bytes, int] = {}
    fresh = np.ones(len(common), np.bool_)
    for sample, own in zip(samples, windows, strict=True):
        at = np.minimum(np.searchsorted(common, own), len(common) - 1)
        for begin, end in _runs(common[at] == own):
            new = at[begin:end][fresh[at[begin:end]]]
            if len(new):
                pieces[sample[begin : end + WINDOW - 1]] = int(counts[new].sum())
                fresh[new] = False
    chosen: list[bytes] = []
    left = size
    for piece in sorted(pieces, key=lambda piece: (-pieces[piece] / len(piece), piece)):
        if len(piece) + len(SEPARATOR) <= left:
            chosen.append(piece)
            left -= len(piece) + len(SEPARATOR)
    # What is used most comes last, where matches are cheapest.
    return b"".join(SEPARATOR + piece for piece in reversed(chosen)) or None


_NONE = np.zeros(0, np.uint64)


def _windows(sample: bytes) -> NDArray[np.uint64]:
    """All runs of `WINDOW` bytes of a file, as numbers, by their place."""
    if len(sample) < WINDOW:
        return _NONE
    every = np.lib.stride_tricks.sliding_window_view(np.frombuffer(sample, np.uint8), WINDOW)
    return np.ascontiguousarray(every).view("<u8").reshape(-1)


def _runs(common: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The ranges [begin, end) of places at which common windows follow each other."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], common.view(np.int8), [0]))))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]
