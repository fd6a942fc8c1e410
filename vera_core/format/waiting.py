"""Entries on their way into a shard, as columns: checked when they come, cut into groups when there are enough.

Which of their contents are stored already is sharing.py's business, what is written of them writer.py's.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise, starmap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import MAX_INLINE
from vera_core.errors import UsageError
from vera_core.format import layout
from vera_core.format.columns import TIME_BIAS, Metadata, encode_attributes, origin_numbers
from vera_core.format.groups import PLAIN, Uids
from vera_core.format.sealed import look_sealed
from vera_core.model import MAX_UID_BYTES, check_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vera_core.encoding import EncodedBatch
    from vera_core.model import Origin

ROW = np.dtype(
    [
        ("key", "<u8"),
        ("created_at", "<u8"),
        ("size", "<u8"),
        ("stored_size", "<u8"),
        ("crc32", "<u4"),
        ("origin_commit", "<u4"),
        ("origin_ordinal", "<u4"),
        ("parameter", "<u2"),
        ("uid_length", "<u2"),
        ("codec", "u1"),
        ("digest", "u1", (32,)),
    ]
)
"""An entry as it waits; `created_at` is biased as in its column."""

_attributes = lru_cache(maxsize=4096)(encode_attributes)


class Names(NamedTuple):
    """What a batch's files are called: uids, microseconds since 1970 UTC, (media type, metadata), origins if any.

    `keys` are the keys of the uids, where they are known. A shard stores only each group's first: verifying finds a
    wrong one, or one that put its file in a wrong place.
    """

    uids: Sequence[str]
    created_at: Sequence[int] | NDArray[np.int64]
    attributes: Sequence[tuple[str, Metadata]]
    origins: Sequence[Origin | None] | None = None
    keys: Sequence[int] | None = None


class Waiting(NamedTuple):
    """Entries that wait for their group, as columns, and their stored bytes end to end."""

    rows: NDArray[np.void]
    uids: list[bytes]
    attributes: list[bytes]
    stored: bytes | memoryview

    @classmethod
    def of(cls, names: Names, batch: EncodedBatch, kind: Uids = PLAIN) -> Waiting:
        """The entries of a batch, for a shard with such uids.

        Raises:
            BadUidError: a uid is none.
            UsageError: a time out of range, a content too large, bad metadata, or names and contents of unequal number;
                not sealed, and the shard is encrypted.
        """
        if not len(names.uids) == len(names.created_at) == len(names.attributes) == len(batch):
            raise UsageError(f"{len(names.uids)} uids were given for {len(batch)} contents")
        rows = np.zeros(len(batch), ROW)
        uids = encode_uids(names.uids)
        rows["uid_length"] = list(map(len, uids))
        times = _times(names)
        for name in ("size", "stored_size", "crc32", "parameter", "codec", "digest"):
            rows[name] = batch.facts[name]
        bad = (times < layout.MIN_TIME) | (times > layout.MAX_TIME)
        large = (rows["stored_size"] > rows["size"]) | (rows["size"] > MAX_INLINE)
        if bool(bad.any()):
            at = int(np.argmax(bad))
            raise UsageError(f"{times[at]} microseconds since 1970 is outside year 1 to 9999", uid=names.uids[at])
        if bool(large.any()):
            at = int(np.argmax(large))
            raise UsageError(
                f"a content of {rows['size'][at]} bytes can't be stored inline", todo="Stream it.", uid=names.uids[at]
            )
        rows["created_at"] = times.view(np.uint64) + np.uint64(TIME_BIAS)
        if names.origins is not None:
            numbers = [origin_numbers(origin) for origin in names.origins]
            rows["origin_commit"], rows["origin_ordinal"] = zip(*numbers, strict=True)
        attributes = list(starmap(_attributes, names.attributes))
        if kind.sealed and (any(attributes) or not look_sealed(rows, b"".join(uids))):
            raise UsageError("an encrypted shard takes sealed files under keyed uids only", uid=names.uids[0])
        rows["key"] = kind.keys(uids) if names.keys is None else names.keys
        return cls(rows, uids, attributes, batch.stored)

    def last(self, before: tuple[int, bytes]) -> tuple[int, bytes]:
        """The last (key, uid), once all are in order, beginning with `before`.

        Raises:
            UsageError: naming the uid that comes too late.
        """
        keys = self.rows["key"]
        # Nearly always the keys rise, and nothing else need be looked at.
        for row in (0, *(np.flatnonzero(keys[1:] <= keys[:-1]) + 1).tolist()):
            if row:
                before = int(keys[row - 1]), self.uids[row - 1]
            if (int(keys[row]), self.uids[row]) < before:
                raise UsageError(
                    "files must come in the order of the first 8 bytes of their uid's SHA-256, or of the keyed uid "
                    "itself, then of the uid",
                    todo="Sort them.",
                    uid=self.uids[row].decode(),
                )
        return int(keys[-1]), self.uids[-1]

    def until(self, content_bytes: int, name_bytes: int, most: int) -> int:
        """How many entries reach so many bytes of stored contents, or of uids and attributes, or are `most`."""
        rows = self.rows[:most]
        names = np.array(list(map(len, self.attributes[:most])), np.uint64) + rows["uid_length"]
        reached = ((rows["stored_size"], content_bytes), (names, name_bytes))
        return min(most, *(int(np.searchsorted(np.cumsum(sizes), limit)) + 1 for sizes, limit in reached))

    def joined(self, more: Waiting) -> Waiting:
        """These and more."""
        if not len(self.rows):
            return more
        return Waiting(
            np.concatenate((self.rows, more.rows)),
            self.uids + more.uids,
            self.attributes + more.attributes,
            b"".join((self.stored, more.stored)),
        )

    def split(self, count: int) -> tuple[Waiting, Waiting]:
        """The first `count`, and the others."""
        cut = int(self.rows["stored_size"][:count].sum())
        return (
            Waiting(
                self.rows[:count].copy(), self.uids[:count], self.attributes[:count], memoryview(self.stored)[:cut]
            ),
            Waiting(self.rows[count:], self.uids[count:], self.attributes[count:], memoryview(self.stored)[cut:]),
        )

    def contents_of(self, chosen: NDArray[np.int64], sizes: NDArray[np.uint64]) -> bytes | memoryview:
        """The stored bytes of some rows, by the sizes with which they came."""
        if int(sizes[chosen].sum()) == len(self.stored):
            return self.stored
        bounds = list(pairwise(accumulate(sizes.tolist(), initial=0)))
        return b"".join([self.stored[begin:end] for begin, end in (bounds[row] for row in chosen.tolist())])


def encode_uids(uids: Sequence[str]) -> list[bytes]:
    """Uids as bytes; looked at one by one only where something is not plainly right.

    Raises:
        BadUidError: naming the first that is none.
    """
    try:
        encoded = list(map(str.encode, uids))
    except UnicodeEncodeError:
        encoded = []
    plain = all(encoded) and max(map(len, encoded), default=MAX_UID_BYTES + 1) <= MAX_UID_BYTES
    return encoded if plain and " ".join(uids).isprintable() else [check_uid(uid).encode() for uid in uids]


def _times(names: Names) -> NDArray[np.int64]:
    try:
        return np.asarray(names.created_at, np.int64)
    except OverflowError as error:
        raise UsageError("a time is outside year 1 to 9999", uid=names.uids[0]) from error
