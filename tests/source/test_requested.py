"""Erasure requests in a table: taken once, by id, with all of their rows or not at all; nothing is written to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.erasing import UID, assert_erased
from tests.protocol.packing import MemorySource, make_repository, opened, pack, some_files
from tests.source.conftest import TIME_TYPES, TIMES, Business
from vera_core.errors import UsageError
from vera_core.operations.approval import require_approval
from vera_core.operations.erasure_imports import import_requests
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.erasures import approve
from vera_core.source.mapping import ErasureTable, Given, SettingError, TimeColumn, TimeType
from vera_core.source.requested import requested

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.memory import MemoryStore

OTHER = "doc/00001.json"
ASKED = datetime(2026, 3, 2, 10, tzinfo=UTC)


def table(business: Business, **changes: Any) -> ErasureTable:
    usual: dict[str, Any] = {
        "url": business.url,
        "table": "asked",
        "id": "no",
        "uid": "document",
        "created_at": TimeColumn(column="day", type=TimeType.TEXT),
        "reason": Given(column="why"),
        "requested_by": Given(column="clerk"),
        "requested_at": TimeColumn(column="at", type=TIME_TYPES[business.dialect]),
    }
    return ErasureTable(**(usual | changes))


@pytest.fixture
def asked(business: Business) -> Business:
    kind = TIMES[business.dialect]
    business.run(f"CREATE TABLE asked (no TEXT, document TEXT, day TEXT, why TEXT, clerk TEXT, at {kind}, bank TEXT)")
    return business


def add(business: Business, no: object, document: object = UID, **changes: object) -> None:
    row: dict[str, object] = {
        "no": no, "document": document, "day": "2026-03-01T00:00:00Z", "why": "Art. 17(1)(b)", "clerk": "carl",
        "at": ASKED.isoformat(), "bank": "0017",
    }  # fmt: skip
    row |= changes
    business.run(f"INSERT INTO asked ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})", row)


def test_rows_of_an_id_are_a_request(asked: Business) -> None:
    add(asked, "r-2")
    add(asked, "r-1", "u", day=None)
    add(asked, "r-1", "v", why="the contract ended")
    first, second = requested(table(asked), "default")
    assert (first.id, second.id, second.troubles) == ("r-1", "r-2", [])
    assert [(file.uid, file.created_at) for file in sorted(first.files)[:1]] == [("u", None)]
    assert (first.reasons, first.requesters) == ({"Art. 17(1)(b)", "the contract ended"}, {"carl"})
    assert second.times == [ASKED]
    assert second.files[0].created_at == datetime(2026, 3, 1, tzinfo=UTC)


def test_settings_that_do_not_fit_are_refused(asked: Business) -> None:
    for changes, words in (
        ({"table": "unheard_of"}, "no table"),
        ({"uid": "unheard_of"}, "no column 'unheard_of'"),
        ({"reason": Given(column="unheard_of")}, "no column"),
    ):
        with pytest.raises(UsageError, match=words):
            requested(table(asked, **changes), "default")
    with pytest.raises(UsageError, match="declares no tenant 'other'"):
        requested(table(asked), "other")
    for wrong in (
        {"reason": Given()},
        {"url": ""},
        {"url": "postgresql://u:secret@h/n"},
        {"tenant": Given(column="b")},
    ):
        with pytest.raises(SettingError):
            table(asked, **wrong)


def test_each_tenant_gets_its_own_and_everyone_hears_of_nobodys(asked: Business) -> None:
    mine = table(asked, tenant=Given(column="bank", map={"0017": "one", "0018": "two"}))
    add(asked, "r-1")
    add(asked, "r-2", bank="0018")
    add(asked, "r-3", bank="?")
    for tenant, names in (("one", ["r-1", "r-3"]), ("two", ["r-2", "r-3"])):
        found = requested(mine, tenant)
        assert [item.id for item in found] == names
        assert [bool(item.troubles) for item in found] == [False, True]


def test_requests_are_taken_once_and_whole(asked: Business, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(20)))
    add(asked, "r-1")
    add(asked, "r-1", OTHER)
    add(asked, "r-2", "unheard/of")
    add(asked, "r-3", "doc/00002.json")
    add(asked, "r-3", "doc/00003.json", at=None)
    add(asked, "Not an id", "doc/00004.json")
    before = asked.query("SELECT * FROM asked ORDER BY no, document")
    report = import_requests(repo, table(asked), "default")
    assert {item.request: item.stage for item in report.requests} == {"r-1": Stage.DONE, "r-2": Stage.DONE}
    assert (report.ok, report.erased) == (False, 2)
    assert sorted(finding.key for finding in report.findings) == ["asked: Not an id", "asked: r-3"]
    assert_erased(memory_store, tmp_path, UID, OTHER)
    shown = show_request(repo, "default", "r-1")
    assert (shown.requester, shown.received) == ("carl", ASKED)
    assert asked.query("SELECT * FROM asked ORDER BY no, document") == before

    asked.run("DELETE FROM asked WHERE no IN ('r-3', 'Not an id')")
    again = import_requests(opened(memory_store, tmp_path), table(asked), "default")
    assert (again.ok, again.requests, again.findings) == (True, (), ())
    add(asked, "r-1", "doc/00005.json")
    more = import_requests(opened(memory_store, tmp_path), table(asked), "default")
    assert [("other files" in finding.what, finding.key) for finding in more.findings] == [(True, "asked: r-1")]


def test_neither_who_asked_nor_who_brought_it_approves(
    asked: Business, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(20)))
    require_approval(repo)
    add(asked, "r-1")
    [report] = import_requests(opened(memory_store, tmp_path, "cron"), table(asked), "default").requests
    assert (report.stage, report.requester) == (Stage.WAITING, "carl")
    for name in ("Carl", "cron"):
        with pytest.raises(Exception, match="can't approve"):
            approve(opened(memory_store, tmp_path, name), "default", "r-1")
    assert approve(opened(memory_store, tmp_path, "dora"), "default", "r-1").stage is Stage.DUE
