"""The versions that live in some shards of a slot, merged in key order, in pieces of bounded memory.

Shards are read group by group, and columns stay columns. Contents stay where they are until somebody asks for those of
a piece. What becomes of the versions is reshard.py's business, what is sealed in encrypted shards unsealing.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from vera_core.codec import crc32
from vera_core.errors import FormatError, IntegrityError
from vera_core.format.columns import TIME_BIAS, parse_attributes
from vera_core.format.layout import RESTORE
from vera_core.model import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from vera_core.format import ShardReader
    from vera_core.format.columns import Attributes
    from vera_core.format.groups import Group
    from vera_core.operations.unsealing import Unseal

VERSION = np.dtype(
    [
        ("key", "<u8"),
        ("created_at", "<i8"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("stored_size", "<u4"),
        ("crc32", "<u4"),
        ("origin_commit", "<u4"),
        ("origin_ordinal", "<u4"),
        ("ordinal", "<u4"),
        ("parameter", "<u2"),
        ("shelf", "<u2"),
        ("codec", "u1"),
        ("digest", "u1", (32,)),
    ]
)
"""A version on its way: where its content lies (`offset` in the shard of that `shelf`), and all that goes with it.

Of a sealed one, that is an entry of an encrypted shard as it is stored, the time is 0 and the size too: both are not
known.
"""

LEAST_ROWS = 1024
"""Versions of a piece, but for the last: enough to train dictionaries on."""
_WORDS = ("key", "created_at", "size", "origin_commit", "origin_ordinal")
_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


@dataclass(frozen=True, slots=True)
class Living:
    """Some versions: `rows` of `VERSION`, uids (of sealed ones: names) and attributes, all of one length."""

    rows: NDArray[np.void]
    uids: list[bytes]
    attributes: list[Attributes]

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, begin: int, end: int) -> Living:
        """Versions [begin, end)."""
        return Living(self.rows[begin:end], self.uids[begin:end], self.attributes[begin:end])

    def chosen(self, places: Sequence[int]) -> Living:
        """The versions at these places."""
        return Living(
            self.rows[places],
            list(map(self.uids.__getitem__, places)),
            list(map(self.attributes.__getitem__, places)),
        )

    def origins(self) -> list[Origin]:
        """The origin of each."""
        commits, ordinals = self.rows["origin_commit"].tolist(), self.rows["origin_ordinal"].tolist()
        return list(map(Origin, commits, ordinals))

    def in_order(self) -> Living:
        """The same by key, uid and origin."""
        keys = self.rows["key"]
        order = np.argsort(keys, kind="stable")
        ties = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if len(ties):
            # Rare: several versions of a uid. Runs of equal keys are sorted by what comes next.
            places, origins = order.tolist(), self.origins()
            for begin, end in _runs(ties.tolist()):
                places[begin:end] = sorted(places[begin:end], key=lambda at: (self.uids[at], origins[at]))
            order = np.array(places)
        return self.chosen(order.tolist())

    def census(self) -> int:
        """A number that sets of versions share if, and as good as only if, they are the same, in whatever order.

        Over uid, time, attributes, size, digest and origin, and not over how and where contents are stored. The census
        of two disjoint sets together is the sum of theirs modulo 2**64.
        """
        rows = self.rows
        mixed = np.array(list(map(hash, zip(self.uids, self.attributes, strict=True))), np.int64).view(np.uint64)
        digests = np.ascontiguousarray(rows["digest"]).view("<u8").reshape(len(rows), 4)
        for word in (*(rows[name].astype(np.uint64) for name in _WORDS), *digests.T):
            mixed = (mixed ^ word) * _MIX
            mixed ^= mixed >> _SHIFT
        return int(mixed.sum(dtype=np.uint64))


def joined(parts: Sequence[Living]) -> Living:
    """All of them, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Living(
        np.concatenate([part.rows for part in parts]) if parts else np.zeros(0, VERSION),
        [uid for part in parts for uid in part.uids],
        [each for part in parts for each in part.attributes],
    )


