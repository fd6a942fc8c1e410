"""What a later revision of a window freezes: the rows that do not stand in earlier ones.

Rows are told apart by their identities (keys/naming.py), 128 bits over the facts by which a row is known, which collide
less often than memory fails. Manifests themselves are manifest.py's business; which revisions there are is the
operations'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vera_core.source.rows import FACTS, KEYED_PLACE

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from vera_core.keys.naming import Naming
    from vera_core.source.manifest import Manifest
    from vera_core.source.rows import RawBatch, Row


def new_rows(
    batches: Iterable[RawBatch], earlier: Sequence[Manifest], naming: Naming, *, again: Container[bytes] = ()
) -> Iterator[RawBatch]:
    """The rows that do not stand in `earlier` revisions with the same uid, time, size, place, late value and verdict.

    Rows that were rejected come again: those that still carry a reason, and those whose identity is in `again` because
    their content could not be read. `earlier` are manifests as they are stored. Takes 16 bytes of memory a row of them.

    Raises:
        IntegrityError: a manifest is damaged.
    """
    known = _Identities(earlier, naming)
    for batch in batches:
        identities = naming.identities(batch.facts())
        facts = zip(known.have(identities), batch.reject, identities, strict=True)
        new = [not stands or bool(reject) or identity in again for stands, reject, identity in facts]
        if all(new):
            yield batch
        elif any(new):
            yield batch.chosen(new)


def identities_of(rows: Iterable[Row], manifest: Manifest, naming: Naming) -> list[bytes]:
    """The identities of rows of a manifest as it is stored."""
    if manifest.keyed:
        return [bytes.fromhex(row.place.removeprefix(KEYED_PLACE)) for row in rows]
    return naming.identities(map(FACTS, rows))


class _Identities:
    """The identities of all rows of some manifests, as two sorted 64-bit halves."""

    def __init__(self, manifests: Sequence[Manifest], naming: Naming) -> None:
        digests = [
            _halves(identities_of(batch.rows(), manifest, naming))
            for manifest in manifests
            for batch in manifest.batches(0, manifest.row_count)
        ]
        pairs = np.concatenate([np.zeros((0, 2), np.uint64), *digests])
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        self._high, self._low = pairs[order, 0], pairs[order, 1]

    def have(self, identities: Sequence[bytes]) -> list[bool]:
        """Whether each identity is among them."""
        pairs = _halves(identities)
        first = np.searchsorted(self._high, pairs[:, 0], "left")
        end = np.searchsorted(self._high, pairs[:, 0], "right")
        return [
            bool(begin < stop and (self._low[begin:stop] == low).any())
            for begin, stop, low in zip(first.tolist(), end.tolist(), pairs[:, 1], strict=True)
        ]


def _halves(identities: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(identities), "<u8").reshape(-1, 2)
