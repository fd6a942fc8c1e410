"""Writes one shard, front to back, in bounded memory: files in the order of their keys, then `finish`.

The same files with the same options, writer version and codec libraries give the same bytes, however they come in
batches: nothing here asks a clock, a random source or the order of a hash table. Contents come encoded
(`vera_core.encoding`); where the bytes go is the sink's business. Not safe to share between threads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vera_core.codec import MAX_DICTIONARIES, MAX_DICTIONARY, crc32, digest
from vera_core.dictionary import SEPARATOR
from vera_core.encoding import Encoded, EncodedBatch
from vera_core.errors import UsageError
from vera_core.format import layout
from vera_core.format.columns import COLUMNS, TIME_BIAS, Metadata, encode_attributes, encode_body, origin_numbers
from vera_core.format.directory import encode_dictionary
from vera_core.format.groups import (
    AFTER,
    GROUP_BYTES,
    KEYED,
    NAME_BYTES,
    PLAIN,
    GroupBody,
    encode_group,
    group_entries,
)
from vera_core.format.sealed import keyed_key
from vera_core.format.sharing import Contents, Unshared
from vera_core.format.source import Naming
from vera_core.format.stream import FileStream
from vera_core.format.tail import Front, GroupFacts, Outline, encode_tail
from vera_core.format.waiting import ROW, Names, Waiting
from vera_core.model import Codec, Erasability, Policy, check_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vera_core.format.stream import Readable, Streamed
    from vera_core.model import Origin

_QUEUE = 256


class Sink(Protocol):
    """Where a shard's bytes go, in order."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Takes all of `data`."""
        ...


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """What a shard says of itself in its header.

    `repository_id` is 16 bytes, the same for every tenant of the repository. `group_entries` fixes the entries of a
    group (1 to 16,384) instead of the usual rule; for tests. With `encryption` the shard takes sealed files under keyed
    uids, and nothing else.
    """

    repository_id: bytes
    retention_class: str
    erasability: Erasability = Erasability.ERASABLE
    group_entries: int | None = None
    encryption: layout.Encryption | None = None

    def __post_init__(self) -> None:
        if len(self.repository_id) != 16:
            raise UsageError(f"a repository id has 16 bytes, not {len(self.repository_id)}")
        if self.group_entries is not None and not 1 <= self.group_entries <= layout.MAX_GROUP_ENTRIES:
            raise UsageError(f"a group holds 1 to {layout.MAX_GROUP_ENTRIES} entries, not {self.group_entries}")
        if self.encryption is not None and not self.encryption.is_possible:
            raise UsageError("no shard can be encrypted like this", keyring_id=self.encryption.keyring_id.hex())

    @property
    def most_entries(self) -> int:
        """How many entries the shard holds at most: an encrypted one has a key for each."""
        return layout.MAX_ENTRIES if self.encryption is None else min(layout.MAX_ENTRIES, 1 << self.encryption.depth)


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What was written: `size` bytes with this `sha256`; keys of the first and last entry (0 if empty)."""

    size: int
    sha256: bytes
    entries: int
    content_bytes: int
    stored_bytes: int
    min_key: int
    max_key: int


class ShardWriter:
    """Writes one shard to `sink`. Holds one group and its contents (some MiB) and 80 bytes for each of a million files.

    Raises:
        UsageError: impossible options, or a call out of order; anything the sink raises.
    """

    def __init__(self, sink: Sink, *, options: ShardOptions, dictionaries: Sequence[bytes] = ()) -> None:
        if len(dictionaries) > MAX_DICTIONARIES or any(len(data) > MAX_DICTIONARY for data in dictionaries):
            raise UsageError(f"a shard holds {MAX_DICTIONARIES} dictionaries of {MAX_DICTIONARY} bytes at most")
        if options.encryption is not None and not all(data.startswith(SEPARATOR) for data in dictionaries):
            raise UsageError("an encrypted shard holds only dictionaries of what many files have in common")
        self._sink = sink
        self._options = options
        self._dictionaries = dictionaries
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._queue: list[tuple[str, int, Encoded, tuple[str, Metadata], Origin | None]] = []
        self._waiting = Waiting(np.zeros(0, ROW), [], [], b"")
        self._last = (-1, b"")
        self._uids = PLAIN if options.encryption is None else KEYED
        self._contents = Contents() if options.encryption is None else Unshared()
        self._outline = Outline()
        self._header: bytes | None = None
        self._data_start = 0
        self._streamed = False
        self._closed = False

    @property
    def entries(self) -> int:
        """Entries appended so far."""
        return self._outline.entries + len(self._waiting.rows) + len(self._queue)

    def append(
        self,
        uid: str,
        created_at: int,
        encoded: Encoded,
        *,
        media_type: str = "",
        metadata: Metadata = (),
        origin: Origin | None = None,
    ) -> int:
        """Adds a file; returns its ordinal. `created_at` is in microseconds since 1970 UTC.

        Nothing was added when it raises, and the writer goes on.

        Raises:
            BadUidError: the uid is none.
            UsageError: the uid's key is before the last one's; content too large, time out of range, bad metadata,
                shard full or finished.
        """
        ordinal = self.entries
        names = Names((uid,), (created_at,), ((media_type, metadata),), (origin,))
        self._last = self._check(names, EncodedBatch.of((encoded,)))[1]
        self._queue.append((uid, created_at, encoded, (media_type, metadata), origin))
        if len(self._queue) >= _QUEUE or len(encoded.stored) >= GROUP_BYTES >> 5:
            self._drain()
        return ordinal

    def append_batch(self, names: Names, batch: EncodedBatch, *, first: int | None = None) -> int:
        """Adds files; returns the ordinal of the first, which must be `first`, if that is given.

        Nothing was added when it raises, and the writer goes on.

        Raises:
            BadUidError, UsageError: as `append`; or another ordinal is next.
        """
        ordinal = self.entries
        if first not in (None, ordinal):
            raise UsageError(f"files for ordinals from {first} on came where {ordinal} is next")
        if not len(batch):
            return ordinal
        waiting, last = self._check(names, batch)
        self._drain()
        self._last = last
        self._waiting = self._waiting.joined(waiting)
        self._flush_full()
        return ordinal

    def append_stream(
        self,
        uid: str,
        created_at: int,
        file: Readable,
        size: int,
        *,
        policy: Policy = Policy.BALANCED,
        media_type: str = "",
        metadata: Metadata = (),
        origin: Origin | None = None,
    ) -> Encoded:
        """Adds a file of any size, which must be the shard's only one, in constant memory.

        Returns its codec, checksums and size; `stored` is empty.

        Raises:
            BadUidError: the uid is none.
            UsageError: `file` holds more or less than `size` bytes (the shard is of no use then), or as `append`.
        """
        if self._options.encryption is not None:
            raise UsageError("a file is streamed to an encrypted shard only if it is sealed", uid=uid)
        if not layout.MIN_TIME <= created_at <= layout.MAX_TIME or not 0 <= size < layout.MAX_SIZE:
            raise UsageError(f"time {created_at} or size {size} is out of range", uid=uid)
        name, attributes = check_uid(uid).encode(), encode_attributes(media_type, metadata)
        row = np.zeros(1, ROW)
        row["key"] = int.from_bytes(digest(name)[:8], "big")
        row["created_at"] = created_at + TIME_BIAS
        row["origin_commit"], row["origin_ordinal"] = origin_numbers(origin)
        self._check_alone(uid)
        with Naming({"uid": uid}):
            return self._append_alone(Waiting(row, [name], [attributes], b""), FileStream(file, size, policy))

    def append_sealed(self, keyed_uid: str, sealed: Streamed, *, origin: Origin | None = None) -> Encoded:
        """Adds a sealed stream (`keys.streams.SealedStream`), which must be the shard's only file, as `append_stream`.

        Raises:
            UsageError: the shard is not encrypted, this is no keyed uid, or as `append_stream`.
        """
        if self._options.encryption is None:
            raise UsageError("a sealed file needs an encrypted shard", uid=keyed_uid)
        row = np.zeros(1, ROW)
        row["key"] = keyed_key(keyed_uid.encode("utf-8", "surrogatepass"))
        row["created_at"] = TIME_BIAS
        row["origin_commit"], row["origin_ordinal"] = origin_numbers(origin)
        self._check_alone(keyed_uid)
        return self._append_alone(Waiting(row, [keyed_uid.encode()], [b""], b""), sealed)

    def finish(self) -> ShardSummary:
        """Writes what waits, the directory and the footer. The sink is not closed.

        Raises:
            UsageError: finished before, a streamed file failed, or there are too many groups (at least 64 GiB).
        """
        if self._closed:
            raise UsageError("the shard is finished already, or its streamed file failed")
        self._drain()
        while len(self._waiting.rows):
            self._flush(self._cut() or len(self._waiting.rows))
        self._closed = True
        front = Front(self._write_header(), self._dictionaries, self._data_start, self._position)
        self._emit(encode_tail(front, self._outline))
        outline = self._outline
        return ShardSummary(
            self._position,
            self._sha256.digest(),
            outline.entries,
            outline.content_bytes,
            outline.stored_bytes,
            outline.min_key,
            outline.max_key,
        )

    def _check(self, names: Names, batch: EncodedBatch) -> tuple[Waiting, tuple[int, bytes]]:
        """The rows of a batch and its last (key, uid), once everything about them is right."""
        if self._closed or self._streamed:
            raise UsageError(
                "the shard is finished or holds a streamed file; nothing can be added to it", uid=names.uids[0]
            )
        if self.entries + len(batch) > self._options.most_entries:
            raise UsageError(f"the shard is full with {self.entries} entries", todo="Begin another one.")
        codecs = batch.facts["codec"]
        compressed = (codecs == Codec.ZSTD) | (codecs == Codec.ZSTD_BLOCK)
        if int(batch.facts["parameter"][compressed].max(initial=0)) > len(self._dictionaries):
            raise UsageError("a content was encoded with a dictionary that the shard does not have", uid=names.uids[0])
        waiting = Waiting.of(names, batch, self._uids)
        return waiting, waiting.last(self._last)

    def _drain(self) -> None:
        """Makes rows of the queue, whose files were checked when they came."""
        if not self._queue:
            return
        uids, times, encoded, attributes, origins = zip(*self._queue, strict=True)
        self._queue = []
        more = Waiting.of(Names(uids, times, attributes, origins), EncodedBatch.of(encoded), self._uids)
        self._waiting = self._waiting.joined(more)
        self._flush_full()

    def _flush_full(self) -> None:
        while cut := self._cut():
            self._flush(cut)

    def _cut(self) -> int:
        """How many of the waiting entries make a full group; 0 if there are too few."""
        most = self._options.group_entries or group_entries(self._outline.entries)
        full = self._waiting.until(GROUP_BYTES, NAME_BYTES, most)
        return full if full <= len(self._waiting.rows) else 0

    def _flush(self, count: int) -> None:
        """Writes the first `count` waiting entries as a group."""
        self._closed = True  # for good, if the sink fails
        self._write_header()
        group, self._waiting = self._waiting.split(count)
        sizes = group.rows["stored_size"].copy()
        place = self._contents.share(group.rows)
        own = np.flatnonzero((place == 0) & (sizes > 0))
        begin = self._write_group(group, place)
        self._contents.add(group.rows[own], begin)
        self._emit(group.contents_of(own, sizes))
        self._closed = False

    def _write_group(self, group: Waiting, place: NDArray[np.uint64], *, flags: int = 0) -> int:
        """Writes the block of a group; returns where it ends."""
        rows = group.rows
        table = {text: number for number, text in enumerate(dict.fromkeys(group.attributes))}
        codes = np.array(list(map(table.__getitem__, group.attributes)), np.uint64)
        own = {"flags": np.zeros(len(rows), np.uint64), "attributes": codes, "place": place}
        columns = [own[name] if name in own else rows[name].astype(np.uint64) for name in COLUMNS]
        content_size = int(rows["stored_size"][place == 0].sum())
        body = GroupBody(
            len(rows),
            int(rows["key"][0]),
            encode_body(columns, list(table), b"".join(group.uids)),
            int(rows["uid_length"].sum()),
            rows["digest"].tobytes() + rows["crc32"].tobytes(),
        )
        block = encode_group(self._position, self._outline.entries, content_size, body, flags=flags)
        self._outline.add(GroupFacts(len(block), content_size, rows["key"], rows["size"], rows["created_at"]))
        self._emit(block)
        return self._position

    @property
    def _incompat(self) -> int:
        flags = (layout.STREAMED if self._streamed else 0) | (layout.DICTIONARIES if self._dictionaries else 0)
        return flags | (layout.SEALED if self._options.encryption else 0)

    def _emit(self, data: bytes | memoryview) -> None:
        self._sink.write(data)
        self._sha256.update(data)
        self._position += len(data)

    def _write_header(self) -> bytes:
        if self._header is None:
            options = self._options
            scheme = options.encryption or layout.Encryption()
            header = layout.Header(
                options.repository_id, options.retention_class, options.erasability, self._incompat, encryption=scheme
            )
            self._header = header.pack()
            self._emit(self._header)
            for number, dictionary in enumerate(self._dictionaries, 1):
                self._emit(encode_dictionary(dictionary, number, self._position))
            self._data_start = self._position
        return self._header

    def _check_alone(self, uid: str) -> None:
        """Makes sure that a streamed file is the only one; nothing more can be added if it fails."""
        if self._closed or self._streamed or self.entries or self._dictionaries:
            raise UsageError("a streamed file needs a shard of its own", uid=uid)
        self._streamed = self._closed = True  # until all went well

    def _append_alone(self, waiting: Waiting, coming: Streamed) -> Encoded:
        """Writes the stored bytes of the shard's only file, and the group of it, whose row lacks what they tell."""
        self._write_header()
        crc = 0
        for piece in coming:
            crc = crc32(piece, crc)
            self._emit(piece)
        encoded = coming.facts()
        row = waiting.rows
        row["size"], row["stored_size"] = encoded.size, self._position - self._data_start
        row["crc32"], row["codec"], row["uid_length"] = crc, encoded.codec, len(waiting.uids[0])
        row["digest"] = np.frombuffer(encoded.sha256, np.uint8)
        self._write_group(waiting, np.zeros(1, np.uint64), flags=AFTER)
        self._closed = False
        return encoded
