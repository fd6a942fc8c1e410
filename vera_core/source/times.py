"""Times of a business database as microseconds since 1970 UTC, and the other way round for its queries.

A time without zone is read in the declared one. Where clocks were put back it exists twice and means the earlier of the
two (fold 0, PEP 495); where clocks were put forward it exists never and is read with the offset before the change.
Fractions of a microsecond are cut off. Everything here is pure; column by column, as a page has thousands of rows.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vera_core.model import MICROSECOND, from_micros
from vera_core.routing import DAY_MICROS
from vera_core.source.base import EPOCH_DAY
from vera_core.source.mapping import TimeType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from vera_core.source.base import Window
    from vera_core.source.mapping import TimeColumn

FIRST_TEXT = "0001-01-01"
"""Texts below it are the time of no day."""
END_TEXT = ":"
"""Follows all texts that begin with a digit; texts from here on are the time of no day."""
NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a wall-clock reading, on purpose
FACTORS = {TimeType.EPOCH_S: 1_000_000, TimeType.EPOCH_MS: 1_000, TimeType.EPOCH_US: 1}
MIN_MICROS = (date.min - EPOCH_DAY).days * 86_400_000_000
MAX_MICROS = ((date.max - EPOCH_DAY).days + 1) * 86_400_000_000 - 1

HOUR = 3_600
UTC_NAMES = frozenset({"UTC", "Etc/UTC"})

_DIGITS = r"\A[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.(?:[0-9]{3}){1,2})?"
_MOMENT = _DIGITS + r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\z"
_WALL = _DIGITS + r"\z"
_FORMS = ((_MOMENT, pa.timestamp("us", "UTC")), (_WALL, pa.timestamp("us")))
"""Texts that Arrow reads as Python does, with an offset and without one, and as what."""
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ].*)?", re.DOTALL)
_DAYS_AROUND = 2


class TimeTrouble(NamedTuple):
    """Why a value is no time, in words."""

    detail: str


class Micros(NamedTuple):
    """A column of times in UTC microseconds, and why some of its values are none, by their place (there it holds 0)."""

    values: NDArray[np.int64]
    troubles: dict[int, TimeTrouble]


@lru_cache(maxsize=1 << 12)
def zone_offset(zone: str, wall_second: int) -> int:
    """The UTC offset in microseconds of a wall-clock second (counted since 1970 as if it were UTC) in an IANA zone."""
    wall = NAIVE_EPOCH + timedelta(seconds=wall_second)
    offset = wall.replace(tzinfo=ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return offset // MICROSECOND


def wall_to_utc(wall_micros: int, zone: str) -> int:
    """UTC microseconds of a wall-clock reading in `zone`, both counted since 1970."""
    return wall_micros - zone_offset(zone, wall_micros // 1_000_000)


def offset_range(window: Window, zone: str) -> tuple[int, int]:
    """The least and the greatest UTC offset, in microseconds, that `zone` has around a window."""
    if zone in UTC_NAMES:
        return 0, 0
    first = window.first_micros // 1_000_000
    around = range(first - _DAYS_AROUND * 24 * HOUR, first + (_DAYS_AROUND + 1) * 24 * HOUR, HOUR)
    limit = (MIN_MICROS // 1_000_000, MAX_MICROS // 1_000_000)
    offsets = [zone_offset(zone, second) for second in around if limit[0] <= second <= limit[1]]
    return min(offsets), max(offsets)


def wall_micros(value: datetime) -> int:
    """What the clock reads, in microseconds since 1970 as if it were UTC."""
    days = value.toordinal() - 719_163
    return ((days * 86_400 + value.hour * 3_600 + value.minute * 60 + value.second) * 1_000_000) + value.microsecond


def moment_micros(value: datetime, zone: str) -> int | TimeTrouble:
    """UTC microseconds of a datetime; `zone` is for naive ones, "" if none is declared."""
    offset = value.utcoffset()
    if offset is not None:
        return wall_micros(value) - offset // MICROSECOND
    if not zone:
        return TimeTrouble(f"{value.isoformat()} has no time zone and none is declared")
    return wall_to_utc(wall_micros(value), zone)


def text_micros(text: str, zone: str) -> int | TimeTrouble:
    """UTC microseconds of an ISO 8601 text that begins with YYYY-MM-DD."""
    try:
        # Hour 24 is a time from Python 3.14 on; it is none here, whatever runs this.
        if not _ISO.fullmatch(text) or text[11:13] == "24":
            raise ValueError
        value = datetime.fromisoformat(text)
    except ValueError:
        return TimeTrouble(f"{text[:80]!r} is no ISO 8601 time that begins with YYYY-MM-DD")
    return moment_micros(value, zone)


@dataclass(frozen=True, slots=True)
class TimeReader:
    """Reads the values of one created_at column. `in_micros`: the query itself turns timestamps into microseconds."""

    column: TimeColumn
    in_micros: bool

    def bounds(self, window: Window) -> tuple[object, object]:
        """Raw values [low, high) that hold every row of the window, and some of its neighbours where zones differ."""
        kind = self.column.type
        if kind is TimeType.TEXT:
            # An offset is less than a day, so the text's own date is at most one away.
            return _texts_of(window.day.toordinal() - 1, window.day.toordinal() + 1)
        if kind in FACTORS:
            return window.first_micros // FACTORS[kind], window.end_micros // FACTORS[kind]
        low_offset, high_offset = offset_range(window, self.column.zone) if self.column.zone else (0, 0)
        low_micros = max(window.first_micros + low_offset, MIN_MICROS)
        high_micros = min(window.end_micros + high_offset, MAX_MICROS)
        return self.moment(low_micros), self.moment(high_micros)

    def plain_bounds(self, window: Window) -> tuple[str, str]:
        """As `bounds`, for texts that name no offset or that of UTC, and for those that are no time."""
        low, high = offset_range(window, self.column.zone) if self.column.zone else (0, 0)
        first, last = (window.first_micros + low) // DAY_MICROS, (window.end_micros - 1 + high) // DAY_MICROS
        return _texts_of(EPOCH_DAY.toordinal() + first, EPOCH_DAY.toordinal() + last)

    def parameter(self, raw: object) -> object:
        """The value to compare the column with, for a raw value that a page had."""
        if self.in_micros:
            assert isinstance(raw, int)
            return self.moment(raw)
        return raw

    def exact(self) -> bool:
        """Whether `bounds` hold the window's rows and no others."""
        return self.column.type is not TimeType.TEXT and self.column.zone in {"", *UTC_NAMES}

    def micros(self, values: Sequence[Any]) -> Micros:
        """UTC microseconds of raw values."""
        kind, zone = self.column.type, self.column.zone
        if self.in_micros:
            # The query selects a bigint.
            walls = np.array(values, np.int64)
            return Micros(_walls_to_utc(walls, zone) if zone else walls, {})
        if kind is TimeType.TEXT:
            return _texts(values, zone)
        if kind in FACTORS and set(map(type, values)) == {int}:
            return Micros(np.array(values, np.int64) * FACTORS[kind], {})
        read = partial(_scaled, factor=FACTORS[kind]) if kind in FACTORS else partial(_moment_or_day, zone=zone)
        return _each(values, read, np.zeros(len(values), np.int64), range(len(values)))

    def moment(self, micros: int) -> datetime:
        """The value to compare a timestamp column with."""
        if self.column.type is TimeType.TIMESTAMP:
            return NAIVE_EPOCH + timedelta(microseconds=micros)
        return from_micros(micros)


