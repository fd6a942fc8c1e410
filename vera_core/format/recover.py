"""Finds what can be saved of a damaged shard from DATA alone, without footer or index, and writes it to a new shard.

Contents that come back match the SHA-256 that stands beside them; that nobody changed both is proved only by the digest
of the whole rebuilt shard, compared with the one in the slot log. Which shards are repaired, and from where, is decided
by operations.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from vera_core.codec import NO_DICTIONARIES, Dictionaries, crc32
from vera_core.encoding import Encoded
from vera_core.errors import FormatError, UsageError, VeraError
from vera_core.format import groups, layout
from vera_core.format.directory import MAX_DICTIONARY_BLOCK, parse_dictionary
from vera_core.format.groups import Group
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, Whole, decode_stream
from vera_core.format.writer import ShardOptions, ShardSummary, ShardWriter
from vera_core.model import Entry, Origin, check_uid

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        self.dictionaries = NO_DICTIONARIES
        self.dictionary_bytes: tuple[bytes, ...] = ()
        self.losses: list[Loss] = []
        self.header: Header | None = None
        self._data_end = self._read_data_end()
        with Naming(source.where):
            try:
                self.header = layout.Header.parse(self._fetch(0, min(self._total, layout.HEADER_SIZE)))
            except FormatError as error:
                self.losses.append(Loss(error.what, 0, min(self._total, layout.HEADER_SIZE)))

    def entries(self) -> Iterator[Entry]:
        """Every entry that can be saved, by ordinal; its content matches its CRC32 and SHA-256."""
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

        yield from decode_stream(Whole(entry.codec, entry.size, entry.parameter), stored(), self.dictionaries)
        if crc != entry.crc32:
            raise FormatError("the stored bytes do not match their CRC32", uid=entry.uid)

    def stored(self, entry: Entry) -> bytes:
        """The stored bytes of an entry of an ordinary shard."""
        return self._fetch(entry.offset, entry.stored_size)

    def _heads(self) -> Iterator[GroupHead]:
        """Every group in order, found anew behind damage."""
        position = self._read_dictionaries()
        while head := self._next_head(position):
            yield head
            position = head.end

    def _next_head(self, position: int) -> GroupHead | None:
        """The group at `position`, else the first one behind it that states its own place; None at the end of DATA."""
        at = position
        if position == self._data_end:
            return None
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
            at += max(1, len(window) - len(groups.MAGIC) + 1)
        if position < self._total:
            self.losses.append(
                Loss("no further group follows; this may be the directory", position, self._total - position)
            )
        return None

    def _group(self, head: GroupHead) -> Iterator[Entry]:
        try:
            group = Group(head, self._fetch_up_to(head.position + groups.HEAD_SIZE, head.size - groups.HEAD_SIZE))
            keys = group.keys().tolist()
        except FormatError as error:
            self.losses.append(Loss(error.what, head.contents[0], head.content_size, head.first, head.count))
            return
        for row, key in enumerate(keys):
            uid = group.body.uid(row)
            try:
                entry = group.entry(row, key)
                check_uid(entry.uid)
                hasher = hashlib.sha256()
                for piece in self.content(entry):
                    hasher.update(piece)
                if hasher.digest() != entry.sha256:
                    raise FormatError("the content does not match its SHA-256")
                yield entry
            except VeraError as error:
                if not isinstance(error, FormatError | UsageError):
                    raise
                name = uid.decode("utf-8", "replace")
                self.losses.append(Loss(error.what, group.offsets()[row], 0, head.first + row, 1, name))

    def _read_data_end(self) -> int | None:
        """Where DATA ends, if the footer is whole."""
        tail, total = self._source.read_suffix(layout.FOOTER_SIZE)
        try:
            return layout.Footer.parse(tail, total).data_end
        except VeraError:
            return None

    def _read_dictionaries(self) -> int:
        """Reads the dictionaries in front of the groups; returns where these begin."""
        position = layout.HEADER_SIZE
        found: list[bytes] = []
        try:
            while True:
                data = self._fetch_up_to(position, MAX_DICTIONARY_BLOCK)
                dictionary = parse_dictionary(data, len(found) + 1, position)
                if dictionary is None:
                    break
                found.append(dictionary[0])
                position += dictionary[1]
            self.dictionaries, self.dictionary_bytes = Dictionaries(found), tuple(found)
        except FormatError as error:
            self.losses.append(Loss(error.what, position, 0))
        return position

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
    entries = salvage.entries()
    first = next(entries, None)
    writer = ShardWriter(sink, options=options, dictionaries=salvage.dictionary_bytes)
    for entry in chain(() if first is None else (first,), entries):
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
