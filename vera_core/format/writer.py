"""Writes one shard, front to back, in bounded memory: `append` files in any order of uids, then `finish`.

The same files in the same order with the same options, writer version and codec libraries give the same bytes: nothing
here asks a clock, a random source or the order of a hash table. Contents come encoded (`vera_core.codec`); where the
bytes go is the sink's business. Not safe to share between threads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from vera_core.codec import MAX_INLINE, Encoded, Policy, crc32, digest, pack_block
from vera_core.errors import UsageError
from vera_core.format import layout
from vera_core.format.columns import TIME_BIAS, Metadata, encode_attributes, encode_body, origin_numbers
from vera_core.format.groups import AFTER, GROUP_BYTES, GROUP_ENTRIES, encode_group
from vera_core.format.index import page_entries
from vera_core.format.paging import DirectoryBuilder, common_columns, sorted_pages
from vera_core.format.rows import ROW, Contents, Rows
from vera_core.format.stream import CHUNK, StreamEncoder
from vera_core.model import Erasability, check_uid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

    from vera_core.model import Origin

_RECENT = 4096


class Sink(Protocol):
    """Where a shard's bytes go, in order."""

    def write(self, data: bytes, /) -> object:
        """Takes all of `data`."""
        ...


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """What a shard says of itself in its header.

    `repository_id` is 16 bytes, the same for every tenant of the repository. `page_entries` fixes the entries of an
    index page (1 to 16,384) instead of the usual rule; for tests.
    """

    repository_id: bytes
    retention_class: str
    erasability: Erasability = Erasability.ERASABLE
    page_entries: int | None = None

    def __post_init__(self) -> None:
        if len(self.repository_id) != 16:
            raise UsageError(f"a repository id has 16 bytes, not {len(self.repository_id)}")
        if self.page_entries is not None and not 1 <= self.page_entries <= layout.MAX_PAGE_ENTRIES:
            raise UsageError(f"an index page holds 1 to {layout.MAX_PAGE_ENTRIES} entries, not {self.page_entries}")


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What was written: `size` bytes with this `sha256`; keys of the first and last entry in the index (0 if empty)."""

    size: int
    sha256: bytes
    entries: int
    content_bytes: int
    stored_bytes: int
    min_key: int
    max_key: int


class _Pending(NamedTuple):
    """An entry that waits for its group."""

    uid: bytes
    created_at: int
    encoded: Encoded
    attributes: int
    origin: Origin | None


class ShardWriter:
    """Writes one shard to `sink`. Holds about 115 bytes an entry, its uid, and up to one group of contents.

    Raises:
        UsageError: impossible options, or a call out of order; anything the sink raises.
    """

    def __init__(self, sink: Sink, *, options: ShardOptions) -> None:
        self._sink = sink
        self._options = options
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._rows = Rows()
        self._contents = Contents()
        self._uids = bytearray()
        self._pending: list[_Pending] = []
        self._pending_bytes = 0
        self._attributes: list[bytes] = []
        self._attribute_codes: dict[tuple[str, Metadata], int] = {}
        self._attribute_bytes = 0
        self._stored_bytes = 0
        self._header: bytes | None = None
        self._streamed = False
        self._closed = False

    @property
    def entries(self) -> int:
        """Entries appended so far."""
        return self._rows.count + len(self._pending)

    @property
    def size(self) -> int:
        """Bytes written and waiting so far: what the shard will have at least, its index not counted."""
        return self._position + self._pending_bytes

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
            UsageError: content too large, time out of range, bad metadata, shard full or finished.
        """
        if self._closed or self._streamed:
            raise UsageError("the shard is finished or holds a streamed file; nothing can be added to it", uid=uid)
        name = check_uid(uid).encode()
        if not layout.MIN_TIME <= created_at <= layout.MAX_TIME:
            raise UsageError(f"{created_at} microseconds since 1970 is outside year 1 to 9999", uid=uid)
        if len(encoded.stored) > encoded.size or encoded.size > MAX_INLINE:
            raise UsageError(f"a content of {encoded.size} bytes can't be stored inline", todo="Stream it.", uid=uid)
        ordinal = self.entries
        if ordinal >= layout.MAX_ENTRIES or len(self._uids) + self._attribute_bytes > layout.MAX_NAMES_BYTES:
            raise UsageError(f"the shard is full with {ordinal} entries", todo="Begin another one.", uid=uid)
        self._pending.append(_Pending(name, created_at, encoded, self._attribute_code(media_type, metadata), origin))
        self._pending_bytes += len(encoded.stored)
        if len(self._pending) >= GROUP_ENTRIES or self._pending_bytes >= GROUP_BYTES:
            self._flush()
        return ordinal

    def append_stream(
        self,
        uid: str,
        created_at: int,
        file: BinaryIO,
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
        if self._closed or self._streamed or self.entries:
            raise UsageError("a streamed file needs a shard of its own", uid=uid)
        if not layout.MIN_TIME <= created_at <= layout.MAX_TIME or not 0 <= size < layout.MAX_SIZE:
            raise UsageError(f"time {created_at} or size {size} is out of range", uid=uid)
        name, code = check_uid(uid).encode(), self._attribute_code(media_type, metadata)
        self._streamed = self._closed = True  # until all went well
        self._write_header()
        start = self._position
        encoded = self._pump(file, size, policy, uid)
        self._stored_bytes = self._position - start
        rows = self._keep([_Pending(name, created_at, encoded, code, origin)])
        rows["stored_size"], rows["offset"] = self._stored_bytes, start if self._stored_bytes else 0
        body = self._group_body(rows, np.zeros(1, np.uint64))
        self._emit(encode_group(self._position, 0, self._stored_bytes, body, count=1, flags=AFTER))
        self._closed = False
        return encoded

    def finish(self) -> ShardSummary:
        """Writes what waits, the index and the footer. The sink is not closed.

        Raises:
            UsageError: finished before, or a streamed file failed.
        """
        if self._closed:
            raise UsageError("the shard is finished already, or its streamed file failed")
        self._flush()
        self._closed = True
        header = self._write_header()
        data_end = self._position
        rows = self._rows.all()
        directory = self._write_pages()
        pages_size = self._position - data_end
        section = self._write_section(layout.DIRECTORY, directory)
        table = layout.pack_sections([section])
        table_offset = self._position
        self._emit(table)
        times = rows["created_at"] if len(rows) else np.array([TIME_BIAS], np.uint64)
        footer = layout.Footer(
            shard_size=self._position + layout.FOOTER_SIZE,
            entries=len(rows),
            content_bytes=int(rows["size"].sum()),
            stored_bytes=self._stored_bytes,
            min_key=int(rows["key"].min()) if len(rows) else 0,
            max_key=int(rows["key"].max()) if len(rows) else 0,
            min_created_at=int(times.min()) - TIME_BIAS,
            max_created_at=int(times.max()) - TIME_BIAS,
            data_end=data_end,
            pages_size=pages_size,
            table_offset=table_offset,
            sections=1,
            table_crc=crc32(table),
            incompat=layout.STREAMED if self._streamed else 0,
            compat=0,
            repository_id=self._options.repository_id,
            header_crc=int.from_bytes(header[-4:], "little"),
        )
        self._emit(footer.pack())
        return ShardSummary(
            self._position,
            self._sha256.digest(),
            footer.entries,
            footer.content_bytes,
            footer.stored_bytes,
            footer.min_key,
            footer.max_key,
        )

    def _emit(self, data: bytes) -> None:
        self._sink.write(data)
        self._sha256.update(data)
        self._position += len(data)

    def _write_header(self) -> bytes:
        if self._header is None:
            options = self._options
            incompat = layout.STREAMED if self._streamed else 0
            header = layout.Header(options.repository_id, options.retention_class, options.erasability, incompat)
            self._header = header.pack()
            self._emit(self._header)
        return self._header

    def _attribute_code(self, media_type: str, metadata: Metadata) -> int:
        code = self._attribute_codes.get((media_type, metadata))
        if code is None:
            data = encode_attributes(media_type, metadata)
            if len(self._attribute_codes) >= _RECENT:  # distinct metadata everywhere: don't keep a table of it
                self._attribute_codes.clear()
            code = self._attribute_codes[media_type, metadata] = len(self._attributes)
            self._attributes.append(data)
            self._attribute_bytes += len(data)
        return code

    def _pump(self, file: BinaryIO, size: int, policy: Policy, uid: str) -> Encoded:
        """Writes the encoded content of `file`."""
        pieces = _pieces(file)
        first = next(pieces, b"")
        encoder = StreamEncoder(first, size, policy)
        piece: bytes | None = first
        while piece and encoder.size + len(piece) <= size:
            self._emit(encoder.feed(piece))
            piece = next(pieces, None)
        if piece or encoder.size != size:
            raise UsageError(
                f"the file holds {'more than ' if piece else 'only '}{size if piece else encoder.size} of {size} bytes",
                todo="It changed while it was read; pack it again.",
                uid=uid,
            )
        last, encoded = encoder.finish()
        self._emit(last)
        return encoded

    def _flush(self) -> None:
        """Writes the waiting entries as a group."""
        if not self._pending:
            return
        self._closed = True  # for good, if the sink fails
        self._write_header()
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        first = self._rows.count
        rows = self._keep(pending)
        holders = self._find_holders(rows, first)
        shared = np.flatnonzero(holders >= 0)
        everything = self._rows.all()
        for name in ("codec", "parameter", "stored_size", "crc32"):
            rows[name][shared] = everything[name][holders[shared]]
        own = (holders < 0) & (rows["stored_size"] > 0)
        sizes = np.where(own, rows["stored_size"], 0)
        content_size = int(sizes.sum())
        body = self._group_body(rows, (holders + 1).astype(np.uint64))
        block = encode_group(self._position, first, content_size, body, count=len(rows))
        rows["offset"] = np.where(own, self._position + len(block) + np.cumsum(sizes) - sizes, 0)
        rows["offset"][shared] = everything["offset"][holders[shared]]
        self._contents.add(_prefixes(rows)[own], (np.flatnonzero(own) + first).astype(np.uint32))
        self._emit(
            b"".join(
                [block, *(entry.encoded.stored for entry, mine in zip(pending, own.tolist(), strict=True) if mine)]
            )
        )
        self._stored_bytes += content_size
        self._closed = False

    def _keep(self, pending: list[_Pending]) -> NDArray[np.void]:
        """Makes rows of entries and remembers them; returns the remembered rows, their places still 0."""
        uids = [entry.uid for entry in pending]
        encoded = [entry.encoded for entry in pending]
        origins = [origin_numbers(entry.origin) for entry in pending]
        rows = np.zeros(len(pending), ROW)
        rows["key"] = np.frombuffer(b"".join([digest(uid)[:8] for uid in uids]), ">u8")
        rows["uid_length"] = [len(uid) for uid in uids]
        rows["created_at"] = [entry.created_at + TIME_BIAS for entry in pending]
        rows["attributes"] = [entry.attributes for entry in pending]
        rows["origin_commit"], rows["origin_ordinal"] = zip(*origins, strict=True)
        rows["codec"] = [item.codec for item in encoded]
        rows["parameter"] = [item.parameter for item in encoded]
        rows["size"] = [item.size for item in encoded]
        rows["stored_size"] = [len(item.stored) for item in encoded]
        rows["crc32"] = [item.crc32 for item in encoded]
        rows["digest"] = np.frombuffer(b"".join([item.sha256 for item in encoded]), np.uint8).reshape(-1, 32)
        first = self._rows.count
        self._rows.extend(rows)
        self._uids += b"".join(uids)
        return self._rows.all()[first:]

    def _find_holders(self, rows: NDArray[np.void], first: int) -> NDArray[np.int64]:
        """The ordinal of the entry that holds each row's content already, -1 where the row brings it (or nothing)."""
        stores = rows["stored_size"] > 0
        holders = np.where(stores, self._contents.find(_prefixes(rows)), -1)
        candidates = np.flatnonzero(holders >= 0)
        known = self._rows.all()["digest"][holders[candidates]]
        holders[candidates[(known != rows["digest"][candidates]).any(axis=1)]] = -1
        seen: dict[bytes, int] = {}
        digests = rows["digest"].tobytes()
        for row in np.flatnonzero(stores & (holders < 0)).tolist():
            holder = seen.setdefault(digests[32 * row : 32 * row + 32], first + row)
            if holder != first + row:
                holders[row] = holder
        return holders

    def _group_body(self, rows: NDArray[np.void], holders: NDArray[np.uint64]) -> bytes:
        """The columns of the rows that were kept last."""
        columns, attributes = common_columns(rows, self._attributes)
        uids = bytes(self._uids[len(self._uids) - int(rows["uid_length"].sum()) :])
        return encode_body([*columns, holders, rows["crc32"].astype(np.uint64)], attributes, uids)

    def _write_pages(self) -> bytes:
        """Writes the index pages; returns the directory."""
        directory = DirectoryBuilder()
        limit = self._options.page_entries or page_entries(self._rows.count)
        for page, first, last, count in sorted_pages(self._rows.all(), self._uids, self._attributes, limit):
            self._emit(page)
            directory.add(page, first, last, count)
        return directory.encode()

    def _write_section(self, tag: bytes, raw: bytes) -> layout.Section:
        stored = pack_block(raw)
        section = layout.Section(tag, layout.REQUIRED, crc32(stored), self._position, len(stored), len(raw))
        self._emit(stored)
        return section


def _prefixes(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """The first 8 bytes of each digest as a number."""
    return np.ascontiguousarray(rows["digest"][:, :8]).view("<u8").reshape(-1)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The file in pieces of exactly `CHUNK` bytes, the last shorter, however its reads come."""
    while True:
        parts = []
        need = CHUNK
        while need and (part := file.read(need)):
            parts.append(part)
            need -= len(part)
        if piece := b"".join(parts):
            yield piece
        if need:
            return
