"""New shards of versions that lie in old ones, built in the spool and proved there (docs/protocol.md, Repack).

Contents move as they are stored, but for small compressed ones, which are compressed anew: an old dictionary may hold
pieces of files that were erased, so none is taken over. (Where that is the aim, all are.) Each new shard gets
dictionaries of its own, trained on its first files as packing does. What is sealed is opened (unsealing.py), and sealed
anew under fresh keys. Nothing here talks to a slot log or uploads anything.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from vera_core.codec import Stored, decode_many
from vera_core.encoding import DICTIONARY_UP_TO, FACTS, EncodedBatch, Encoder
from vera_core.errors import IntegrityError
from vera_core.format import FileSource, Names, ShardReader, ShardWriter
from vera_core.format.groups import CODECS
from vera_core.format.layout import DICTIONARY
from vera_core.format.source import Naming
from vera_core.keys.shards import ShardOpener, ShardSealer
from vera_core.operations.commit import LocalShard
from vera_core.operations.living import LEAST_ROWS, Living, Shelf, joined, merged
from vera_core.operations.load import LOADED_BYTES
from vera_core.operations.unsealing import unsealing
from vera_core.slots import FILTER_ENTRIES
from vera_core.training import train_dictionaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from vera_core.format import ShardOptions, ShardSummary
    from vera_core.keys.keyring import Keyring
    from vera_core.keys.tenant import TenantKey
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
    built; `tenant`: whose key names their files, None where they are not encrypted; `anew`: all contents are compressed
    anew.
    """

    options: ShardOptions
    policy: Policy
    rows: int
    stored_bytes: int
    expected: int
    spool: Path
    tenant: TenantKey | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class NewShard:
    """A finished shard in the spool.

    `keys` are those of its first entries; `shelves` are those of the old shards that gave it versions; `sealer` has the
    keys of its files where it is encrypted.
    """

    local: LocalShard
    summary: ShardSummary
    keys: list[int]
    shelves: frozenset[int]
    sealer: ShardSealer | None = None

    @property
    def keyring(self) -> Keyring | None:
        """What opens its files where it is encrypted."""
        return None if self.sealer is None else self.sealer.keyring(self.local.sha256)


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


def sampled(shelf: Shelf, aim: Aim) -> tuple[int, int]:
    """About how many bytes a shelf's contents and dictionaries take, and would take in a new shard; nothing is built.

    Of its first versions, up to some MB, on which the dictionaries of both are trained: so neither has an advantage.
    The shelf is used up by it.

    Raises:
        FormatError: the shard is damaged.
    """
    while len(shelf.rest) < LEAST_ROWS and not shelf.done:
        shelf.more()
    sample = shelf.take(None)
    sample = sample.cut(0, _room(sample.rows["stored_size"]))
    recoder = _Recoder([shelf], aim, sample, aim.expected)
    before = after = 0
    for part in _opened([shelf], sample, for_good=False).parts():
        before += sum(map(len, part.stored))
        after += int(recoder.recode(part).facts["stored_size"].sum())
    rows = aim.expected / max(1, len(sample))
    own = [section.raw_size for section in shelf.reader.sections if section.tag == DICTIONARY]
    # A shard has each dictionary twice.
    return int(before * rows) + 2 * sum(own), int(after * rows) + 2 * sum(map(len, recoder.dictionaries))


def prove(new: NewShard, inspect: Inspect) -> int:
    """Has a new shard re-opened and every sum in it checked; returns the census of its versions (`Living.census`).

    Contents are proved by the digest with which they were archived; those of an encrypted shard are opened for that,
    with its own keys. Uids, times and origins are, once the census of all new shards is that of the old ones.

    Raises:
        IntegrityError: memory or disk of this machine altered it.
    """
    found = inspect(new.local.path, None if new.sealer is None else new.sealer.seals(new.local.sha256))
    with FileSource(new.local.path) as source:
        shelf = _shelf_of(new, source)
        while not shelf.done:
            shelf.more()
            _count_sealed(shelf, shelf.take(None))
    if (found.sha256, shelf.kept) != (new.local.sha256, new.summary.entries):
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=new.local.path,
        )
    return shelf.census


def _shelf_of(new: NewShard, source: FileSource) -> Shelf:
    keyring = new.keyring
    if new.sealer is None or keyring is None:
        return Shelf(0, ShardReader.open(source), 0, {})
    opener = ShardOpener(ShardReader.open(source, sealed=True), new.sealer.tenant, keyring)
    return Shelf(0, opener.reader, 0, {}, unsealing(lambda: opener))


