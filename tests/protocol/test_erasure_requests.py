"""Erasure requests: two persons where the repository asks for them, refusals that are tried again, deadlines."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.erasing import UID, assert_erased, assert_readable, draft
from tests.protocol.packing import DAY, KEYS, File, MemorySource, make_repository, opened, pack, some_files
from vera_core.erasures import ErasureRequest, Ground, RequestLog, a_month_after, fold, request_body
from vera_core.errors import (
    ConflictError,
    IncompatibleError,
    IntegrityError,
    NotFoundError,
    RestrictedError,
    UsageError,
)
from vera_core.model import Erasability, Lock, LockMode, RetentionClass
from vera_core.operations.approval import require_approval
from vera_core.operations.deadlines import survey_requests
from vera_core.operations.erasure_reports import Stage, request_ids, show_request
from vera_core.operations.erasures import approve, decline, run_due, run_request, submit
from vera_core.operations.readmit import Readmission, readmit
from vera_core.operations.retrieve import Retriever
from vera_core.store.chain import LogOptions, Record
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository

KEPT = "doc/00005.json"
REGULATED = (RetentionClass("std", 100), RetentionClass("long", 30, Erasability.REGULATED))
TWO_DAYS = timedelta(hours=48)


class Time:
    """A store's clock that tests set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 2, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def store(time: Time) -> MemoryStore:
    return MemoryStore(clock=time)


@pytest.fixture
def repo(store: MemoryStore, tmp_path: Path) -> Repository:
    made = make_repository(store, tmp_path, classes=REGULATED)
    pack(made, MemorySource(some_files(40)))
    return made


@pytest.fixture
def careful(repo: Repository, store: MemoryStore, tmp_path: Path) -> Repository:
    """A repository whose erasures need an approval; the handle is ada's."""
    require_approval(repo)
    return opened(store, tmp_path, "ada@bank.example")


# ---------------------------------------------------------------------- two persons


