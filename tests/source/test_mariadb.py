"""What only MySQL and MariaDB have: collations that take texts for others, zero dates, times in the session's zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.source.conftest import NOON, Business, rows_of
from vera_core.errors import UnavailableError, UsageError
from vera_core.model import to_micros
from vera_core.source import sql
from vera_core.source.mapping import TimeColumn, TimeType
from vera_core.source.state import MigrationState

if TYPE_CHECKING:
    from tests.fixtures_mariadb import MariaServer

ALIKE = ["abc", "ABC", "aBc", "\u00e4bc", "abc "]
"""Texts that the collation of the tests' server takes for each other."""


def test_uids_that_the_collation_takes_for_each_other(
    maria_business: Business, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "PAGE_ROWS", 3)
    uids = [f"{text}|{n}" for n in range(4) for text in ALIKE] + ALIKE
    maria_business.add(*({"uid": uid, "created_at": NOON, "body": uid.encode()} for uid in uids))
    source = maria_business.source()
    assert sorted(row.uid for row in rows_of(source)) == sorted(uids), "each once, whatever page it is on"
    assert maria_business.archived(source) == {uid: [uid.encode()] for uid in uids}


def test_big_contents_of_uids_that_are_alike_are_not_mixed_up(maria_business: Business) -> None:
    maria_business.run("CREATE VIEW keyless AS SELECT uid, created_at, body FROM documents")
    maria_business.add(*({"uid": uid, "created_at": NOON, "body": uid.encode() * 1000} for uid in ALIKE))
    found = maria_business.archived(maria_business.source(table="keyless"))
    assert found == {uid: [uid.encode() * 1000] for uid in ALIKE}


def test_zero_dates_belong_to_no_day_and_are_named(maria_business: Business) -> None:
    maria_business.run("CREATE TABLE old (uid VARCHAR(20) PRIMARY KEY, created_at DATETIME, body BLOB)")
    maria_business.run("INSERT INTO old VALUES ('zero', '0000-00-00', 'x'), ('null', NULL, 'x')")
    maria_business.run("INSERT INTO old VALUES ('good', '2026-03-01 12:00:00', 'x')")
    source = maria_business.source(
        table="old", created_at=TimeColumn(column="created_at", type=TimeType.TIMESTAMP, zone="UTC")
    )
    assert [row.uid for row in rows_of(source)] == ["good"]
    assert {(reject.uid, reject.reason) for reject in source.untimed(10)} == {
        ("zero", "bad-time"),
        ("null", "null-time"),
    }
    bounds = source.bounds()
    assert bounds is not None
    assert bounds.first == bounds.last == NOON


def test_a_datetime_is_read_in_its_zone_and_a_timestamp_in_none(maria_business: Business) -> None:
    maria_business.run("CREATE TABLE local (uid VARCHAR(20) PRIMARY KEY, created_at DATETIME(6), body BLOB)")
    maria_business.run("INSERT INTO local VALUES ('a', '2026-03-01 00:30:00.000001', 'x')")
    column = TimeColumn(column="created_at", type=TimeType.TIMESTAMP, zone="Europe/Berlin")
    source = maria_business.source(table="local", created_at=column)
    assert rows_of(source) == []
    before = source.bounds()
    assert before is not None
    assert before.first <= datetime(2026, 2, 28, 23, 30, 0, 1, UTC) <= before.last
    with pytest.raises(UsageError, match="declared timestamptz, but the column's type is DATETIME"):
        maria_business.source(table="local", created_at=TimeColumn(column="created_at", type=TimeType.TIMESTAMPTZ))
    with pytest.raises(UsageError, match="declared timestamp, but the column's type is TIMESTAMP"):
        maria_business.source(created_at=column)


def test_texts_as_times_under_any_collation(maria_business: Business, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "PAGE_ROWS", 2)
    maria_business.run("CREATE TABLE texts (uid VARCHAR(20) PRIMARY KEY, created_at VARCHAR(40), body BLOB)")
    texts = [
        "2026-03-01",
        "2026-03-01T23:59:59.999999Z",
        "2026-03-01t10:00:00Z",
        "2026-03-02T00:30:00+01:00",
        "2026-03-01 x",
    ]
    for number, text in enumerate([*texts, "2026-03-02", "2026-02-28T23:59:59Z"]):
        maria_business.run(f"INSERT INTO texts VALUES ('u{number}', '{text}', 'x')")
    column = TimeColumn(column="created_at", type=TimeType.TEXT, zone="UTC")
    found = rows_of(maria_business.source(table="texts", created_at=column))
    assert sorted(row.uid for row in found) == [f"u{number}" for number in range(len(texts))]


def test_text_contents_are_archived_in_utf8_whatever_the_column_is_in(maria_business: Business) -> None:
    maria_business.run(
        "CREATE TABLE letters (uid VARCHAR(20) PRIMARY KEY, created_at TIMESTAMP(6), body TEXT CHARACTER SET latin1)"
    )
    maria_business.run("INSERT INTO letters VALUES ('a', '2026-03-01 12:00:00', '\u00fcber')")
    assert maria_business.archived(maria_business.source(table="letters")) == {"a": ["\u00fcber".encode()]}


def test_a_server_that_dies_in_mid_page(
    maria_business: Business, mariadb: MariaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "PAGE_ROWS", 5)
    maria_business.add(*({"uid": str(n), "created_at": NOON + timedelta(seconds=n), "body": b""} for n in range(40)))
    source = maria_business.source()
    batches = source.batches(maria_business.window())
    found = [row.uid for row in next(batches).rows()]
    mariadb.stop()
    mariadb.start()
    found += [row.uid for batch in batches for row in batch.rows()]
    assert sorted(found) == sorted(map(str, range(40)))
    mariadb.stop()
    try:
        with pytest.raises(UnavailableError, match="can't be reached"):
            MigrationState(maria_business.engine).missing_tables()
    finally:
        mariadb.start()


def test_a_template_over_texts_that_are_alike(maria_business: Business) -> None:
    maria_business.add({"uid": "ignored", "bank": "a", "created_at": NOON, "body": b"1"})
    maria_business.add({"uid": "ignored", "bank": "A", "created_at": NOON, "body": b"2"})
    found = rows_of(maria_business.source(uid="{bank}/{id}"))
    assert {(row.uid, row.created_at) for row in found} == {("a/1", to_micros(NOON)), ("A/2", to_micros(NOON))}
