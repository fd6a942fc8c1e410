"""The proof of one shard: every byte read in order, every statement checked against what it states.

Says nothing about locks, logs or copies: that is `operations.verify`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vera_core.codec import Stored, crc32, decode_many, digest
from vera_core.errors import BadUidError, FormatError
from vera_core.format import groups, layout
from vera_core.format.columns import COMMON, TIME_BIAS
from vera_core.format.index import CODECS, check_page
from vera_core.format.layout import RESTORE
from vera_core.format.source import Naming
from vera_core.format.stream import CHUNK, decode_stream
from vera_core.model import check_uid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vera_core.format.columns import Body
    from vera_core.format.groups import GroupHead
    from vera_core.format.listing import Listing
    from vera_core.format.reader import ShardReader

_READ = 4 << 20
_NUMBERS = tuple(name for name in COMMON if name != "attributes")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a whole pass found in order: `sha256` of all `size` bytes; `shared` entries use another's stored bytes."""

    size: int
    sha256: bytes
    entries: int
    content_bytes: int
    stored_bytes: int
    shared: int


def verify(reader: ShardReader) -> Verified:
    """Reads the shard front to back and checks everything that it states.

    Header, groups, index pages, sections and footer match their checksums and each other; groups and sections lie end
    to end, so that no byte is unaccounted for; stored ranges are disjoint or exactly shared; pages are sorted; every
    content has the size and SHA-256 that the index states. Memory: the index (see `Listing`) and some MB.

    Raises:
        FormatError: the first finding.
    """
    footer = reader.footer
    reader.header()
    listing = reader.listing()
    scan = _Scan(reader)
    scan.take(layout.HEADER_SIZE)
    stored = _verify_stream(listing, scan) if reader.streamed else _verify_groups(reader, listing, scan)
    if scan.position != footer.data_end:
        raise FormatError("DATA does not end where the footer says", todo=RESTORE)
    _verify_pages(reader, scan)
    for section in reader.sections:
        crc = 0
        for start in range(0, section.size, CHUNK):
            crc = crc32(scan.take(min(CHUNK, section.size - start)), crc)
        if crc != section.crc:
            raise FormatError(
                "the checksum of a section does not match", todo=RESTORE, section=layout.tag_text(section.tag)
            )
    scan.take(footer.shard_size - scan.position)
    sizes, holders = listing.rows["size"], listing.rows["offset"]
    shared = int(np.count_nonzero(holders)) - len(np.unique(holders[holders > 0]))
    _verify_sums(reader, listing, stored)
    return Verified(footer.shard_size, scan.sha256.digest(), len(listing), int(sizes.sum()), stored, shared)


