"""The rows that a keyed manifest stands for: asked of the source again, and matched with what is stored of them.

Both sides come in the order of manifests (group, key, name), so that a window of each is in memory at a time, and the
rows of one uid. What is stored says which rows there are and in which order; the source says what they are now.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vera_core.source.blocks import BlockFile, blocks_of
from vera_core.source.rows import RejectReason
from vera_core.source.table import NAMED_SCHEMA, REJECTED, SCHEMA, class_ranks, groups, numbers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vera_core.source.base import Window
    from vera_core.source.manifest import Freezing, Manifest
    from vera_core.source.rows import RawBatch

FEW_ROWS = 1 << 17
"""The names of so many stored rows are held, so that of a large window only their rows are sorted."""
Mark = tuple[int, str]
"""A row's group, and its identity or its name."""


def adopt(batches: Iterable[RawBatch], stored: Manifest, path: Path, *, by: Freezing) -> Manifest:
    """The manifest `stored` with its rows, which are written to the new file `path`; digest and row numbers stay.

    `batches` are all rows that the source has of the window. Those that are not in `stored` are left out. In the place
    of a row that is not in `batches` any more stands another one of its uid, slot and class that has no place: it
    changed; else one with the reason `gone`, and its name instead of the uid.

    Raises:
        IntegrityError: `stored` is damaged.
        UsageError: a row lies outside the window: the source is at fault.
        UnavailableError: source or spool can't be reached.
    """
    tables = by.tables(batches, stored.window)
    if stored.row_count <= FEW_ROWS:
        tables = _chosen(tables, "name", _names(stored))
    with by.sorted(tables) as sort, BlockFile(path, NAMED_SCHEMA) as file:
        ranks = class_ranks(sort.classes | _classes(stored))
        source = _Forward(sort.merged(), ranks)
        for block in blocks_of(_match(window, source, ranks) for window in _windows(stored.tables(), ranks)):
            file.add(block)
        return replace(stored, path=path, blocks=tuple(file.blocks), keyed=False)


def look_up(
    batches: Iterable[RawBatch], window: Window, places: Collection[str], *, by: Freezing
) -> dict[str, tuple[str, str]]:
    """Uid and detail of those rows of `batches` that keyed manifests show with one of these places, by place."""
    found: dict[str, tuple[str, str]] = {}
    for table in _chosen(by.tables(batches, window), "identity", pa.array(sorted(places), pa.string())):
        columns = [table.column(name).to_pylist() for name in ("identity", "uid", "detail")]
        found.update((place, (uid, detail)) for place, uid, detail in zip(*columns, strict=True))
    return found


class _Forward:
    """The source's rows in order, taken once from the first on."""

    def __init__(self, tables: Iterator[pa.Table], ranks: Mapping[str, int]) -> None:
        self._tables = tables
        self._ranks = ranks
        self._rest = NAMED_SCHEMA.empty_table()

    def until(self, group: np.uint64, key: np.uint64) -> Iterator[pa.Table]:
        """The next rows, up to and including those with this group and key, in tables of uneven sizes."""
        while True:
            found, keys = groups(self._rest, self._ranks), numbers(self._rest, "key")
            low, high = np.searchsorted(found, group, "left"), np.searchsorted(found, group, "right")
            count = int(low + np.searchsorted(keys[low:high], key, "right"))
            taken, self._rest = self._rest.slice(0, count), self._rest.slice(count)
            yield taken
            if len(self._rest):
                return
            following = next(self._tables, None)
            if following is None:
                return
            self._rest = following.combine_chunks()


def _windows(tables: Iterable[pa.Table], ranks: Mapping[str, int]) -> Iterator[pa.Table]:
    """Tables of about a block of stored rows, cut where group or key changes."""
    held = SCHEMA.empty_table()
    for table in tables:
        whole = pa.concat_tables([held, table]).combine_chunks()
        group, key = groups(whole, ranks), numbers(whole, "key")
        last = int(np.searchsorted(group, group[-1], "left"))
        cut = last + int(np.searchsorted(key[last:], key[-1], "left"))
        held = whole.slice(cut)
        if cut:
            yield whole.slice(0, cut)
    if len(held):
        yield held


