"""Where a file lives: a pure function of its uid, its time and the repository's routing settings. No I/O, no lookup.

The rule is docs/routing.md, its published vectors are tests/fixtures/routing-vectors.json. Which epochs a repository
has and how they change is the config log's business (config.py); what a slot's objects are called is keyspace.py's.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import UsageError
from vera_core.model import DEFAULT_TENANT, EPOCH, Slot, check_name, check_uid, from_micros, to_micros, utc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MAX_BITS = 16
DAY_MICROS = 86_400_000_000
UID_TIME_DIFFERS = "uid-time-differs"
"""The reason under which a row is rejected whose `created_at` is over one day away from its uid's own time."""

_KEY_BITS = 64
_EPOCH_ORDINAL = EPOCH.toordinal()
_MIN_MICROS = (1 - _EPOCH_ORDINAL) * DAY_MICROS
_MAX_MICROS = (date.max.toordinal() + 1 - _EPOCH_ORDINAL) * DAY_MICROS - 1
_CACHED_DAYS = 4096


class UidScheme(StrEnum):
    """Uids that carry their own time. No text belongs to two of them."""

    UUID7 = "uuid7"
    ULID = "ulid"
    SNOWFLAKE = "snowflake"


class EpochState(StrEnum):
    """How far the setting of a routing epoch has come (docs/protocol.md); only an active one routes."""

    PENDING = "pending"
    ACTIVE = "active"
    WITHDRAWN = "withdrawn"


class RoutingEpoch(NamedTuple):
    """From this day on, until the next active epoch's, a day has 2 ** `n_bits` slots."""

    from_day: date
    n_bits: int
    state: EpochState = EpochState.ACTIVE


def uid_key(uid: str) -> int:
    """The first 8 bytes of SHA-256 over the uid's UTF-8, as a big-endian unsigned 64-bit number.

    Raises:
        BadUidError: `uid` is no valid uid.
    """
    return int.from_bytes(hashlib.sha256(check_uid(uid).encode()).digest()[:8], "big")


def check_bits(n_bits: int) -> int:
    """Returns `n_bits` if it is 0 to 16.

    Raises:
        UsageError: it is not.
    """
    if not 0 <= n_bits <= MAX_BITS:
        raise UsageError(f"n_bits is {n_bits}, allowed are 0 to {MAX_BITS}")
    return n_bits


def locate_shard(uid: str, created_at: datetime | date, n_bits: int, *, tenant: str = DEFAULT_TENANT) -> Slot:
    """The slot of a uid: the UTC day of `created_at`, and the first `n_bits` bits of the uid's key.

    Pure, so every program that knows the three finds the same slot without asking anyone. A bare date is taken as a UTC
    day. Which time routes a uid in a repository that trusts time-bearing ones, `Routing.slot` decides.

    Raises:
        BadUidError: `uid` is no valid uid.
        BadTimeError: `created_at` is a datetime without a time zone, or leaves year 1 to 9999 in UTC.
        UsageError: `n_bits` is not 0 to 16.
    """
    return Slot(tenant, _day(created_at), uid_key(uid) >> (_KEY_BITS - check_bits(n_bits)), n_bits)


def uid_time(uid: str, schemes: Collection[UidScheme], *, snowflake_epoch_ms: int = 0) -> datetime | None:
    """The time in UTC (to the millisecond) that a uid carries in one of `schemes`; None if it carries none.

    UUIDv7 is RFC 9562 section 5.7 in the hyphenated form, ULID its specification's 26 characters (both in either case),
    Snowflake a decimal number below 2 ** 63 without leading zeros, whose bits above the 22nd count milliseconds since
    `snowflake_epoch_ms` (itself milliseconds since 1970). A time outside year 1 to 9999 is none.
    """
    micros = _uid_micros(uid, schemes, snowflake_epoch_ms)
    return None if micros is None else from_micros(micros)


