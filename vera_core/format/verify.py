"""The proof of one shard: every byte read in order, every statement checked against what it states.

Says nothing about locks, logs or copies: that is `operations.verify`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np

from vera_core.codec import Stored, crc32, digest, digest_many
from vera_core.errors import BadUidError, FormatError
from vera_core.format import layout
from vera_core.format.columns import TIME_BIAS, parse_attributes
from vera_core.format.directory import MAX_DICTIONARY_BLOCK, parse_dictionary
from vera_core.format.groups import CODECS, ELSEWHERE
from vera_core.format.layout import RESTORE
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, Whole, decode_stream
from vera_core.model import check_uid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from vera_core.codec import Dictionaries
    from vera_core.format.groups import Group
    from vera_core.format.reader import ShardReader
    from vera_core.model import Entry

_FACTS = np.dtype(
    [
        ("offset", "<u8"),
        ("size", "<u4"),
        ("stored_size", "<u4"),
        ("crc32", "<u4"),
        ("parameter", "<u2"),
        ("codec", "u1"),
        ("digest", "V32"),
    ]
)
"""What entries that share a content have in common."""
_READ = 4 << 20
_DECODED = 1 << 20
_OPENED = 1024
"""Sealed files that are opened at once: a group's are 20 MiB at most."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a whole pass found in order: `sha256` of all `size` bytes; `shared` entries use another's stored bytes."""

    size: int
    sha256: bytes
    entries: int
    content_bytes: int
    stored_bytes: int
    shared: int


class Unseal(Protocol):
    """What opens the files of an encrypted shard: `keys.seals.Seals`."""

    def digests(
        self, first: int, keyed_uids: Sequence[bytes], sealed: Sequence[bytes], dictionaries: Dictionaries, /
    ) -> bytes:
        """The keyed digests, end to end, of the contents of the sealed files with the ordinals from `first` on.

        Raises:
            IntegrityError: one is not what was sealed there.
        """

    def check_stream(self, entry: Entry, pieces: Iterable[bytes], /) -> None:
        """Opens the sealed stream of an entry, whose stored bytes come in pieces.

        Raises:
            IntegrityError: it is not what was sealed there.
        """


def verify(reader: ShardReader, unseal: Unseal | None = None) -> Verified:
    """Reads the shard front to back and checks everything that it states.

    Header, dictionaries, groups, sections and footer match their checksums and each other; they lie end to end, so that
    no byte is unaccounted for; entries are sorted; every content has the size and SHA-256 that its entry states; stored
    bytes are shared whole or not at all. Of an encrypted shard, that is everything but the keyed digests, and these too
    with `unseal`. Memory: a group and its contents, and 55 bytes for each content up to `MAX_SHARED`.

    Raises:
        FormatError: the first finding.
    """
    footer = reader.footer
    reader.header()
    scan = _Scan(reader)
    scan.take(layout.HEADER_SIZE)
    _verify_dictionaries(reader, scan)
    sums, brought = _Sums(), _Brought()
    for number in range(len(reader.directory)):
        if reader.streamed:
            _verify_streamed(reader, scan, sums, unseal)
        else:
            group, facts, stored = _verify_group(reader, scan, number, sums, brought)
            if unseal is not None:
                _verify_sealed(reader, unseal, group, facts, stored)
    for section in reader.sections:
        crc = 0
        for start in range(0, section.size, CHUNK):
            crc = crc32(scan.take(min(CHUNK, section.size - start)), crc)
        if crc != section.crc:
            raise FormatError(
                "the checksum of a section does not match", todo=RESTORE, section=layout.tag_text(section.tag)
            )
    scan.take(footer.shard_size - scan.position)
    sums.check(reader)
    return Verified(
        footer.shard_size,
        scan.sha256.digest(),
        footer.entries,
        footer.content_bytes,
        footer.stored_bytes,
        sums.shared,
    )


class _Scan:
    """The shard's bytes in order, hashed as they pass."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader
        self._data = b""
        self._at = 0
        self._fetched = 0
        self.position = 0
        self.sha256 = hashlib.sha256()

    def peek(self, length: int) -> bytes:
        """The next `length` bytes, or all that are left, which stay the next ones."""
        self._need(min(length, self._reader.footer.shard_size - self.position))
        return self._data[self._at : self._at + length]

    def take(self, length: int) -> bytes:
        """The next `length` bytes (the caller bounds them)."""
        self._need(length)
        taken = self._data[self._at : self._at + length]
        self._at += length
        self.position += length
        return taken

    def _need(self, length: int) -> None:
        missing = length - (len(self._data) - self._at)
        if missing > 0:
            left = self._reader.footer.shard_size - self._fetched
            if missing > left:
                raise FormatError("the shard ends within its parts", todo=RESTORE)
            more = self._reader.fetch(self._fetched, min(left, max(missing, _READ)))
            self.sha256.update(more)
            self._fetched += len(more)
            self._data, self._at = self._data[self._at :] + more, 0


