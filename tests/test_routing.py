from __future__ import annotations

import doctest
import hashlib
import json
import time
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.errors import BadTimeError, BadUidError, UsageError
from vera_core.model import Slot, check_uid, day_text, format_time, from_micros, parse_day, parse_time, to_micros
from vera_core.routing import (
    DAY_MICROS,
    UID_TIME_DIFFERS,
    EpochState,
    Routing,
    RoutingEpoch,
    UidScheme,
    locate_shard,
    uid_key,
    uid_time,
)

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "routing-vectors.json").read_text("utf-8"))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL = frozenset(UidScheme)
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

uids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=128)
bits = st.integers(0, 16)
zones = st.timezones() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones)  # noqa: DTZ001 - hypothesis wants naive bounds
days = st.dates()
millis = st.integers(0, to_micros(datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)) // 1000)


def uuid7(ms: int, low: int) -> str:
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | (low >> 62 & 0xFFF) << 64 | 2 << 62 | low & (1 << 62) - 1))


def ulid(number: int) -> str:
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


@pytest.mark.parametrize(
    "vector", VECTORS["locate_shard"], ids=lambda v: f"{v['uid'][:20]}-{v['created_at']}-{v['n_bits']}"
)
def test_published_slots(vector: dict[str, Any]) -> None:
    slot = locate_shard(vector["uid"], parse_time(vector["created_at"]), vector["n_bits"])
    assert (str(slot), slot.index) == (vector["slot"], vector["index"])
    assert f"{uid_key(vector['uid']):016x}" == vector["key"]


@pytest.mark.parametrize("vector", VECTORS["uid_time"], ids=lambda v: f"{v['scheme']}-{v['uid']}")
def test_published_uid_times(vector: dict[str, Any]) -> None:
    epoch = vector["snowflake_epoch_ms"]
    moment = uid_time(vector["uid"], {UidScheme(vector["scheme"])}, snowflake_epoch_ms=epoch)
    assert moment == (parse_time(vector["time"]) if vector["time"] else None)
    # With every scheme trusted it is the same: no text belongs to two schemes.
    routing = Routing(schemes=ALL, snowflake_epoch_ms=epoch)
    assert routing.uid_time(vector["uid"]) == moment
    if moment:
        assert routing.slot("default", vector["uid"]).day == parse_day(vector["day"])


def test_vectors_cover_every_n_bits_and_scheme() -> None:
    assert {vector["n_bits"] for vector in VECTORS["locate_shard"]} == set(range(17))
    assert {vector["scheme"] for vector in VECTORS["uid_time"]} == {scheme.value for scheme in UidScheme}


@given(uids, moments, bits)
def test_index_is_the_prefix_of_the_digest_in_bits(uid: str, moment: datetime, n_bits: int) -> None:
    digest = "".join(f"{byte:08b}" for byte in hashlib.sha256(uid.encode()).digest())
    slot = locate_shard(uid, moment, n_bits)
    assert slot.index == int(digest[:n_bits] or "0", 2)
    assert 0 <= slot.index < 2**n_bits
    assert len(slot.index_text) == max(1, (n_bits + 3) // 4)
    assert int(slot.index_text, 16) == slot.index


@given(uids, moments, bits, bits)
def test_raising_n_bits_only_splits(uid: str, moment: datetime, low: int, high: int) -> None:
    low, high = sorted((low, high))
    coarse, fine = locate_shard(uid, moment, low), locate_shard(uid, moment, high)
    assert fine.index >> (high - low) == coarse.index
    assert fine.day == coarse.day


@given(st.lists(uids, min_size=2, max_size=30), bits)
def test_order_of_keys_is_order_of_slots(names: list[str], n_bits: int) -> None:
    indexes = [locate_shard(uid, NOON, n_bits).index for uid in sorted(names, key=uid_key)]
    assert indexes == sorted(indexes)


@given(uids, moments, zones, bits)
def test_the_zone_in_which_a_time_is_written_does_not_matter(
    uid: str, moment: datetime, zone: timezone | ZoneInfo, n_bits: int
) -> None:
    assert locate_shard(uid, moment, n_bits) == locate_shard(uid, moment.astimezone(zone), n_bits)
    assert locate_shard(uid, moment, n_bits) == locate_shard(uid, moment.astimezone(UTC).date(), n_bits)


@given(uids, days, bits)
def test_midnight_belongs_to_the_day_it_begins(uid: str, day: date, n_bits: int) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    routing = Routing((RoutingEpoch(date.min, n_bits),))
    last = to_micros(midnight) + DAY_MICROS - 1
    for micros in (to_micros(midnight), last):
        assert routing.slot_of("default", uid, micros).day == day
        assert locate_shard(uid, from_micros(micros), n_bits).day == day
    if day > date.min:
        assert routing.slot_of("default", uid, to_micros(midnight) - 1).day == day - timedelta(days=1)


@given(uids, moments, bits)
def test_bulk_path_equals_the_plain_one(uid: str, moment: datetime, n_bits: int) -> None:
    routing = Routing((RoutingEpoch(date.min, n_bits),), ALL, 1_288_834_974_657)
    assert routing.slot_of("acme", uid, to_micros(moment)) == routing.slot("acme", uid, moment)


@pytest.mark.parametrize("uid", ["", "x" * 513, "ü" * 257, "a\nb", "a\x00", "\x7f", "\x85", "\ud800"])
def test_bad_uids_are_refused_everywhere(uid: str) -> None:
    routing = Routing(schemes=ALL)
    for call in (
        lambda: uid_key(uid),
        lambda: locate_shard(uid, NOON, 4),
        lambda: routing.slot("default", uid, NOON),
        lambda: routing.slot_of("default", uid, 0),
    ):
        with pytest.raises(BadUidError):
            call()


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_is_a_uid_or_an_error_and_never_a_crash(text: str) -> None:
    assert uid_time(text, ALL) is None or check_uid(text) == text
    try:
        check_uid(text)
    except BadUidError:
        with pytest.raises(BadUidError):
            locate_shard(text, NOON, 16)
    else:
        assert 0 <= locate_shard(text, NOON, 16).index < 1 << 16


def test_naive_and_overflowing_times_are_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    for call in (
        lambda: locate_shard("a", naive, 4),
        lambda: Routing().slot("default", "a", naive),
        lambda: Routing().check("a", naive),
        lambda: locate_shard("a", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 4),
        lambda: locate_shard("a", datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))), 4),
        lambda: Routing().slot_of("default", "a", to_micros(datetime(1, 1, 1, tzinfo=UTC)) - 1),
        lambda: Routing().slot_of("default", "a", 10**18),
    ):
        with pytest.raises(BadTimeError):
            call()