def _texts_of(first: int, last: int) -> tuple[str, str]:
    """Texts [low, high) that sort into the days with the ordinals `first` to `last`."""
    low = date.fromordinal(max(first, date.min.toordinal())).isoformat()
    return low, END_TEXT if last >= date.max.toordinal() else date.fromordinal(last + 1).isoformat()


def text_day(text: str) -> date:
    """The last day whose YYYY-MM-DD is not above `text`, which is at least `FIRST_TEXT` and below `END_TEXT`."""
    low, high = date.min.toordinal(), date.max.toordinal()
    while low < high:
        middle = (low + high + 1) // 2
        if date.fromordinal(middle).isoformat() <= text:
            low = middle
        else:
            high = middle - 1
    return date.fromordinal(low)


def _walls_to_utc(walls: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """As `wall_to_utc`, for a column."""
    if zone in UTC_NAMES:
        return walls
    seconds = walls // 1_000_000
    hours, which = np.unique(seconds // HOUR, return_inverse=True)
    # No zone ever changed its offset twice within days: an hour that ends as it began has one offset.
    ends = [(zone_offset(zone, hour * HOUR), zone_offset(zone, hour * HOUR + HOUR - 1)) for hour in hours.tolist()]
    offsets = np.array([first for first, _ in ends], np.int64)[which]
    changing = np.array([first != last for first, last in ends], bool)[which]
    offsets[changing] = [zone_offset(zone, second) for second in seconds[changing].tolist()]
    return walls - offsets


def _texts(values: Sequence[Any], zone: str) -> Micros:
    """ISO 8601 texts: those of the usual forms by Arrow, many times faster than what reads the others."""
    micros, read = np.zeros(len(values), np.int64), partial(_text, zone=zone)
    if set(map(type, values)) != {str}:
        return _each(values, read, micros, range(len(values)))
    left = np.ones(len(values), bool)
    try:
        texts = pa.array(values, pa.string())
        for form, kind in _FORMS if zone else _FORMS[:1]:
            usual: NDArray[np.bool_] = pc.match_substring_regex(texts, form).to_numpy(zero_copy_only=False)
            stamps = texts.filter(pa.array(usual)).cast(kind).cast(pa.int64()).to_numpy()
            micros[usual] = stamps if kind.tz else _walls_to_utc(stamps, zone)
            left &= ~usual
    except (pa.ArrowException, UnicodeEncodeError):
        # A day that does not exist, or bytes that are no text; rare enough to read all of them one by one.
        left[:] = True
    return _each(values, read, micros, np.flatnonzero(left).tolist())


def _each(
    values: Sequence[Any], read: Callable[[Any], int | TimeTrouble], micros: NDArray[np.int64], places: Iterable[int]
) -> Micros:
    """Reads the values at `places` one by one, into `micros`."""
    troubles = {}
    for at in places:
        found = read(values[at])
        if isinstance(found, TimeTrouble):
            micros[at], troubles[at] = 0, found
        else:
            micros[at] = found
    return Micros(micros, troubles)


def _text(value: object, zone: str) -> int | TimeTrouble:
    return text_micros(value, zone) if isinstance(value, str) else TimeTrouble(f"{value!r} is no text")


def _scaled(value: object, factor: int) -> int | TimeTrouble:
    if isinstance(value, int):
        return value * factor
    if isinstance(value, (float, Decimal)):
        return math.floor(Decimal(value) * factor)
    return TimeTrouble(f"{value!r} is no number")


def _moment_or_day(value: object, zone: str) -> int | TimeTrouble:
    if isinstance(value, datetime):
        return moment_micros(value, zone)
    if isinstance(value, date):
        return moment_micros(datetime(value.year, value.month, value.day), zone)  # noqa: DTZ001 - read in `zone`
    return TimeTrouble(f"{value!r} is no time")
