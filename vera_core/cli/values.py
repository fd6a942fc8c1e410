"""Reading what a person types: times, days, ranges of days, retention periods. Every mistake is a usage error."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import BadTimeError, UsageError
from vera_core.model import Erasability, RetentionClass, check_name, parse_day, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

DAYS_PER_YEAR = 365.25
"""Rounded up over the whole period: never shorter than as many calendar years."""
_AMOUNT = re.compile(r"(?P<number>[0-9]{1,15}(\.[0-9]{1,6})?)(?P<unit>[a-z]?)")
_PERIOD = re.compile(r"(?P<count>[0-9]{1,5})(?P<unit>[dy])")


class Days(NamedTuple):
    """A range of days, both ends included; None is open."""

    first: date | None
    last: date | None


def read_time(text: str | None) -> datetime | None:
    """A time with zone or a day; None where none was given.

    Raises:
        BadTimeError: it is neither.
    """
    return None if text is None else parse_time(text)


def read_until(text: str) -> datetime:
    """A time with zone, or a day: then its end, so that the day itself is included.

    Raises:
        BadTimeError: it is neither, or the last day that there is.
    """
    moment = parse_time(text)
    if len(text) > len("2026-03-01"):
        return moment
    try:
        return moment + timedelta(days=1)
    except OverflowError:
        raise BadTimeError(f"{text} has no end in year 1 to 9999") from None


def read_days(first: str | None, last: str | None) -> Days:
    """The range of days between two options.

    Raises:
        BadTimeError: one is no day.
        UsageError: the range is empty.
    """
    days = Days(None if first is None else parse_day(first), None if last is None else parse_day(last))
    if days.first is not None and days.last is not None and days.first > days.last:
        raise UsageError(f"the range of days is empty: {days.first} is after {days.last}", todo="Swap --from and --to.")
    return days


def read_period(text: str) -> int:
    """Days of a retention period: 90d, or 7y as days that no seven calendar years exceed.

    Raises:
        UsageError: it is no period.
    """
    match = _PERIOD.fullmatch(text)
    if match is None or not int(match["count"]):
        raise UsageError(f"{text!r} is no retention period", todo="Write it like 90d or 7y.")
    count = int(match["count"])
    return count if match["unit"] == "d" else math.ceil(count * DAYS_PER_YEAR)


def read_class(text: str) -> RetentionClass:
    """A retention class written as NAME=PERIOD or NAME=PERIOD:regulated.

    Raises:
        UsageError: it is not written so.
    """
    name, separator, rest = text.partition("=")
    period, _, erasability = rest.partition(":")
    if not separator or erasability not in {"", *Erasability}:
        raise UsageError(f"{text!r} is no retention class", todo="Write it like tax=10y or ledger=10y:regulated.")
    return RetentionClass(
        check_name(name, "retention class"), read_period(period), Erasability(erasability or Erasability.ERASABLE)
    )


def read_count(text: str) -> int:
    """A number of things: 5_000_000, 100k, 100M, 5G in thousands.

    Raises:
        UsageError: it is none.
    """
    return _scaled(text, {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "b": 1000**3}, "number", "100M or 5_000_000")


def read_size(text: str) -> int:
    """A size in bytes: 4096, 4k, 1.5M, 2G in steps of 1,024.

    Raises:
        UsageError: it is none.
    """
    return _scaled(text, {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}, "size", "4k or 1.5M")


def _scaled(text: str, units: Mapping[str, int], what: str, example: str) -> int:
    match = _AMOUNT.fullmatch(text.replace("_", "").replace(",", "").strip().lower())
    if match is None or match["unit"] not in units:
        raise UsageError(f"{text!r} is no {what}", todo=f"Write it like {example}.")
    return round(float(match["number"]) * units[match["unit"]])
