"""From rows to shard files: load and encode in threads, append in order, verify (docs/protocol.md, Pack 3).

A part is a run of rows of one slot and retention class that fits one shard. Nothing here talks to the slot log or
uploads anything; what is built lies in the spool and can be thrown away.
"""

from __future__ import annotations

import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vera_core.codec import Encoded, encode_many
from vera_core.errors import IntegrityError
from vera_core.format.reader import FileSource, ShardReader
from vera_core.format.writer import ShardOptions, ShardSummary, ShardWriter
from vera_core.operations.commit import LocalShard
from vera_core.slots import FILTER_ENTRIES
from vera_core.source.base import BigContent, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from vera_core.codec import Policy
    from vera_core.source.base import Source
    from vera_core.source.rows import Row

BATCH_ROWS = 256
BATCH_BYTES = 4 << 20
UNKNOWN_SIZE = 64 << 10
"""What a row without a declared size counts for in a batch."""
LOADED_BYTES = 16 << 20
"""A batch whose stored bytes exceed this is handed on in pieces, so that sizes nobody declared stay bounded."""
IN_FLIGHT = 4
EQUAL = "equal"
"""What a judge says of a row whose uid's latest version is the same in every archived fact."""

Outcome = Encoded | BigContent | Unreadable


class LoadedRow(NamedTuple):
    """A manifest row with its number and what became of its content."""

    number: int
    row: Row
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """Where a part ends: stored bytes and rows (never between two rows of one uid)."""

    shard_bytes: int
    part_rows: int


@dataclass(slots=True)
class BuiltPart:
    """Rows [first, end) as built: the shard in the spool (None if no row was archived) and what became of the rest."""

    first: int
    end: int
    archived: int = 0
    equal: int = 0
    rejects: dict[str, list[list[int]]] = field(default_factory=dict)
    local: LocalShard | None = None
    summary: ShardSummary | None = None
    keys: list[int] = field(default_factory=list)

    def reject(self, number: int, reason: str) -> None:
        """Notes that row `number` is not archived, and why, as ranges of row numbers."""
        ranges = self.rejects.setdefault(reason, [])
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] = number + 1
        else:
            ranges.append([number, number + 1])

    def discard(self) -> None:
        """Removes the shard from the spool."""
        if self.local is not None:
            self.local.path.unlink(missing_ok=True)

    @property
    def rejected(self) -> int:
        """Number of rejected rows."""
        return sum(end - first for ranges in self.rejects.values() for first, end in ranges)


def load_rows(source: Source, rows: Iterator[tuple[int, Row]], *, policy: Policy, threads: int) -> Generator[LoadedRow]:
    """Fetches and encodes rows in `threads` threads, ahead by a few batches, and yields them in order."""
    batches = _batches(rows)
    with ThreadPoolExecutor(threads, thread_name_prefix="vera-load") as pool:
        pending = deque((batch, pool.submit(_load, source, batch, policy)) for batch in islice(batches, IN_FLIGHT))
        try:
            while pending:
                batch, future = pending.popleft()
                loaded = future.result()
                for more in islice(batches, 1):
                    pending.append((more, pool.submit(_load, source, more, policy)))
                yield from loaded
                while len(loaded) < len(batch):
                    batch = batch[len(loaded) :]
                    loaded = _load(source, batch, policy)
                    yield from loaded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _batches(rows: Iterator[tuple[int, Row]]) -> Iterator[list[tuple[int, Row]]]:
    batch: list[tuple[int, Row]] = []
    weight = 0
    for item in rows:
        size = item[1].size
        weight += UNKNOWN_SIZE if size is None else size
        batch.append(item)
        if len(batch) >= BATCH_ROWS or weight >= BATCH_BYTES:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _load(source: Source, batch: Sequence[tuple[int, Row]], policy: Policy) -> list[LoadedRow]:
    """Loads a batch, or the beginning of it that fits `LOADED_BYTES`."""
    loaded: list[LoadedRow] = []
    contents: list[bytes] = []
    waiting: list[int] = []
    outcomes: dict[int, Outcome] = {}
    held = raw = 0
    for at, fetched in enumerate(source.fetch([row for _, row in batch])):
        if isinstance(fetched, bytes):
            contents.append(fetched)
            waiting.append(at)
            raw += len(fetched)
        else:
            outcomes[at] = fetched
        if raw >= BATCH_BYTES:
            for place, encoded in zip(waiting, encode_many(contents, policy), strict=True):
                outcomes[place] = encoded
                held += len(encoded.stored)
            contents, waiting, raw = [], [], 0
            if held >= LOADED_BYTES:
                break
    outcomes |= dict(zip(waiting, encode_many(contents, policy), strict=True))
    for at in range(len(outcomes)):
        number, row = batch[at]
        loaded.append(LoadedRow(number, row, outcomes[at]))
    return loaded