def test_nothing_is_erased_before_somebody_else_approves(
    careful: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    report = submit(careful, draft(UID))
    assert (report.stage, report.ok, report.erased, report.open) == (Stage.WAITING, False, 0, 1)
    content = Retriever(careful).get(UID, DAY)
    for name in ("ada@bank.example", " ADA@bank.example"):
        with pytest.raises(RestrictedError, match="can't approve"):
            approve(opened(store, tmp_path, name), "default", "r-1")
    for again in (submit(careful, draft(UID)), run_request(careful, "default", "r-1")):
        assert again.stage is Stage.WAITING
    assert run_due(careful, "default").requests == ()
    assert_readable(store, tmp_path, [(UID, content)])

    other = opened(store, tmp_path, "bob@bank.example")
    approved = approve(other, "default", "r-1")
    assert (approved.stage, approved.approver) == (Stage.DUE, "bob@bank.example")
    assert_readable(store, tmp_path, [(UID, content)])
    head = sum(1 for _ in store.list_versions(KEYS.requests_prefix("default")))
    approve(other, "default", "r-1")
    assert sum(1 for _ in store.list_versions(KEYS.requests_prefix("default"))) == head, "saying it again is nothing"
    done = run_due(careful, "default")
    assert (done.ok, done.erased, [item.stage for item in done.requests]) == (True, 1, [Stage.DONE])
    assert_erased(store, tmp_path, UID)
    assert run_due(careful, "default").requests == ()


def test_asking_for_approvals_is_for_good_and_holds_for_what_is_not_executed_yet(
    repo: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    before = repo.config.revision
    assert require_approval(repo).revision == before + 1
    assert require_approval(opened(store, tmp_path)).revision == before + 1
    assert opened(store, tmp_path).config.erasure_approval
    assert make_repository(MemoryStore(), tmp_path, erasure_approval=True).config.erasure_approval
    assert submit(repo, draft(UID)).stage is Stage.WAITING


def test_a_declined_request_is_never_executed(careful: Repository, store: MemoryStore, tmp_path: Path) -> None:
    submit(careful, draft(UID))
    other = opened(store, tmp_path, "bob")
    with pytest.raises(UsageError, match="reason"):
        decline(other, "default", "r-1", " ")
    assert decline(other, "default", "r-1", "not the person's own data").stage is Stage.DECLINED
    assert decline(careful, "default", "r-1", "once more").stage is Stage.DECLINED
    with pytest.raises(RestrictedError, match="declined"):
        approve(other, "default", "r-1")
    with pytest.raises(RestrictedError, match="declined"):
        submit(careful, draft(UID))
    with pytest.raises(RestrictedError, match="declined"):
        run_request(careful, "default", "r-1")
    assert run_due(careful, "default").requests == ()
    Retriever(careful).get(UID, DAY)


def test_a_forged_approval_by_who_asked_counts_for_nothing(careful: Repository, store: MemoryStore, time: Time) -> None:
    submit(careful, draft(UID))
    log = RequestLog(store, KEYS, "default", "r-1", careful.config.log_options)
    log.load()
    lock = Lock(LockMode.GOVERNANCE, time.now + timedelta(days=500))
    log.append({"type": "approve", "actor": "Ada@Bank.example"}, lock=lock, now=time.now)
    assert run_request(careful, "default", "r-1").stage is Stage.WAITING


def test_there_is_no_request_of_another_id_or_tenant(repo: Repository, store: MemoryStore, tmp_path: Path) -> None:
    submit(repo, draft(UID))
    for tenant, name in (("default", "r-2"), ("other", "r-1")):
        for look in (show_request, approve, run_request):
            with pytest.raises(NotFoundError, match="no such erasure request"):
                look(repo, tenant, name)
    assert list(request_ids(repo, "other")) == []
    store.put(f"{KEYS.requests_prefix('default')}No Request/000001.json", b"x")
    assert list(request_ids(repo, "default")) == ["r-1"]


def test_a_request_that_was_copied_to_another_id_erases_nothing(
    repo: Repository, store: MemoryStore, time: Time
) -> None:
    submit(repo, draft(UID))
    copy = store.get(KEYS.request("default", "r-1", 1)).data
    lock = Lock(LockMode.GOVERNANCE, time.now + timedelta(days=500))
    store.put(KEYS.request("default", "r-9", 1), copy, lock=lock)
    with pytest.raises(IntegrityError, match="copied"):
        run_request(repo, "default", "r-9")
    report = run_due(repo, "default")
    assert (report.ok, len(report.findings)) == (False, 1)
    assert "r-9" in report.findings[0].key


# ---------------------------------------------------------------------- refusals


def test_what_was_refused_is_erased_once_its_ground_has_ended(
    repo: Repository, store: MemoryStore, tmp_path: Path, time: Time
) -> None:
    report = submit(repo, draft(UID, KEPT))
    assert (report.stage, report.erased, report.refused) == (Stage.REFUSED, 1, 1)
    assert show_request(repo, "default", "r-1").stage is Stage.REFUSED
    records = sum(1 for _ in store.list_versions(KEYS.requests_prefix("default")))
    assert run_due(repo, "default").requests == (), "its time is known: nothing is asked before"
    time.now += timedelta(days=31)
    later = opened(store, tmp_path)
    done = run_due(later, "default")
    assert (done.ok, done.erased) == (True, 1)
    [end] = done.requests
    assert (end.stage, end.erased, end.refused, end.open) == (Stage.DONE, 2, 0, 0)
    assert sum(1 for _ in store.list_versions(KEYS.requests_prefix("default"))) == records + 1
    assert_erased(store, tmp_path, UID, KEPT)


def test_a_refusal_is_recorded_once_and_says_why(repo: Repository, store: MemoryStore) -> None:
    submit(repo, draft(KEPT))
    records = sum(1 for _ in store.list_versions(KEYS.requests_prefix("default")))
    for _ in range(2):
        report = submit(repo, draft(KEPT))
        assert (report.stage, report.refused, report.files) == (Stage.REFUSED, 1, ())
    assert sum(1 for _ in store.list_versions(KEYS.requests_prefix("default"))) == records
    request = RequestLog(store, KEYS, "default", "r-1", LogOptions()).existing()
    assert request.refused[0].ground is Ground.OBLIGATION
    assert request.refused[0].until == Retriever(repo).stat(KEPT, DAY).lock_until


# ---------------------------------------------------------------------- deadlines


def test_requests_are_listed_with_their_deadlines(
    careful: Repository, store: MemoryStore, tmp_path: Path, time: Time
) -> None:
    submit(careful, draft(UID))
    start = time.now
    line = survey_requests(careful, "default", TWO_DAYS).requests[0]
    assert (line.request, line.stage, line.open, line.hide_by) == ("r-1", Stage.WAITING, 1, start + TWO_DAYS)
    for hours, severities, words in (
        (1, [], ""),
        (37, ["warning"], "out of sight by"),
        (49, ["error"], "more than 48 hours"),
        (24 * 32, ["error"], "more than a month"),
    ):
        time.now = start + timedelta(hours=hours)
        report = survey_requests(opened(store, tmp_path), "default", TWO_DAYS)
        assert [finding.severity for finding in report.findings] == severities
        assert all(words in finding.what for finding in report.findings)
        assert report.ok == (hours < 48)
        assert (report.waiting, report.overdue, report.unfinished) == (1, int(hours > 48), 1)
    approve(opened(store, tmp_path, "bob"), "default", "r-1")
    run_due(opened(store, tmp_path), "default")
    report = survey_requests(opened(store, tmp_path), "default", TWO_DAYS)
    assert (report.ok, report.findings, report.unfinished) == (True, (), 0)
    assert report.requests[0].hide_by is None


def test_time_runs_from_when_the_person_asked(careful: Repository, time: Time) -> None:
    asked = time.now - timedelta(days=3)
    submit(careful, replace(draft(UID), received=asked))
    report = survey_requests(careful, "default", TWO_DAYS)
    assert (report.overdue, report.requests[0].received) == (1, asked)


def test_a_refused_file_is_not_overdue_before_its_ground_ends(
    repo: Repository, store: MemoryStore, tmp_path: Path, time: Time
) -> None:
    submit(repo, draft(KEPT))
    for days, waiting, overdue in ((20, 0, 0), (31, 1, 0), (40, 1, 1)):
        time.now = datetime(2026, 3, 2, 12, tzinfo=UTC) + timedelta(days=days)
        report = survey_requests(opened(store, tmp_path), "default", TWO_DAYS)
        assert (report.waiting, report.overdue) == (waiting, overdue)


def test_a_request_that_cannot_be_read_is_a_finding(repo: Repository, store: MemoryStore, time: Time) -> None:
    submit(repo, draft(UID))
    lock = Lock(LockMode.GOVERNANCE, time.now + timedelta(days=500))
    store.put(KEYS.request("default", "r-0", 1), b"no record", lock=lock)
    report = survey_requests(repo, "default", TWO_DAYS)
    assert (report.ok, report.count, len(report.findings)) == (False, 1, 1)
    assert report.findings[0].key == KEYS.request("default", "r-0", 1)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-02T12:00", "2026-04-02T12:00"),
        ("2026-01-31T00:00", "2026-02-28T00:00"),
        ("2028-01-30T23:59", "2028-02-29T23:59"),
        ("2026-12-31T01:00", "2027-01-31T01:00"),
    ],
)
def test_a_month_is_a_calendar_month(start: str, end: str) -> None:
    assert a_month_after(datetime.fromisoformat(f"{start}Z")) == datetime.fromisoformat(f"{end}Z")