def _count_sealed(shelf: Shelf, living: Living) -> None:
    """Has what was sealed in some versions in the shelf's census too."""
    while shelf.sealed and len(living):
        piece = living.cut(0, _room(living.rows["stored_size"]))
        shelf.open(piece, for_good=True)
        living = living.cut(len(piece), len(living))


@dataclass(frozen=True, slots=True)
class _Opened:
    """Versions as they were archived (unsealed, where they were sealed), the stored bytes of each, and their names."""

    names: list[bytes]
    living: Living
    stored: list[bytes]

    def parts(self) -> Iterator[_Opened]:
        """The same, so many at a time as are decoded at once."""
        begin = 0
        while begin < len(self.names):
            end = begin + _room(self.living.rows["size"][begin:])
            yield _Opened(self.names[begin:end], self.living.cut(begin, end), self.stored[begin:end])
            begin = end


def _opened(shelves: Sequence[Shelf], piece: Living, *, for_good: bool) -> _Opened:
    """A piece of what the shelves gave, whose contents are held from now on."""
    numbers = np.unique(piece.rows["shelf"]).tolist()
    if len(numbers) == 1:
        with Naming(shelves[numbers[0]].reader.source.where):
            return _Opened(piece.uids, *shelves[numbers[0]].open(piece, for_good=for_good))
    rows, uids, attributes = piece.rows.copy(), list(piece.uids), list(piece.attributes)
    stored = [b""] * len(piece)
    for number in numbers:
        own = np.flatnonzero(piece.rows["shelf"] == number).tolist()
        with Naming(shelves[number].reader.source.where):
            living, data = shelves[number].open(piece.chosen(own), for_good=for_good)
        rows[own] = living.rows
        for at, uid, more, each in zip(own, living.uids, living.attributes, data, strict=True):
            uids[at], attributes[at], stored[at] = uid, more, each
    return _Opened(piece.uids, Living(rows, uids, attributes), stored)


def _decoded(shelves: Sequence[Shelf], part: _Opened, chosen: NDArray[np.int64]) -> list[bytes]:
    """The contents of the chosen versions."""
    rows = part.living.rows
    contents: dict[int, bytes] = {}
    for number in np.unique(rows["shelf"][chosen]).tolist():
        own = chosen[rows["shelf"][chosen] == number].tolist()
        reader = shelves[number].reader
        codes, sizes, parameters = (rows[name][own].tolist() for name in ("codec", "size", "parameter"))
        batch = [
            Stored(CODECS[code], part.stored[at], size, parameter)
            for at, code, size, parameter in zip(own, codes, sizes, parameters, strict=True)
        ]
        with Naming(reader.source.where):
            contents.update(zip(own, decode_many(batch, reader.dictionaries()), strict=True))
    return [contents[at] for at in chosen.tolist()]


def _room(sizes: NDArray[np.uint32]) -> int:
    """How many of the first versions, with so many bytes each, to work on at once: at least one."""
    return max(1, int(np.searchsorted(np.cumsum(sizes[:LEAST_ROWS].astype(np.int64)), LOADED_BYTES, "right")))


