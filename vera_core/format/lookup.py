"""Contents of a shard on this machine by uid, as fast as Python gives them: a hash table in front of packed records.

For whoever looks up many files of one shard. `ShardReader` is for shards anywhere, and for all else: it also finds what
is known of a file besides its content, and reads and keeps as little as it can to do so.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from hashlib import sha256
from mmap import mmap
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from vera_core.codec import crc32, decode_as
from vera_core.errors import FormatError, VeraError
from vera_core.format.groups import DIGEST, key_of
from vera_core.format.index import coding
from vera_core.format.layout import MAX_GROUP_ENTRIES, RESTORE
from vera_core.format.reader import ShardReader
from vera_core.format.shard import exactly
from vera_core.format.source import Naming, named
from vera_core.model import MAX_UID_BYTES

if TYPE_CHECKING:
    from vera_core.format.groups import Group
    from vera_core.format.source import RangeSource

_RECORD = Struct("<QQIIIIH")
"""Offset, place of the SHA-256, stored size, size, CRC32, codec and parameter, length of the uid, which follows."""
_facts = _RECORD.unpack_from  # bound once, as a lookup does little else
_HEAD = _RECORD.size
_LARGEST = _HEAD + MAX_UID_BYTES
_ENTRY = 72
"""About what an entry takes whose uid is neither short nor long."""


class _Kept(NamedTuple):
    """What is in memory: `table` has the place of a uid's record where its hash says, or behind; 0 is no place."""

    table: array[int]
    mask: int
    records: mmap
    groups: set[int]


class Lookup:
    """A shard in which files are looked up. Make it with `Lookup.open`; threads may share it."""

    def __init__(self, reader: ShardReader, *, cache_bytes: int, digests: bool) -> None:
        self._reader = reader
        self._read_at = reader.source.read_at
        self._dictionaries = reader.dictionaries()
        self._digests = digests
        self._lock = threading.Lock()
        self._most = min(reader.entry_count, max(cache_bytes // _ENTRY, MAX_GROUP_ENTRIES))
        self._slots: int = 1 << (self._most + self._most // 2).bit_length()
        room = max(min(cache_bytes, 1 << 32) - 4 * self._slots, MAX_GROUP_ENTRIES * _LARGEST)
        self._room = min(room, self._most * _LARGEST) + 1
        self._end, self._count = 1, 0
        self._kept = self._nothing()

    @classmethod
    def open(cls, source: RangeSource, *, cache_bytes: int = 128 << 20, digests: bool = True) -> Lookup:
        """Opens an unencrypted shard. The block of a group is read when one of its uids is first looked up.

        Args:
            source: where its bytes are; `MappedFile` is the fastest.
            cache_bytes: bound of what is kept, which is at most 46 bytes an entry besides its uid; all of it is
                forgotten when there is too much. Less than 9 MiB is no bound for groups of the longest uids.
            digests: as for `ShardReader.open`.

        Raises:
            FormatError, IncompatibleError: as `ShardReader.open` and `ShardReader.dictionaries`.
        """
        with Naming(source.where):
            return cls(ShardReader.open(source, digests=digests), cache_bytes=cache_bytes, digests=digests)

    @property
    def cached_bytes(self) -> int:
        """Memory that the table takes, and what it leads to."""
        return 4 * self._slots + self._end

    def get(self, uid: str) -> bytes | None:
        """The content of a uid's last entry, as `ShardReader.get` gives it; None if the shard has no such uid.

        Raises:
            FormatError, UsageError: as `ShardReader.get`.
        """
        name = uid.encode("utf-8", "surrogatepass")
        table, mask, records, _ = self._kept
        slot = hash(name) & mask
        try:
            while at := table[slot]:
                offset, proof, stored_size, size, crc, code, length = _facts(records, at)
                if records[at + _HEAD : at + _HEAD + length] == name:
                    stored = self._read_at(offset, stored_size) if stored_size else b""
                    if crc32(stored) != crc:
                        exactly(stored, offset, stored_size)
                        raise FormatError("the stored bytes do not match their CRC32", todo=RESTORE)
                    content = decode_as(coding(code), stored, size, self._dictionaries)
                    if self._digests and sha256(content).digest() != self._read_at(proof, DIGEST):
                        raise FormatError("the content does not match its SHA-256", todo=RESTORE)
                    return content
                slot = slot + 1 & mask
            return self._bring(uid, name)
        except VeraError as error:
            raise named(error, {**self._reader.source.where, "uid": uid}) from error

    def _bring(self, uid: str, name: bytes) -> bytes | None:
        """The content of a uid of which no record was found."""
        reader, directory, key = self._reader, self._reader.directory, key_of(name)
        number = bisect_right(directory.first_keys, key) - 1
        if number < 0:
            return None
        if reader.streamed:
            return reader.get(uid)
        with self._lock:
            if number not in self._kept.groups:
                self._load(number)
            # Even if that is not new: another thread may have brought it just now.
            found = self._kept.table[self._slot(name)]
        if found:
            return self.get(uid)
        return reader.get(uid) if directory.is_joined(number, key) else None

    def _load(self, number: int) -> None:
        """Keeps what a group says of the last entry of each uid; but of none that may go on in the next group.

        Raises:
            FormatError: the group is damaged.
        """
        directory = self._reader.directory
        begin, size = directory.blocks[number], directory.sizes[number]
        group = self._reader.parse_group(number, self._reader.fetch(begin, size))
        keys = group.keys().tolist()
        joined = number + 1 < len(directory) and directory.is_joined(number + 1, keys[-1])
        after = bisect_right(keys, keys[-1] - 1) if joined else len(keys)
        last = {name: row for row, name in enumerate(group.body.uids()[:after])}
        taken = _HEAD * len(last) + sum(map(len, last))
        if self._end + taken > self._room or self._count + len(last) > self._most:
            self._kept = self._nothing()  # in one assignment, as lookups take no lock
            self._end, self._count = 1, 0
        self._keep(last, _rows(group))
        self._kept.groups.add(number)

    def _keep(self, last: dict[bytes, int], rows: list[tuple[int, ...]]) -> None:
        table, _, records, _ = self._kept
        for name, row in last.items():
            at, uid_at = self._end, self._end + _HEAD
            _RECORD.pack_into(records, at, *rows[row], len(name))
            self._end = uid_at + len(name)
            records[uid_at : self._end] = name
            table[self._slot(name)] = at  # only now, as others follow it at once
        self._count += len(last)

    def _slot(self, name: bytes) -> int:
        """Where the table has the place of a uid's record, or has room for it."""
        table, mask, records, _ = self._kept
        slot = hash(name) & mask
        while at := table[slot]:
            length = _facts(records, at)[-1]
            if records[at + _HEAD : at + _HEAD + length] == name:
                break
            slot = slot + 1 & mask
        return slot

    def _nothing(self) -> _Kept:
        """Of the map, what is not written to takes no memory."""
        return _Kept(array("I", bytes(4 * self._slots)), self._slots - 1, mmap(-1, self._room), set())


def _rows(group: Group) -> list[tuple[int, ...]]:
    """What a record begins with, for each row of a group."""
    codes = [codec << 16 | parameter for codec, parameter in zip(*_lists(group, "codec", "parameter"), strict=True)]
    proofs = range(group.digests_at, group.digests_at + DIGEST * len(group), DIGEST)
    offsets, stored_sizes, sizes = _lists(group, "offset", "stored_size", "size")
    return list(zip(offsets, proofs, stored_sizes, sizes, group.crcs().tolist(), codes, strict=True))


def _lists(group: Group, *names: str) -> list[list[int]]:
    return [group.column(name).tolist() for name in names]
