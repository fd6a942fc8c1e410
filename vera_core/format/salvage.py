"""One pass over the groups of a damaged shard: every entry that can be saved, and what is lost where.

An entry is saved if its group's block is whole and its content matches CRC32 and SHA-256. In an encrypted shard, whose
contents are sealed files here, the SHA-256 is a keyed digest, which can't be looked at. That nobody changed content and
block alike is proved only by the digest of the whole shard, which is recover.py's business.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from vera_core.codec import Stored, crc32, decode, decode_many, digest
from vera_core.errors import BadUidError, FormatError
from vera_core.format import layout
from vera_core.format.groups import HEAD_SIZE, Group, parse_group_head
from vera_core.format.remains import Damage
from vera_core.format.search import MAX_KEY, Bounds, find_groups
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, Whole, decode_stream
from vera_core.format.tail import GroupFacts, Outline
from vera_core.model import Entry, check_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vera_core.format.groups import GroupHead
    from vera_core.format.remains import Extent, Remains

_BATCH = 8 << 20
"""Contents that are decoded at once, in bytes."""


class Saved(NamedTuple):
    """An entry that is saved: its stored bytes and its content; both empty in a streamed shard (`Salvage.stream`)."""

    entry: Entry
    stored: bytes
    content: bytes


class Salvage:
    """A pass; run it once. `tell` gets each damage, `progress` the position that was reached.

    Afterwards `saved` and `lost` count entries, `searched` those saved from groups that had to be searched for. The
    last group ends at `end` and with the ordinal `expected` - 1; `end_known` says whether it was the shard's last.
    `outline` is what the groups add up to, if `whole` says that nothing of them is damaged. `streamed` says whether
    they hold a streamed file.
    """

    def __init__(
        self,
        extent: Extent,
        remains: Remains,
        tell: Callable[[Damage], None],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._extent = extent
        self._remains = remains
        self._tell = tell
        self._progress = progress
        self._dictionaries = remains.loaded
        self._uids = remains.uids
        self._last = (-1, b"")
        self._limit = MAX_KEY
        self._searching = False
        self.outline = Outline()
        self.saved = self.lost = self.searched = self.content_bytes = 0
        self.whole = True
        self.streamed = False
        self.end_known = remains.footer is not None
        self.end = remains.data_start
        self.expected = 0

    def batches(self) -> Iterator[list[Saved]]:
        """Everything that can be saved, in order, some megabytes at a time."""
        with Naming(self._extent.source.where):
            for head in self._chained() if self._remains.directory is None else self._listed():
                for batch in self._streamed(head) if head.flags else self._group(head):
                    self.saved += len(batch)
                    self.searched += len(batch) if self._searching else 0
                    self.content_bytes += sum(item.entry.size for item in batch)
                    yield batch
                self.end, self.expected = head.end, head.first + head.count

    def stream(self, entry: Entry) -> Iterator[bytes]:
        """The content of a streamed shard's entry in pieces of up to 1 MiB.

        Raises:
            FormatError: it does not match its checksums; at the latest after the last piece.
        """
        crc, hasher = 0, hashlib.sha256()

        def stored() -> Iterator[bytes]:
            nonlocal crc
            for start in range(0, entry.stored_size, CHUNK):
                piece = self._extent.fetch(entry.offset + start, min(CHUNK, entry.stored_size - start))
                crc = crc32(piece, crc)
                self._reach(entry.offset + start)
                yield piece

        for piece in decode_stream(Whole(entry.codec, entry.size, entry.parameter), stored()):
            hasher.update(piece)
            yield piece
        if crc != entry.crc32 or not (self._uids.sealed or hasher.digest() == entry.sha256):
            raise FormatError("the content does not match its checksums")

    # ------------------------------------------------------------------ where the groups are

    def _listed(self) -> Iterator[GroupHead]:
        """The groups of the directory."""
        directory = self._remains.directory
        assert directory is not None
        for number, (first, after) in enumerate(pairwise(directory.firsts)):
            end = directory.ends[number]
            head = self._head(directory.blocks[number])
            stated = (first, after - first, directory.first_keys[number], directory.sizes[number], end)
            if head is not None and stated == (head.first, head.count, head.first_key, head.size, head.end):
                yield head
            else:
                what = "no group can be read here" if head is None else "a group contradicts the directory"
                self._lose(Damage(what, self.end, end - self.end, after - first, first))
                self.end, self.expected = end, after

    def _chained(self) -> Iterator[GroupHead]:
        """The groups one behind the other; behind damage, those that a search finds."""
        footer = self._remains.footer
        while footer is None or self.end < footer.data_end:
            head = self._head(self.end)
            if head is None or head.first != self.expected or not self._bounds().allow(head):
                break
            yield head
        if footer is None or self.end < footer.data_end:
            yield from self._searched()
        if footer is None and self.end == self._remains.sections_start:
            self.end_known = True
        elif footer is None:
            length = max(0, self._extent.total - self.end)
            self._tell(Damage("the end is lost: nothing tells whether more groups followed", self.end, length))
        elif self.end != footer.data_end or self.expected != footer.entries:
            self._lose_until(footer.data_end, footer.entries)

    def _searched(self) -> Iterator[GroupHead]:
        found = find_groups(self._extent, self._bounds())
        for number, head in enumerate(found, 1):
            # What was made up must not make true entries behind it look out of order.
            self._limit = found[number].first_key if number < len(found) else MAX_KEY
            begin = head.contents[0] if head.flags else head.position
            if (begin, head.first) != (self.end, self.expected):
                self._lose_until(begin, head.first)
            self._searching = True
            yield head

    def _bounds(self) -> Bounds:
        footer, incompat = self._remains.footer, self._remains.incompat
        return Bounds(
            self.end,
            self._extent.total if footer is None else footer.data_end,
            self.expected,
            max(self._last[0], 0),
            None if incompat is None else bool(incompat & layout.STREAMED),
        )

    def _head(self, position: int) -> GroupHead | None:
        """The group that begins at `position`, if its fixed part is whole."""
        self._reach(position)
        try:
            return parse_group_head(self._extent.fetch(position, HEAD_SIZE), position)
        except FormatError:
            return None

    # ------------------------------------------------------------------ what is in them

    def _entries(self, head: GroupHead) -> Iterator[Entry]:
        """The entries of a group whose block is whole and whose names are good; the outline takes note of the group."""
        try:
            group = self._open(head)
            keys = group.keys()
        except FormatError as error:
            begin = head.contents[0] if head.flags else head.position
            self._lose(Damage(error.what, begin, head.end - begin, head.count, head.first))
            return
        self.streamed = bool(head.flags)
        facts = GroupFacts(head.size, head.content_size, keys, group.column("size"), group.column("created_at"))
        self.outline.add(facts)
        for row, key in enumerate(keys.tolist()):
            uid = group.body.uid(row)
            try:
                entry = group.entry(row, key)
                check_uid(entry.uid)
                if (key, uid) < self._last or key > self._limit:
                    raise FormatError("the entry is out of order")
            except (FormatError, BadUidError) as error:
                name = ascii(uid.decode("utf-8", "replace"))[1:-1]  # it may hold what no terminal should get
                self._lose(Damage(error.what, int(group.column("offset")[row]), 0, 1, head.first + row, name))
                continue
            self._last = (key, uid)
            yield entry

    def _open(self, head: GroupHead) -> Group:
        """The group at its place, mended if need be.

        Raises:
            FormatError: its block is damaged beyond that.
        """
        rest = self._extent.fetch(head.position + HEAD_SIZE, head.size - HEAD_SIZE)
        try:
            return Group(head, rest, self._uids)
        except FormatError:
            group = None if head.flags else self._mended(head, rest)
            if group is None:
                raise
            return group

    def _mended(self, head: GroupHead, rest: bytes) -> Group | None:
        """The group with its SHA-256 and CRC32 made anew from its contents, if these are what is damaged in its block.

        The block's own checksum, which covers them too, proves that they are the same again.
        """
        digests, checksums = [], []
        try:
            for entry in Group(replace(head, body_crc=crc32(rest)), rest, self._uids).entries():
                stored = self._extent.fetch(entry.offset, entry.stored_size)
                item = Stored(entry.codec, stored, entry.size, self._parameter(entry))
                digests.append(entry.sha256 if self._uids.sealed else digest(decode(item, self._dictionaries)))
                checksums.append(crc32(stored).to_bytes(4, "little"))
            proofs = b"".join((*digests, *checksums))
            group = Group(head, rest[: head.stored_size] + proofs, self._uids)
        except FormatError:
            return None
        at = head.position + HEAD_SIZE + head.stored_size
        self._extent.mend(at, proofs)
        self._tell(Damage("checksums of contents are damaged; they are made anew", at, len(proofs)))
        return group

    def _group(self, head: GroupHead) -> Iterator[list[Saved]]:
        """What can be saved of a group of an ordinary shard."""
        begin = head.contents[0]
        contents = self._extent.fetch(begin, head.content_size)
        batch: list[tuple[Entry, bytes]] = []
        size = 0
        for entry in self._entries(head):
            if size + entry.size + entry.stored_size > _BATCH and batch:
                yield self._decoded(batch)
                batch, size = [], 0
            at = entry.offset - begin
            there = at >= 0 or not entry.stored_size
            stored = contents[at : at + entry.stored_size] if there else self._shared(entry)
            batch.append((entry, stored if entry.stored_size else b""))
            size += entry.size + entry.stored_size
        yield self._decoded(batch)

    def _shared(self, entry: Entry) -> bytes:
        """The stored bytes that came with an earlier group."""
        return self._extent.fetch(entry.offset, entry.stored_size)

    def _decoded(self, batch: list[tuple[Entry, bytes]]) -> list[Saved]:
        """The entries of a batch whose contents are right."""
        good = [(entry, stored) for entry, stored in batch if self._is_there(entry, stored)]
        items = [Stored(entry.codec, stored, entry.size, self._parameter(entry)) for entry, stored in good]
        contents: list[bytes | None]
        try:
            contents = list(decode_many(items, self._dictionaries))
        except FormatError:  # one by one, to save the others
            contents = [self._decode(entry, item) for (entry, _), item in zip(good, items, strict=True)]
        saved = []
        for (entry, stored), content in zip(good, contents, strict=True):
            if content is not None and (self._uids.sealed or digest(content) == entry.sha256):
                saved.append(Saved(entry, stored, content))
            elif content is not None:
                self._lose_entry(entry, "the content does not match its SHA-256")
        return saved

    def _decode(self, entry: Entry, item: Stored) -> bytes | None:
        try:
            return decode(item, self._dictionaries)
        except FormatError as error:
            self._lose_entry(entry, error.what)
            return None

    def _is_there(self, entry: Entry, stored: bytes) -> bool:
        """Whether all that decoding needs is left."""
        if len(stored) != entry.stored_size:
            self._lose_entry(entry, "the shard is cut off before the end of the content")
        elif crc32(stored) != entry.crc32:
            self._lose_entry(entry, "the stored bytes do not match their CRC32")
        elif entry.codec.takes_dictionary and entry.parameter and entry.parameter not in self._remains.numbers:
            self._lose_entry(entry, f"dictionary {entry.parameter} is lost")
        else:
            return True
        return False

    def _parameter(self, entry: Entry) -> int:
        """The codec's parameter, with the dictionary's number among those that are left."""
        return self._remains.numbers.get(entry.parameter, 0) if entry.codec.takes_dictionary else entry.parameter

    def _streamed(self, head: GroupHead) -> Iterator[list[Saved]]:
        """The entry of a streamed shard."""
        for entry in self._entries(head):
            try:
                for _ in self.stream(entry):
                    pass
            except FormatError as error:
                self._lose_entry(entry, error.what)
            else:
                yield [Saved(entry, b"", b"")]

    # ------------------------------------------------------------------ what is told

    def _lose_entry(self, entry: Entry, what: str) -> None:
        self._lose(Damage(what, entry.offset, entry.stored_size, 1, entry.ordinal, entry.uid))

    def _lose_until(self, position: int, ordinal: int) -> None:
        """Everything from where the last group ended up to `position`, where `ordinal` comes next, is lost."""
        lost = max(0, ordinal - self.expected)
        self._lose(Damage("no group can be read here", self.end, max(0, position - self.end), lost, self.expected))
        self.end, self.expected = position, ordinal

    def _lose(self, damage: Damage) -> None:
        self.whole = False
        self.lost += damage.count
        self._tell(damage)

    def _reach(self, position: int) -> None:
        if self._progress is not None:
            self._progress(position)
