"""From loaded rows to shard files: judge, append in order, verify (docs/protocol.md, Pack 3).

A part is a run of rows of one slot and retention class that fits one shard. Nothing here talks to the slot log or
uploads anything; what is built lies in the spool and can be thrown away.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vera_core.errors import IntegrityError, UsageError
from vera_core.format import Names, ShardWriter
from vera_core.keys.shards import BigFile, ShardSealer, append_big
from vera_core.operations.commit import LocalShard
from vera_core.operations.judge import EQUAL, UNREAD
from vera_core.slots import FILTER_ENTRIES
from vera_core.source.base import BigContent
from vera_core.source.rows import RejectReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vera_core.encoding import Trained
    from vera_core.format import ShardOptions, ShardSummary
    from vera_core.format.writer import Sink
    from vera_core.keys.tenant import TenantKey
    from vera_core.model import Policy
    from vera_core.operations.inspector import Inspect
    from vera_core.operations.judge import Judge
    from vera_core.operations.load import Loaded
    from vera_core.source.rows import RowBatch


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """Where a part ends: stored bytes (never between two rows of one uid); how big files are compressed.

    `tenant`: the key under which files are sealed, None in an unencrypted repository.
    """

    shard_bytes: int
    policy: Policy
    tenant: TenantKey | None = None


@dataclass(slots=True)
class BuiltPart:
    """Rows [first, end) as built: the shard in the spool (None if no row was archived) and what became of the rest.

    `sealer` has the keys of its files where it is encrypted.
    """

    first: int
    end: int
    archived: int = 0
    equal: int = 0
    rejects: dict[str, list[list[int]]] = field(default_factory=dict)
    local: LocalShard | None = None
    summary: ShardSummary | None = None
    keys: list[int] = field(default_factory=list)
    sealer: ShardSealer | None = None

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


def build_part(
    feed: Iterable[Loaded],
    rows: tuple[int, int],
    *,
    options: ShardOptions,
    limits: BuildLimits,
    spool: Path,
    judge: Judge,
) -> BuiltPart:
    """Builds the next part of rows [first, end), which `feed` gives loaded; it may end before `end`.

    The shard is finished and not yet verified: see `verify_built`.
    """
    part = BuiltPart(rows[0], rows[0])
    if limits.tenant is not None:
        part.sealer = ShardSealer.fresh(limits.tenant, rows[1] - rows[0])
        options = replace(options, encryption=part.sealer.encryption)
    handle = tempfile.NamedTemporaryFile(dir=spool, prefix="part-", suffix=".vera", delete=False)  # noqa: SIM115
    path = Path(handle.name)
    try:
        with handle:
            filling = _Filling(part, handle, options, limits)
            for loaded in feed:
                if filling.take(loaded.head(rows[1] - part.end), judge) or part.end == rows[1]:
                    break
            summary = filling.finish()
        if summary is not None:
            part.local = LocalShard(path, summary.sha256, summary.size)
            part.summary = summary
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if part.local is None:
        path.unlink()
    return part


@dataclass(slots=True)
class _Filling:
    """A part and its shard while they are filled."""

    part: BuiltPart
    sink: Sink
    options: ShardOptions
    limits: BuildLimits
    writer: ShardWriter | None = None
    trained: Trained | None = None
    stored_bytes: int = 0
    last: tuple[object, ...] = ()
    """The facts of the row archived last."""
    last_name: str = ""

    def take(self, loaded: Loaded, judge: Judge) -> bool:
        """Takes rows into the part; True once it is full."""
        if self.trained is None:
            self.trained = loaded.trained
        verdicts = judge.verdicts(loaded)
        self._find_repeats(loaded, verdicts)
        end = self._full(loaded, verdicts)
        bigs = sorted(place for place, item in loaded.special.items() if isinstance(item, BigContent))
        begin = 0
        for place in bigs:
            if place >= end:
                break
            self._append(loaded, verdicts, (begin, place))
            begin = place
            if place in verdicts:
                continue  # counted with the rows behind it
            # A big file always has a shard of its own.
            if self.part.archived:
                return True
            begin = place + 1
            self.part.end = loaded.rows.first + begin
            self._append_big(loaded, place)
            return True
        self._append(loaded, verdicts, (begin, end))
        return end < len(loaded)

    def finish(self) -> ShardSummary | None:
        """Finishes the shard; None if nothing was archived."""
        return self.writer.finish() if self.writer is not None and self.part.archived else None

    def _full(self, loaded: Loaded, verdicts: dict[int, str]) -> int:
        """Where the part reaches its bytes: never between two rows of one uid, so that they are compared."""
        stored = loaded.encoded.facts["stored_size"].astype(np.int64)
        stored[list(verdicts)] = 0
        before = self.stored_bytes + np.cumsum(stored) - stored
        place = int(np.searchsorted(before, self.limits.shard_bytes))
        names = loaded.rows.names
        while place < len(loaded) and names[place] == (names[place - 1] if place else self.last_name):
            place += 1
        return place

    def _find_repeats(self, loaded: Loaded, verdicts: dict[int, str]) -> None:
        """Adds the rows that say what the row archived before them says."""
        rows, digests = loaded.rows, loaded.encoded.facts["digest"]
        keys = np.array(rows.keys, np.uint64)
        last = len(loaded) - 1
        if rows.names[0] == self.last_name or bool((keys[1:] == keys[:-1]).any()):
            for place in range(len(loaded)):
                if place not in verdicts and place not in loaded.special:
                    facts = _facts(rows, place, digests[place].tobytes())
                    if facts == self.last:
                        verdicts[place] = EQUAL
                    self.last = facts
        elif last not in verdicts and last not in loaded.special:
            self.last = _facts(rows, last, digests[last].tobytes())

    def _append(self, loaded: Loaded, verdicts: dict[int, str], span: tuple[int, int]) -> None:
        """Appends the rows [begin, end) of `loaded` that no verdict keeps out, and notes what became of the others."""
        begin, end = span
        if begin == end:
            return
        part, rows = self.part, loaded.rows
        chosen = np.zeros(len(loaded), np.bool_)
        chosen[begin:end] = True
        for place in sorted(place for place in verdicts if begin <= place < end):
            chosen[place] = False
            if verdicts[place] == EQUAL:
                part.equal += 1
            else:
                part.reject(rows.first + place, verdicts[place])
        kept = chosen.tolist()
        keys = list(compress(rows.keys, kept))
        if keys:
            batch = loaded.encoded.select(chosen)
            names = Names(
                list(compress(rows.uids, kept)),
                list(compress(rows.created_at, kept)),
                list(compress(zip(rows.media_types, rows.metadata, strict=True), kept)),
                keys=keys,
            )
            writer = self._opened()
            self.stored_bytes += int(batch.facts["stored_size"].sum())
            if part.sealer is not None:
                names, batch = part.sealer.seal(writer.entries, names, list(compress(rows.names, kept)), batch)
            writer.append_batch(names, batch)
            part.archived += len(batch)
            if len(part.keys) <= FILTER_ENTRIES:
                part.keys += keys
        part.end = rows.first + end
        self.last_name = rows.names[end - 1]

    def _opened(self) -> ShardWriter:
        """The shard of the part's ordinary files, begun with the first of them."""
        if self.writer is None:
            assert self.trained is not None
            self.writer = ShardWriter(self.sink, options=self.options, dictionaries=self.trained.dictionaries)
        return self.writer

    def _append_big(self, loaded: Loaded, place: int) -> None:
        """Streams a file into the shard; a source that gives other bytes than it said makes a reject."""
        row, content = loaded.rows.row(place), loaded.special[place]
        assert isinstance(content, BigContent)
        self.last_name = row.name
        number = loaded.rows.first + place
        writer = ShardWriter(self.sink, options=self.options)
        try:
            with content.open() as file:
                big = BigFile(row.uid, row.created_at, row.media_type, row.metadata, file, content.size)
                append_big(writer, big, self.limits.policy, self.part.sealer)
        except UsageError:
            self.part.reject(number, RejectReason.WRONG_SIZE)
        except UNREAD:
            self.part.reject(number, RejectReason.UNREADABLE)
        else:
            self.writer = writer
            self.part.archived += 1
            self.part.keys.append(row.key)


def _facts(rows: RowBatch, place: int, digest: bytes) -> tuple[object, ...]:
    """What makes two rows of a uid equal."""
    return (rows.uids[place], digest, rows.created_at[place], rows.media_types[place], rows.metadata[place])


def verify_built(part: BuiltPart, inspect: Inspect) -> None:
    """Has a finished shard re-opened, every sum in it checked and every sealed file opened before anybody sees it.

    Raises:
        IntegrityError: memory or disk of this machine altered it.
    """
    if part.local is None or part.summary is None:
        return
    found = inspect(part.local.path, None if part.sealer is None else part.sealer.seals(part.local.sha256))
    if (found.sha256, found.entries) != (part.local.sha256, part.summary.entries):
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=part.local.path,
        )