class RowFeed:
    """Loaded rows with one row of look-ahead, so that a part can end before a row that the next part begins with."""

    __slots__ = ("_next", "_rows")

    def __init__(self, rows: Generator[LoadedRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def close(self) -> None:
        """Ends the loading threads."""
        self._rows.close()

    def peek(self) -> LoadedRow | None:
        """The next row, None at the end."""
        return self._next

    def take(self) -> LoadedRow:
        """Removes and returns the next row."""
        taken = self._next
        assert taken is not None
        self._next = next(self._rows, None)
        return taken


def build_part(
    feed: RowFeed, *, options: ShardOptions, limits: BuildLimits, spool: Path, judge: Callable[[LoadedRow], str | None]
) -> BuiltPart:
    """Builds the next part from `feed`, which must not be at its end.

    `judge` says what keeps a loaded row out: None (archive it), "equal", or the reason of a reject.

    Raises:
        IntegrityError: the finished shard does not verify; nothing was uploaded.
    """
    head = feed.peek()
    assert head is not None
    part = BuiltPart(head.number, head.number)
    handle = tempfile.NamedTemporaryFile(dir=spool, prefix="part-", suffix=".vera", delete=False)  # noqa: SIM115
    path = Path(handle.name)
    try:
        with handle:
            writer = ShardWriter(handle, options=options)
            _fill(part, feed, writer, limits=limits, judge=judge)
            summary = writer.finish()
        if part.archived:
            part.local = LocalShard(path, summary.sha256, summary.size)
            part.summary = summary
            verify_local(part.local, summary)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if part.local is None:
        path.unlink()
    return part


def _fill(
    part: BuiltPart,
    feed: RowFeed,
    writer: ShardWriter,
    *,
    limits: BuildLimits,
    judge: Callable[[LoadedRow], str | None],
) -> None:
    last: tuple[str, bytes, int, str, object] | None = None
    last_uid: str | None = None
    while (head := feed.peek()) is not None:
        row = head.row
        big = isinstance(head.outcome, BigContent)
        full = writer.stored_bytes >= limits.shard_bytes or part.end - part.first >= limits.part_rows
        # A uid is not split, so that its rows are compared with each other; a big file always has a shard of its own.
        if part.archived and (big or (full and row.uid != last_uid)):
            return
        feed.take()
        part.end = head.number + 1
        last_uid = row.uid
        if isinstance(head.outcome, Unreadable):
            part.reject(head.number, head.outcome.reason)
            continue
        verdict = judge(head)
        if verdict is not None and verdict != EQUAL:
            part.reject(head.number, verdict)
            continue
        if isinstance(head.outcome, BigContent):
            if verdict == EQUAL:
                part.equal += 1
                continue
            _append_big(part, writer, head, head.outcome)
            return
        facts = (row.uid, head.outcome.sha256, row.created_at, row.media_type, row.metadata)
        if verdict == EQUAL or facts == last:
            part.equal += 1
            continue
        last = facts
        writer.append(row.uid, row.created_at, head.outcome, media_type=row.media_type, metadata=row.metadata)
        part.archived += 1
        if len(part.keys) <= FILTER_ENTRIES:
            part.keys.append(row.key)


def _append_big(part: BuiltPart, writer: ShardWriter, head: LoadedRow, content: BigContent) -> None:
    row = head.row
    with content.open() as file:
        writer.append_stream(
            row.uid, row.created_at, file, content.size, media_type=row.media_type, metadata=row.metadata
        )
    part.archived += 1
    part.keys.append(row.key)


def verify_local(local: LocalShard, summary: ShardSummary) -> None:
    """Re-opens a finished shard and checks every sum in it before anybody sees it.

    Raises:
        IntegrityError: memory or disk of this machine altered it.
    """
    with FileSource(local.path) as source:
        found = ShardReader.open(source).verify()
    if found.entries != summary.entries or local.path.stat().st_size != local.size:
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=local.path,
        )
