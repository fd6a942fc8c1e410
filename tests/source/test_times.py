"""Times: against Python's own arithmetic, in zones that shift, and every row in exactly one window."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vera_core.model import to_micros
from vera_core.source.base import Window, day_of
from vera_core.source.mapping import TimeColumn, TimeType
from vera_core.source.times import MAX_MICROS, MIN_MICROS, NAIVE_EPOCH, TimeReader, TimeTrouble, text_day, text_micros

ZONES = [
    "UTC", "Europe/Berlin", "America/St_Johns", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe",
    "Pacific/Apia", "Africa/Monrovia", "Europe/Amsterdam", "America/New_York",
]  # fmt: skip
WALLS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001 - wall-clock readings


def reader(kind: TimeType, zone: str = "", *, in_micros: bool = False) -> TimeReader:
    return TimeReader(TimeColumn(column="t", type=kind, zone=zone), in_micros)


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
    assert stamped.micros([walls_micros(wall)]) == [expected]
    assert reader(TimeType.TIMESTAMP, zone).micros([wall]) == [expected]
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


@given(text=st.text(alphabet="0123456789-: TZ+W.", max_size=12).filter(lambda text: "0001-01-01" <= text < ":"))
def test_a_text_that_is_no_time_sorts_into_one_day(text: str) -> None:
    day = text_day(text)
    assert day.isoformat() <= text
    assert day == date.max or text < (day + timedelta(days=1)).isoformat()
    low, high = reader(TimeType.TEXT).bounds(Window("s", "t", day))
    assert low <= text < high  # type: ignore[operator] # both are texts


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
    assert reader(TimeType.EPOCH_US).micros([micros]) == [micros]
    assert reader(TimeType.EPOCH_MS).micros([Decimal(micros).scaleb(-3)]) == [micros]
    assert reader(TimeType.EPOCH_S).micros([micros // 1_000_000]) == [micros // 1_000_000 * 1_000_000]
    assert reader(TimeType.EPOCH_US).micros([Decimal(micros) + Decimal("0.9")]) == [micros]


def test_values_that_are_no_times() -> None:
    for kind in (TimeType.EPOCH_S, TimeType.TIMESTAMPTZ, TimeType.TEXT):
        assert isinstance(reader(kind).micros([b"x"])[0], TimeTrouble)
    naive = datetime(2026, 3, 1)  # noqa: DTZ001 - a driver that forgets the zone
    (trouble,) = reader(TimeType.TIMESTAMPTZ).micros([naive])
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


@given(
    texts=st.lists(
        st.one_of(
            st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda at: at.isoformat() + "Z"),  # noqa: DTZ001 - with Z
            st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.(\d{3}){1,2})?Z", fullmatch=True),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_texts_that_are_read_by_the_column_mean_what_they_mean_one_by_one(texts: list[str]) -> None:
    assert reader(TimeType.TEXT).micros(texts) == [text_micros(text, "") for text in texts]
