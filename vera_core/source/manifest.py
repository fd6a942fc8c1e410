"""Manifests: the frozen rows of a window's revision in one Parquet file, sorted, digested and cut into segments.

The digest is the SHA-256 of the header, a canonical JSON text that names every block of rows by its own SHA-256, so
that it does not depend on how Parquet writes them (docs/sources.md, "The digest of a manifest"). A keyed manifest shows
its rows by names and identities only; adoption.py asks the source for such rows again. Where manifests lie in the
bucket, and which of several counts, is the business of the operations.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vera_core.errors import IncompatibleError, IntegrityError, UnavailableError, UsageError, VeraError
from vera_core.keys.naming import PLAIN
from vera_core.model import Slot, day_text
from vera_core.source.base import Window
from vera_core.source.blocks import BlockFile, block_sizes, blocks_of, blocks_with
from vera_core.source.rows import RowBatch, parse_metadata
from vera_core.source.sorting import ExternalSort
from vera_core.source.table import (
    FEW_VALUES,
    NAMED_SCHEMA,
    SCHEMA,
    block_digest,
    groups,
    numbers,
    shown,
    to_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from vera_core.keys.naming import Naming
    from vera_core.routing import Routing
    from vera_core.source.rows import RawBatch, Row

FORMAT_VERSION = 1
HEADER_KEY = b"vera.manifest"
DIGEST_KEY = b"vera.digest"
RESTORE = "Restore it from another copy; the window is not packed until then."


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows [first, end) of a manifest: all that go to one slot in one retention class."""

    slot: Slot
    retention_class: str
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A frozen revision of a window. `row_count` counts rejected rows too; they stand last, after all segments.

    `digest` is the hex SHA-256 that commits name; `blocks` the hex SHA-256 of each block of 16,384 rows of the file;
    `keyed` whether the file shows no more of rows than names and identities.
    """

    path: Path
    window: Window
    digest: str
    row_count: int
    reject_count: int
    segments: tuple[Segment, ...]
    blocks: tuple[str, ...]
    keyed: bool = False

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Opens a manifest and verifies its header; the rows are verified block by block as they are read.

        Raises:
            IntegrityError: the file is no whole manifest.
            IncompatibleError: a newer VERA wrote it.
        """
        try:
            with pq.ParquetFile(path) as file:
                metadata, schema = file.metadata, file.schema_arrow
                values = metadata.metadata or {}
                header, digest = values[HEADER_KEY], values[DIGEST_KEY].decode()
                sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
        except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
            raise _damaged(path, f"it can't be read: {error!r}") from error
        if hashlib.sha256(header).hexdigest() != digest:
            raise _damaged(path, "its header does not have the digest that it states")
        try:
            found = _parse_header(path, json.loads(header), digest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"its header can't be understood: {error!r}") from error
        if not schema.remove_metadata().equals(SCHEMA):
            raise _damaged(path, "its columns are not those of a manifest")
        if sizes != block_sizes(found.row_count) or len(found.blocks) != len(sizes):
            raise _damaged(path, "its row groups are not those of its header")
        return found

    def rows(self, first: int, end: int) -> Iterator[Row]:
        """Rows [first, end) in order, one by one.

        Raises:
            IntegrityError, UsageError: as `batches`.
        """
        for batch in self.batches(first, end):
            yield from batch.rows()

    def batches(self, first: int, end: int) -> Iterator[RowBatch]:
        """Rows [first, end) in order as columns, one block in memory at a time, each verified against its digest.

        Raises:
            IntegrityError: a block is damaged.
            UsageError: there are no such rows.
        """
        if not 0 <= first <= end <= self.row_count:
            raise UsageError(f"the manifest has rows 0 to {self.row_count}, not {first} to {end}")
        if first == end:
            return
        with pq.ParquetFile(self.path, read_dictionary=FEW_VALUES, page_checksum_verification=True) as file:
            for number, start, size in blocks_with(first, end):
                low, high = max(first, start), min(end, start + size)
                yield self._columns_of(self._block(file, number), start, low, high)

    def rejects(self) -> Iterator[Row]:
        """The rows that were rejected when the window was frozen.

        Raises:
            IntegrityError: a block is damaged.
        """
        return self.rows(self.row_count - self.reject_count, self.row_count)

    def verify_digest(self) -> None:
        """Reads every row and checks it against the digest.

        Raises:
            IntegrityError: a block is damaged.
        """
        deque(self.tables(), maxlen=0)

    def tables(self) -> Iterator[pa.Table]:
        """The blocks as they stand in the file, each verified against its digest.

        Raises:
            IntegrityError: a block is damaged.
        """
        with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for block in range(len(self.blocks)):
                yield self._block(file, block)

    def _block(self, file: pq.ParquetFile, number: int) -> pa.Table:
        try:
            table = file.read_row_group(number)
            digest = block_digest(table)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.path, f"block {number} can't be read: {error}") from error
        if digest != self.blocks[number]:
            raise _damaged(self.path, f"block {number} does not have its digest")
        return table

    def _columns_of(self, table: pa.Table, start: int, low: int, high: int) -> RowBatch:
        """Rows [low, high) out of the block that begins with row `start`."""
        table = table.slice(low - start, high - low)
        sizes = table.column("size")
        columns = (
            table.column("uid").to_pylist(),
            numbers(table, "created_at").tolist(),
            self._slots(low, high),
            _values(table, "retention_class"),
            numbers(table, "key").tolist(),
            table.column("place").to_pylist(),
            sizes.to_pylist() if sizes.null_count else numbers(table, "size").tolist(),
            _values(table, "media_type"),
            _values(table, "metadata", parse_metadata),
            _values(table, "late"),
            _values(table, "reject"),
            _values(table, "detail"),
        )
        names = table.column("name").to_pylist() if "name" in table.column_names else columns[0]
        return RowBatch(low, (*columns, names))

    def _slots(self, low: int, high: int) -> list[Slot | None]:
        slots: list[Slot | None] = []
        for segment in self.segments[_segment_at(self.segments, low) :]:
            if segment.first >= high:
                break
            slots.extend([segment.slot] * (min(segment.end, high) - max(segment.first, low)))
        return slots + [None] * (high - low - len(slots))


