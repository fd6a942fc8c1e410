"""The fixed parts of a `.vera` shard, byte by byte: header, section table, footer, flags, limits (docs/format-v1.md).

Only structures whose place and size are constant; columns are in columns.py, what is made of them in groups.py and
directory.py. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING

from vera_core.codec import MAX_DICTIONARIES, MAX_DICTIONARY, crc32
from vera_core.errors import FormatError, IncompatibleError, UsageError
from vera_core.model import Erasability, check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
SUFFIX = 30 << 10
"""Bytes that opening a shard asks for at its end; the footer, nearly any directory, a small shard whole."""

MAGIC = b"\x89VERA\r\n\x1a"
FOOTER_MAGIC = b"VERAFOOT"
END_MAGIC = b"VERA.END"

HEADER_SIZE = 256
FOOTER_SIZE = 192
SECTION_SIZE = 48

MAX_ENTRIES = 1 << 24
MAX_GROUPS = 1 << 16
MAX_GROUP_ENTRIES = 1 << 14
MAX_BLOCK = 4 << 20
"""Largest group block or directory in bytes, before and after compression."""
MAX_GROUP_CONTENTS = 20 << 20
"""Bytes of the contents of a group, but for a streamed shard's."""
MAX_SHARED = 1 << 20
"""Contents, the first of a shard, that entries of later groups may share."""
MAX_SECTIONS = 128
MAX_SIZE = 1 << 62
"""Above any length or place in a shard; sums of two stay below 2**63."""
MAX_METADATA = 4096
MAX_MEDIA_TYPE = 127
MIN_TIME = -62_135_596_800_000_000
MAX_TIME = 253_402_300_799_999_999
"""Microseconds since 1970 of the first moment of year 1 and the last of year 9999."""

ENCRYPTED = 1 << 0
KEYED_UIDS = 1 << 1
DICTIONARIES = 1 << 2
STREAMED = 1 << 3

SEALED = ENCRYPTED | KEYED_UIDS
"""The flags of an encrypted shard, which are set together."""
SUPPORTED = STREAMED | DICTIONARIES | SEALED
"""Flags that this reader understands; any other in `incompat` is refused by name."""

AES_256_GCM = 1
MAX_DEPTH = 32
UID_KEY = 1
"""The only revision of a tenant's key."""

DIRECTORY = b"GROUPDIR"
DICTIONARY = b"DICT\0\0\0\0"
SUPPORTED_SECTIONS = frozenset({DIRECTORY, DICTIONARY})
REQUIRED = 1

RESTORE = "Restore this object from a copy that verifies; `vera verify --deep` shows the extent of the damage."

_HEADER = struct.Struct("<8sHHIQQ16sBB2x64s16sIBB2x")
_FOOTER = struct.Struct("<8sHHIQQQQQQqqQQQIIQQ16sI")
_SECTION = struct.Struct("<8sIIQQQI4x")
_ERASABILITIES = (Erasability.ERASABLE, Erasability.REGULATED)


@dataclass(frozen=True, slots=True)
class Encryption:
    """The key tree of an encrypted shard; zeros in an unencrypted one.

    `keyring_id` is 16 random bytes that name the build, `uid_key` the number of the tenant's uid key, `cipher` 1 for
    AES-256-GCM, `depth` that of the key tree: the file key of ordinal i is leaf i of 2**depth.
    """

    keyring_id: bytes = bytes(16)
    uid_key: int = 0
    cipher: int = 0
    depth: int = 0

    @property
    def is_possible(self) -> bool:
        """Whether an encrypted shard can state this."""
        return (
            len(self.keyring_id) == 16
            and self.uid_key == UID_KEY
            and self.cipher == AES_256_GCM
            and 1 <= self.depth <= MAX_DEPTH
        )


