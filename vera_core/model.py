"""The words of docs/concepts.md as types: times, uids, slots, locks, retention classes, entries. Pure; no I/O."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NamedTuple

from vera_core.errors import BadTimeError, BadUidError, UsageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MAX_UID_BYTES = 512
MAX_NAME_BYTES = 64
DEFAULT_TENANT = "default"


def check_uid(uid: str) -> str:
    """Returns `uid` if it is 1 to 512 bytes of UTF-8 without control characters.

    Raises:
        BadUidError: naming what is wrong with it.
    """
    try:
        size = len(uid.encode())
    except UnicodeEncodeError:
        raise BadUidError(
            "the uid is not valid UTF-8", todo="Rename it or map it to another uid.", uid=ascii(uid)
        ) from None
    if not 1 <= size <= MAX_UID_BYTES:
        raise BadUidError(f"the uid has {size} bytes, allowed are 1 to {MAX_UID_BYTES}", uid=uid[:80])
    if not uid.isprintable() and any(unicodedata.category(char) == "Cc" for char in uid):
        raise BadUidError("the uid contains a control character", uid=ascii(uid))
    return uid


def check_name(name: str, what: str = "name") -> str:
    """Returns `name` if it may be a part of an object key (tenant, source, retention class).

    1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit.

    Raises:
        UsageError: naming what is wrong with it.
    """
    good = set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    if not 1 <= len(name) <= MAX_NAME_BYTES or not set(name) <= good or name[0] in "-_.":
        raise UsageError(
            f"{name!r} is no valid {what}",
            todo="Use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit.",
        )
    return name


def utc(moment: datetime) -> datetime:
    """Returns a timezone-aware datetime in UTC.

    Raises:
        BadTimeError: `moment` is naive (its zone is not ours to guess), or leaves year 1 to 9999 in UTC.
    """
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise BadTimeError(f"{moment.isoformat()} has no time zone", todo="Give one, for example a trailing Z for UTC.")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadTimeError(f"{moment.isoformat()} is outside year 1 to 9999 in UTC") from None


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z of a timezone-aware datetime (exact, may be negative)."""
    return (utc(moment) - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The UTC datetime of `micros` since 1970-01-01T00:00:00Z.

    Raises:
        BadTimeError: outside year 1 to 9999.
    """
    try:
        return EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise BadTimeError(f"{micros} microseconds since 1970 is outside year 1 to 9999") from None


def parse_time(text: str) -> datetime:
    """Reads an ISO 8601 time with zone, or a bare date (midnight UTC: enough for routing).

    Raises:
        BadTimeError: unreadable, or a time without zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadTimeError(
            f"{text!r} is no ISO 8601 time", todo="Write it like 2026-03-01 or 2026-03-01T12:00:00Z."
        ) from None
    bare = len(text) <= len("2026-03-01")
    return moment.replace(tzinfo=UTC) if bare and moment.tzinfo is None else utc(moment)


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with a trailing Z, as written to every log record."""
    return utc(moment).isoformat().replace("+00:00", "Z")


def day_text(day: date) -> str:
    """YYYYMMDD."""
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"


def parse_day(text: str) -> date:
    """Reads YYYYMMDD or YYYY-MM-DD.

    Raises:
        BadTimeError: no such day.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadTimeError(f"{text!r} is no day", todo="Write it like 2026-03-01.") from None


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """The address that `routing.locate_shard` returns. `n_bits` (0..16) fixes how many indexes the day has."""

    tenant: str
    day: date
    index: int
    n_bits: int

    @property
    def index_text(self) -> str:
        """Uppercase hex, max(1, ceil(n_bits / 4)) digits."""
        return f"{self.index:0{max(1, -(-self.n_bits // 4))}X}"

    def __str__(self) -> str:
        return f"{self.tenant}/{day_text(self.day)}/{self.index_text}"


class Origin(NamedTuple):
    """The identity of a version in its slot: the commit that first brought it, and its ordinal there. Highest wins."""

    commit: int
    ordinal: int


class LockMode(StrEnum):
    """S3 Object Lock modes; NONE only where the repository accepts a store without enforced locks."""

    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"
    NONE = "NONE"


class Lock(NamedTuple):
    """An Object Lock retention of one version: mode and the UTC moment it ends."""

    mode: LockMode
    until: datetime


class Erasability(StrEnum):
    """Whether files of a retention class may be erased while locked."""

    ERASABLE = "erasable"
    REGULATED = "regulated"


@dataclass(frozen=True, slots=True)
class RetentionClass:
    """How long entries are locked (`days` after archiving) and whether they may be erased meanwhile."""

    name: str
    days: int
    erasability: Erasability = Erasability.ERASABLE


class Codec(IntEnum):
    """How an entry's content is stored. The numbers are part of format v1."""

    RAW = 0
    ZSTD = 1
    LZ4 = 2
    CONSTANT = 3
    ZSTD_BLOCK = 4

    @property
    def takes_dictionary(self) -> bool:
        """Whether the parameter is a dictionary's number."""
        return self in {Codec.ZSTD, Codec.ZSTD_BLOCK}


class Policy(StrEnum):
    """What packing aims at: speed, a balance, or stored size. Readers need not know which was used."""

    FAST = "fast"
    BALANCED = "balanced"
    SMALL = "small"


class Entry(NamedTuple):
    """One archived file in a shard. A named tuple, because lookups make one for each file that they find.

    `key` is the first 8 bytes of SHA-256(uid) as big-endian u64; `created_at` microseconds since 1970 UTC; `size` and
    `stored_size` bytes; `offset` the absolute position of the stored bytes in the shard (0 where nothing is stored);
    `crc32` over the stored bytes; `sha256` of the content; `parameter` of the codec: the dictionary's number (0 for
    none) for ZSTD, the byte's value for CONSTANT, else 0; `origin` None unless repacked or copied.
    """

    uid: str
    key: int
    ordinal: int
    created_at: int
    size: int
    stored_size: int
    offset: int
    codec: Codec
    crc32: int
    sha256: bytes
    parameter: int = 0
    media_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    origin: Origin | None = None
    flags: int = 0
