"""Loading rows: contents fetched and worked on ahead of whoever uses them, in order, in bounded memory.

Where the work is done (threads here, processes in loader.py) does not matter to what comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import numpy as np

from vera_core.codec import digest
from vera_core.encoding import FACTS, EncodedBatch, Encoder, Trained
from vera_core.source.base import Unreadable
from vera_core.training import train_dictionaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vera_core.encoding import Digest
    from vera_core.format.stream import Hasher
    from vera_core.keys.naming import Naming
    from vera_core.model import Policy
    from vera_core.source.base import BigContent, Fetched, Source
    from vera_core.source.rows import RowBatch

BATCH_ROWS = 512
TRAINING_ROWS = 1024
"""Rows of the first batch of a part, from which its dictionaries are trained."""
LOADED_BYTES = 4 << 20
"""A batch of rows is handed on in pieces of so many content bytes, so that sizes nobody declared stay bounded."""
TRAINING_BYTES = 16 << 20
"""The first batch of a part, on which its dictionaries are trained, may have so many."""
UNKNOWN_SIZE = 64 << 10
"""What a row without a declared size counts for in a batch."""
CHUNK = 1 << 20
IN_FLIGHT = 4

Work: TypeAlias = Callable[[Sequence[bytes], Sequence[str]], EncodedBatch]
"""Makes a batch of contents, given with their media types."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows and what became of their contents.

    `encoded` has a content for each row, an empty one for those in `special`, which are named by their place in `rows`.
    `trained` comes with the first rows of a part.
    """

    rows: RowBatch
    encoded: EncodedBatch
    special: Mapping[int, BigContent | Unreadable]
    trained: Trained = field(default_factory=Trained)

    def __len__(self) -> int:
        return len(self.rows)

    def head(self, count: int) -> Loaded:
        """The first `count` rows, or all if there are fewer."""
        if count >= len(self):
            return self
        facts = self.encoded.facts[:count]
        encoded = EncodedBatch(facts, self.encoded.stored[: int(facts["stored_size"].sum())])
        special = {place: item for place, item in self.special.items() if place < count}
        return Loaded(self.rows.slice(0, count), encoded, special, self.trained)


Start: TypeAlias = "Callable[[RowBatch, int], Future[Loaded]]"
"""Begins to load a batch; trains dictionaries on its first contents if the number, that of the part's files, is not 0.

It may load only some rows of the batch's beginning (at least one), and gets the rest again.
"""


class Encoding(NamedTuple):
    """How contents are encoded: what compressing aims at, and what stands for them.

    `common`: dictionaries hold only what many files have in common, as those of an encrypted shard must.
    """

    policy: Policy
    digest_with: Digest = digest
    common: bool = False

    @classmethod
    def of(cls, policy: Policy, naming: Naming) -> Self:
        """For the files of a tenant."""
        return cls(policy, naming.digest, common=naming.tenant_key is not None)


class PartWork:
    """The work of one part: trains dictionaries on the first contents it gets, then encodes all with them."""

    def __init__(self, encoding: Encoding, files: int) -> None:
        self.encoding = encoding
        self._files = files
        self._encoder: Encoder | None = None

    def encode(self, contents: Sequence[bytes], media_types: Sequence[str]) -> EncodedBatch:
        """The `Work`."""
        if self._encoder is None:
            self.train(contents, media_types)
        assert self._encoder is not None
        return self._encoder.encode(contents, media_types)

    def train(self, contents: Sequence[bytes], media_types: Sequence[str]) -> None:
        """Trains the part's dictionaries."""
        policy, _, common = self.encoding
        self.use(train_dictionaries(contents, media_types, policy=policy, files=self._files, common=common))

    def use(self, trained: Trained) -> None:
        """Goes on with these dictionaries."""
        self._encoder = Encoder(self.encoding.policy, trained, digest_with=self.encoding.digest_with)

    @property
    def trained(self) -> Trained:
        """The part's dictionaries; none until there was a content."""
        return Trained() if self._encoder is None else self._encoder.trained


class ThreadedLoading:
    """Loads in threads. Close it."""

    def __init__(self, source: Source, encoding: Encoding, threads: int) -> None:
        self._source = source
        self._encoding = encoding
        self._work = PartWork(encoding, 0)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vera-load")

    def start(self, batch: RowBatch, files: int) -> Future[Loaded]:
        """See `Start`."""
        if files:
            self._work = PartWork(self._encoding, files)
        return self._pool.submit(self._load, batch, self._work, files)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, batch: RowBatch, work: PartWork, files: int) -> Loaded:
        if not files:
            return load(self._source, batch, work.encode)
        encoded, special = worked_on(fetched_from(self._source, batch), batch.media_types, work.encode, TRAINING_BYTES)
        return Loaded(batch.slice(0, len(encoded)), encoded, special, work.trained)