class Freezing(NamedTuple):
    """How rows become a manifest's: which slots they go to and what they are called; `spool` takes sorted runs."""

    routing: Routing
    spool: Path
    naming: Naming = PLAIN

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows while they are worked on."""
        return SCHEMA if self.naming.tenant_key is None else NAMED_SCHEMA

    def tables(self, batches: Iterable[RawBatch], window: Window) -> Iterator[pa.Table]:
        """A source's rows of a window, as tables.

        Raises:
            UsageError: a row lies outside the window: the source is at fault.
        """
        for batch in batches:
            table = to_table(batch, self.routing, self.naming)
            times = numbers(table, "created_at")
            if times.min() < window.first_micros or times.max() >= window.end_micros:
                raise UsageError(
                    "the source gave a row outside the window that was asked for",
                    todo="Report this: the source is at fault.", source=window.source, day=window.day,
                )  # fmt: skip
            yield table

    @contextmanager
    def sorted(self, tables: Iterable[pa.Table]) -> Iterator[ExternalSort]:
        """The rows of `tables` in the order of manifests, in bounded memory.

        Raises:
            UnavailableError: the spool can't be written, here or where they are used.
        """
        sort = ExternalSort(self.spool, self.schema)
        try:
            for table in tables:
                sort.add(table)
            yield sort
        except OSError as error:
            raise UnavailableError(
                f"the spool can't be written: {error}", todo="Free space there or name another spool.", path=self.spool
            ) from error
        finally:
            sort.close()


def freeze(batches: Iterable[RawBatch], path: Path, *, window: Window, by: Freezing) -> Manifest:
    """Writes the manifest of `window` to the new file `path`, in bounded memory whatever the number of rows.

    The spool takes sorted runs, about 200 bytes a row, that are gone afterwards. Returned is the manifest with its
    rows: a keyed one, which does not show them, has another file of them beside the one at `path`.

    Raises:
        UsageError: a row lies outside the window: the source is at fault.
        UnavailableError: the spool can't be written.
    """
    with by.sorted(by.tables(batches, window)) as sort:
        return _write(sort.merged(), path, window, by.schema)


def _write(tables: Iterable[pa.Table], path: Path, window: Window, schema: pa.Schema) -> Manifest:
    segments: list[Segment] = []
    total = rejects = 0
    keyed = schema is not SCHEMA
    with ExitStack() as files:
        stored = rows = files.enter_context(BlockFile(path, SCHEMA))
        if keyed:
            rows = files.enter_context(BlockFile(path.with_name(f"{path.name}.rows"), schema))
        for block in blocks_of(tables):
            rows.add(block)
            if keyed:
                stored.add(shown(block, window.first_micros))
            rejects += block.column("slot_day").null_count
            _extend(segments, block, total, window.tenant)
            total += len(block)
        made = Manifest(path, window, "", total, rejects, tuple(segments), tuple(stored.blocks), keyed)
        header = _header(made)
        digest = hashlib.sha256(header).hexdigest()
        stored.finish({HEADER_KEY: header, DIGEST_KEY: digest.encode()})
    return replace(made, path=rows.path, digest=digest, blocks=tuple(rows.blocks), keyed=False)


def _header(made: Manifest) -> bytes:
    content = {
        "version": FORMAT_VERSION,
        "source": made.window.source,
        "tenant": made.window.tenant,
        "day": day_text(made.window.day),
        "revision": made.window.revision,
        "rows": made.row_count,
        "rejects": made.reject_count,
        "segments": [
            [day_text(s.slot.day), s.slot.index, s.slot.n_bits, s.retention_class, s.first, s.end]
            for s in made.segments
        ],
        "blocks": list(made.blocks),
    }
    if made.keyed:
        content["keyed"] = True
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _parse_header(path: Path, content: dict[str, Any], digest: str) -> Manifest:
    if content["version"] != FORMAT_VERSION:
        raise IncompatibleError(
            f"the manifest has format version {content['version']}; this VERA knows {FORMAT_VERSION}",
            todo="Use a newer VERA.", path=path,
        )  # fmt: skip
    try:
        window = Window(
            content["source"], content["tenant"], date.fromisoformat(content["day"]), int(content["revision"])
        )
    except VeraError as error:
        raise ValueError(error.what) from error
    segments = tuple(
        Segment(Slot(window.tenant, date.fromisoformat(day), index, n_bits), retention_class, first, end)
        for day, index, n_bits, retention_class, first, end in content["segments"]
    )
    rows, rejects = int(content["rows"]), int(content["rejects"])
    bounds = [0, *(bound for s in segments for bound in (s.first, s.end)), rows - rejects]
    if any(low != high for low, high in list(pairwise(bounds))[::2]) or any(s.first >= s.end for s in segments):
        raise ValueError("segments leave gaps")
    keyed = content.get("keyed", False)
    if not isinstance(keyed, bool):
        raise TypeError("it does not say whether it is keyed")
    return Manifest(path, window, digest, rows, rejects, segments, tuple(content["blocks"]), keyed)


def _extend(segments: list[Segment], block: pa.Table, start: int, tenant: str) -> None:
    """Adds a block's rows to the segments; a segment may go on from the block before."""
    group = groups(block)
    kept = len(block) - block.column("slot_day").null_count
    cuts = [0, *(np.flatnonzero(group[1:kept] != group[: kept - 1]) + 1).tolist(), kept] if kept else []
    for first, end in pairwise(cuts):
        slot = Slot(
            tenant,
            block.column("slot_day")[first].as_py(),
            block.column("slot_index")[first].as_py(),
            block.column("slot_bits")[first].as_py(),
        )
        name = block.column("retention_class")[first].as_py()
        if segments and (segments[-1].slot, segments[-1].retention_class) == (slot, name):
            segments[-1] = Segment(slot, name, segments[-1].first, start + end)
        else:
            segments.append(Segment(slot, name, start + first, start + end))


def _segment_at(segments: Sequence[Segment], row: int) -> int:
    """The first segment that does not end before `row`."""
    low, high = 0, len(segments)
    while low < high:
        middle = (low + high) // 2
        if segments[middle].end <= row:
            low = middle + 1
        else:
            high = middle
    return low


def _values(table: pa.Table, name: str, read: Callable[[str], Any] = str) -> list[Any]:
    """The texts of a column that was read as a dictionary, or what `read` makes of each."""
    column = table.column(name).unify_dictionaries().combine_chunks()
    values = [read(text) for text in column.dictionary.to_pylist()]
    if len(values) == 1:
        return values * len(column)
    return [values[at] for at in column.indices.to_pylist()]


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"the manifest is damaged: {why}", todo=RESTORE, path=path)