@dataclass(frozen=True, slots=True)
class Header:
    """The first 256 bytes of a shard."""

    repository_id: bytes
    retention_class: str
    erasability: Erasability
    incompat: int = 0
    compat: int = 0
    encryption: Encryption = field(default_factory=Encryption)

    def pack(self) -> bytes:
        """The header's bytes.

        Raises:
            UsageError: the retention class is no valid name.
        """
        name = check_name(self.retention_class, "retention class").encode()
        scheme = self.encryption
        fixed = _HEADER.pack(
            MAGIC,
            VERSION,
            0,
            HEADER_SIZE,
            self.incompat,
            self.compat,
            self.repository_id,
            _ERASABILITIES.index(self.erasability),
            len(name),
            name,
            scheme.keyring_id,
            scheme.uid_key,
            scheme.cipher,
            scheme.depth,
        )
        return _seal(fixed.ljust(HEADER_SIZE - 4, b"\0"))

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Reads and checks the first `HEADER_SIZE` bytes.

        Raises:
            FormatError: no header, or a damaged one.
            IncompatibleError: of a version or with a flag that this reader refuses.
        """
        if len(data) < HEADER_SIZE or data[:8] != MAGIC:
            raise FormatError("the object does not begin with a .vera header", todo=RESTORE)
        _check_seal(data[:HEADER_SIZE], "header")
        _, version, _, size, incompat, compat, repository_id, erasability, length, name, *scheme = _HEADER.unpack_from(
            data
        )
        _check_readable(version, incompat)
        text = name[:length].decode("ascii", "replace")
        if (
            size != HEADER_SIZE
            or erasability >= len(_ERASABILITIES)
            or length > len(name)
            or name[length:].strip(b"\0")
        ):
            raise FormatError("the header states impossible values", todo=RESTORE)
        try:
            check_name(text, "retention class")
        except UsageError as error:
            raise FormatError(f"the header states impossible values: {error.what}", todo=RESTORE) from error
        encryption = Encryption(*scheme)
        _check_encryption(encryption, incompat)
        return cls(repository_id, text, _ERASABILITIES[erasability], incompat, compat, encryption)


@dataclass(frozen=True, slots=True)
class Footer:
    """The last 192 bytes of a shard: everything a reader must know before it reads on.

    Times are microseconds since 1970 UTC of the earliest and latest entry; keys those of the first and last in the
    order of keys; all four 0 in an empty shard. The first group begins at `data_start`; the sections begin at
    `data_end`. `header_crc` is the checksum that the header ends with.
    """

    shard_size: int
    entries: int
    content_bytes: int
    stored_bytes: int
    min_key: int
    max_key: int
    min_created_at: int
    max_created_at: int
    data_start: int
    data_end: int
    table_offset: int
    sections: int
    table_crc: int
    incompat: int
    compat: int
    repository_id: bytes
    header_crc: int

    def pack(self) -> bytes:
        """The footer's bytes."""
        fixed = _FOOTER.pack(FOOTER_MAGIC, VERSION, 0, FOOTER_SIZE, *astuple(self))
        return _seal(fixed.ljust(FOOTER_SIZE - 12, b"\0"), END_MAGIC)

    @classmethod
    def parse(cls, data: bytes, total: int) -> Footer:
        """Reads and checks the last `FOOTER_SIZE` bytes of a shard of `total` bytes.

        Raises:
            FormatError: no footer, or a damaged or impossible one.
            IncompatibleError: of a version or with a flag that this reader refuses.
        """
        if len(data) != FOOTER_SIZE or data[:8] != FOOTER_MAGIC or data[-8:] != END_MAGIC:
            raise FormatError("the object does not end with a .vera footer: it is cut off or no shard", todo=RESTORE)
        _check_seal(data[:-8], "footer")
        _, version, _, size, *fields = _FOOTER.unpack_from(data)
        footer = cls(*fields)
        _check_readable(version, footer.incompat)
        if size != FOOTER_SIZE or not footer._is_possible(total):
            raise FormatError("the footer states places, sizes or counts that are impossible", todo=RESTORE)
        return footer

    def _is_possible(self, total: int) -> bool:
        end = self.table_offset + self.sections * SECTION_SIZE + FOOTER_SIZE
        return (
            self.shard_size == total == end
            and self.entries <= MAX_ENTRIES
            and 1 <= self.sections <= MAX_SECTIONS
            and HEADER_SIZE <= self.data_start <= self.data_end <= self.table_offset < MAX_SIZE
            and self.stored_bytes <= self.data_end - self.data_start
            and self.min_key <= self.max_key
            and MIN_TIME <= self.min_created_at <= self.max_created_at <= MAX_TIME
            and (self.entries == 1 or not self.incompat & STREAMED)
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A row of the section table: `size` bytes at `offset`, zstd of `raw_size` bytes if smaller than that.

    `tag` is 8 ASCII bytes, padded with zeros; `number` tells sections of one tag apart.
    """

    tag: bytes
    flags: int
    crc: int
    offset: int
    size: int
    raw_size: int
    number: int = 0

    def pack(self) -> bytes:
        """The row's bytes."""
        return _SECTION.pack(self.tag, self.flags, self.crc, self.offset, self.size, self.raw_size, self.number)

    @classmethod
    def parse(cls, data: bytes) -> Section:
        """A row from its `SECTION_SIZE` bytes, unchecked."""
        return cls(*_SECTION.unpack(data))


def pack_sections(sections: Sequence[Section]) -> bytes:
    """The section table's bytes."""
    return b"".join(section.pack() for section in sections)


def parse_sections(data: bytes, footer: Footer) -> tuple[Section, ...]:
    """Reads the section table: rows tile the bytes between DATA and table without gap.

    Raises:
        FormatError: damaged, rows that don't tile, or directory and dictionaries that can't be.
        IncompatibleError: a required section that this reader does not know.
    """
    if crc32(data) != footer.table_crc:
        raise FormatError("the section table's checksum does not match", todo=RESTORE)
    sections = tuple(Section(*fields) for fields in _SECTION.iter_unpack(data))
    at = footer.data_end
    for section in sections:
        if section.offset != at or section.size > section.raw_size or section.size > footer.table_offset - at:
            raise FormatError("the sections do not lie end to end", todo=RESTORE, section=tag_text(section.tag))
        if section.flags & REQUIRED and section.tag not in SUPPORTED_SECTIONS:
            raise IncompatibleError(
                f"the shard needs section {tag_text(section.tag)!r}, which this VERA does not know", todo=_UPGRADE
            )
        at += section.size
    if at != footer.table_offset:
        raise FormatError("bytes lie between the last section and the section table", todo=RESTORE)
    _check_known(sections, footer)
    return sections


def _check_known(sections: Sequence[Section], footer: Footer) -> None:
    """Checks number and size of the sections that this reader uses."""
    directories = [section.raw_size for section in sections if section.tag == DIRECTORY]
    if len(directories) != 1 or directories[0] > MAX_BLOCK:
        raise FormatError(f"the shard has {len(directories)} directories, or one that is too large", todo=RESTORE)
    dictionaries = [section for section in sections if section.tag == DICTIONARY]
    if bool(dictionaries) != bool(footer.incompat & DICTIONARIES):
        raise FormatError("the flags do not say whether the shard has dictionaries", todo=RESTORE)
    if [section.number for section in dictionaries] != list(range(1, len(dictionaries) + 1)):
        raise FormatError("the dictionaries of the shard are not numbered from 1", todo=RESTORE)
    if len(dictionaries) > MAX_DICTIONARIES or any(section.raw_size > MAX_DICTIONARY for section in dictionaries):
        raise FormatError("the shard has too many dictionaries, or one that is too large", todo=RESTORE)


def tag_text(tag: bytes) -> str:
    """A section's tag as shown to people."""
    return tag.rstrip(b"\0").decode("ascii", "backslashreplace")


_UPGRADE = "Use a newer version of VERA."


def _check_readable(version: int, incompat: int) -> None:
    if version != VERSION:
        raise IncompatibleError(f"the shard has format version {version}, this VERA reads {VERSION}", todo=_UPGRADE)
    refused = [1 << bit for bit in range(64) if (incompat & ~SUPPORTED) >> bit & 1]
    if refused:
        names = ", ".join(f"unknown feature {flag:#x}" for flag in refused)
        raise IncompatibleError(f"the shard uses {names}, which this VERA does not read", todo=_UPGRADE)
    if incompat & SEALED not in (0, SEALED):
        raise FormatError("the shard has one of encryption and keyed uids without the other", todo=RESTORE)


def _check_encryption(encryption: Encryption, incompat: int) -> None:
    if not incompat & SEALED:
        possible = encryption == Encryption()
    elif encryption.cipher == AES_256_GCM:
        possible = encryption.is_possible
    else:
        raise IncompatibleError(
            f"the shard is encrypted with cipher {encryption.cipher}, which this VERA does not know", todo=_UPGRADE
        )
    if not possible:
        raise FormatError("the header states keys that can't be those of this shard", todo=RESTORE)


def _seal(data: bytes, end: bytes = b"") -> bytes:
    return data + struct.pack("<I", crc32(data)) + end


def _check_seal(data: bytes, what: str) -> None:
    if crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FormatError(f"the {what}'s checksum does not match", todo=RESTORE)
