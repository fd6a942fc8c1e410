"""SQL sources: every row of a window comes out once, with its bytes or with a named reason; on both databases."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.source.conftest import DAY, NOON, TERMS, TIMES, Business, contents, mark, rows_of
from vera_core.errors import UnavailableError, UsageError
from vera_core.model import to_micros
from vera_core.source import sql
from vera_core.source.base import Bounds, Window, day_of
from vera_core.source.mapping import (
    ContentColumn,
    ContentKind,
    Given,
    LateColumn,
    TimeColumn,
    TimeType,
)
from vera_core.source.rows import RawRow, Reject
from vera_core.source.sql import open_sources
from vera_core.source.times import text_micros

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures_postgres import PostgresServer

MICROSECOND = timedelta(microseconds=1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def reasons(rows: list[RawRow]) -> dict[str, str]:
    return {row.uid: row.reject for row in rows}


def test_every_row_comes_back_bit_exact(business: Business) -> None:
    chance = random.Random(1)
    files = {
        f"file/{number}": chance.randbytes(chance.choice([0, 1, 17, 999, 1000, 1001, 5000])) for number in range(600)
    }
    times = [
        MIDNIGHT + timedelta(seconds=chance.randrange(86_400), microseconds=chance.randrange(10**6)) for _ in files
    ]
    business.add(
        *({"uid": uid, "created_at": at, "body": body} for (uid, body), at in zip(files.items(), times, strict=True))
    )
    source = business.source()
    manifest = business.frozen(source)
    rows = list(manifest.rows(0, manifest.row_count))
    assert {row.uid: content for row, content in contents(source, rows)} == files
    assert [row.created_at for row in sorted(rows, key=lambda row: int(row.uid[5:]))] == list(map(to_micros, times))
    assert {row.size == len(files[row.uid]) for row in rows} == {True}


def test_a_window_is_half_open(business: Business) -> None:
    moments = [
        MIDNIGHT - MICROSECOND,
        MIDNIGHT,
        MIDNIGHT + timedelta(days=1) - MICROSECOND,
        MIDNIGHT + timedelta(days=1),
    ]
    business.add(*({"uid": str(n), "created_at": at, "body": b""} for n, at in enumerate(moments)))
    source = business.source()
    found = {
        day: sorted(row.uid for row in rows_of(source, Window("documents", "default", day)))
        for day in (date(2026, 2, 28), DAY, date(2026, 3, 2), date(2026, 3, 3))
    }
    assert list(found.values()) == [["0"], ["1", "2"], ["3"], []]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", "B", "ä", "z", None]), st.integers(0, 3)), max_size=60),
    page=st.integers(2, 9),
)
def test_no_page_boundary_loses_or_doubles_a_row(
    business: Business, rows: list[tuple[str | None, int]], page: int
) -> None:
    business.run("DELETE FROM documents")
    if rows:
        business.add(*({"uid": uid, "created_at": NOON + MICROSECOND * at, "body": b"x"} for uid, at in rows))
    source = business.source()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "PAGE_ROWS", page)
        found = Counter((row.uid, row.created_at, row.reject) for row in rows_of(source))
    noon = to_micros(NOON)
    assert found == Counter((uid or "None", noon + at, "" if uid else "bad-uid") for uid, at in rows)


@pytest.mark.parametrize("zone", ["", "UTC", "Europe/Berlin", "America/New_York"])
def test_texts_find_their_day_whatever_their_offset(business: Business, zone: str) -> None:
    walls = [datetime(2026, 3, day, hour, 30) for day in (1, 2, 3) for hour in range(24)]  # noqa: DTZ001 - on purpose
    ends = ["Z", "+00:00", "-00:00", "+05:30", "-11:00", "+23:59", "-2359", "+14"] + ([""] if zone else [])
    texts = [wall.isoformat(separator) + end for wall in walls for separator in "T " for end in ends]
    business.add(*({"uid": text, "branch": text, "body": b""} for text in texts))
    source = business.source(created_at=TimeColumn(column="branch", type=TimeType.TEXT, zone=zone))
    days = [date(2026, 2, 27) + timedelta(days=n) for n in range(7)]
    found = {row.uid: day for day in days for row in rows_of(source, Window("documents", "default", day))}
    expected = {text: text_micros(text, zone) for text in texts}
    assert found == {text: day_of(micros) for text, micros in expected.items() if isinstance(micros, int)}
    assert len(found) == len(texts)


def test_a_later_page_takes_no_longer_than_the_first(
    sqlite_business: Business, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_business.run("CREATE INDEX by_time ON documents (created_at, uid)")
    sqlite_business.add(*({"uid": str(n), "created_at": NOON + MICROSECOND * n, "body": b""} for n in range(4000)))
    source = sqlite_business.source()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    sa.event.listen(source._engine, "connect", lambda connection, _: connection.set_progress_handler(step, 10))
    source._engine.dispose()
    taken = []
    for page in (5000, 100):
        monkeypatch.setattr(sql, "PAGE_ROWS", page)
        steps = 0
        assert len(rows_of(source)) == 4000
        taken.append(steps)
    assert taken[1] < 1.5 * taken[0]


def test_more_rows_of_one_uid_and_time_than_a_page_holds(business: Business, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "PAGE_ROWS", 10)
    many = [{"uid": "same", "created_at": NOON, "body": b"%d" % n} for n in range(95)]
    around = [{"uid": uid, "created_at": NOON, "body": b""} for uid in ("a", "sama", "samf", "z")]
    business.add(*many, *around)
    source = business.source()
    assert Counter(row.uid for row in rows_of(source)) == {"same": 95, "a": 1, "sama": 1, "samf": 1, "z": 1}
    assert sorted(business.archived(source)["same"], key=str) == sorted((row["body"] for row in many), key=str)


def test_what_a_row_carries(business: Business) -> None:
    business.add(
        {"uid": "u", "created_at": NOON, "body": b"1234", "media": "text/plain", "branch": "köln", "kind": "L ",
         "bank": "17", "bytes": None, "change_no": 7},
        {"uid": "v", "created_at": NOON, "body": b"", "media": None, "branch": None, "kind": "S",
         "bank": "17", "bytes": 0, "change_no": None},
    )  # fmt: skip
    source = business.source(
        media_type=Given(column="media"),
        metadata={"branch": "branch", "number": "id"},
        retention_class=Given(column="kind", map={"L": "long", "S": "standard"}),
        late=LateColumn(column="change_no"),
        size="bytes",
    )
    first, second = sorted(rows_of(source))
    assert first[:1] + first[2:8] == ("u", "long", "row:1", 4, "text/plain", '{"branch":"köln","number":"1"}', "7")
    assert second[:1] + second[2:8] == ("v", "standard", "row:2", 0, "", '{"number":"2"}', "")
    assert source.blind_spots == ()
    assert "late column" in business.source().blind_spots[0]


def test_rows_that_cannot_be_archived_are_named(business: Business) -> None:
    good = {"created_at": NOON, "body": b"x", "media": "text/plain", "kind": "standard", "branch": "b"}
    business.add(
        good | {"uid": "good"},
        good | {"uid": None},
        good | {"uid": ""},
        good | {"uid": "bell\x07"},
        good | {"uid": "ü" * 257},
        good | {"uid": "no content", "body": None},
        good | {"uid": "class", "kind": "nobody's"},
        good | {"uid": "no class", "kind": None},
        good | {"uid": "long media", "media": "x" * 128},
        good | {"uid": "long metadata", "branch": "x" * 5000},
    )
    source = business.source(
        media_type=Given(column="media"), retention_class=Given(column="kind"), metadata={"branch": "branch"}
    )
    found = rows_of(source)
    cut = "ü" * 254 + "..."
    assert reasons(found) == {
        "good": "", "None": "bad-uid", "": "bad-uid", "bell\\x07": "bad-uid", cut: "bad-uid",
        "no content": "missing-content", "class": "unknown-class", "no class": "unknown-class",
        "long media": "bad-metadata", "long metadata": "bad-metadata",
    }  # fmt: skip
    assert len(found) == 10
    assert all(row.detail for row in found if row.reject)
    manifest = business.frozen(source)
    assert (manifest.row_count, manifest.reject_count) == (10, 9)


def test_tenants_share_a_table_but_see_only_their_rows(business: Business) -> None:
    business.add(
        *(
            {"uid": f"{bank}", "created_at": NOON, "body": bank.encode(), "bank": bank}
            for bank in ("17", "18", "19", "x")
        ),
        {"uid": "none", "created_at": NOON, "body": b"", "bank": None},
    )
    by_bank = Given(column="bank", map={"17": "one", "18": "two", "19": "one"})
    one, two = business.sources(tenant=by_bank)
    assert (one.tenant, two.tenant) == ("one", "two")
    of_one, of_two = (rows_of(source, Window("documents", source.tenant, DAY)) for source in (one, two))
    assert reasons(of_one) == {"17": "", "19": "", "x": "unknown-tenant", "none": "unknown-tenant"}
    assert reasons(of_two) == {"18": ""}
    # The other tenant's content is not given, whoever asks with whichever row.
    manifest = business.frozen(two, Window("documents", "two", DAY))
    assert next(contents(one, list(manifest.rows(0, 1))))[1] == "gone"
    assert two.bounds() == one.bounds()


def test_the_same_uid_twice_keeps_both_contents_by_primary_key(business: Business) -> None:
    business.add(*({"uid": "u", "created_at": NOON, "body": body} for body in (b"one", b"two", b"two")))
    assert sorted(map(str, business.archived(business.source())["u"])) == sorted(map(str, [b"one", b"two", b"two"]))


def test_without_a_key_rows_are_told_apart_as_far_as_they_can_be(business: Business) -> None:
    business.run("CREATE VIEW all_documents AS SELECT uid, created_at, body, change_no FROM documents")
    business.add(
        {"uid": "sizes", "created_at": NOON, "body": b"one", "change_no": 1},
        {"uid": "sizes", "created_at": NOON, "body": b"three", "change_no": 1},
        {"uid": "times", "created_at": NOON, "body": b"one", "change_no": 1},
        {"uid": "times", "created_at": NOON + MICROSECOND, "body": b"two", "change_no": 1},
        {"uid": "changes", "created_at": NOON, "body": b"one", "change_no": 1},
        {"uid": "changes", "created_at": NOON, "body": b"two", "change_no": 2},
        {"uid": "equal", "created_at": NOON, "body": b"one", "change_no": 1},
        {"uid": "equal", "created_at": NOON, "body": b"one", "change_no": 1},
        {"uid": "doubtful", "created_at": NOON, "body": b"one", "change_no": 1},
        {"uid": "doubtful", "created_at": NOON, "body": b"two", "change_no": 1},
        {"uid": "big", "created_at": NOON, "body": b"x" * 5000, "change_no": 1},
    )
    found = business.archived(business.source(table="all_documents", late=LateColumn(column="change_no")))
    assert {uid: sorted(map(str, bodies)) for uid, bodies in found.items()} == {
        "sizes": ["b'one'", "b'three'"],
        "times": ["b'one'", "b'two'"],
        "changes": ["b'one'", "b'two'"],
        "equal": ["b'one'", "b'one'"],
        "doubtful": ["ambiguous", "ambiguous"],
        "big": [str(b"x" * 5000)],
    }


@pytest.mark.parametrize("with_key", [True, False])
def test_rows_that_vanish_or_change_after_the_freeze_are_named(business: Business, with_key: bool) -> None:
    business.run("CREATE VIEW all_documents AS SELECT uid, created_at, body FROM documents")
    business.add(*({"uid": uid, "created_at": NOON, "body": b"x" * 2000} for uid in ("gone", "null", "grown", "kept")))
    source = business.source(table="documents" if with_key else "all_documents")
    manifest = business.frozen(source)
    rows = list(manifest.rows(0, 4))
    business.run("DELETE FROM documents WHERE uid = 'gone'")
    business.run("UPDATE documents SET body = NULL WHERE uid = 'null'")
    business.run("UPDATE documents SET body = :body WHERE uid = 'grown'", {"body": b"y" * 3000})
    assert {row.uid: content for row, content in contents(source, rows)} == {
        "gone": "gone", "null": "missing-content", "grown": "wrong-size", "kept": b"x" * 2000,
    }  # fmt: skip


def test_a_big_content_whose_row_vanishes_while_it_is_read_ends_short(business: Business) -> None:
    business.add({"uid": "u", "created_at": NOON, "body": b"x" * 2000})
    source = business.source()
    (row,) = business.frozen(source).rows(0, 1)
    (big,) = source.fetch([row])
    business.run("DELETE FROM documents")
    with big.open() as file:  # type: ignore[union-attr] # it is above the limit
        assert file.read() == b""


def test_declared_sizes_that_are_wrong_are_named_and_never_load_more_than_declared(business: Business) -> None:
    business.add(
        {"uid": "small", "created_at": NOON, "body": b"x" * 900, "bytes": 5},
        {"uid": "right", "created_at": NOON, "body": b"12345", "bytes": 5},
        {"uid": "negative", "created_at": NOON, "body": b"", "bytes": -1},
    )
    found = business.archived(business.source(size="bytes"))
    assert found == {"small": ["wrong-size"], "right": [b"12345"], "negative": ["wrong-size"]}


def test_contents_from_paths(business: Business, tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    (root / "a").write_bytes(b"content")
    (root / "big").write_bytes(b"y" * 1500)
    (tmp_path / "secret").write_bytes(b"secret")
    paths = {
        "a": str(root / "a"), "relative": "a", "big": str(root / "big"), "missing": str(root / "nothing"),
        "outside": str(tmp_path / "secret"), "dots": f"{root}/../secret", "null": None, "empty": "",
    }  # fmt: skip
    business.add(*({"uid": uid, "created_at": NOON, "path": path} for uid, path in paths.items()))
    content = ContentColumn(column="path", kind=ContentKind.PATH, roots=(root,))
    found = business.archived(business.source(content=content))
    assert found == {
        "a": [b"content"], "relative": [b"content"], "big": [b"y" * 1500], "missing": ["missing-file"],
        "outside": ["forbidden-place"], "dots": ["forbidden-place"], "null": ["missing-content"],
        "empty": ["missing-content"],
    }  # fmt: skip


def test_bounds_and_rows_without_a_time(business: Business) -> None:
    source = business.source()
    assert source.bounds() is None
    assert list(source.untimed(10)) == []
    first, last = NOON - timedelta(days=400), NOON + MICROSECOND
    business.add(
        {"uid": "a", "created_at": last, "body": b""},
        {"uid": "b", "created_at": first, "body": b""},
        {"uid": "untimed", "created_at": None, "body": b""},
        {"uid": None, "created_at": None, "body": b""},
    )
    bounds = source.bounds()
    assert bounds is not None
    wider = timedelta(days=2) if business.dialect == "sqlite" else timedelta(0)
    assert first - wider <= bounds.first <= first
    assert last <= bounds.last <= last + wider
    assert sorted(source.untimed(10)) == [
        Reject("None", "null-time", "created_at is null"), Reject("untimed", "null-time", "created_at is null"),
    ]  # fmt: skip
    assert len(list(source.untimed(1))) == 1


def test_late_rows_are_found_once_their_transactions_have_settled(
    business: Business, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000_000]
    monkeypatch.setattr("time.time", lambda: clock[0])
    source = business.source(late=LateColumn(column="change_no", settle_seconds=100))
    before = DAY + timedelta(days=3)
    start = source.late("", before=before)
    assert (start.days, mark(start.mark)["seen"]) == ({}, None)
    row = {"created_at": NOON, "body": b""}
    business.add(row | {"uid": "first", "change_no": 5})
    seen = source.late(start.mark, before=before)
    assert seen.days == {}
    clock[0] += 99
    # Drawn before the value that was seen, committed after it: must not be passed over.
    business.add(row | {"uid": "slow", "change_no": 4, "created_at": NOON - timedelta(days=1)})
    assert source.late(seen.mark, before=before) == seen
    clock[0] += 1
    business.add(
        row | {"uid": "new", "change_no": 6},
        row | {"uid": "day not frozen", "change_no": 3, "created_at": NOON + timedelta(days=5)},
    )
    found = source.late(seen.mark, before=before)
    assert found.days == {DAY - timedelta(days=1): 1, DAY: 1}
    clock[0] += 100
    last = source.late(found.mark, before=before)
    assert last.days == {DAY: 1}
    clock[0] += 100
    assert source.late(last.mark, before=before).days == {}
    with pytest.raises(UsageError, match="can't be understood"):
        source.late("{}", before=before)


def test_a_uid_by_a_template(business: Business, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "PAGE_ROWS", 4)
    rows = [{"bank": f"b{n % 3}", "bytes": n // 3 % 5, "created_at": NOON, "body": b"%d" % n} for n in range(30)]
    business.add(*rows, {"bank": None, "bytes": 7, "created_at": NOON, "body": b"x"})
    source = business.source(uid="{{{bank}}}/{bytes}")
    found = business.archived(source)
    assert found.pop("None") == ["bad-uid"]
    wanted: dict[str, list[object]] = {}
    for row in rows:
        wanted.setdefault(f"{{{row['bank']}}}/{row['bytes']}", []).append(row["body"])
    assert {uid: sorted(map(str, parts)) for uid, parts in found.items()} == {
        uid: sorted(map(str, parts)) for uid, parts in wanted.items()
    }


def test_a_template_needs_a_key_for_contents_in_rows(business: Business) -> None:
    business.run("CREATE VIEW keyless AS SELECT bank, uid, created_at, body FROM documents")
    with pytest.raises(UsageError, match="has no primary key"):
        business.source(table="keyless", uid="{bank}/{uid}")


@pytest.mark.parametrize("uid", ["{bank", "{}/{bank}", "x{{y}}", "{bank!r}", "{bank:>3}", "{bank.x}", "{bank[0]}"])
def test_bad_templates(sqlite_business: Business, uid: str) -> None:
    with pytest.raises(UsageError, match="template"):
        sqlite_business.settings(uid=uid)


def test_late_rows_by_the_time_of_their_change(business: Business) -> None:
    business.run(f"ALTER TABLE documents ADD changed_at {TIMES[business.dialect]}")
    row = {"created_at": NOON, "body": b""}
    business.add(row | {"uid": "a", "changed_at": "2026-03-01T12:00:00.000001Z"})
    source = business.source(late=LateColumn(column="changed_at", settle_seconds=0))
    marks = [source.late("", before=DAY + timedelta(days=2)).mark]
    business.add(row | {"uid": "b", "changed_at": "2026-03-05T00:00:00Z"}, row | {"uid": "c", "changed_at": None})
    found = []
    for _ in range(3):
        late = source.late(marks[-1], before=DAY + timedelta(days=2))
        found.append(dict(late.days))
        marks.append(late.mark)
    assert found == [{}, {DAY: 1}, {}]


def test_a_late_column_that_does_not_grow_is_refused(sqlite_business: Business) -> None:
    sqlite_business.add({"uid": "a", "created_at": NOON, "body": b"x"})
    with pytest.raises(UsageError, match="holds a bytes"):
        sqlite_business.source(late=LateColumn(column="body")).late("", before=DAY)


def test_the_first_mark_leaves_what_is_there_to_the_first_freeze(business: Business) -> None:
    business.add({"uid": "old", "created_at": NOON, "body": b"", "change_no": 5})
    source = business.source(late=LateColumn(column="change_no", settle_seconds=0))
    start = source.late("", before=DAY + timedelta(days=2))
    assert source.late(start.mark, before=DAY + timedelta(days=2)).days == {}
    assert business.source().late("", before=DAY).mark == ""


def test_a_source_can_write_nothing(business: Business) -> None:
    source = business.source()
    with pytest.raises(sa.exc.DBAPIError), source._engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO documents (uid) VALUES ('intruder')")
    assert business.query("SELECT COUNT(*) FROM documents") == [(0,)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"table": "nothing"}, "no table or view"),
        ({"uid": "no_such"}, "no column 'no_such'"),
        ({"metadata": {"x": "no_such"}}, "no column 'no_such'"),
        ({"retention_class": Given(value="eternal")}, "no retention class 'eternal'"),
    ],
)
def test_settings_that_do_not_fit_the_database_are_refused(
    business: Business, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        business.sources(**changes)
    assert caught.value.todo


def test_names_that_need_quotes(business: Business) -> None:
    business.run('CREATE TABLE "Our Files" ("Order No" TEXT, "Created At" TEXT, "Body" TEXT)')
    business.run("""INSERT INTO "Our Files" VALUES ('ü/1', '2026-03-01T12:00:00Z', 'grüße')""")
    source = business.source(
        table="Our Files", uid="Order No", created_at=TimeColumn(column="Created At", type=TimeType.TEXT),
        content=ContentColumn(column="Body", kind=ContentKind.INLINE),
    )  # fmt: skip
    assert business.archived(source) == {"ü/1": ["grüße".encode()]}


class TestPostgres:
    """What only PostgreSQL has."""

    def test_wall_clock_times_in_a_declared_zone(self, postgres_business: Business) -> None:
        business = postgres_business
        business.run("CREATE TABLE wall (uid INTEGER PRIMARY KEY, at TIMESTAMP, body TEXT)")
        # Germany: 2026-10-25 has 02:30 twice, 2026-03-29 has none; days begin at 22:00 or 23:00 UTC the day before.
        walls = [
            "2026-10-25 00:30",
            "2026-10-25 02:30",
            "2026-10-25 03:00",
            "2026-10-26 00:59:59.999999",
            "2026-10-26 01:00",
        ]
        business.run("INSERT INTO wall VALUES (:n, :at, 'x')", *({"n": n, "at": at} for n, at in enumerate(walls)))
        zone = TimeColumn(column="at", type=TimeType.TIMESTAMP, zone="Europe/Berlin")
        source = business.source(
            table="wall", created_at=zone, content=ContentColumn(column="body", kind=ContentKind.INLINE)
        )
        days = {
            day: sorted(row.uid for row in rows_of(source, Window("w", "default", date(2026, 10, day))))
            for day in (24, 25, 26)
        }
        assert days == {24: ["0"], 25: ["1", "2", "3"], 26: ["4"]}
        twice = next(row for row in rows_of(source, Window("w", "default", date(2026, 10, 25))) if row.uid == "1")
        assert twice.created_at == to_micros(datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
        assert business.archived(source, Window("w", "default", date(2026, 10, 25))) == {
            "1": [b"x"],
            "2": [b"x"],
            "3": [b"x"],
        }
        bounds = source.bounds()
        assert bounds is not None
        assert bounds.first.date() <= date(2026, 10, 24)
        assert bounds.last.date() >= date(2026, 10, 26)

    def test_infinite_and_ancient_times_belong_to_no_window(self, postgres_business: Business) -> None:
        business = postgres_business
        for uid, at in (
            ("future", "infinity"),
            ("past", "-infinity"),
            ("rome", "0044-03-15 BC"),
            ("far", "10000-01-01 00:00+00"),
        ):
            business.run("INSERT INTO documents (uid, created_at, body) VALUES (:uid, :at, '')", {"uid": uid, "at": at})
        business.add({"uid": "now", "created_at": NOON, "body": b""})
        source = business.source()
        assert source.bounds() == Bounds(NOON, NOON)
        found = sorted(source.untimed(10))
        assert [(reject.uid, reject.reason) for reject in found] == [
            ("far", "bad-time"), ("future", "bad-time"), ("past", "bad-time"), ("rome", "bad-time"),
        ]  # fmt: skip
        assert "infinity" in found[1].detail

    @pytest.mark.parametrize(
        ("kind", "uid", "shown"),
        [
            ("UUID", "0190b0a0-1111-7222-8333-444455556666", "0190b0a0-1111-7222-8333-444455556666"),
            ("BIGINT", "42", "42"),
            ("NUMERIC(20)", "12345678901234567890", "12345678901234567890"),
            ("CHAR(4)", "ab", "ab  "),
        ],
    )
    @pytest.mark.parametrize("key", ["", "PRIMARY KEY"])
    def test_uids_of_other_types(self, postgres_business: Business, kind: str, uid: str, shown: str, key: str) -> None:
        business = postgres_business
        business.run(f"CREATE TABLE typed (uid {kind} {key}, created_at TIMESTAMPTZ, body JSONB)")
        business.run(f"INSERT INTO typed VALUES ('{uid}', '2026-03-01T12:00:00Z', '{{\"a\": \"ü\"}}')")
        assert business.archived(business.source(table="typed")) == {shown: ['{"a": "ü"}'.encode()]}

    @pytest.mark.parametrize(("kind", "value"), [("bytea", "'\\x00'"), ("integer[]", "'{1}'"), ("boolean", "true")])
    def test_uids_of_types_that_are_no_text_are_rejected(
        self, postgres_business: Business, kind: str, value: str
    ) -> None:
        postgres_business.run(f"CREATE TABLE typed (uid {kind}, created_at TIMESTAMPTZ, body TEXT)")
        postgres_business.run(f"INSERT INTO typed VALUES ({value}, '2026-03-01T12:00:00Z', '')")
        (row,) = rows_of(postgres_business.source(table="typed"))
        assert (row.reject, bool(row.uid)) == ("bad-uid", True)

    @pytest.mark.parametrize(
        ("column", "declared", "value"),
        [
            ("BIGINT", TimeType.EPOCH_S, "1772366400"),
            ("BIGINT", TimeType.EPOCH_MS, "1772366400000"),
            ("NUMERIC", TimeType.EPOCH_S, "1772366400.0000009"),
            ("BIGINT", TimeType.EPOCH_US, "1772366400000000"),
            ("DATE", TimeType.TIMESTAMP, "'2026-03-01'"),
            ("VARCHAR(40)", TimeType.TEXT, "'2026-03-01T17:30:00+05:30'"),
        ],
    )
    def test_times_of_other_types(
        self, postgres_business: Business, column: str, declared: TimeType, value: str
    ) -> None:
        postgres_business.run(f"CREATE TABLE timed (uid TEXT, at {column}, body TEXT)")
        postgres_business.run(f"INSERT INTO timed VALUES ('u', {value}, 'x')")
        zone = "Etc/UTC" if declared is TimeType.TIMESTAMP else ""
        source = postgres_business.source(table="timed", created_at=TimeColumn(column="at", type=declared, zone=zone))
        assert postgres_business.archived(source) == {"u": [b"x"]}
        (row,) = rows_of(source)
        assert row.created_at == to_micros(MIDNIGHT if column == "DATE" else NOON)
        assert source.bounds() is not None

    @pytest.mark.parametrize("declared", [TimeType.TEXT, TimeType.EPOCH_S, TimeType.TIMESTAMP])
    def test_a_time_declared_as_what_it_is_not(self, postgres_business: Business, declared: TimeType) -> None:
        zone = "UTC" if declared is TimeType.TIMESTAMP else ""
        with pytest.raises(UsageError, match="declared"):
            postgres_business.sources(created_at=TimeColumn(column="created_at", type=declared, zone=zone))

    def test_a_restart_between_pages_costs_nothing(
        self, postgres: PostgresServer, postgres_business: Business, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sql, "PAGE_ROWS", 10)
        postgres_business.add(*({"uid": f"{n:03}", "created_at": NOON, "body": b"%d" % n} for n in range(100)))
        source = postgres_business.source()
        found = []
        for number, row in enumerate(rows_of(source)):
            if number in {5, 42, 77}:
                postgres.stop()
                postgres.start()
            found.append(row.uid)
        assert sorted(found) == [f"{n:03}" for n in range(100)]
        postgres.stop()
        postgres.start()
        assert len(postgres_business.archived(source)) == 100

    def test_a_database_that_is_away(self, tmp_path: Path, postgres_business: Business) -> None:
        settings = postgres_business.settings(url=f"postgresql+psycopg2://postgres@/x?host={tmp_path}")
        with pytest.raises(UnavailableError, match="can't be reached"):
            open_sources("documents", settings, TERMS)

    def test_passwords_are_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, postgres_business: Business, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("BUSINESS_URL", f"postgresql+psycopg2://vera:hunter2@/x?host={tmp_path}&sslpassword=hunter3")
        settings = postgres_business.settings(url="", url_env="BUSINESS_URL")
        with pytest.raises(UnavailableError) as caught:
            open_sources("documents", settings, TERMS)
        assert "hunter" not in str(caught.value) + str(caught.value.to_json()) + repr(settings)
        monkeypatch.setenv("BUSINESS_URL", "nonsense hunter2")
        with pytest.raises(UsageError, match="can't be used") as refused:
            open_sources("documents", settings, TERMS)
        assert "hunter" not in repr(refused.value.__cause__) + str(refused.value)


class TestSqlite:
    """What only SQLite has: any type in any column, and text that need not be UTF-8."""

    def test_texts_with_offsets_find_their_day(self, sqlite_business: Business) -> None:
        texts = {
            "2026-03-01T00:30:00+02:00": date(2026, 2, 28),
            "2026-02-28T23:30:00-05:00": DAY,
            "2026-03-01": DAY,
            "2026-03-01 23:59:59.999999999Z": DAY,
            "2026-03-02T00:00:00+23:59": DAY,
        }
        for text in texts:
            sqlite_business.run("INSERT INTO documents (uid, created_at, body) VALUES (:t, :t, '')", {"t": text})
        source = sqlite_business.source(created_at=TimeColumn(column="created_at", type=TimeType.TEXT, zone="UTC"))
        found = {
            row.uid: day
            for day in (date(2026, 2, 27), date(2026, 2, 28), DAY, date(2026, 3, 2))
            for row in rows_of(source, Window("w", "default", day))
        }
        assert found == texts

    def test_every_text_is_reported_exactly_once(self, sqlite_business: Business) -> None:
        texts = [
            "2026-03-01T12:00:00", "2026-02-30T00:00:00Z", "2026-13-45", "20260301T120000Z", "2026-03-01T12:00:00Zebra",
            "yesterday", "", "0000-00-00 00:00:00", "2026-03-01T24:01:00Z", "2026-W09-7",
        ]  # fmt: skip
        for text in texts:
            sqlite_business.run("INSERT INTO documents (uid, created_at, body) VALUES (:t, :t, '')", {"t": "t" + text})
            sqlite_business.run("UPDATE documents SET created_at = substr(uid, 2)")
        source = sqlite_business.source()
        windows = [date(2025, 12, 30) + timedelta(days=n) for n in range(380)]
        found = [row for day in windows for row in rows_of(source, Window("w", "default", day))]
        assert {row.reject for row in found} == {"bad-time"}
        untimed = list(source.untimed(100))
        assert sorted([row.uid for row in found] + [reject.uid for reject in untimed]) == sorted("t" + t for t in texts)
        assert {reject.uid for reject in untimed} == {"tyesterday", "t", "t0000-00-00 00:00:00"}

    def test_values_of_other_types_are_no_times(self, sqlite_business: Business) -> None:
        sqlite_business.run("CREATE TABLE loose (uid, at, body)")
        for uid, at in (
            ("text", "'later'"),
            ("blob", "x'00'"),
            ("null", "NULL"),
            ("real", "1772366400.75"),
            ("whole", "1772366400"),
        ):
            sqlite_business.run(f"INSERT INTO loose VALUES ('{uid}', {at}, 'x')")
        source = sqlite_business.source(table="loose", created_at=TimeColumn(column="at", type=TimeType.EPOCH_S))
        assert {row.uid: row.created_at - to_micros(NOON) for row in rows_of(source)} == {
            "real": 750_000,
            "whole": 0,
        }
        assert {reject.uid: reject.reason for reject in source.untimed(10)} == {
            "text": "bad-time", "blob": "bad-time", "null": "null-time",
        }  # fmt: skip

    def test_text_that_is_not_utf8_is_one_rejected_row(self, sqlite_business: Business) -> None:
        sqlite_business.run("CREATE TABLE loose (id INTEGER PRIMARY KEY, uid, created_at, body)")
        for uid, body in (
            ("CAST(x'ff61' AS TEXT)", "''"),
            ("x'6162'", "''"),
            ("'ok'", "CAST(x'fffe00' AS TEXT)"),
            ("7", "8"),
        ):
            sqlite_business.run(
                f"INSERT INTO loose (uid, created_at, body) VALUES ({uid}, '2026-03-01T12:00:00Z', {body})"
            )
        found = sqlite_business.archived(sqlite_business.source(table="loose"))
        assert found == {"\\udcffa": ["bad-uid"], "b'ab'": ["bad-uid"], "ok": [b"\xff\xfe\x00"], "7": [b"8"]}

    def test_text_that_is_not_utf8_at_the_end_of_a_page(
        self, sqlite_business: Business, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sql, "PAGE_ROWS", 2)
        sqlite_business.run("CREATE TABLE loose (uid, created_at, body)")
        noon = "'2026-03-01T12:00:00Z'"
        texts = [f"CAST(x'{text}' AS TEXT)" for text in ("01ff", "61ff", "ff", "ffff")]
        for uid in (*texts, "7", "8", "'a'", "'b'", "x'ff'"):
            sqlite_business.run(f"INSERT INTO loose VALUES ({uid}, {noon}, ''), ({uid}, {noon}, '')")
            sqlite_business.run(f"INSERT INTO loose VALUES ({uid}, CAST(x'323032362d30332d3031ff' AS TEXT), '')")
        found = rows_of(sqlite_business.source(table="loose"))
        assert len(found) == 27
        assert set(Counter(row.uid for row in found).values()) == {3}
        assert Counter(row.reject for row in found) == {"": 8, "bad-uid": 10, "bad-time": 9}

    def test_numbers_as_uids_in_a_view(self, sqlite_business: Business) -> None:
        sqlite_business.run("CREATE TABLE loose (n, created_at, body)")
        sqlite_business.run(
            "INSERT INTO loose VALUES (5, '2026-03-01T12:00:00Z', 'five'), ('6', '2026-03-01T12:00:00Z', 'six')"
        )
        sqlite_business.run("CREATE VIEW numbers AS SELECT n + 0 AS uid, created_at, body FROM loose")
        found = sqlite_business.archived(sqlite_business.source(table="numbers"))
        assert found == {"5": [b"five"], "6": [b"six"]}

    @pytest.mark.parametrize("declared", [TimeType.TIMESTAMP, TimeType.TIMESTAMPTZ])
    def test_times_that_sqlite_does_not_have(self, sqlite_business: Business, declared: TimeType) -> None:
        zone = "UTC" if declared is TimeType.TIMESTAMP else ""
        with pytest.raises(UsageError, match="SQLite has no"):
            sqlite_business.sources(created_at=TimeColumn(column="created_at", type=declared, zone=zone))

    def test_a_missing_file_is_not_made(self, sqlite_business: Business, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no such SQLite"):
            sqlite_business.sources(url=f"sqlite:///{tmp_path}/other.sqlite")
        assert not (tmp_path / "other.sqlite").exists()
