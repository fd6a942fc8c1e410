"""Loading rows: contents fetched and worked on in threads, ahead of whoever uses them, in order, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from vera_core.source.base import BigContent, Source, Unreadable
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


class LoadedRow(NamedTuple, Generic[T]):
    """A manifest row, its number, and its content: the result of the work on it, a big file, or why it is unread."""

    number: int
    row: Row
    outcome: T | BigContent | Unreadable


def load_rows(
    source: Source, rows: Iterator[Numbered], work: Callable[[Sequence[bytes]], Sequence[T]], *, threads: int
) -> Generator[LoadedRow[T]]:
    """Fetches rows and applies `work` to their contents in threads, a few batches ahead; yields them in order.

    Raises:
        UnavailableError: the source can't be reached.
    """
    batches = _batches(rows)
    with ThreadPoolExecutor(threads, thread_name_prefix="vera-load") as pool:
        pending = deque((batch, pool.submit(_load, source, batch, work)) for batch in islice(batches, IN_FLIGHT))
        try:
            while pending:
                batch, future = pending.popleft()
                loaded = future.result()
                for more in islice(batches, 1):
                    pending.append((more, pool.submit(_load, source, more, work)))
                yield from loaded
                while len(loaded) < len(batch):
                    batch = batch[len(loaded) :]
                    loaded = _load(source, batch, work)
                    yield from loaded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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


def _load(
    source: Source, batch: Sequence[Numbered], work: Callable[[Sequence[bytes]], Sequence[T]]
) -> list[LoadedRow[T]]:
    """Loads a batch, or as much of its beginning as `LOADED_BYTES` allows (at least one row)."""
    outcomes: dict[int, T | BigContent | Unreadable] = {}
    contents: dict[int, bytes] = {}
    waiting = total = 0
    for at, fetched in enumerate(source.fetch([row for _, row in batch])):
        if isinstance(fetched, bytes):
            contents[at] = fetched
            waiting += len(fetched)
            total += len(fetched)
        else:
            outcomes[at] = fetched
        if waiting >= BATCH_BYTES:
            outcomes |= dict(zip(contents, work(list(contents.values())), strict=True))
            contents, waiting = {}, 0
        if total >= LOADED_BYTES:
            break
    outcomes |= dict(zip(contents, work(list(contents.values())), strict=True))
    return [LoadedRow(*batch[at], outcomes[at]) for at in range(len(outcomes))]


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