@pytest.mark.parametrize("n_bits", [-1, 17, 64])
def test_n_bits_out_of_range_is_refused(n_bits: int) -> None:
    with pytest.raises(UsageError, match=f"n_bits is {n_bits}"):
        locate_shard("a", NOON, n_bits)
    with pytest.raises(UsageError, match=f"n_bits is {n_bits}"):
        Routing((RoutingEpoch(date.min, 0), RoutingEpoch(date(2026, 1, 1), n_bits, EpochState.PENDING)))


@given(st.lists(st.tuples(days, bits, st.sampled_from(EpochState)), max_size=8), days)
def test_a_day_uses_the_latest_active_epoch(extra: list[tuple[date, int, EpochState]], day: date) -> None:
    epochs = (RoutingEpoch(date.min, 3), *(RoutingEpoch(*values) for values in extra))
    routing = Routing(epochs)
    expected = 3
    latest = date.min
    for epoch in epochs:
        if epoch.state is EpochState.ACTIVE and latest <= epoch.from_day <= day:
            latest, expected = epoch.from_day, epoch.n_bits
    assert routing.n_bits(day) == expected
    assert routing.slot("default", "a", day).n_bits == expected


def test_an_epoch_starts_at_midnight_utc() -> None:
    routing = Routing((RoutingEpoch(date.min, 0), RoutingEpoch(date(2026, 3, 1), 8)))
    before, after = NOON.replace(hour=0) - timedelta(microseconds=1), NOON.replace(hour=0)
    assert [routing.slot("default", "a", moment).n_bits for moment in (before, after)] == [0, 8]
    assert [routing.slot_of("default", "a", to_micros(moment)).n_bits for moment in (before, after)] == [0, 8]


def test_pending_names_the_epoch_that_a_packer_waits_for() -> None:
    march = RoutingEpoch(date(2026, 3, 1), 8, EpochState.PENDING)
    june = RoutingEpoch(date(2026, 6, 1), 4)
    routing = Routing((RoutingEpoch(date.min, 0), june, march))
    assert routing.pending(date(2026, 2, 28)) is None
    assert routing.pending(date(2026, 3, 1)) == routing.pending(date(2026, 5, 31)) == march
    assert routing.pending(date(2026, 6, 1)) is None
    again = march._replace(n_bits=5)
    assert Routing((RoutingEpoch(date.min, 0), march, again)).pending(date(2026, 3, 1)) == again
    withdrawn = Routing((RoutingEpoch(date.min, 0), march._replace(state=EpochState.WITHDRAWN)))
    assert withdrawn.pending(date(2026, 3, 1)) is None
    assert withdrawn.n_bits(date(2026, 3, 1)) == 0


@pytest.mark.parametrize(
    "epochs",
    [(), (RoutingEpoch(date(2026, 1, 1), 4),), (RoutingEpoch(date.min, 4, EpochState.PENDING),)],
    ids=["none", "late", "pending"],
)
def test_the_first_epoch_covers_the_earliest_days(epochs: tuple[RoutingEpoch, ...]) -> None:
    with pytest.raises(UsageError, match=r"0001-01-01"):
        Routing(epochs)