@dataclass(slots=True)
class _Sums:
    """What the footer must say, and the last (key, uid) so far; times are biased."""

    content_bytes: int = 0
    shared: int = 0
    earliest: int = (1 << 64) - 1
    latest: int = 0
    last: tuple[int, bytes] = (-1, b"")

    def take(self, reader: ShardReader, number: int, group: Group) -> None:
        """Adds a group, whose place in the order and whose texts are checked."""
        keys, uids = group.keys(), group.body.uids()
        _check_texts(uids, group.body.attribute_table())
        if bool(reader.directory.joined[number]) != (group.head.first_key == self.last[0]):
            raise FormatError("the directory does not say with which key a group begins", todo=RESTORE)
        rows = [0, *(np.flatnonzero(keys[1:] == keys[:-1]) + 1).tolist()]  # others rise by their keys alone
        for row in rows:
            before = (int(keys[row - 1]), uids[row - 1]) if row else self.last
            if (int(keys[row]), uids[row]) < before:
                raise FormatError("a group is not sorted", todo=RESTORE, entry=group.head.first + row)
        self.last = (int(keys[-1]), uids[-1])
        self.content_bytes += int(group.column("size").sum())
        times = group.column("created_at")
        self.earliest, self.latest = min(self.earliest, int(times.min())), max(self.latest, int(times.max()))
        self.shared += int(np.count_nonzero(group.column("place")))

    def check(self, reader: ShardReader) -> None:
        """Compares with the footer (its sums of entries and stored bytes were compared with the directory's)."""
        footer = reader.footer
        times = (self.earliest - TIME_BIAS, self.latest - TIME_BIAS) if footer.entries else (0, 0)
        stated = (footer.content_bytes, footer.max_key, footer.min_created_at, footer.max_created_at)
        if stated != (self.content_bytes, max(self.last[0], 0), *times):
            raise FormatError("the footer's sums are not those of the entries", todo=RESTORE)


class _Brought:
    """What was read of the first `MAX_SHARED` contents, by the group that brought them: later groups may share them."""

    def __init__(self) -> None:
        self._groups: list[NDArray[np.void]] = []
        self._count = 0

    def take(self, reader: ShardReader, group: Group, facts: NDArray[np.void]) -> None:
        """Checks that entries which share a content state the same as the one that brought it; remembers the others."""
        place = group.column("place")
        own = facts[(place == 0) & (facts["stored_size"] > 0)]
        far = facts[place >= ELSEWHERE]
        holders = np.searchsorted(reader.directory.ends, far["offset"], "right")
        same = _are_same(own, facts[(place > 0) & (place < ELSEWHERE)]) and all(
            holder < len(self._groups) and _are_same(self._groups[holder], far[holders == holder])
            for holder in np.unique(holders).tolist()
        )
        if not same:
            raise FormatError(
                "an entry shares a content that no other brought", todo=RESTORE, group=group.head.position
            )
        self._groups.append(own[: layout.MAX_SHARED - self._count])
        self._count += len(self._groups[-1])


def _verify_dictionaries(reader: ShardReader, scan: _Scan) -> None:
    """Checks that DATA begins with the same dictionaries as the sections hold."""
    for section in reader.sections:
        if section.tag != layout.DICTIONARY:
            continue
        found = parse_dictionary(scan.peek(MAX_DICTIONARY_BLOCK), section.number, scan.position)
        if found is None or found[0] != reader.section_bytes(section):
            raise FormatError(f"dictionary {section.number} in DATA is not that of its section", todo=RESTORE)
        scan.take(found[1])
    if scan.position != reader.footer.data_start:
        raise FormatError("DATA does not begin where the footer says", todo=RESTORE)
    reader.dictionaries()


