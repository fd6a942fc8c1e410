"""Parquet with contents in a column."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.base import LEVEL, Library, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.corpus import Corpus, Item
    from benchmarks.peers.base import Read

ROW_GROUP_FILES, ROW_GROUP_BYTES = 1000, 16 << 20
"""A lookup in Parquet reads a row group; smaller ones are found faster and compress less."""
SCHEMA = pa.schema(
    {"uid": pa.string(), "created_at": pa.timestamp("us", "UTC"), "size": pa.int64(), "content": pa.binary()}
)


class Parquet(Library):
    """Row groups sorted by uid: a column of contents compresses as well as a solid archive, and is read as slowly."""

    title = f"Parquet, zstd -{LEVEL}"

    def pack(self, corpus: Corpus, target: Path) -> None:
        root = f"{corpus.root}/"
        options: dict[str, Any] = {"compression": "zstd", "compression_level": LEVEL, "use_dictionary": False}
        with pq.ParquetWriter(target, SCHEMA, write_statistics=["uid"], **options) as writer:
            for group in _groups(sorted(corpus.items())):
                contents = [read_file(root + item.path, item.size) for item in group]
                columns = [[item.uid for item in group], [item.created_at for item in group]]
                columns.append([item.size for item in group])
                writer.write_table(pa.table([*columns, contents], schema=SCHEMA))

    @contextmanager
    def open(self, target: Path) -> Iterator[Read]:
        with pq.ParquetFile(target) as file:
            facts = file.metadata
            firsts = [facts.row_group(number).column(0).statistics.min for number in range(facts.num_row_groups)]

            def read(key: str | bytes) -> bytes:
                group = file.read_row_group(bisect_right(firsts, key) - 1, columns=["uid", "content"])
                content: bytes = group["content"][group["uid"].index(key).as_py()].as_py()
                return content

            yield read


def _groups(items: list[Item]) -> Iterator[list[Item]]:
    waiting = iter(items)
    while group := list(islice(waiting, 1)):
        total = group[0].size
        while total < ROW_GROUP_BYTES and len(group) < ROW_GROUP_FILES and (item := next(waiting, None)):
            group.append(item)
            total += item.size
        yield group