@given(millis, st.integers(0, (1 << 74) - 1), st.booleans())
def test_uuid7_carries_its_milliseconds(ms: int, low: int, upper: bool) -> None:
    uid = uuid7(ms, low)
    assert uuid.UUID(uid).version == 7
    assert uid_time(uid.upper() if upper else uid, ALL) == from_micros(ms * 1000)
    assert uid_time(uid, {UidScheme.ULID, UidScheme.SNOWFLAKE}) is None


@given(st.uuids(allow_nil=True))
def test_other_uuids_carry_no_time(other: uuid.UUID) -> None:
    if not (other.version == 7 and other.variant == uuid.RFC_4122):
        assert uid_time(str(other), ALL) is None


@given(millis, st.integers(0, (1 << 80) - 1))
def test_ulid_carries_its_milliseconds(ms: int, low: int) -> None:
    uid = ulid(ms << 80 | low)
    assert uid_time(uid, ALL) == uid_time(uid.lower(), ALL) == from_micros(ms * 1000)
    assert uid_time(uid, {UidScheme.UUID7, UidScheme.SNOWFLAKE}) is None


@given(st.integers(0, (1 << 63) - 1), st.integers(0, 2_000_000_000_000))
def test_snowflake_carries_its_milliseconds(number: int, epoch: int) -> None:
    assert uid_time(str(number), ALL, snowflake_epoch_ms=epoch) == from_micros(((number >> 22) + epoch) * 1000)
    assert uid_time(str(number), {UidScheme.UUID7, UidScheme.ULID}) is None


def test_a_scheme_that_is_not_trusted_routes_nothing() -> None:
    uid = uuid7(to_micros(NOON) // 1000, 0)
    other = NOON + timedelta(days=30)
    assert Routing().slot("default", uid, other).day == other.date()
    assert Routing(schemes=frozenset({UidScheme.UUID7})).slot("default", uid, other).day == NOON.date()
    assert Routing().check(uid, other) is None


def test_without_any_time_the_error_says_what_is_needed() -> None:
    with pytest.raises(UsageError, match="Give created_at") as caught:
        Routing(schemes=ALL).slot("acme", "invoice-1")
    assert caught.value.where == {"tenant": "acme", "uid": "invoice-1"}


@pytest.mark.parametrize("tenant", ["", "../x", "A", "a/b", "x" * 65])
def test_bad_tenants_are_refused(tenant: str) -> None:
    with pytest.raises(UsageError, match="tenant"):
        Routing().slot(tenant, "a", NOON)


@given(millis, st.integers(-3 * DAY_MICROS, 3 * DAY_MICROS))
def test_a_row_over_one_day_from_its_uid_is_named(ms: int, shift: int) -> None:
    routing = Routing(schemes=ALL)
    expected = UID_TIME_DIFFERS if abs(shift) > DAY_MICROS else None
    assert routing.check_of(uuid7(ms, 0), ms * 1000 + shift) == expected


def test_check_at_exactly_one_day() -> None:
    uid = ulid(to_micros(NOON) // 1000 << 80)
    routing = Routing(schemes=ALL)
    for shift in (timedelta(days=1), timedelta(days=-1)):
        assert routing.check(uid, NOON + shift) is None
        assert routing.check(uid, NOON + shift * 1.00001) == UID_TIME_DIFFERS
    assert routing.check("invoice-1", NOON) is None


def test_many_days_do_not_fill_memory() -> None:
    routing = Routing()
    for number in range(10_000):
        routing.slot_of("default", "a", number * DAY_MICROS)
    assert len(routing._days) <= 4096


def test_routing_is_a_value() -> None:
    used, fresh = Routing(schemes=ALL), Routing(schemes=ALL)
    used.slot_of("default", "a", 0)
    assert used == fresh
    assert hash(used) == hash(fresh)


def test_locating_takes_under_ten_microseconds() -> None:
    def best(call: Any) -> float:
        durations = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(500):
                call()
            durations.append((time.perf_counter() - start) / 500)
        return min(durations)

    routing = Routing((RoutingEpoch(date.min, 8),), ALL)
    assert best(lambda: locate_shard("invoice-2026-000123", NOON, 8)) < 10e-6
    assert best(lambda: routing.slot_of("default", "invoice-2026-000123", 1_772_366_400_000_000)) < 10e-6


@given(moments)
def test_days_and_times_print_as_they_read(moment: datetime) -> None:
    # In UTC: a local time that a clock change leaves out equals no other, by Python's rules.
    assert parse_time(format_time(moment)) == moment.astimezone(UTC)
    assert parse_day(day_text(moment.date())) == moment.date()


def test_slots_of_two_tenants_differ_in_the_tenant_only() -> None:
    one, two = (locate_shard("a", NOON, 4, tenant=tenant) for tenant in ("one", "two"))
    assert one == Slot("one", two.day, two.index, two.n_bits)


def test_the_example_in_the_documentation_runs() -> None:
    failed, tried = doctest.testfile(str(Path(__file__).parents[1] / "docs" / "routing.md"), module_relative=False)
    assert tried
    assert not failed