@dataclass(frozen=True, slots=True)
class Routing:
    """A repository's routing settings, as one revision of its config log has them.

    A day uses the latest active epoch whose `from_day` is not after it; of two from the same day the later in `epochs`.

    Args:
        epochs: in the order of the config log; the earliest active one starts at `date.min`.
        schemes: the time-bearing uids that are trusted: their own time routes them.
        snowflake_epoch_ms: milliseconds since 1970 at which the repository's Snowflake ids count 0.

    Raises:
        UsageError: an epoch's `n_bits` is not 0 to 16, or no active epoch starts at `date.min`.
    """

    epochs: tuple[RoutingEpoch, ...] = (RoutingEpoch(date.min, 0),)
    schemes: frozenset[UidScheme] = frozenset()
    snowflake_epoch_ms: int = 0
    _active: tuple[RoutingEpoch, ...] = field(init=False, repr=False, compare=False)
    _days: dict[int, tuple[date, int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for epoch in self.epochs:
            check_bits(epoch.n_bits)
        # A stable sort: of two epochs from one day the later in the log stays behind the earlier, and so is found.
        active = sorted((e for e in self.epochs if e.state is EpochState.ACTIVE), key=lambda epoch: epoch.from_day)
        if not active or active[0].from_day != date.min:
            raise UsageError(
                "no active routing epoch covers the earliest days",
                todo=f"Let the first epoch start at {date.min.isoformat()}.",
            )
        object.__setattr__(self, "_active", tuple(active))

    def n_bits(self, day: date) -> int:
        """The active epoch's `n_bits` for a UTC day."""
        return self._current(day).n_bits

    def pending(self, day: date) -> RoutingEpoch | None:
        """The pending epoch that would route `day` once activated (a packer waits for its outcome), or None."""
        current = self._current(day)
        found = [e for e in self.epochs if e.state is EpochState.PENDING and current.from_day <= e.from_day <= day]
        return max(reversed(found), key=lambda epoch: epoch.from_day, default=None)

    def uid_time(self, uid: str) -> datetime | None:
        """The time that `uid` carries in a trusted scheme; None if it carries none."""
        return uid_time(uid, self.schemes, snowflake_epoch_ms=self.snowflake_epoch_ms)

    def uid_micros(self, uid: str) -> int | None:
        """As `uid_time`, for bulk work: microseconds since 1970 UTC."""
        return _uid_micros(uid, self.schemes, self.snowflake_epoch_ms) if self.schemes else None

    def slot(self, tenant: str, uid: str, created_at: datetime | date | None = None) -> Slot:
        """The slot of a uid: by its own time where a trusted scheme carries one, else by `created_at`.

        Raises:
            UsageError: `tenant` is no valid name, or `created_at` is None and needed.
            BadUidError, BadTimeError: as `locate_shard`.
        """
        check_name(tenant, "tenant")
        moment = self.uid_time(check_uid(uid)) or created_at
        if moment is None:
            raise UsageError(
                "the uid carries no time that this repository trusts, so its day is not known",
                todo="Give created_at; the date is enough.",
                tenant=tenant,
                uid=uid,
            )
        day = _day(moment)
        return locate_shard(uid, day, self.n_bits(day), tenant=tenant)

    def slot_of(self, tenant: str, uid: str, micros: int) -> Slot:
        """As `slot`, for bulk work: `micros` since 1970 UTC, and a tenant that the caller has checked once.

        Raises:
            BadUidError: `uid` is no valid uid.
            BadTimeError: `micros` is outside year 1 to 9999.
        """
        key = uid_key(uid)
        if self.schemes:
            own = _uid_micros(uid, self.schemes, self.snowflake_epoch_ms)
            micros = micros if own is None else own
        number = micros // DAY_MICROS
        day, n_bits, shift = self._days.get(number) or self._learn_day(number, micros)
        return Slot(tenant, day, key >> shift, n_bits)

    def check(self, uid: str, created_at: datetime) -> str | None:
        """`UID_TIME_DIFFERS` if a trusted uid's own time and `created_at` are over one day apart, else None.

        Raises:
            BadTimeError: `created_at` has no time zone.
        """
        return self.check_of(uid, to_micros(created_at))

    def check_of(self, uid: str, micros: int) -> str | None:
        """As `check`, for bulk work: `micros` since 1970 UTC."""
        own = _uid_micros(uid, self.schemes, self.snowflake_epoch_ms) if self.schemes else None
        return UID_TIME_DIFFERS if own is not None and abs(own - micros) > DAY_MICROS else None

    def _current(self, day: date) -> RoutingEpoch:
        return self._active[bisect_right(self._active, day, key=lambda epoch: epoch.from_day) - 1]

    def _learn_day(self, number: int, micros: int) -> tuple[date, int, int]:
        if len(self._days) >= _CACHED_DAYS:
            self._days.clear()
        day = from_micros(micros).date()
        n_bits = self.n_bits(day)
        return self._days.setdefault(number, (day, n_bits, _KEY_BITS - n_bits))


def _day(moment: datetime | date) -> date:
    return utc(moment).date() if isinstance(moment, datetime) else moment


# [0-9] and never \d, fullmatch and never $: other scripts' digits and a trailing newline are not part of any scheme.
_UUID7 = re.compile(r"([0-9a-fA-F]{8})-([0-9a-fA-F]{4})-7[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")
# The first of a ULID's 26 characters holds 3 bits, so 8 and more overflow; I, L, O and U are not in the alphabet.
_ULID = re.compile(r"([0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{9})[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{16}")
_SNOWFLAKE = re.compile(r"0|[1-9][0-9]{0,18}")
_SNOWFLAKE_LOW_BITS = 22
_CROCKFORD = str.maketrans("ABCDEFGHJKMNPQRSTVWXYZ", "ABCDEFGHIJKLMNOPQRSTUV")
"""From Crockford's digits to those of int(text, 32)."""


def _uuid7_ms(uid: str, _epoch_ms: int) -> int | None:
    match = _UUID7.fullmatch(uid)
    return int(match[1] + match[2], 16) if match else None


def _ulid_ms(uid: str, _epoch_ms: int) -> int | None:
    match = _ULID.fullmatch(uid)
    return int(match[1].upper().translate(_CROCKFORD), 32) if match else None


def _snowflake_ms(uid: str, epoch_ms: int) -> int | None:
    if not _SNOWFLAKE.fullmatch(uid) or (number := int(uid)) >> (_KEY_BITS - 1):
        return None
    return (number >> _SNOWFLAKE_LOW_BITS) + epoch_ms


_MILLISECONDS: dict[UidScheme, Callable[[str, int], int | None]] = {
    UidScheme.UUID7: _uuid7_ms,
    UidScheme.ULID: _ulid_ms,
    UidScheme.SNOWFLAKE: _snowflake_ms,
}


def _uid_micros(uid: str, schemes: Collection[UidScheme], epoch_ms: int) -> int | None:
    for scheme in schemes:
        millis = _MILLISECONDS[scheme](uid, epoch_ms)
        if millis is not None:
            return millis * 1000 if _MIN_MICROS <= millis * 1000 <= _MAX_MICROS else None
    return None