class _Recoder:
    """Makes the stored bytes of a new shard from those of the old ones, with dictionaries trained on a sample.

    `files`: about how many there will be in the new shard.
    """

    def __init__(self, shelves: Sequence[Shelf], aim: Aim, sample: Living, files: int) -> None:
        self.shelves = shelves
        self._sealed, self._anew = aim.tenant is not None, aim.anew
        contents, media_types = self._small(sample)
        trained = train_dictionaries(contents, media_types, policy=aim.policy, files=files, common=self._sealed)
        # Not their digests anew: those that they were archived with are what the new shard is proved by.
        self._encoder = Encoder(aim.policy, trained, digest_with=lambda _: bytes(32))

    @property
    def dictionaries(self) -> tuple[bytes, ...]:
        """Those that the new shard must have."""
        return self._encoder.trained.dictionaries

    def recode(self, part: _Opened) -> EncodedBatch:
        """The contents of some versions for the new shard, with the digest that they have had from the first.

        Raises:
            FormatError: an old shard is damaged.
        """
        rows, attributes = part.living.rows, part.living.attributes
        stored: list[bytes | memoryview] = [*part.stored]
        facts = np.zeros(len(rows), FACTS)
        for name in _SAME:
            facts[name] = rows[name]
        again = self._again(rows)
        if len(again):
            contents = _decoded(self.shelves, part, again)
            encoded = self._encoder.encode(contents, [attributes[at].media_type for at in again.tolist()])
            facts[again] = encoded.facts
            facts["digest"][again] = rows["digest"][again]
            bounds = pairwise(accumulate(encoded.facts["stored_size"].tolist(), initial=0))
            for at, (begin, end) in zip(again.tolist(), bounds, strict=True):
                stored[at] = encoded.stored[begin:end]
        return EncodedBatch(facts, b"".join(stored))

    def _again(self, rows: NDArray[np.void]) -> NDArray[np.int64]:
        """The places of contents that are compressed anew."""
        if self._anew:
            return np.flatnonzero(rows["size"])
        again = _small_compressed(rows)
        return again if self.dictionaries else again[rows["parameter"][again] > 0]

    def _small(self, sample: Living) -> tuple[list[bytes], list[str]]:
        """Contents and media types of files of a sample that compressing anew is for, up to `LOADED_BYTES`.

        Empty contents stand for the others, as many as keep their share.
        """
        # How a sealed file is compressed is only known once it is open.
        rows = sample.rows
        likely = np.flatnonzero(rows["stored_size"] <= DICTIONARY_UP_TO) if self._sealed else _small_compressed(rows)
        likely = likely[np.cumsum(rows["stored_size"][likely].astype(np.int64)) <= LOADED_BYTES]
        part = _opened(self.shelves, sample.chosen(likely.tolist()), for_good=False)
        small = _small_compressed(part.living.rows)
        chosen = small[np.cumsum(part.living.rows["size"][small].astype(np.int64)) <= LOADED_BYTES]
        contents = _decoded(self.shelves, part, chosen)
        others = (len(sample) - len(small)) * len(chosen) // max(1, len(small))
        media_types = [part.living.attributes[at].media_type for at in chosen.tolist()]
        return contents + [b""] * others, media_types + [""] * others


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
    sealer: ShardSealer | None = None
    keys: list[int] = field(default_factory=list)
    shelves: set[int] = field(default_factory=set)

    @classmethod
    def begin(cls, shelves: Sequence[Shelf], aim: Aim, sample: Living, left: int) -> _Filling:
        """An empty one for versions of which about `left` are left, and `sample` are the first."""
        recoder = _Recoder(shelves, aim, sample, min(aim.rows, left))
        sealer, options = None, aim.options
        if aim.tenant is not None:
            sealer = ShardSealer.fresh(aim.tenant, min(aim.rows, sum(shelf.reader.entry_count for shelf in shelves)))
            options = replace(options, encryption=sealer.encryption)
        handle, name = tempfile.mkstemp(dir=aim.spool, prefix="repack-", suffix=".vera")
        file = os.fdopen(handle, "wb")
        writer = ShardWriter(file, options=options, dictionaries=recoder.dictionaries)
        return cls(aim, recoder, Path(name), file, writer, sealer=sealer)

    @property
    def full(self) -> bool:
        """Whether nothing more should go into it."""
        return self.writer.entries >= self.aim.rows or self.stored_bytes >= self.aim.stored_bytes

    def room(self, living: Living) -> int:
        """How many of these versions to take next: such as are worked on at once, and fit."""
        return min(_room(living.rows["stored_size"]), self.aim.rows - self.writer.entries)

    def take(self, piece: Living) -> int:
        """Appends versions; returns the bytes that their contents take."""
        before = self.stored_bytes
        for part in _opened(self.recoder.shelves, piece, for_good=True).parts():
            self._append(part)
        if len(self.keys) <= FILTER_ENTRIES:
            self.keys += piece.rows["key"].tolist()
        self.shelves.update(np.unique(piece.rows["shelf"]).tolist())
        return self.stored_bytes - before

    def _append(self, part: _Opened) -> None:
        living, batch = part.living, self.recoder.recode(part)
        self.stored_bytes += int(batch.facts["stored_size"].sum())
        keys = living.rows["key"].tolist()
        uids = [uid.decode() for uid in living.uids]
        names = Names(uids, living.rows["created_at"], living.attributes, living.origins(), keys)
        if self.sealer is not None:
            keyed = [name.decode() for name in part.names]
            names, batch = self.sealer.seal(self.writer.entries, names, keyed, batch)
        self.writer.append_batch(names, batch)

    def finish(self) -> NewShard:
        """The finished shard."""
        with self.file:
            summary = self.writer.finish()
        local = LocalShard(self.path, summary.sha256, summary.size)
        return NewShard(local, summary, self.keys, frozenset(self.shelves), self.sealer)
