"""What a later revision of a window freezes: the rows that do not stand in earlier ones.

Manifests themselves are manifest.py's business; which revisions there are is the operations'.
"""

from __future__ import annotations

import hashlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from vera_core.source.manifest import Manifest
    from vera_core.source.rows import RawBatch

_FACTS = attrgetter("uid", "created_at", "size", "place", "late", "reject")
"""By what a row is known; of a batch, the columns of these."""


def new_rows(
    batches: Iterable[RawBatch], earlier: Sequence[Manifest], *, again: Container[tuple[str, int]] = ()
) -> Iterator[RawBatch]:
    """The rows that do not stand in `earlier` revisions with the same uid, time, size, place, late value and verdict.

    Rows that were rejected come again: those that still carry a reason, and those whose (uid, microseconds) is in
    `again` because their content could not be read.

    Takes 16 bytes of memory a row of `earlier`: rows are told apart by 128 bits of BLAKE2b, which collide less often
    than memory fails.

    Raises:
        IntegrityError: a manifest is damaged.
    """
    known = _Identities(earlier)
    for batch in batches:
        facts = zip(known.have(batch), batch.reject, batch.uid, batch.created_at, strict=True)
        new = [not stands or bool(reject) or (uid, micros) in again for stands, reject, uid, micros in facts]
        if all(new):
            yield batch
        elif any(new):
            yield batch.chosen(new)


class _Identities:
    """The identities of all rows of some manifests, as two sorted 64-bit halves."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        batches = (batch for manifest in manifests for batch in manifest.batches(0, manifest.row_count))
        digests = [_identities(map(_FACTS, batch.rows())) for batch in batches]
        pairs = np.concatenate([np.zeros((0, 2), np.uint64), *digests])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        self._high, self._low = pairs[order, 0], pairs[order, 1]

    def have(self, batch: RawBatch) -> list[bool]:
        """Whether each row's identity is among them."""
        pairs = _identities(zip(*_FACTS(batch), strict=True))
        first = np.searchsorted(self._high, pairs[:, 0], "left")
        end = np.searchsorted(self._high, pairs[:, 0], "right")
        return [
            bool(begin < stop and (self._low[begin:stop] == low).any())
            for begin, stop, low in zip(first.tolist(), end.tolist(), pairs[:, 1], strict=True)
        ]


def _identities(rows: Iterable[tuple[Any, ...]]) -> NDArray[np.uint64]:
    digests = b"".join([hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in rows])
    return np.frombuffer(digests, "<u8").reshape(-1, 2)
