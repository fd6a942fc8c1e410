"""Finds what can be saved of a damaged shard from DATA alone, without footer or index, and writes it to a new shard.

Contents that come back match their CRC32; their SHA-256 is computed anew, so only the digest of the whole rebuilt
shard, compared with the one in the slot log, proves that it is what was archived. Which shards are repaired, and from
where, is decided by operations.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.codec import MAX_INLINE, Encoded, crc32
from vera_core.errors import FormatError, UsageError, VeraError
from vera_core.format import groups, layout
from vera_core.format.columns import TIME_BIAS, parse_attributes
from vera_core.format.index import CODECS, check_ranges, key_of
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, decode_stream
from vera_core.format.writer import ShardOptions, ShardSummary, ShardWriter
from vera_core.model import Entry, Origin, check_uid

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from vera_core.format.columns import Body
    from vera_core.format.groups import GroupHead
    from vera_core.format.layout import Header
    from vera_core.format.source import RangeSource
    from vera_core.format.writer import Sink

_SEARCH = 1 << 20


@dataclass(frozen=True, slots=True)
class Loss:
    """What can't be saved: `length` bytes at `position`, or `count` entries from ordinal `first` (None: not known)."""

    reason: str
    position: int
    length: int
    first: int | None = None
    count: int = 0
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What `rebuild` wrote, and what was lost.

    Without losses, `summary.sha256` is that of the shard as archived, if writer and codec libraries are those that
    made it.
    """

    summary: ShardSummary
    losses: tuple[Loss, ...]


class Salvage:
    """Walks the groups of a damaged shard. `header` is None if it is lost; `losses` grows while `entries` runs.

    Raises:
        IncompatibleError: the header is whole and names a version or feature that this reader refuses.
    """

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self._total = source.read_suffix(1)[1]
        self._offsets: dict[int, int] = {}
        self.losses: list[Loss] = []
        self.header: Header | None = None
        with Naming(source.where):
            try:
                self.header = layout.Header.parse(self._fetch(0, min(self._total, layout.HEADER_SIZE)))
            except FormatError as error:
                self.losses.append(Loss(error.what, 0, min(self._total, layout.HEADER_SIZE)))

    def entries(self) -> Iterator[Entry]:
        """Every entry that can be saved, by ordinal. Its content matches its CRC32; its SHA-256 is what was read."""
        with Naming(self._source.where):
            expected = 0
            for head in self._heads():
                if head.first != expected:
                    self.losses.append(
                        Loss("the groups before are lost", head.position, 0, expected, max(0, head.first - expected))
                    )
                expected = head.first + head.count
                yield from self._group(head)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """The content of an entry, in pieces of up to 1 MiB.

        Raises:
            FormatError: it does not match its CRC32 or does not decode.
        """
        crc = 0

        def stored() -> Iterator[bytes]:
            nonlocal crc
            for start in range(0, entry.stored_size, CHUNK):
                piece = self._fetch(entry.offset + start, min(CHUNK, entry.stored_size - start))
                crc = crc32(piece, crc)
                yield piece

        yield from decode_stream(entry.codec, stored(), entry.size, entry.parameter)
        if crc != entry.crc32:
            raise FormatError("the stored bytes do not match their CRC32", uid=entry.uid)

    def stored(self, entry: Entry) -> bytes:
        """The stored bytes of an entry of an ordinary shard."""
        return self._fetch(entry.offset, entry.stored_size)

    def _heads(self) -> Iterator[GroupHead]:
        """Every group in order, found anew behind damage."""
        position = layout.HEADER_SIZE
        while head := self._next_head(position):
            yield head
            position = head.end

    def _next_head(self, position: int) -> GroupHead | None:
        """The group at `position`, else the first one behind it that states its own place; None at the end of DATA."""
        at = position
        while at + groups.HEAD_SIZE <= self._total:
            window = self._fetch(at, min(_SEARCH, self._total - at))
            found = 0 if at == position and window.startswith(groups.MAGIC) else window.find(groups.MAGIC)
            while found >= 0:
                try:
                    head = groups.parse_group_head(self._fetch_up_to(at + found, groups.HEAD_SIZE), at + found)
                except FormatError:
                    found = window.find(groups.MAGIC, found + 1)
                    continue
                if at + found > position and not head.flags:
                    self.losses.append(Loss("no group can be read here", position, at + found - position))
                return head
            if at == position and window.startswith(b"VPAG"):
                return None  # the index: DATA is whole
            at += max(1, len(window) - len(groups.MAGIC) + 1)
        if position < self._total:
            self.losses.append(
                Loss("no further group follows; this may be the index", position, self._total - position)
            )
        return None

    def _group(self, head: GroupHead) -> Iterator[Entry]:
        lost = (head.contents[0], head.content_size, head.first, head.count)
        try:
            stored = self._fetch_up_to(head.position + groups.HEAD_SIZE, head.stored_size)
            body = groups.parse_group_body(head, stored)
            columns = dict(zip(groups.COLUMNS, (column.values() for column in body.columns), strict=True))
            check_ranges(columns, ("size", 0, layout.MAX_SIZE if head.flags else MAX_INLINE), ("crc32", 0, 0xFFFF_FFFF))
            offsets = groups.own_offsets(head, body)
        except FormatError as error:
            self.losses.append(Loss(error.what, *lost))
            return
        for row in range(head.count):
            ordinal = head.first + row
            uid = body.uid(row)
            try:
                yield self._entry(
                    head, body, {name: int(values[row]) for name, values in columns.items()}, row, offsets
                )
            except VeraError as error:
                if not isinstance(error, FormatError | UsageError):
                    raise
                name = uid.decode("utf-8", "replace")
                self.losses.append(Loss(error.what, int(offsets[row]), 0, ordinal, 1, name))

    def _entry(
        self, head: GroupHead, body: Body, row: dict[str, int], number: int, offsets: NDArray[np.uint64]
    ) -> Entry:
        """The entry of a row, once its content has been read.

        Raises:
            FormatError: the content is damaged, or the entry that holds it is lost.
            UsageError: the uid is none.
        """
        uid, ordinal = body.uid(number), head.first + number
        offset = int(offsets[number])
        if row["holder"]:
            if row["holder"] - 1 not in self._offsets:
                raise FormatError("the entry whose content this one shares is lost")
            offset = self._offsets[row["holder"] - 1]
        media_type, metadata = parse_attributes(body.attributes(row["attributes"]))
        entry = Entry(
            check_uid(uid.decode("utf-8", "surrogateescape")),
            key_of(uid),
            ordinal,
            row["created_at"] - TIME_BIAS,
            row["size"],
            row["stored_size"],
            offset,
            CODECS[row["codec"]],
            row["crc32"],
            b"",
            row["parameter"],
            media_type,
            metadata,
            Origin(row["origin_commit"], row["origin_ordinal"]) if row["origin_commit"] else None,
        )
        hasher = hashlib.sha256()
        for piece in self.content(entry):
            hasher.update(piece)
        if entry.stored_size:
            self._offsets[ordinal] = offset
        return entry._replace(sha256=hasher.digest())

    def _fetch_up_to(self, offset: int, length: int) -> bytes:
        return self._fetch(offset, min(length, max(0, self._total - offset)))

    def _fetch(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        data = self._source.read_at(offset, length) if offset + length <= self._total else b""
        if len(data) != length:
            raise FormatError(f"{length} bytes at {offset} are missing")
        return data


def rebuild(
    source: RangeSource, sink: Sink, *, options: ShardOptions | None = None, commit: int | None = None
) -> Rebuilt:
    """Writes a new shard to `sink` of what can be saved of a damaged one.

    `options` are needed where the header is lost. `commit` is the number of the commit that brought the shard: if
    something is lost, ordinals move up, and entries without an origin get (commit, old ordinal) as theirs.

    Raises:
        UsageError: options or commit are needed and missing, or the shard is streamed.
        IncompatibleError: as `Salvage`.
    """
    salvage = Salvage(source)
    if options is None and salvage.header is None:
        raise UsageError("the header is lost", todo="Give repository id and retention class.", **source.where)
    if salvage.header is not None:
        header = salvage.header
        options = options or ShardOptions(header.repository_id, header.retention_class, header.erasability)
        if header.incompat & layout.STREAMED:
            raise UsageError(
                "a streamed shard is not rebuilt", todo="Save its one file with `Salvage.content`.", **source.where
            )
    assert options is not None
    writer = ShardWriter(sink, options=options)
    for entry in salvage.entries():
        origin = entry.origin
        if entry.ordinal != writer.entries and origin is None:
            if commit is None:
                raise UsageError("entries are lost, so the others need an origin", todo="Give the commit's number.")
            origin = Origin(commit, entry.ordinal)
        encoded = Encoded(
            entry.codec, entry.parameter, salvage.stored(entry), entry.crc32, entry.sha256, entry.size
        )  # fmt: skip
        writer.append(
            entry.uid,
            entry.created_at,
            encoded,
            media_type=entry.media_type,
            metadata=entry.metadata,
            origin=origin,
        )
    return Rebuilt(writer.finish(), tuple(salvage.losses))
