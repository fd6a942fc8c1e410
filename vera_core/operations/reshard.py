"""New shards of versions that lie in old ones, built in the spool and proved there (docs/protocol.md, Repack).

Contents move as they are stored, but for small compressed ones, which are compressed anew: an old dictionary may hold
pieces of files that were erased, so none is taken over. Each new shard gets dictionaries of its own, trained on its
first files as packing does. Nothing here talks to a slot log or uploads anything.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from vera_core.codec import Stored, decode_many
from vera_core.encoding import DICTIONARY_UP_TO, FACTS, EncodedBatch, Encoder
from vera_core.errors import IntegrityError
from vera_core.format import FileSource, Names, ShardReader, ShardWriter
from vera_core.format.groups import CODECS
from vera_core.format.source import Naming
from vera_core.operations.commit import LocalShard
from vera_core.operations.living import LEAST_ROWS, Living, Shelf, joined, merged
from vera_core.operations.load import LOADED_BYTES
from vera_core.slots import FILTER_ENTRIES
from vera_core.training import train_dictionaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from vera_core.format import ShardOptions, ShardSummary
    from vera_core.model import Policy
    from vera_core.operations.inspector import Inspect

Tell: TypeAlias = "Callable[[int, int], object]"
"""Called with versions, and the bytes that their contents take, whenever some were moved."""

NOTHING = joined(())
_COMPRESSED = np.array([codec.takes_dictionary for codec in CODECS])
_SAME = ("size", "stored_size", "crc32", "parameter", "codec", "digest")


@dataclass(frozen=True, slots=True)
class Aim:
    """How new shards are to be: what their headers say, how they compress, and the versions or bytes that fill one.

    `expected`: about how many versions there are to move; `stored_bytes` are those of contents; `spool`: where they are
    built.
    """

    options: ShardOptions
    policy: Policy
    rows: int
    stored_bytes: int
    expected: int
    spool: Path


@dataclass(frozen=True, slots=True)
class NewShard:
    """A finished shard in the spool.

    `keys` are those of its first entries; `shelves` are those of the old shards that gave it versions.
    """

    local: LocalShard
    summary: ShardSummary
    keys: list[int]
    shelves: frozenset[int]


def reshard(shelves: Sequence[Shelf], aim: Aim, tell: Tell) -> Iterator[NewShard]:
    """Builds shards of all that the shelves give, in key order, one after the other.

    Raises:
        FormatError: an old shard is damaged.
    """
    coming = merged(shelves)
    waiting = next(coming, NOTHING)
    written = 0
    while len(waiting):
        # Dictionaries are trained on the first files, so that there must be some.
        while len(waiting) < LEAST_ROWS and len(more := next(coming, NOTHING)):
            waiting = joined((waiting, more))
        filling = _Filling.begin(shelves, aim, waiting.cut(0, LEAST_ROWS), max(1, aim.expected - written))
        while len(waiting) and not filling.full:
            piece = waiting.cut(0, filling.room(waiting))
            tell(len(piece), filling.take(piece))
            written += len(piece)
            waiting = waiting.cut(len(piece), len(waiting)) if len(piece) < len(waiting) else next(coming, NOTHING)
        yield filling.finish()


def prove(new: NewShard, inspect: Inspect) -> int:
    """Has a new shard re-opened and every sum in it checked; returns the census of its versions (`Living.census`).

    Contents are proved by the SHA-256 with which they were archived. Uids, times and origins are, once the census of
    all new shards is that of the old ones.

    Raises:
        IntegrityError: memory or disk of this machine altered it.
    """
    found = inspect(new.local.path)
    with FileSource(new.local.path) as source:
        shelf = Shelf(0, ShardReader.open(source), 0, {})
        while not shelf.done:
            shelf.more()
            shelf.take(None)
    if (found.sha256, shelf.kept) != (new.local.sha256, new.summary.entries):
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=new.local.path,
        )
    return shelf.census


class _Recoder:
    """Makes the stored bytes of a new shard from those of the old ones, with dictionaries trained on a sample.

    `files`: about how many there will be in the new shard.
    """

    def __init__(self, shelves: Sequence[Shelf], policy: Policy, sample: Living, files: int) -> None:
        self._shelves = shelves
        trained = train_dictionaries(*self._small(sample), policy=policy, files=files)
        # Not their digests anew: those that they were archived with are what the new shard is proved by.
        self._encoder = Encoder(policy, trained, digest_with=lambda _: bytes(32))

    @property
    def dictionaries(self) -> tuple[bytes, ...]:
        """Those that the new shard must have."""
        return self._encoder.trained.dictionaries

    def recode(self, piece: Living) -> EncodedBatch:
        """The contents of a piece for the new shard, with the SHA-256 that they have had from the first.

        Raises:
            FormatError: an old shard is damaged.
        """
        rows = piece.rows
        old = self._stored(rows)
        stored: list[bytes | memoryview] = [*old]
        again = _small_compressed(rows)
        if not self.dictionaries:
            again = again[rows["parameter"][again] > 0]
        facts = np.zeros(len(rows), FACTS)
        for name in _SAME:
            facts[name] = rows[name]
        if len(again):
            contents = self._decoded(rows, old, again)
            encoded = self._encoder.encode(contents, [piece.attributes[at].media_type for at in again.tolist()])
            facts[again] = encoded.facts
            facts["digest"][again] = rows["digest"][again]
            bounds = pairwise(accumulate(encoded.facts["stored_size"].tolist(), initial=0))
            for at, (begin, end) in zip(again.tolist(), bounds, strict=True):
                stored[at] = encoded.stored[begin:end]
        return EncodedBatch(facts, b"".join(stored))

    def _small(self, sample: Living) -> tuple[list[bytes], list[str]]:
        """Contents and media types of files of a sample that compressing anew is for, up to `LOADED_BYTES`.

        Empty contents stand for the others, as many as keep their share.
        """
        small = _small_compressed(sample.rows)
        chosen = small[np.cumsum(sample.rows["size"][small].astype(np.int64)) <= LOADED_BYTES]
        contents = self._decoded(sample.rows[chosen], self._stored(sample.rows[chosen]), np.arange(len(chosen)))
        others = (len(sample) - len(small)) * len(chosen) // max(1, len(small))
        return contents + [b""] * others, [sample.attributes[at].media_type for at in chosen.tolist()] + [""] * others

    def _stored(self, rows: NDArray[np.void]) -> list[bytes]:
        """The stored bytes of each row."""
        found = [b""] * len(rows)
        for number in np.unique(rows["shelf"]).tolist():
            own = np.flatnonzero(rows["shelf"] == number)
            shelf = self._shelves[number]
            with Naming(shelf.reader.source.where):
                for at, data in zip(own.tolist(), shelf.stored(rows[own]), strict=True):
                    found[at] = data
        return found

    def _decoded(self, rows: NDArray[np.void], stored: Sequence[bytes], chosen: NDArray[np.int64]) -> list[bytes]:
        """The contents of the chosen rows."""
        contents: dict[int, bytes] = {}
        for number in np.unique(rows["shelf"][chosen]).tolist():
            own = chosen[rows["shelf"][chosen] == number].tolist()
            reader = self._shelves[number].reader
            codes, sizes, parameters = (rows[name][own].tolist() for name in ("codec", "size", "parameter"))
            batch = [
                Stored(CODECS[code], stored[at], size, parameter)
                for at, code, size, parameter in zip(own, codes, sizes, parameters, strict=True)
            ]
            with Naming(reader.source.where):
                contents.update(zip(own, decode_many(batch, reader.dictionaries()), strict=True))
        return [contents[at] for at in chosen.tolist()]


def _small_compressed(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """The places of contents that a dictionary may make smaller, or that one has."""
    return np.flatnonzero(_COMPRESSED[rows["codec"]] & (rows["size"] <= DICTIONARY_UP_TO))


@dataclass(slots=True)
class _Filling:
    """A shard while it is filled."""

    aim: Aim
    recoder: _Recoder
    path: Path
    file: IO[bytes]
    writer: ShardWriter
    stored_bytes: int = 0
    keys: list[int] = field(default_factory=list)
    shelves: set[int] = field(default_factory=set)

    @classmethod
    def begin(cls, shelves: Sequence[Shelf], aim: Aim, sample: Living, left: int) -> _Filling:
        """An empty one for versions of which about `left` are left, and `sample` are the first."""
        recoder = _Recoder(shelves, aim.policy, sample, min(aim.rows, left))
        handle, name = tempfile.mkstemp(dir=aim.spool, prefix="repack-", suffix=".vera")
        file = os.fdopen(handle, "wb")
        writer = ShardWriter(file, options=aim.options, dictionaries=recoder.dictionaries)
        return cls(aim, recoder, Path(name), file, writer)

    @property
    def full(self) -> bool:
        """Whether nothing more should go into it."""
        return self.writer.entries >= self.aim.rows or self.stored_bytes >= self.aim.stored_bytes

    def room(self, living: Living) -> int:
        """How many of these versions to take next: such as are worked on at once, and fit."""
        most = min(LEAST_ROWS, self.aim.rows - self.writer.entries)
        sizes = np.cumsum(living.rows["size"][:most].astype(np.int64))
        return max(1, int(np.searchsorted(sizes, LOADED_BYTES, "right")))

    def take(self, piece: Living) -> int:
        """Appends versions; returns the bytes that their contents take."""
        batch = self.recoder.recode(piece)
        keys = piece.rows["key"].tolist()
        uids = [uid.decode() for uid in piece.uids]
        times = piece.rows["created_at"]
        self.writer.append_batch(Names(uids, times, piece.attributes, piece.origins(), keys), batch)
        stored = int(batch.facts["stored_size"].sum())
        self.stored_bytes += stored
        if len(self.keys) <= FILTER_ENTRIES:
            self.keys += keys
        self.shelves.update(np.unique(piece.rows["shelf"]).tolist())
        return stored

    def finish(self) -> NewShard:
        """The finished shard."""
        with self.file:
            summary = self.writer.finish()
        local = LocalShard(self.path, summary.sha256, summary.size)
        return NewShard(local, summary, self.keys, frozenset(self.shelves))