class Shelf:
    """One shard from which versions are taken, front to back.

    `number` is its place among those that are merged, `commit` the one of its entries that carry no origin, `gone` the
    ordinals by commit that are left behind: `left_out` says which of them were there, `census` what the others are.
    Of an encrypted shard `unseal` is how its versions are opened; `census` then is that of what the shard shows of
    them and, once `open` was asked for each of them `for_good`, of what was sealed.
    """

    def __init__(
        self,
        number: int,
        reader: ShardReader,
        commit: int,
        gone: Mapping[int, NDArray[np.uint64]],
        unseal: Unseal | None = None,
    ) -> None:
        self._number = number
        self._reader = reader
        self._commit = commit
        self._gone = gone
        self._unseal = unseal
        self._groups = reader.groups()
        self.rest = joined(())
        self.done = False
        self.left_out: list[Origin] = []
        self.census = 0
        self.kept = 0

    @property
    def last_key(self) -> int:
        """The last key in hand."""
        return int(self.rest.rows["key"][-1])

    def more(self) -> None:
        """Takes the next group in hand; `done` once there is none.

        Raises:
            FormatError: it is damaged.
        """
        group = next(self._groups, None)
        if group is None:
            self.done = True
            return
        living = self._living(group)
        self._count(living)
        self.kept += len(living)
        self.rest = joined((self.rest, living)) if len(self.rest) else living

    def take(self, bound: int | None) -> Living:
        """The versions in hand whose key is below `bound`, all where it is None; the others stay."""
        end = len(self.rest) if bound is None else int(np.searchsorted(self.rest.rows["key"], np.uint64(bound)))
        taken, self.rest = self.rest.cut(0, end), self.rest.cut(end, len(self.rest))
        return taken

    def open(self, living: Living, *, for_good: bool) -> tuple[Living, list[bytes]]:
        """Some of its versions as they were archived, and the stored bytes of their contents.

        Raises:
            FormatError: they can't be read, or don't match their CRC32.
            IntegrityError: what was sealed does not open.
        """
        stored = self._stored(living.rows)
        if self._unseal is None:
            return living, stored
        opened, stored = self._unseal(living, stored)
        if for_good:
            self._count(opened)
        return opened, stored

    def _stored(self, rows: NDArray[np.void]) -> list[bytes]:
        """The stored bytes of some of its versions, checked by CRC32; what lies end to end is read at once.

        Raises:
            FormatError: they don't match, or can't be read.
        """
        found = [b""] * len(rows)
        there = np.flatnonzero(rows["stored_size"])
        if len(there):
            offsets, sizes = rows["offset"][there], rows["stored_size"][there].astype(np.uint64)
            ends = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
            for begin, end in pairwise([0, *ends.tolist(), len(there)]):
                bounds = list(accumulate(sizes[begin:end].tolist(), initial=0))
                data = self._reader.fetch(int(offsets[begin]), bounds[-1])
                for place, (a, b) in zip(there[begin:end].tolist(), pairwise(bounds), strict=True):
                    found[place] = data[a:b]
        if list(map(crc32, found)) != rows["crc32"].tolist():
            raise FormatError("the stored bytes of a file do not match their CRC32", todo=RESTORE)
        return found

    @property
    def reader(self) -> ShardReader:
        """Its shard."""
        return self._reader

    @property
    def sealed(self) -> bool:
        """Whether its shard is encrypted."""
        return self._unseal is not None

    def _count(self, living: Living) -> None:
        self.census = self.census + living.census() & (1 << 64) - 1

    def _living(self, group: Group) -> Living:
        """A group's versions but those that are left behind."""
        rows = np.zeros(len(group), VERSION)
        rows["key"], rows["shelf"] = group.keys(), self._number
        rows["created_at"] = (group.column("created_at") ^ np.uint64(TIME_BIAS)).view(np.int64)
        for name in ("offset", "size", "stored_size", "parameter", "codec"):
            rows[name] = group.column(name)
        rows["crc32"], rows["digest"] = group.crcs(), np.frombuffer(group.digests(), np.uint8).reshape(-1, 32)
        own = group.column("origin_commit") == 0
        rows["origin_commit"] = np.where(own, np.uint64(self._commit), group.column("origin_commit"))
        numbered = np.arange(group.head.first, group.head.first + len(group), dtype=np.uint64)
        rows["origin_ordinal"] = np.where(own, numbered, group.column("origin_ordinal"))
        rows["ordinal"] = numbered
        if self._unseal is not None:
            rows["size"] = 0
        table = [parse_attributes(data) for data in group.body.attribute_table()]
        attributes = list(map(table.__getitem__, group.column("attributes").tolist()))
        whole = Living(rows, group.body.uids(), attributes)
        leave = np.zeros(len(rows), np.bool_)
        for commit in set(rows["origin_commit"].tolist()) & self._gone.keys():
            leave |= (rows["origin_commit"] == commit) & np.isin(rows["origin_ordinal"], self._gone[commit])
        if not leave.any():
            return whole
        self.left_out += Living(rows[leave], [], []).origins()
        return whole.chosen(np.flatnonzero(~leave).tolist())


def merged(shelves: Sequence[Shelf]) -> Iterator[Living]:
    """All versions of the shelves by key, uid and origin, at least `LEAST_ROWS` at a time but for the last.

    Holds a few groups of each shelf, without contents.

    Raises:
        FormatError: a shard is damaged.
        IntegrityError: one is not sorted.
    """
    waiting: list[Living] = []
    last = -1
    for living in _steps(shelves):
        ordered = living.in_order()
        if int(ordered.rows["key"][0]) < last:
            raise IntegrityError("a shard's entries are not in key order", todo=RESTORE)
        last = int(ordered.rows["key"][-1])
        waiting.append(ordered)
        if sum(map(len, waiting)) >= LEAST_ROWS:
            yield joined(waiting)
            waiting = []
    if waiting:
        yield joined(waiting)


def _steps(shelves: Sequence[Shelf]) -> Iterator[Living]:
    """Runs of versions whose keys rise from run to run."""
    while True:
        for shelf in shelves:
            while not len(shelf.rest) and not shelf.done:
                shelf.more()
        coming = [shelf for shelf in shelves if not shelf.done]
        # What is still to be read of a shelf has no key below its last one in hand.
        bound = min((shelf.last_key for shelf in coming), default=None)
        found = joined([shelf.take(bound) for shelf in shelves if len(shelf.rest)])
        if len(found):
            yield found
        elif bound is None:
            return
        else:
            for shelf in coming:
                if shelf.last_key == bound:
                    shelf.more()


def _runs(ties: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges [begin, end) of places with equal keys, from the places whose key is that of the next one."""
    begin = end = -1
    for tie in ties:
        if tie != end - 1:
            if begin >= 0:
                yield begin, end
            begin = tie
        end = tie + 2
    yield begin, end