def _verify_group(
    reader: ShardReader, scan: _Scan, number: int, sums: _Sums, brought: _Brought
) -> tuple[Group, NDArray[np.void], list[bytes]]:
    """Checks a group of an ordinary shard, the contents that it brings, and that those it shares are what it says.

    Returns the group, with the facts and stored bytes of what it brings.
    """
    group = reader.parse_group(number, scan.take(reader.directory.sizes[number]))
    sums.take(reader, number, group)
    facts = _facts_of(group)
    brought.take(reader, group, facts)
    begin, contents = scan.position, scan.take(group.head.content_size)
    rows = np.flatnonzero(group.column("place") == 0)
    facts = facts[rows]
    codecs, parameters = [CODECS[code] for code in facts["codec"].tolist()], facts["parameter"].tolist()
    sizes, places = facts["size"].tolist(), (facts["offset"] - np.uint64(begin)).tolist()
    stored = [contents[at : at + size] for at, size in zip(places, facts["stored_size"].tolist(), strict=True)]
    batch = list(map(Stored, codecs, stored, sizes, parameters))
    bounds = np.flatnonzero(np.diff(np.cumsum(facts["size"], dtype=np.uint64) // _DECODED)) + 1
    for first, end in pairwise([0, *bounds.tolist(), len(batch)]):
        if first < end and not _are_right(reader, facts[first:end], batch[first:end]):
            _name_wrong(reader, group, rows[first:end], batch[first:end])
    return group, facts, stored


def _verify_sealed(
    reader: ShardReader, unseal: Unseal, group: Group, facts: NDArray[np.void], sealed: Sequence[bytes]
) -> None:
    """Opens the files of a group of an encrypted shard, which all bring their content."""
    uids = group.body.uids()
    for first in range(0, len(group), _OPENED):
        end = min(first + _OPENED, len(group))
        found = unseal.digests(group.head.first + first, uids[first:end], sealed[first:end], reader.dictionaries())
        if found != facts["digest"][first:end].tobytes():
            raise FormatError("contents do not match their keyed digests", todo=RESTORE, entry=group.head.first + first)


def _facts_of(group: Group) -> NDArray[np.void]:
    facts = np.zeros(len(group), _FACTS)
    for name in ("offset", "size", "stored_size", "parameter", "codec"):
        facts[name] = group.column(name)
    facts["crc32"] = group.crcs()
    facts["digest"] = np.frombuffer(group.digests(), "V32")
    return facts


def _are_same(known: NDArray[np.void], shared: NDArray[np.void]) -> bool:
    """Whether each of `shared` is one of `known`, which lie in the order of their offsets."""
    at = np.searchsorted(known["offset"], shared["offset"])
    return bool((at < len(known)).all()) and known[at].tobytes() == shared.tobytes()


def _are_right(reader: ShardReader, facts: NDArray[np.void], batch: Sequence[Stored]) -> bool:
    if [crc32(item.stored) for item in batch] != facts["crc32"].tolist():
        return False
    if reader.encrypted:
        return True
    try:
        digests = b"".join(digest_many(batch, reader.dictionaries()))
    except FormatError:
        return False
    return digests == facts["digest"].tobytes()


def _name_wrong(reader: ShardReader, group: Group, rows: NDArray[np.int64], batch: Sequence[Stored]) -> NoReturn:
    """Raises for the first of the batch that is wrong."""
    keys = group.keys().tolist()
    for row, item in zip(rows.tolist(), batch, strict=True):
        entry = group.entry(row, keys[row])
        [(_, content)] = reader.decode_batch([(entry, item.stored)])
        with Naming({"uid": entry.uid, "entry": entry.ordinal}):
            if not reader.encrypted and digest(content) != entry.sha256:
                raise FormatError("the content does not match its SHA-256", todo=RESTORE)
    raise FormatError("contents of a group don't verify together", todo=RESTORE, group=group.head.position)


def _verify_streamed(reader: ShardReader, scan: _Scan, sums: _Sums, unseal: Unseal | None) -> None:
    """Checks the only file of a streamed shard, which lies before the block that describes it."""
    directory = reader.directory
    group = reader.parse_group(0, reader.fetch(directory.blocks[0], directory.sizes[0]))
    sums.take(reader, 0, group)
    entry = group.entries()[0]
    crc, hasher = 0, hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        nonlocal crc
        for start in range(0, entry.stored_size, CHUNK):
            piece = scan.take(min(CHUNK, entry.stored_size - start))
            crc = crc32(piece, crc)
            yield piece

    with Naming({"uid": entry.uid, "entry": 0}):
        if unseal is not None and reader.encrypted:
            unseal.check_stream(entry, pieces())
        else:
            for content in decode_stream(Whole(entry.codec, entry.size, entry.parameter), pieces()):
                hasher.update(content)
        # A keyed digest is the unsealing's to check.
        if crc != entry.crc32 or not (reader.encrypted or hasher.digest() == entry.sha256):
            raise FormatError("the content does not match its checksums", todo=RESTORE)
    scan.take(directory.sizes[0])


def _check_texts(uids: list[bytes], attributes: list[bytes]) -> None:
    """Checks that all are valid; uids one by one only where something is not plainly printable."""
    try:
        if not b" ".join(uids).decode().isprintable():
            for uid in uids:
                check_uid(uid.decode())
    except (BadUidError, UnicodeDecodeError) as error:
        raise FormatError(f"a group holds a uid that can't be: {error}", todo=RESTORE) from error
    for text in attributes:
        parse_attributes(text)
