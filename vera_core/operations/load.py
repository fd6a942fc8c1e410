"""Loading rows: contents fetched and worked on in threads, ahead of whoever uses them, in order, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from vera_core.source.base import BigContent, Fetched, Source, Unreadable
    from vera_core.source.rows import Row

BATCH_ROWS = 256
BATCH_BYTES = 2 << 20
"""Contents are worked on in batches of so many bytes: the interpreter lock is given up once for each."""
LOADED_BYTES = 16 << 20
"""A batch of rows is handed on in pieces of so many content bytes, so that sizes nobody declared stay bounded."""
UNKNOWN_SIZE = 64 << 10
"""What a row without a declared size counts for in a batch."""
CHUNK = 1 << 20
IN_FLIGHT = 4

T = TypeVar("T")
Numbered = tuple[int, "Row"]
Outcome: TypeAlias = "T | BigContent | Unreadable"
"""What became of a row's content: the result of the work on it, a big file, or why it is unread."""


class LoadedRow(NamedTuple, Generic[T]):
    """A manifest row, its number, and what became of its content."""

    number: int
    row: Row
    outcome: Outcome[T]


def load_rows(
    source: Source, rows: Iterator[Numbered], work: Callable[[Sequence[bytes]], Sequence[T]], *, threads: int
) -> Generator[LoadedRow[T]]:
    """Fetches rows and applies `work` to their contents in threads, a few batches ahead; yields them in order.

    Raises:
        UnavailableError: the source can't be reached.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="vera-load") as pool:
        try:
            yield from ahead(rows, lambda batch: pool.submit(load, source, batch, work))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def ahead(
    rows: Iterator[Numbered], start: Callable[[Sequence[Numbered]], Future[list[LoadedRow[T]]]]
) -> Generator[LoadedRow[T]]:
    """Starts loading batch after batch, a few ahead of the one that is used; yields all rows in order.

    What `start` begins may load only some rows of a batch's beginning (at least one); it gets the rest again.
    """
    coming = _batches(rows)
    pending = deque((batch, start(batch)) for batch in islice(coming, IN_FLIGHT))
    while pending:
        batch, future = pending.popleft()
        loaded = future.result()
        for more in islice(coming, 1):
            pending.append((more, start(more)))
        yield from loaded
        while len(loaded) < len(batch):
            batch = batch[len(loaded) :]
            loaded = start(batch).result()
            yield from loaded


def _batches(rows: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    batch: list[Numbered] = []
    weight = 0
    for item in rows:
        size = item[1].size
        weight += UNKNOWN_SIZE if size is None else size
        batch.append(item)
        if len(batch) >= BATCH_ROWS or weight >= LOADED_BYTES:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def load(
    source: Source, batch: Sequence[Numbered], work: Callable[[Sequence[bytes]], Sequence[T]]
) -> list[LoadedRow[T]]:
    """Loads a batch, or as much of its beginning as `LOADED_BYTES` allows (at least one row)."""
    outcomes = worked_on(source.fetch([row for _, row in batch]), work)
    return [LoadedRow(*batch[at], outcome) for at, outcome in enumerate(outcomes)]


def worked_on(fetched: Iterable[Fetched], work: Callable[[Sequence[bytes]], Sequence[T]]) -> list[Outcome[T]]:
    """The outcomes of the first contents, up to the one that reaches `LOADED_BYTES` in all."""
    outcomes: dict[int, Outcome[T]] = {}
    contents: dict[int, bytes] = {}
    waiting = total = 0
    for at, item in enumerate(fetched):
        if isinstance(item, bytes):
            contents[at] = item
            waiting += len(item)
            total += len(item)
        else:
            outcomes[at] = item
        if waiting >= BATCH_BYTES:
            outcomes |= dict(zip(contents, work(list(contents.values())), strict=True))
            contents, waiting = {}, 0
        if total >= LOADED_BYTES:
            break
    outcomes |= dict(zip(contents, work(list(contents.values())), strict=True))
    return [outcomes[at] for at in range(len(outcomes))]


def stream_digest(content: BigContent) -> bytes:
    """SHA-256 of a big file, read in constant memory.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    with content.open() as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()
