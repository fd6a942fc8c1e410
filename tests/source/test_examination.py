"""A look at a source before its migration: what it says is what is there, on all databases."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.packing import CONFIG
from tests.source.conftest import DAY, NOON, Business
from vera_core.operations.epoch_plan import AIM, bits_for, propose_epochs
from vera_core.operations.source_check import check_source
from vera_core.source.mapping import ContentColumn, ContentKind, LateColumn, TimeColumn, TimeType

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.source_check import SourceCheckReport

TEXT = b'{"document": "invoice", "amount": 12.5, "currency": "EUR", "lines": [1, 2, 3]}' * 8


SIZE = len(TEXT) + 2


def filled(business: Business) -> Business:
    rows = [
        {"uid": f"u{n}", "created_at": NOON + timedelta(days=n % 3), "body": TEXT + b"%02d" % n, "bytes": SIZE}
        for n in range(60)
    ]
    business.add(*rows, {"uid": "u0", "created_at": NOON + timedelta(hours=1), "body": b"again", "bytes": 5})
    business.add({"uid": None, "created_at": NOON, "body": b"x", "bytes": 1})
    business.add({"uid": "timeless", "created_at": None, "body": b"x", "bytes": 1})
    business.add({"uid": "empty", "created_at": NOON, "body": None, "bytes": None})
    return business


def said(report: SourceCheckReport) -> str:
    return " | ".join(f"{finding.what} {finding.todo}" for finding in report.findings)


def test_what_is_in_a_source(business: Business) -> None:
    source = filled(business).source(size="bytes", late=LateColumn(column="change_no"))
    report = check_source(CONFIG, source)
    days = {day: (rows, declared) for day, rows, declared, _ in report.days}
    assert days == {
        DAY: (23, 20 * SIZE + 6),
        DAY + timedelta(days=1): (20, 20 * SIZE),
        DAY + timedelta(days=2): (20, 20 * SIZE),
    }
    assert (report.rows, report.day_count, report.busiest) == (63, 3, 23)
    assert (report.untimed, report.nameless, report.empty, report.repeated) == (1, 1, 1, 1)
    assert [tuple(item) for item in report.duplicates] == [("u0", 2)]
    assert not report.ok
    assert report.compression > 2, "a sample is packed with a dictionary"
    assert report.median_size == SIZE
    assert "1 rows have no time" in said(report)
    assert "no index begins with created_at" in said(report)
    assert "no index begins with the late column" in said(report)
    assert {reason for reason, _, _ in report.unreadable} >= {"missing-content"}
    assert {role.setting for role in report.columns} == {"uid", "created_at", "content", "size", "late", "primary_key"}


def test_the_statement_makes_the_index(business: Business) -> None:
    source = business.source()
    before = check_source(CONFIG, source, quick=True)
    assert (before.index, before.days) == ("", ())
    statement = before.index_statement.replace(" CONCURRENTLY", "")
    assert "created_at" in statement
    if business.dialect == "mysql":
        business.run("ALTER TABLE documents MODIFY uid VARCHAR(100)")
    business.run(statement)
    after = check_source(CONFIG, business.source(), quick=True)
    assert (after.index, after.index_statement) == ("vera_by_time", "")


@pytest.mark.parametrize("kind", [TimeType.EPOCH_S, TimeType.EPOCH_MS, TimeType.EPOCH_US])
def test_days_of_numbers(business: Business, kind: TimeType) -> None:
    factor = {TimeType.EPOCH_S: 1, TimeType.EPOCH_MS: 1_000, TimeType.EPOCH_US: 1_000_000}[kind]
    business.run("CREATE TABLE numbers (uid VARCHAR(20), at BIGINT, body VARCHAR(20))")
    seconds = int(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
    for uid, at in (("a", seconds * factor), ("b", 0), ("c", (86_400 * 3 - 1) * factor)):
        business.run(f"INSERT INTO numbers VALUES ('{uid}', {at}, 'x')")
    source = business.source(table="numbers", created_at=TimeColumn(column="at", type=kind))
    report = check_source(CONFIG, source)
    assert [(day, rows) for day, rows, _, _ in report.days] == [
        (date(1969, 12, 31), 1), (date(1970, 1, 1), 1), (date(1970, 1, 3), 1)
    ]  # fmt: skip


def test_an_empty_source(business: Business) -> None:
    report = check_source(CONFIG, business.source())
    assert (report.ok, report.rows, report.epochs, report.sampled) == (True, 0, (), 0)


def test_uids_that_carry_their_time_and_files_that_are_missing(sqlite_business: Business, tmp_path: Path) -> None:
    uid = "019caa50-6e00-7000-8000-000000000000"
    at = datetime.fromtimestamp(int(uid.replace("-", "")[:12], 16) / 1000, UTC)
    sqlite_business.add({"uid": uid, "created_at": at, "path": str(tmp_path / "gone")})
    content = ContentColumn(column="path", kind=ContentKind.PATH, roots=(tmp_path,))
    report = check_source(CONFIG, sqlite_business.source(content=content))
    assert "all uids of the sample are uuid7s" in said(report)
    assert "missing-file" in said(report)
    assert "no size column" in said(report)


@given(st.integers(0, 1 << 60))
def test_the_fewest_bits_that_do(stored: int) -> None:
    bits = bits_for(stored)
    assert bits == 16 or stored / 2**bits <= AIM
    assert bits == 0 or stored / 2 ** (bits - 1) > AIM


@given(st.dictionaries(st.dates(date(2020, 1, 1), date(2021, 12, 31)), st.integers(0, 1 << 40)))
def test_epochs_change_with_the_months(days: dict[date, int]) -> None:
    epochs = propose_epochs(days)
    assert [epoch.from_day for epoch in epochs] == sorted(epoch.from_day for epoch in epochs)
    assert all(epoch.from_day.day == 1 for epoch in epochs)
    assert all(one.n_bits != two.n_bits for one, two in pairwise(epochs))
    assert bool(epochs) == bool(days)
    for day, stored in days.items():
        own = [epoch for epoch in epochs if epoch.from_day <= day][-1]
        month = [size for other, size in days.items() if (other.year, other.month) == (day.year, day.month)]
        if stored == max(month) and len(month) < 20:
            assert own.n_bits == bits_for(stored), "with few days the largest one counts"
