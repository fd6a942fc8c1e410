"""From rows to shard files: load and encode in threads, append in order, verify (docs/protocol.md, Pack 3).

A part is a run of rows of one slot and retention class that fits one shard. Nothing here talks to the slot log or
uploads anything; what is built lies in the spool and can be thrown away.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, UsageError
from vera_core.format import ShardWriter
from vera_core.operations.commit import LocalShard
from vera_core.slots import FILTER_ENTRIES
from vera_core.source.base import BigContent, Unreadable
from vera_core.source.rows import RejectReason
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vera_core.codec import Encoded, Policy
    from vera_core.format import ShardOptions, ShardSummary
    from vera_core.operations.inspector import Inspect
    from vera_core.operations.load import LoadedRow

_UNREAD = (OSError, MissingObjectError)
"""What reading a source's big file raises where the file is the cause: packing goes on without it."""
EQUAL = "equal"
"""What a judge says of a row whose uid's latest version is the same in every archived fact."""


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """Where a part ends: stored bytes and rows (never between two rows of one uid); how big files are compressed."""

    shard_bytes: int
    part_rows: int
    policy: Policy


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


class RowFeed:
    """Loaded rows with one row of look-ahead, so that a part can end before a row that the next part begins with."""

    __slots__ = ("_next", "_rows")

    def __init__(self, rows: Generator[LoadedRow[Encoded]]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def close(self) -> None:
        """Ends the loading threads."""
        self._rows.close()

    def peek(self) -> LoadedRow[Encoded] | None:
        """The next row, None at the end."""
        return self._next

    def take(self) -> LoadedRow[Encoded]:
        """Removes and returns the next row."""
        taken = self._next
        assert taken is not None
        self._next = next(self._rows, None)
        return taken


def build_part(
    feed: RowFeed,
    *,
    options: ShardOptions,
    limits: BuildLimits,
    spool: Path,
    judge: Callable[[LoadedRow[Encoded]], str | None],
) -> BuiltPart:
    """Builds the next part from `feed`, which must not be at its end.

    `judge` says what keeps a loaded row out: None (archive it), "equal", or the reason of a reject.

    The shard is finished and not yet verified: see `verify_built`.
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
            summary = writer.finish() if part.archived else None
        if summary is not None:
            part.local = LocalShard(path, summary.sha256, summary.size)
            part.summary = summary
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
    judge: Callable[[LoadedRow[Encoded]], str | None],
) -> None:
    last: tuple[str, bytes, int, str, object] | None = None
    last_uid: str | None = None
    while (head := feed.peek()) is not None:
        row = head.row
        big = isinstance(head.outcome, BigContent)
        full = writer.size >= limits.shard_bytes or part.end - part.first >= limits.part_rows
        # A uid is not split, so that its rows are compared with each other; a big file always has a shard of its own.
        # Parts without any archived row end too: the ranges of their rejects must fit a log record.
        if (part.archived and big) or (full and row.uid != last_uid):
            return
        feed.take()
        part.end = head.number + 1
        last_uid = row.uid
        if isinstance(head.outcome, Unreadable):
            part.reject(head.number, head.outcome.reason)
            continue
        verdict = _judged(judge, head)
        if verdict is not None and verdict != EQUAL:
            part.reject(head.number, verdict)
            continue
        if isinstance(head.outcome, BigContent):
            if verdict == EQUAL:
                part.equal += 1
                continue
            _append_big(part, writer, head, head.outcome, limits.policy)
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


def _judged(judge: Callable[[LoadedRow[Encoded]], str | None], head: LoadedRow[Encoded]) -> str | None:
    """What the judge says; a big file that can't be read to its end is a reject, like any other file."""
    try:
        return judge(head)
    except _UNREAD:
        return RejectReason.UNREADABLE


def _append_big(
    part: BuiltPart, writer: ShardWriter, head: LoadedRow[Encoded], content: BigContent, policy: Policy
) -> None:
    """Streams a file into the shard, its only one; a source that gives other bytes than it said makes a reject."""
    row = head.row
    try:
        with content.open() as file:
            writer.append_stream(
                row.uid, row.created_at, file, content.size,
                policy=policy, media_type=row.media_type, metadata=row.metadata,
            )  # fmt: skip
    except UsageError:
        part.reject(head.number, RejectReason.WRONG_SIZE)
    except _UNREAD:
        part.reject(head.number, RejectReason.UNREADABLE)
    else:
        part.archived += 1
        part.keys.append(row.key)


def verify_built(part: BuiltPart, inspect: Inspect) -> None:
    """Has a finished shard re-opened and every sum in it checked before anybody sees it.

    Raises:
        IntegrityError: memory or disk of this machine altered it.
    """
    if part.local is None or part.summary is None:
        return
    found = inspect(part.local.path)
    if (found.sha256, found.entries) != (part.local.sha256, part.summary.entries):
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=part.local.path,
        )