def load_part(batches: Iterable[RowBatch], start: Start, files: int) -> Generator[Loaded]:
    """Loads the rows of a part, which has `files` of them, a few batches ahead of the one that is used, in order.

    The first batch is loaded alone: all others need the dictionaries that are trained on it.

    Raises:
        UnavailableError: the source can't be reached.
    """
    first = True
    coming = _cut(batches)
    for batch in coming:
        loaded = start(batch, files if first else 0).result()
        yield loaded
        yield from _rest(batch, len(loaded), start)
        if first:
            first = False
            break
    pending = deque((batch, start(batch, 0)) for batch in islice(coming, IN_FLIGHT))
    while pending:
        batch, future = pending.popleft()
        loaded = future.result()
        for more in islice(coming, 1):
            pending.append((more, start(more, 0)))
        yield loaded
        yield from _rest(batch, len(loaded), start)


def load_with(source: Source, batches: Iterable[RowBatch], work: Work, *, threads: int) -> Generator[Loaded]:
    """Loads rows in threads, a few batches ahead, in order, whatever the work on their contents is.

    Raises:
        UnavailableError: the source can't be reached.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="vera-load") as pool:

        def start(batch: RowBatch, _: int) -> Future[Loaded]:
            return pool.submit(load, source, batch, work)

        try:
            yield from load_part(batches, start, 0)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def load(source: Source, batch: RowBatch, work: Work) -> Loaded:
    """Loads a batch, or as much of its beginning as `LOADED_BYTES` allows (at least one row)."""
    encoded, special = worked_on(fetched_from(source, batch), batch.media_types, work, LOADED_BYTES)
    return Loaded(batch.slice(0, len(encoded)), encoded, special)


def fetched_from(source: Source, batch: RowBatch) -> Iterator[Fetched]:
    """The contents of rows; a row that carries a reason has none, and the source is not asked for it."""
    rows = batch.rows()
    contents = source.fetch([row for row in rows if not row.reject])
    return (Unreadable(row.reject, row.detail) if row.reject else next(contents) for row in rows)


def worked_on(
    fetched: Iterable[Fetched], media_types: Sequence[str], work: Work, most: int
) -> tuple[EncodedBatch, dict[int, BigContent | Unreadable]]:
    """The first contents, up to the one that reaches `most` bytes in all, and what is none, by place."""
    special: dict[int, BigContent | Unreadable] = {}
    places: list[int] = []
    contents: list[bytes] = []
    total = count = 0
    for place, item in enumerate(fetched):
        count += 1
        if isinstance(item, bytes):
            places.append(place)
            contents.append(item)
            total += len(item)
            if total >= most:
                break
        else:
            special[place] = item
    if not special:
        return work(contents, media_types[:count]), special
    encoded = work(contents, [media_types[place] for place in places])
    facts = np.zeros(count, FACTS)
    facts[places] = encoded.facts
    return EncodedBatch(facts, encoded.stored), special


def stream_digest(content: BigContent, hasher: Hasher) -> bytes:
    """The digest by `hasher` of a big file, read in constant memory.

    Raises:
        OSError: it can't be read.
    """
    with content.open() as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.digest()


def _rest(batch: RowBatch, loaded: int, start: Start) -> Iterator[Loaded]:
    """What is left of a batch of which only the beginning was loaded."""
    while loaded < len(batch):
        batch = batch.slice(loaded, len(batch))
        more = start(batch, 0).result()
        yield more
        loaded = len(more)


def _cut(batches: Iterable[RowBatch]) -> Iterator[RowBatch]:
    """Batches of up to `BATCH_ROWS` rows and `LOADED_BYTES` bytes, as far as is known; the first as training asks."""
    most, most_bytes = TRAINING_ROWS, TRAINING_BYTES
    for batch in batches:
        begin = 0
        weights = np.array([UNKNOWN_SIZE if size is None else size for size in batch.sizes], np.int64)
        ends: NDArray[np.int64] = np.cumsum(weights)
        while begin < len(batch):
            full = int(np.searchsorted(ends, int(ends[begin] - weights[begin]) + most_bytes)) + 1
            end = min(begin + most, full, len(batch))
            yield batch.slice(begin, end)
            begin, most, most_bytes = end, BATCH_ROWS, LOADED_BYTES