# ---------------------------------------------------------------------- records


REQUEST = request_body(
    ErasureRequest("default", "r-1", "why", "ada", "ada", datetime(2026, 3, 2, tzinfo=UTC), draft("u", "v").targets)
)
TIME = "2026-03-02T12:00:00Z"


def folded(*bodies: dict[str, Any]) -> ErasureRequest:
    request = None
    for number, body in enumerate(bodies, 1):
        request = fold(request, Record(number, {"time": TIME, **body}, "", "", None))
    assert request is not None
    return request


def test_a_request_is_what_its_records_say() -> None:
    refusal = {"target": 1, "ground": "Art. 17(3)(e)", "detail": "held", "until": None}
    done = {"type": "done", "actor": "x", "erased": [0], "missing": [], "hidden_until": TIME}
    refused = folded(REQUEST, done, {"type": "refuse", "actor": "x", "refusals": [refusal]})
    assert (refused.open, refused.due(refused.received), refused.finished) == ([1], [1], None)
    assert refused.refused[1].ground is Ground.CLAIMS
    end = {**done, "erased": [], "missing": [1], "hidden_until": None}
    whole = folded(REQUEST, done, {"type": "refuse", "actor": "x", "refusals": [refusal]}, end)
    assert (whole.open, sorted(whole.erased), sorted(whole.missing)) == ([], [0], [1])
    assert not whole.refused
    assert whole.finished is not None


