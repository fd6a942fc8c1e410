"""What a person types is read exactly, or refused as a usage error."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.cli.values import read_class, read_days, read_period, read_time
from vera_core.errors import Kind, VeraError
from vera_core.model import Erasability, RetentionClass


@given(st.integers(1, 100), st.dates(date(1900, 1, 1), date(2899, 12, 31)))
def test_a_period_in_years_covers_as_many_calendar_years(years: int, start: date) -> None:
    end = start.replace(year=start.year + years, day=min(start.day, 28))
    assert start.replace(day=min(start.day, 28)) + timedelta(days=read_period(f"{years}y")) >= end


@given(st.integers(1, 99_999))
def test_a_period_in_days_is_as_many_days(days: int) -> None:
    assert read_period(f"{days}d") == days


@pytest.mark.parametrize("text", ["", "7", "y", "0d", "-1d", "7 y", "7Y", "1.5y", "7m", "999999d", "٧y"])
def test_no_period(text: str) -> None:
    with pytest.raises(VeraError) as caught:
        read_period(text)
    assert caught.value.kind is Kind.USAGE


def test_retention_classes() -> None:
    assert read_class("mail=2y") == RetentionClass("mail", 731)
    assert read_class("ledger=10d:regulated") == RetentionClass("ledger", 10, Erasability.REGULATED)
    assert read_class("a=1d:erasable") == RetentionClass("a", 1)


@pytest.mark.parametrize("text", ["", "mail", "mail=", "=2y", "mail=2y:never", "Mail=2y", "mail=2y:regulated:x"])
def test_no_retention_class(text: str) -> None:
    with pytest.raises(VeraError) as caught:
        read_class(text)
    assert caught.value.kind is Kind.USAGE


def test_ranges_of_days() -> None:
    assert read_days("2026-03-01", "20260303") == (date(2026, 3, 1), date(2026, 3, 3))
    assert read_days("2026-03-01", "2026-03-01") == (date(2026, 3, 1), date(2026, 3, 1))
    assert read_days(None, None) == (None, None)


@pytest.mark.parametrize(
    ("first", "last"), [("2026-03-02", "2026-03-01"), ("2026-02-30", None), (None, "yesterday"), ("", None)]
)
def test_no_range_of_days(first: str | None, last: str | None) -> None:
    with pytest.raises(VeraError) as caught:
        read_days(first, last)
    assert caught.value.kind is Kind.USAGE


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00", "2026-03-01T12:00", "noon", "", "2026-13-01"])
def test_no_time(text: str) -> None:
    with pytest.raises(VeraError) as caught:
        read_time(text)
    assert caught.value.kind is Kind.USAGE


def test_no_time_given() -> None:
    assert read_time(None) is None
