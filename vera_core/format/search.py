"""Finding groups again behind damage, where no directory says where they lie: by their magic number.

A group's block states its own place and ends with a checksum, so nothing but a content made for the purpose can pass
for one, and only in a region whose own block is lost. Of several rows of groups that can't all be true, the one that
leads furthest is believed: contents lie between groups, so a made-up row ends before the true one goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import FormatError
from vera_core.format.groups import HEAD_SIZE, MAGIC, GroupHead, parse_group_head
from vera_core.format.layout import MAX_ENTRIES, MAX_GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.format.remains import Extent

MAX_KEY = (1 << 64) - 1
_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """What groups that are looked for must keep to.

    They begin at `begin` or later, with ordinals from `first` and keys from `first_key` on, and their blocks end at
    `end` at the latest. `streamed` tells whether it is the block behind a streamed file; None if that is not known.
    """

    begin: int
    end: int
    first: int
    first_key: int
    streamed: bool | None

    def allow(self, head: GroupHead) -> bool:
        """Whether `head` can be one of them."""
        return (
            head.first >= self.first
            and head.first_key >= self.first_key
            and head.position + head.size <= self.end
            and self.streamed in (None, bool(head.flags))
        )


def find_groups(extent: Extent, bounds: Bounds) -> list[GroupHead]:
    """The groups that follow, as far as they can be found; in order, not overlapping."""
    heads = []
    for head in _candidates(extent, bounds):
        heads.append(head)
        if len(heads) == MAX_GROUPS:  # more than a shard has: the rest is made up
            break
    follows, reach = _rows(heads, bounds.end)
    chosen: list[GroupHead] = []
    end, next_first, next_key = bounds.end, MAX_ENTRIES, MAX_KEY
    for start in sorted(range(len(heads)), key=lambda number: (-reach[number], heads[number].position)):
        if reach[start] > end:
            continue
        row: list[GroupHead] = []
        number: int | None = start
        while number is not None:
            row.append(heads[number])
            number = follows[number]
        if row[-1].first + row[-1].count <= next_first and row[-1].first_key <= next_key:
            chosen = row + chosen
            end, next_first, next_key = row[0].position, row[0].first, row[0].first_key
    return chosen


def _candidates(extent: Extent, bounds: Bounds) -> Iterator[GroupHead]:
    """Everything that looks like a group's block at its place."""
    at = bounds.begin
    while at + HEAD_SIZE <= bounds.end:
        window = extent.fetch(at, min(_WINDOW, bounds.end - at))
        found = window.find(MAGIC)
        while found >= 0:
            try:
                head = parse_group_head(extent.fetch(at + found, HEAD_SIZE), at + found)
            except FormatError:
                head = None
            if head is not None and bounds.allow(head):
                yield head
            found = window.find(MAGIC, found + 1)
        at += max(1, len(window) - len(MAGIC) + 1)


def _rows(heads: list[GroupHead], end: int) -> tuple[list[int | None], list[int]]:
    """Which candidate follows each, and how far the row of groups that begins with it leads."""
    by_position = {head.position: number for number, head in enumerate(heads)}
    follows: list[int | None] = [None] * len(heads)
    reach = [0] * len(heads)
    for number in range(len(heads) - 1, -1, -1):
        head = heads[number]
        after = by_position.get(head.end)
        if after is not None and after > number and _fit(head, heads[after]):
            follows[number], reach[number] = after, reach[after]
        else:
            # Contents that reach beyond the end may be cut off, or made up.
            reach[number] = head.end if head.end <= end else head.position + head.size
    return follows, reach


def _fit(head: GroupHead, after: GroupHead) -> bool:
    """Whether `after` takes up where `head` stops."""
    return after.first == head.first + head.count and after.first_key >= head.first_key
