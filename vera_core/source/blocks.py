"""Blocks: the runs of rows that a manifest's file is written, digested and read back in, a Parquet row group each."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.parquet as pq

from vera_core.source.table import block_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BLOCK_ROWS = 1 << 14
"""Rows of a block; the last may have fewer."""


class BlockFile:
    """A file of blocks that is being written, and the digests of these. Use it with `with`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        many = [name for name in schema.names if name not in {"uid", "place", "key", "name", "identity"}]
        self.path = path
        self.blocks: list[str] = []
        self._writer = pq.ParquetWriter(
            path, schema, compression="zstd", compression_level=1, use_dictionary=many, write_page_checksum=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, block: pa.Table) -> None:
        """Writes the next block."""
        self._writer.write_table(block, row_group_size=BLOCK_ROWS)
        self.blocks.append(block_digest(block))

    def finish(self, values: dict[bytes, bytes]) -> None:
        """Adds key-value metadata."""
        self._writer.add_key_value_metadata(values)


def blocks_of(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of any size as blocks of exactly `BLOCK_ROWS` (the last may be shorter)."""
    waiting: deque[pa.Table] = deque()
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= BLOCK_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, BLOCK_ROWS).combine_chunks()
            rest = whole.slice(BLOCK_ROWS)
            waiting = deque([rest])
            count = len(rest)
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def block_sizes(rows: int) -> list[int]:
    """How many rows each block has if there are so many in all."""
    return [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]


def blocks_with(first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The blocks of rows [first, end): number, first row and most rows of each. Empty for no rows."""
    if first < end:
        for number in range(first // BLOCK_ROWS, (end - 1) // BLOCK_ROWS + 1):
            yield number, number * BLOCK_ROWS, BLOCK_ROWS
