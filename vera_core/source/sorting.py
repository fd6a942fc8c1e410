"""Sorting any number of rows in bounded memory: sorted runs in the spool, merged many at a time.

Knows the order (table.py) and nothing of what the rows are for.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from vera_core.errors import UnavailableError
from vera_core.source.table import SCHEMA, class_ranks, groups, numbers, sorted_table, tie_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

RUN_ROWS = 1 << 15
"""Rows that are sorted in memory at a time."""
FAN_IN = 64
"""Runs that are merged at a time."""
CHUNK_ROWS = RUN_ROWS // FAN_IN
"""Rows of a run that are read at a time; as many of each are in memory while `FAN_IN` runs are merged, else more."""


@dataclass(slots=True)
class ExternalSort:
    """Takes tables in any order and gives them back sorted; `close` removes what it left in `spool`.

    Raises:
        UnavailableError: the spool can't be written or read.
    """

    spool: Path
    schema: pa.Schema = SCHEMA
    classes: set[str] = field(default_factory=set)
    """The retention classes of the rows."""
    _waiting: list[pa.Table] = field(default_factory=list)
    _waiting_rows: int = 0
    _levels: list[list[Path]] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        """Takes rows."""
        self.classes.update(table.column("retention_class").unique().to_pylist())
        self._waiting.append(table)
        self._waiting_rows += len(table)
        if self._waiting_rows >= RUN_ROWS:
            self._put(0, [self._sort_waiting()])

    def merged(self) -> Iterator[pa.Table]:
        """All rows in order, in tables of uneven sizes."""
        last = self._sort_waiting()
        if not any(self._levels):
            yield last
            return
        if len(last):
            self._put(0, [last])
        yield from _merge([run for level in self._levels for run in level], self.classes)

    def close(self) -> None:
        """Removes the runs."""
        for run in (run for level in self._levels for run in level):
            run.unlink(missing_ok=True)
        self._levels.clear()

    def _sort_waiting(self) -> pa.Table:
        whole = pa.concat_tables(self._waiting) if self._waiting else self.schema.empty_table()
        self._waiting, self._waiting_rows = [], 0
        return sorted_table(whole.combine_chunks())

    def _put(self, level: int, tables: Iterable[pa.Table]) -> None:
        """Writes a sorted run; as soon as `FAN_IN` of a level stand there, they become one of the next level."""
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        path = self.spool / f"run-{secrets.token_hex(8)}.arrow"
        runs.append(path)
        try:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self.schema) as writer:
                for table in tables:
                    writer.write_table(table, max_chunksize=CHUNK_ROWS)
        except OSError as error:
            raise UnavailableError(
                f"the spool can't be written: {error}", todo="Free space there or name another spool.", path=self.spool
            ) from error
        if len(runs) == FAN_IN:
            self._put(level + 1, _merge(runs, self.classes))
            for run in runs:
                run.unlink()
            runs.clear()


class _Bound(NamedTuple):
    """A place in the order: rows up to and including it are below or at it."""

    group: int
    key: int
    rest: tuple[object, ...]


class _Cursor:
    """A place in a run: the rows of it that are in memory and not yet given away."""

    def __init__(self, file: pa.NativeFile, ranks: Mapping[str, int], least: int) -> None:
        self.file = file
        self._least = least
        self._reader = pa.ipc.open_file(file)
        self._ranks = ranks
        self._following = 0
        self.rows = self._reader.schema.empty_table()
        self._group = self._key = np.zeros(0, np.uint64)

    def load(self) -> bool:
        """Keeps at least `least` rows in memory as long as the run has them; False at its end."""
        pieces = [self.rows]
        count = len(self.rows)
        while count < self._least and self.more:
            pieces.append(pa.Table.from_batches([self._reader.get_batch(self._following)]))
            count += len(pieces[-1])
            self._following += 1
        if len(pieces) > 1:
            self.rows = pa.concat_tables(pieces).combine_chunks()
            self._group = groups(self.rows, self._ranks)
            self._key = numbers(self.rows, "key")
        return count > 0

    @property
    def more(self) -> bool:
        """Whether the run has rows that are not in memory."""
        return bool(self._following < self._reader.num_record_batches)

    def last(self) -> _Bound:
        """The place of the last row in memory."""
        at = len(self.rows) - 1
        return _Bound(int(self._group[at]), int(self._key[at]), tie_key(self.rows, at))

    def take(self, bound: _Bound | None) -> pa.Table:
        """Removes the rows up to and including `bound` from memory; all for None."""
        count = len(self.rows) if bound is None else self._count(bound)
        taken, self.rows = self.rows.slice(0, count), self.rows.slice(count)
        self._group, self._key = self._group[count:], self._key[count:]
        return taken

    def _count(self, bound: _Bound) -> int:
        low, high = _equal(self._group, bound.group, 0, len(self.rows))
        low, high = _equal(self._key, bound.key, low, high)
        return bisect_right(range(high), bound.rest, lo=low, key=lambda at: tie_key(self.rows, at))


def _equal(values: NDArray[np.uint64], value: int, low: int, high: int) -> tuple[int, int]:
    """Where `value` begins and ends in the sorted values[low:high]."""
    part, wanted = values[low:high], np.uint64(value)
    return low + int(np.searchsorted(part, wanted, "left")), low + int(np.searchsorted(part, wanted, "right"))


def _merge(runs: list[Path], classes: Iterable[str]) -> Iterator[pa.Table]:
    """Sorted tables out of sorted runs.

    The least of the last rows in memory bounds what is known whole: no run can have an unread row below it.
    """
    ranks = class_ranks(classes)
    cursors: list[_Cursor] = []
    try:
        least = max(CHUNK_ROWS, RUN_ROWS // len(runs))
        cursors.extend(_Cursor(pa.OSFile(str(run), "rb"), ranks, least) for run in runs)
        while live := [cursor for cursor in cursors if cursor.load()]:
            bound = min((cursor.last() for cursor in live if cursor.more), default=None)
            yield sorted_table(pa.concat_tables([cursor.take(bound) for cursor in live]).combine_chunks())
    finally:
        for cursor in cursors:
            cursor.file.close()