class _Scan:
    """The shard's bytes in order, hashed as they pass."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader
        self._data = b""
        self._at = 0
        self._fetched = 0
        self.position = 0
        self.sha256 = hashlib.sha256()

    def take(self, length: int) -> bytes:
        """The next `length` bytes (the caller bounds them)."""
        missing = length - (len(self._data) - self._at)
        if missing > 0:
            left = self._reader.footer.shard_size - self._fetched
            if missing > left:
                raise FormatError("the shard ends within its parts", todo=RESTORE)
            more = self._reader.fetch(self._fetched, min(left, max(missing, _READ)))
            self.sha256.update(more)
            self._fetched += len(more)
            self._data, self._at = self._data[self._at :] + more, 0
        taken = self._data[self._at : self._at + length]
        self._at += length
        self.position += length
        return taken


def _verify_groups(reader: ShardReader, listing: Listing, scan: _Scan) -> int:
    """Checks every group of an ordinary shard; returns the bytes of contents stored."""
    first = stored = 0
    while scan.position < reader.footer.data_end:
        head, body = _take_group(scan, first)
        if head.flags or first + head.count > len(listing):
            raise FormatError("DATA holds more entries than the index", todo=RESTORE, group=head.position)
        _check_rows(listing, head, body)
        brings = np.flatnonzero(body.columns[10].values() == 0) + head.first
        _check_contents(reader, listing, brings, scan)
        first += head.count
        stored += head.content_size
    if first != len(listing):
        raise FormatError(f"DATA holds {first} of the index's {len(listing)} entries", todo=RESTORE)
    return stored


def _verify_stream(listing: Listing, scan: _Scan) -> int:
    """Checks the only file of a streamed shard; returns the bytes stored."""
    entry = listing.entries(0, 1)[0]
    if entry.stored_size and entry.offset != layout.HEADER_SIZE:
        raise FormatError("a streamed file does not begin behind the header", todo=RESTORE, uid=entry.uid)
    crc, hasher = 0, hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        nonlocal crc
        for start in range(0, entry.stored_size, CHUNK):
            piece = scan.take(min(CHUNK, entry.stored_size - start))
            crc = crc32(piece, crc)
            yield piece

    with Naming({"uid": entry.uid, "entry": 0}):
        for content in decode_stream(entry.codec, pieces(), entry.size, entry.parameter):
            hasher.update(content)
        if crc != entry.crc32 or hasher.digest() != entry.sha256:
            raise FormatError("the content does not match its checksums", todo=RESTORE)
    head, body = _take_group(scan, 0)
    if head.flags != groups.AFTER or head.count != 1 or head.content_size != entry.stored_size:
        raise FormatError("the group of a streamed file does not describe it", todo=RESTORE)
    _check_rows(listing, head, body)
    return entry.stored_size


def _take_group(scan: _Scan, first: int) -> tuple[GroupHead, Body]:
    position = scan.position
    head = groups.parse_group_head(scan.take(groups.HEAD_SIZE), position)
    if head.first != first:
        raise FormatError(f"a group begins with entry {head.first}, not {first}", todo=RESTORE, group=position)
    return head, groups.parse_group_body(head, scan.take(head.stored_size))


def _check_rows(listing: Listing, head: GroupHead, body: Body) -> None:
    """Compares a group's columns with the index's."""
    begin, end = head.first, head.first + head.count
    rows = listing.rows[begin:end]
    own = groups.own_offsets(head, body)
    columns = dict(zip(groups.COLUMNS, (column.values() for column in body.columns), strict=True))
    shares = columns["holder"] > 0
    holders = listing.rows[np.where(shares, columns["holder"] - np.uint64(1), 0).astype(np.int64)]
    wrong = np.zeros(head.count, np.bool_)
    for name in (*_NUMBERS, "crc32"):
        wrong |= rows[name] != columns[name]
    wrong |= rows["offset"] != np.where(shares, holders["offset"], own)
    for name in ("size", "stored_size", "codec", "parameter", "crc32"):
        wrong |= shares & (rows[name] != holders[name])
    wrong |= shares & ((rows["digest"] != holders["digest"]).any(axis=1) | (rows["stored_size"] == 0))
    wrong |= _differ(listing.uids(begin, end), body.uids())
    wrong |= _differ(listing.attributes(begin, end), body.all_attributes())
    if bool(wrong.any()):
        ordinal = begin + int(np.argmax(wrong))
        uid = listing.uids(ordinal, ordinal + 1)[0].decode("utf-8", "replace")
        raise FormatError("DATA and index describe an entry differently", todo=RESTORE, uid=uid, entry=ordinal)


def _differ(left: list[bytes], right: list[bytes]) -> NDArray[np.bool_]:
    return np.array([one != other for one, other in zip(left, right, strict=True)], np.bool_)


def _check_contents(reader: ShardReader, listing: Listing, ordinals: NDArray[np.intp], scan: _Scan) -> None:
    """Decodes and checks the contents that entries of a group bring, some MB at a time."""
    parts = np.cumsum(listing.rows["size"][ordinals]) // np.uint64(_READ)
    for chosen in np.split(ordinals, np.flatnonzero(np.diff(parts)) + 1):
        rows = listing.rows[chosen]
        names = ("codec", "stored_size", "size", "parameter", "crc32")
        batch, crcs = [], []
        for codec, stored_size, size, parameter, crc in zip(*(rows[name].tolist() for name in names), strict=True):
            batch.append(Stored(CODECS[codec], scan.take(stored_size), size, parameter))
            crcs.append(crc)
        if not _is_right(batch, crcs, rows["digest"].tobytes()):
            for ordinal, item in zip(chosen.tolist(), batch, strict=True):  # to name the one
                reader.decode_batch([(listing.entries(ordinal, ordinal + 1)[0], item.stored)])


def _is_right(batch: list[Stored], crcs: list[int], digests: bytes) -> bool:
    try:
        contents = decode_many(batch)
    except FormatError:
        return False
    return [crc32(item.stored) for item in batch] == crcs and b"".join(map(digest, contents)) == digests


def _verify_pages(reader: ShardReader, scan: _Scan) -> None:
    """Checks the order of the index: by key, uid and ordinal, over all pages."""
    directory = reader.directory
    last: tuple[int, bytes, int] = (-1, b"", -1)
    for number in range(len(directory)):
        data = scan.take(directory.places[number + 1] - directory.places[number])
        page = check_page(directory, number, data, reader.footer)
        with Naming({"page": number}):
            keys, uids = page.keys(), page.body.uids()
            ordinals = page.body.columns[10].values().tolist()
            _check_uids(uids)
            if bool(directory.joined[number]) != (page.first_key == last[0]):
                raise FormatError("the directory does not say with which key a page begins", todo=RESTORE)
            rows = [0, *(np.flatnonzero(keys[1:] == keys[:-1]) + 1).tolist()]  # others rise by their keys alone
            for row in rows:
                before = (int(keys[row - 1]), uids[row - 1], ordinals[row - 1]) if row else last
                if (int(keys[row]), uids[row], ordinals[row]) <= before:
                    raise FormatError("an index page is not sorted", todo=RESTORE, entry=ordinals[row])
            last = (int(keys[-1]), uids[-1], ordinals[-1])
    if reader.footer.max_key != max(last[0], 0):
        raise FormatError("the footer's last key is not the index's", todo=RESTORE)


def _check_uids(uids: list[bytes]) -> None:
    """Checks that all are valid; one by one only where something is not plainly printable."""
    try:
        if not b" ".join(uids).decode().isprintable():
            for uid in uids:
                check_uid(uid.decode())
    except (BadUidError, UnicodeDecodeError) as error:
        raise FormatError(f"the index holds a uid that can't be: {error}", todo=RESTORE) from error


def _verify_sums(reader: ShardReader, listing: Listing, stored: int) -> None:
    """Checks the footer's sums and bounds."""
    footer, rows = reader.footer, listing.rows
    times = rows["created_at"] if len(rows) else np.array([TIME_BIAS], np.uint64)
    stated = (footer.content_bytes, footer.stored_bytes, footer.min_created_at, footer.max_created_at)
    found = (int(rows["size"].sum()), stored, int(times.min()) - TIME_BIAS, int(times.max()) - TIME_BIAS)
    if stated != found:
        raise FormatError("the footer's sums are not those of the entries", todo=RESTORE)
