"""Times: against Python's own arithmetic, in zones that shift, and every row in exactly one window."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vera_core.model import to_micros
from vera_core.source.base import Window, day_of
from vera_core.source.mapping import TimeColumn, TimeType
from vera_core.source.times import (
    MAX_MICROS,
    MIN_MICROS,
    NAIVE_EPOCH,
    TimeReader,
    TimeTrouble,
    text_day,
    text_micros,
    wall_to_utc,
)

ZONES = [
    "UTC", "Europe/Berlin", "America/St_Johns", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe",
    "Pacific/Apia", "Africa/Monrovia", "Europe/Amsterdam", "America/New_York",
]  # fmt: skip
WALLS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001 - wall-clock readings


def reader(kind: TimeType, zone: str = "", *, in_micros: bool = False) -> TimeReader:
    return TimeReader(TimeColumn(column="t", type=kind, zone=zone), in_micros)


def read(values: list[Any], kind: TimeType, zone: str = "", *, in_micros: bool = False) -> list[int | TimeTrouble]:
    """A column of values, as it is read."""
    found = reader(kind, zone, in_micros=in_micros).micros(values)
    return [found.troubles.get(at, micros) for at, micros in enumerate(found.values.tolist())]


def walls_micros(wall: datetime) -> int:
    return (wall - NAIVE_EPOCH) // timedelta(microseconds=1)


@given(wall=WALLS, zone=st.sampled_from(ZONES))
@example(datetime(2026, 10, 25, 2, 30), "Europe/Berlin")  # noqa: DTZ001 - exists twice: the earlier one
@example(datetime(2026, 3, 29, 2, 30), "Europe/Berlin")  # noqa: DTZ001 - exists never
@example(datetime(2011, 12, 30, 12), "Pacific/Apia")  # noqa: DTZ001 - a day that was left out
@example(datetime(1937, 7, 1, 0, 0, 10), "Europe/Amsterdam")  # noqa: DTZ001 - offsets with seconds
def test_a_wall_clock_reading_means_what_fold_0_says(wall: datetime, zone: str) -> None:
    expected = to_micros(wall.replace(tzinfo=ZoneInfo(zone), fold=0))
    stamped = reader(TimeType.TIMESTAMP, zone, in_micros=True)
    assert read([walls_micros(wall)], TimeType.TIMESTAMP, zone, in_micros=True) == [expected]
    assert read([wall], TimeType.TIMESTAMP, zone) == [expected]
    assert text_micros(wall.isoformat(), zone) == expected
    # Whatever the clocks did: the query of the one day that the row belongs to finds it.
    window = Window("s", "t", day_of(expected))
    low, high = stamped.bounds(window)
    assert low <= stamped.parameter(walls_micros(wall)) < high  # type: ignore[operator] # both are datetimes


def test_the_hour_that_exists_twice_and_the_one_that_never_does() -> None:
    berlin = "Europe/Berlin"
    assert text_micros("2026-10-25T02:30:00", berlin) == to_micros(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    assert text_micros("2026-10-25T03:00:00", berlin) == to_micros(datetime(2026, 10, 25, 2, 0, tzinfo=UTC))
    assert text_micros("2026-03-29T02:30:00", berlin) == to_micros(datetime(2026, 3, 29, 1, 30, tzinfo=UTC))


@given(
    moment=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001 - the zone follows
    offset=st.integers(-1439, 1439),
    separator=st.sampled_from("T "),
)
def test_a_text_is_in_the_query_of_its_day_and_reads_exactly(moment: datetime, offset: int, separator: str) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    text = aware.isoformat(sep=separator)
    micros = text_micros(text, "")
    assert micros == to_micros(aware)
    low, high = reader(TimeType.TEXT).bounds(Window("s", "t", day_of(micros)))
    assert low <= text < high  # type: ignore[operator] # both are texts


@given(wall=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), zone=st.sampled_from(ZONES))  # noqa: DTZ001 - as above
@example(datetime(2026, 3, 1, 0, 30), "Europe/Berlin")  # noqa: DTZ001 - the UTC day before
@example(datetime(2026, 3, 1, 20, 30), "America/New_York")  # noqa: DTZ001 - the UTC day after
def test_a_text_without_an_offset_is_in_the_narrow_query_of_its_day(wall: datetime, zone: str) -> None:
    for text in (wall.isoformat(" "), wall.isoformat() + "Z", wall.isoformat() + "+00:00"):
        micros = text_micros(text, zone)
        assert isinstance(micros, int)
        low, high = reader(TimeType.TEXT, zone).plain_bounds(Window("s", "t", day_of(micros)))
        assert low <= text < high


@given(text=st.text(alphabet="0123456789-: TZ+W.", max_size=12).filter(lambda text: "0001-01-01" <= text < ":"))
def test_a_text_that_is_no_time_sorts_into_one_day(text: str) -> None:
    day = text_day(text)
    assert day.isoformat() <= text
    assert day == date.max or text < (day + timedelta(days=1)).isoformat()
    low, high = reader(TimeType.TEXT).bounds(Window("s", "t", day))
    assert low <= text < high  # type: ignore[operator] # both are texts
    for zone in ZONES:
        low, high = reader(TimeType.TEXT, zone).plain_bounds(Window("s", "t", day))
        assert low <= text < high


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T12:00:00",
        "20260301T120000Z",
        "2026-W09-7",
        "2026-02-30",
        "01.03.2026",
        "",
        "2026-03-01\n",
        "2026-03-01T24:00:00Z",
        "٢٠٢٦-03-01",
    ],
)
def test_texts_that_are_no_times_or_have_no_zone(text: str) -> None:
    assert isinstance(text_micros(text, ""), TimeTrouble)


@given(st.integers(MIN_MICROS, MAX_MICROS))
def test_numbers_are_scaled_and_cut_off(micros: int) -> None:
    assert read([micros], TimeType.EPOCH_US) == [micros]
    assert read([Decimal(micros).scaleb(-3)], TimeType.EPOCH_MS) == [micros]
    assert read([micros // 1_000_000], TimeType.EPOCH_S) == [micros // 1_000_000 * 1_000_000]
    assert read([Decimal(micros) + Decimal("0.9")], TimeType.EPOCH_US) == [micros]


def test_values_that_are_no_times() -> None:
    for kind in (TimeType.EPOCH_S, TimeType.TIMESTAMPTZ, TimeType.TEXT):
        assert isinstance(read([b"x"], kind)[0], TimeTrouble)
    naive = datetime(2026, 3, 1)  # noqa: DTZ001 - a driver that forgets the zone
    (trouble,) = read([naive], TimeType.TIMESTAMPTZ)
    assert isinstance(trouble, TimeTrouble)
    assert "no time zone" in trouble.detail


@pytest.mark.parametrize("day", [date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 30), date.max])
@pytest.mark.parametrize("zone", ["", "Asia/Kolkata", "America/New_York"])
def test_the_ends_of_time_have_bounds(day: date, zone: str) -> None:
    for kind in TimeType:
        if kind is TimeType.TIMESTAMP or not zone:
            low, high = reader(kind, zone or ("UTC" if kind is TimeType.TIMESTAMP else "")).bounds(
                Window("s", "t", day)
            )
            assert low < high  # type: ignore[operator] # of one type


ISO_TEXTS = st.one_of(
    st.builds(
        lambda at, separator, spec, end: at.isoformat(separator, spec) + end,
        at=st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001 - the zone may follow
        separator=st.sampled_from("T "),
        spec=st.sampled_from(["auto", "seconds", "milliseconds", "minutes"]),
        end=st.sampled_from(["Z", "", "+00:00", "-23:59", "+05:30", "+24:00", "-0130", "+01", "+01:00:30", "z", "\n"]),
    ),
    st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{0,9})?(Z|[+-]\d\d:\d\d)?", fullmatch=True),
    st.sampled_from(
        ["2026-03-01", "2026-02-30T00:00:00Z", "2026-03-01T23:59:60Z", "\udcff", "", "0000-01-01T00:00:00Z"]
    ),
)


@given(texts=st.lists(ISO_TEXTS | st.binary(max_size=2), max_size=6), zone=st.sampled_from(["", *ZONES]))
@example(["2026-10-25T02:30:00", "2026-10-25T02:30:00Z", "2026-03-29T02:30:00.123"], "Europe/Berlin")
@example(["9999-12-31T23:59:59.999999", "1000-01-01T00:00:00"], "America/New_York")
@example(["1000-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"], "")
def test_texts_that_are_read_by_the_column_mean_what_they_mean_one_by_one(texts: list[Any], zone: str) -> None:
    one_by_one = [
        text_micros(text, zone) if isinstance(text, str) else read([text], TimeType.TEXT)[0] for text in texts
    ]
    assert read(texts, TimeType.TEXT, zone) == one_by_one


@given(walls=st.lists(WALLS, max_size=5), zone=st.sampled_from(ZONES))
@example([datetime(2026, 10, 25, hour, 30) for hour in range(5)], "Europe/Berlin")  # noqa: DTZ001 - wall-clock readings
@example([datetime(2026, 3, 29, hour, 59, 59) for hour in range(5)], "Europe/Berlin")  # noqa: DTZ001 - as above
@example([datetime(1937, 7, 1, 0, 0, second) for second in range(60)], "Europe/Amsterdam")  # noqa: DTZ001 - as above
@example([datetime(1937, 7, 1, 0, minute) for minute in range(60)], "Europe/Amsterdam")  # noqa: DTZ001 - as above
@example([datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)], "America/New_York")  # noqa: DTZ001 - as above
def test_wall_clock_readings_mean_the_same_by_the_column(walls: list[datetime], zone: str) -> None:
    readings = [walls_micros(wall) for wall in walls]
    found = read(readings, TimeType.TIMESTAMP, zone, in_micros=True)
    assert found == read(walls, TimeType.TIMESTAMP, zone) == [wall_to_utc(reading, zone) for reading in readings]