def _match(window: pa.Table, source: _Forward, ranks: Mapping[str, int]) -> pa.Table:
    """The source's rows in the places of the stored ones of `window`."""
    group = groups(window, ranks)
    wanted = _marks(group, window.column("place"))
    names = _marks(group, window.column("uid"))
    missing, called = Counter(wanted), {name for name in names if name[0] < REJECTED}
    tables: list[pa.Table] = []
    found: list[Mark] = []
    for table in source.until(group[-1], numbers(window, "key")[-1]):
        here = groups(table, ranks)
        marks, uids = _marks(here, table.column("identity")), _marks(here, table.column("name"))
        kept = [name in called or _taken(mark, missing) for mark, name in zip(marks, uids, strict=True)]
        tables.append(table.filter(pa.array(kept, pa.bool_())))
        found.extend(compress(marks, kept))
    rows = pa.concat_tables(tables)
    if found == wanted:
        return rows
    places = _places(wanted, names, found=found, called=_marks(groups(rows, ranks), rows.column("name")))
    order = [len(found) + number if place is None else place for number, place in enumerate(places)]
    return pa.concat_tables([rows, _gone(window)]).take(pa.array(order, pa.int64()))


def _places(
    wanted: Sequence[Mark], names: Sequence[Mark], *, found: Sequence[Mark], called: Sequence[Mark]
) -> list[int | None]:
    """Where each stored row is among those that were found: the same one, else another of its name, else nowhere."""
    same = _Places(enumerate(found))
    places = [same.take(mark) for mark in wanted]
    used = set(places)
    left = ((place, name) for place, name in enumerate(called) if place not in used and name[0] < REJECTED)
    changed = _Places(left)
    return [changed.take(name) if place is None else place for place, name in zip(places, names, strict=True)]


def _taken(mark: Mark, missing: Counter[Mark]) -> bool:
    """Whether such a row is missing; from now on one less is."""
    wanted = missing.get(mark, 0) > 0
    if wanted:
        missing[mark] -= 1
    return wanted


class _Places:
    """Where rows with the same mark are, in order; each is taken once."""

    def __init__(self, rows: Iterable[tuple[int, Mark]]) -> None:
        self._places: dict[Mark, deque[int]] = {}
        for place, mark in rows:
            self._places.setdefault(mark, deque()).append(place)

    def take(self, mark: Mark) -> int | None:
        places = self._places.get(mark)
        return places.popleft() if places else None


def _marks(group: NDArray[np.uint64], column: pa.ChunkedArray) -> list[Mark]:
    return list(zip(group.tolist(), column.to_pylist(), strict=True))


def _gone(window: pa.Table) -> pa.Table:
    """Stored rows as they stand where the source does not have them any more."""
    reject = window.column("reject")
    reason = pc.if_else(pc.equal(reject, ""), RejectReason.GONE.value, reject)
    place = SCHEMA.get_field_index("reject")
    columns = [reason if at == place else column for at, column in enumerate(window.columns)]
    return pa.Table.from_arrays([*columns, window.column("uid"), window.column("place")], schema=NAMED_SCHEMA)


def _chosen(tables: Iterable[pa.Table], column: str, values: pa.Array) -> Iterator[pa.Table]:
    """The rows that have one of these values in a column."""
    for table in tables:
        yield table.filter(pc.is_in(table.column(column), values))


def _names(stored: Manifest) -> pa.Array:
    chunks = [chunk for table in stored.tables() for chunk in table.column("uid").chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


def _classes(stored: Manifest) -> set[str]:
    rejected = stored.batches(stored.row_count - stored.reject_count, stored.row_count)
    classes = {name for batch in rejected for name in batch.columns[3]}
    return classes | {segment.retention_class for segment in stored.segments}