@pytest.mark.parametrize(
    "body",
    [
        {"type": "approve"},
        {"type": "decline", "actor": "x"},
        {"type": "refuse", "refusals": [{"target": 7, "ground": "Art. 17(3)(e)", "detail": "", "until": None}]},
        {"type": "refuse", "refusals": [{"target": 0, "ground": "because", "detail": "", "until": None}]},
        {"type": "refuse"},
        {"type": "done", "erased": [-1], "missing": [], "hidden_until": None},
        {"type": "done", "erased": ["0"], "missing": [], "hidden_until": None},
        {"type": "done", "erased": [0], "missing": []},
    ],
)
def test_a_record_that_cannot_be_understood_stops_the_request(body: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="can't be understood"):
        folded(REQUEST, body)


def test_an_unknown_record_is_never_passed_over() -> None:
    for bodies in ([REQUEST, {"type": "unheard-of"}], [REQUEST, REQUEST], [{"type": "approve", "actor": "x"}]):
        with pytest.raises(IncompatibleError, match="does not expect"):
            folded(*bodies)


def test_whoever_asks_first_gets_the_id(repo: Repository, store: MemoryStore, tmp_path: Path) -> None:
    racing = FaultyStore(store)
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/requests/*", run=lambda: submit(repo, draft("other"))))
    with pytest.raises(ConflictError, match="another request"):
        submit(opened(racing, tmp_path), draft(UID))
    racing = FaultyStore(store)
    racing.add(Rule(Action.RUN_BEFORE, "put", "*/requests/*", run=lambda: submit(repo, draft(UID, request="r-2"))))
    report = submit(opened(racing, tmp_path), draft(UID, request="r-2"))
    assert (report.stage, report.erased) == (Stage.DONE, 1)


# ---------------------------------------------------------------------- readmitting


def test_a_readmitted_uid_may_be_archived_again_and_erased_again(
    repo: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    [target] = draft(UID).targets
    again = Readmission(tenant="default", target=target, request="r-5", reason="a new contract")
    with pytest.raises(NotFoundError, match="no file of that uid was erased"):
        readmit(repo, again)
    submit(repo, draft(UID))
    assert pack(repo, MemorySource([File(UID, b"new")], name="new")).rejects == {"erased": 1}
    with pytest.raises(UsageError, match="reason"):
        readmit(repo, replace(again, reason=""))
    slot = Retriever(repo).slot(UID, DAY)
    for _ in range(2):
        assert readmit(repo, again).slot == str(slot)
    assert [record.type for record in repo.slot_log(slot).load().records].count("readmit") == 1
    assert_erased(store, tmp_path, UID)
    assert pack(repo, MemorySource([File(UID, b"newer")], name="newer")).archived == 1
    reader = Retriever(opened(store, tmp_path))
    assert reader.get(UID, DAY) == b"newer"
    assert [version.erased for version in reader.versions(UID, DAY)] == [True, False]
    assert submit(repo, draft(UID, request="r-6")).erased == 1
    assert_erased(store, tmp_path, UID)


def test_erasing_ends_a_readmission_that_nothing_came_of(repo: Repository) -> None:
    submit(repo, draft(UID))
    [target] = draft(UID).targets
    readmit(repo, Readmission(tenant="default", target=target, request="r-5", reason="by mistake"))
    submit(repo, draft(UID, request="r-6"))
    assert pack(repo, MemorySource([File(UID, b"new")], name="new")).rejects == {"erased": 1}
