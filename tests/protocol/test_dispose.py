"""Disposals: what no law keeps any more leaves the archive whole, by somebody else's leave, and nothing else does."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.law import hold_order, retain_order
from tests.protocol.packing import DAY, KEYS, MemorySource, copied, make_repository, opened, pack, some_files
from vera_core.errors import (
    ConflictError,
    IncompatibleError,
    IntegrityError,
    NotFoundError,
    RestrictedError,
    UnavailableError,
    UsageError,
    VeraError,
)
from vera_core.keyspace import KeyKind
from vera_core.model import Lock, LockMode
from vera_core.operations import disposals
from vera_core.operations.approval import require_approval
from vera_core.operations.disposals import (
    DisposalDraft,
    DisposalReport,
    approve_disposal,
    decline_disposal,
    disposal_log,
    list_disposals,
    plan_disposal,
    run_disposal,
    show_disposal,
    submit_disposal,
)
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.gc import execute_gc, plan_gc
from vera_core.operations.hold import execute_hold
from vera_core.operations.inventory import write_inventory
from vera_core.operations.retain import execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots, verify_window
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore

FILES = some_files(20)
STD = [file for file in FILES if file.retention_class == "std"]
LONG = [file for file in FILES if file.retention_class == "long"]
DRAFT = DisposalDraft(tenant="default", id="year-1", reason="retention has ended")
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)


class Clock:
    """The store's time."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


class Ended(MemoryStore):
    """A store in which the retention of class std has ended, and that of long has not."""

    def __init__(self) -> None:
        self.time = Clock()
        super().__init__(clock=self.time)

    def at_end(self, spool: Path) -> Ended:
        """A packed archive, after 150 days."""
        pack(make_repository(self, spool), MemorySource(FILES))
        self.time.now += timedelta(days=150)
        return self


@pytest.fixture
def store(tmp_path: Path) -> Ended:
    return Ended().at_end(tmp_path)


def readable(store: ObjectStore, spool: Path) -> set[str]:
    """The files that a new reader finds, each with its own bytes."""
    reader = Retriever(opened(store, spool))
    found = set()
    for file in FILES:
        with suppress(NotFoundError):
            assert reader.get(file.uid, DAY) == file.content
            found.add(file.uid)
    assert sorted(report.uid for report in reader.list_day(DAY)) == sorted(found)
    return found


def submit(store: ObjectStore, spool: Path, draft: DisposalDraft = DRAFT, actor: str = "ada") -> DisposalReport:
    return submit_disposal(opened(store, spool, actor), draft)


# ---------------------------------------------------------------------- what may go


def test_nothing_may_go_before_its_time(tmp_path: Path) -> None:
    store = MemoryStore()
    pack(make_repository(store, tmp_path), MemorySource(FILES))
    assert plan_disposal(opened(store, tmp_path), DRAFT).shards == ()
    before = len(list(store.list_versions("")))
    with pytest.raises(UsageError, match="nothing to dispose of"):
        submit(store, tmp_path)
    assert len(list(store.list_versions(""))) == before


def test_what_has_ended_goes_and_nothing_else(store: Ended, tmp_path: Path) -> None:
    write_inventory(opened(store, tmp_path), "default", DAY)
    plan = plan_disposal(opened(store, tmp_path), DRAFT)
    assert (plan.stage, plan.requested, plan.kept) == (Stage.PLANNED, 2, 0)
    assert readable(store, tmp_path) == {file.uid for file in FILES}
    report = submit(store, tmp_path)
    assert (report.ok, report.stage, report.disposed, report.versions) == (True, Stage.DONE, 2, len(STD))
    assert readable(store, tmp_path) == {file.uid for file in LONG}

    source = MemorySource(FILES)
    assert pack(opened(store, tmp_path), source).packed_now == 0, "nothing brings it back"
    verified = verify_window(opened(store, tmp_path), source, source.window())
    assert [finding.what for check in verified.checks for finding in check.findings] == []
    assert verify_slots(opened(store, tmp_path), all_slots(opened(store, tmp_path)), deep=True).ok
    plan_after = plan_doctor(opened(store, tmp_path))
    assert (plan_after.findings, plan_after.sidecars, plan_after.garbage) == ((), 0, 0)
    kinds = [KEYS.parse(info.key).kind for info in store.list_objects("")]
    assert KeyKind.INVENTORY not in kinds, "what showed the files is gone"
    assert write_inventory(opened(store, tmp_path), "default", DAY).files == len(LONG)
    again = submit(store, tmp_path)
    assert (again.stage, again.disposed) == (Stage.DONE, 2)
    assert [item.request for item in list_disposals(opened(store, tmp_path), "default")] == ["year-1"]


def test_gc_deletes_what_was_disposed_of_and_nothing_else(store: Ended, tmp_path: Path) -> None:
    gone = {item.shard.version_id for item in submit(store, tmp_path).shards}
    before = {info.version_id for info in store.list_versions("") if KEYS.parse(info.key).kind is KeyKind.SHARD}
    for _ in range(2):
        repo = opened(store, tmp_path)
        assert execute_gc(repo, plan_gc(repo, all_slots(repo))).ok
        store.time.now += timedelta(days=2)
    after = {info.version_id for info in store.list_versions("") if KEYS.parse(info.key).kind is KeyKind.SHARD}
    assert before - after == gone
    assert readable(store, tmp_path) == {file.uid for file in LONG}
    assert submit(store, tmp_path).stage is Stage.DONE
    source = MemorySource(FILES)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok


def test_the_certificate_names_every_shard(store: Ended, tmp_path: Path) -> None:
    submit(store, tmp_path)
    certificate = show_disposal(opened(store, tmp_path), "default", "year-1")
    assert (certificate.requester, certificate.reason, certificate.signature) == ("ada", "retention has ended", "")
    assert certificate.finished is not None
    for item in certificate.shards:
        assert item.disposed
        assert item.shard.locked_until < store.now()
        assert store.get(item.shard.key, version_id=item.shard.version_id).data, "its bytes are gc's business"
    with pytest.raises(NotFoundError):
        show_disposal(opened(store, tmp_path), "default", "year-2")


def test_days_and_classes_can_be_chosen(store: Ended, tmp_path: Path) -> None:
    repo = opened(store, tmp_path)
    assert plan_disposal(repo, replace(DRAFT, first=DAY + timedelta(days=1))).shards == ()
    assert plan_disposal(repo, replace(DRAFT, retention_class="long")).shards == ()
    assert plan_disposal(repo, replace(DRAFT, last=DAY, retention_class="std")).requested == 2
    for wrong in (replace(DRAFT, retention_class="none"), replace(DRAFT, reason=" "), replace(DRAFT, id="No/Id")):
        with pytest.raises(UsageError):
            plan_disposal(repo, wrong)


def test_a_request_has_its_limit(store: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disposals, "MOST_SHARDS", 1)
    assert submit(store, tmp_path).disposed == 1
    assert submit(store, tmp_path, replace(DRAFT, id="year-2")).disposed == 1
    assert readable(store, tmp_path) == {file.uid for file in LONG}


# ---------------------------------------------------------------------- what must stay


def test_a_shard_that_a_case_needs_stays_whole(store: Ended, tmp_path: Path) -> None:
    execute_hold(opened(store, tmp_path), hold_order(STD[0].uid))
    plan = plan_disposal(opened(store, tmp_path), DRAFT)
    assert sorted(item.kept for item in plan.shards) == ["", "it holds files that a case needs"]
    report = submit(store, tmp_path)
    assert (report.requested, report.disposed) == (1, 1), "what is kept is not even asked for"
    reader = Retriever(opened(store, tmp_path))
    beside = {file.uid for file in STD if reader.slot(file.uid, DAY) == reader.slot(STD[0].uid, DAY)}
    assert readable(store, tmp_path) == {file.uid for file in LONG} | beside


def test_a_file_that_is_kept_longer_stays_readable(store: Ended, tmp_path: Path) -> None:
    until = store.now() + timedelta(days=90)
    execute_retain(opened(store, tmp_path), retain_order(STD[0].uid, until=until))
    submit(store, tmp_path)
    assert readable(store, tmp_path) == {file.uid for file in LONG} | {STD[0].uid}
    source = MemorySource(FILES)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok
    store.time.now += timedelta(days=91)
    assert submit(store, tmp_path, replace(DRAFT, id="year-2")).disposed == 1
    assert readable(store, tmp_path) == {file.uid for file in LONG}


def test_a_file_whose_copy_is_lost_is_not_disposed_of(store: Ended, tmp_path: Path) -> None:
    until = store.now() + timedelta(days=90)
    report = execute_retain(opened(store, tmp_path), retain_order(STD[0].uid, until=until))
    [(key, version_id)] = report.shards
    store.delete(key, version_id=version_id, bypass_governance=True)
    plan = plan_disposal(opened(store, tmp_path), DRAFT)
    assert any("the copy that keeps them is not there" in item.kept for item in plan.shards)
    assert submit(store, tmp_path).disposed == 1


def test_what_the_store_keeps_stays(store: Ended, tmp_path: Path) -> None:
    one, two = (item.shard for item in plan_disposal(opened(store, tmp_path), DRAFT).shards)
    store.set_lock(one.key, one.version_id, Lock(LockMode.COMPLIANCE, store.now() + timedelta(days=1)))
    store.set_hold(two.key, two.version_id, held=True)
    kept = {item.shard.key: item.kept for item in plan_disposal(opened(store, tmp_path), DRAFT).shards}
    assert "the store keeps it locked until 2026-07-31" in kept[one.key]
    assert "of which no record tells" in kept[two.key]
    with pytest.raises(UsageError, match="something keeps those"):
        submit(store, tmp_path)


# ---------------------------------------------------------------------- by somebody else's leave


def test_nothing_is_done_before_somebody_else_approves(store: Ended, tmp_path: Path) -> None:
    require_approval(opened(store, tmp_path))
    assert submit(store, tmp_path).stage is Stage.WAITING
    with pytest.raises(RestrictedError, match="asked for this disposal"):
        approve_disposal(opened(store, tmp_path, " Ada "), "default", "year-1")
    assert run_disposal(opened(store, tmp_path, "eve"), "default", "year-1").stage is Stage.WAITING
    assert readable(store, tmp_path) == {file.uid for file in FILES}
    assert approve_disposal(opened(store, tmp_path, "bob"), "default", "year-1").stage is Stage.DUE
    assert readable(store, tmp_path) == {file.uid for file in FILES}
    report = run_disposal(opened(store, tmp_path, "eve"), "default", "year-1")
    assert (report.stage, report.requester, report.approver, report.disposed) == (Stage.DONE, "ada", "bob", 2)


def test_what_is_approved_is_what_was_asked_for(store: Ended, tmp_path: Path) -> None:
    """What ends between the asking and the doing is not disposed of by it."""
    require_approval(opened(store, tmp_path))
    submit(store, tmp_path)
    pack(opened(store, tmp_path), MemorySource(some_files(5, prefix="late"), name="late"))
    approve_disposal(opened(store, tmp_path, "bob"), "default", "year-1")
    store.time.now += timedelta(days=150)
    assert run_disposal(opened(store, tmp_path), "default", "year-1").disposed == 2
    assert Retriever(opened(store, tmp_path)).get("late/00001.json", DAY)


def test_a_declined_request_is_not_executed(store: Ended, tmp_path: Path) -> None:
    require_approval(opened(store, tmp_path))
    submit(store, tmp_path)
    with pytest.raises(UsageError):
        decline_disposal(opened(store, tmp_path, "bob"), "default", "year-1", " ")
    assert decline_disposal(opened(store, tmp_path, "bob"), "default", "year-1", "an audit").stage is Stage.DECLINED
    with pytest.raises(RestrictedError, match="declined by bob"):
        submit(store, tmp_path)
    for later in (run_disposal, approve_disposal):
        with pytest.raises(RestrictedError, match="declined by bob"):
            later(opened(store, tmp_path, "eve"), "default", "year-1")
    with pytest.raises(ConflictError, match="another reason"):
        submit(store, tmp_path, replace(DRAFT, reason="another"))
    assert readable(store, tmp_path) == {file.uid for file in FILES}


def test_a_hold_that_comes_after_the_approval_keeps_its_shard_until_it_is_released(
    store: Ended, tmp_path: Path
) -> None:
    require_approval(opened(store, tmp_path))
    submit(store, tmp_path)
    approve_disposal(opened(store, tmp_path, "bob"), "default", "year-1")
    execute_hold(opened(store, tmp_path), hold_order(STD[0].uid))
    report = run_disposal(opened(store, tmp_path), "default", "year-1")
    assert (report.ok, report.stage, report.disposed, report.kept) == (False, Stage.REFUSED, 1, 1)
    assert STD[0].uid in readable(store, tmp_path)
    execute_hold(opened(store, tmp_path), hold_order(STD[0].uid, release=True))
    assert run_disposal(opened(store, tmp_path), "default", "year-1").stage is Stage.DONE
    assert readable(store, tmp_path) == {file.uid for file in LONG}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"type": "unheard-of"}, IncompatibleError),
        ({"type": "request"}, IncompatibleError),
        ({"type": "done", "disposed": [9], "kept": []}, IntegrityError),
        ({"type": "done", "disposed": [-1], "kept": []}, IntegrityError),
        ({"type": "done", "disposed": [], "kept": [{"shard": 0}]}, IntegrityError),
        ({"type": "decline", "reason": None, "actor": "x"}, IntegrityError),
        ({"type": "approve"}, IntegrityError),
    ],
)
def test_a_log_that_can_not_be_understood_disposes_of_nothing(
    store: Ended, tmp_path: Path, body: dict[str, Any], error: type[VeraError]
) -> None:
    require_approval(opened(store, tmp_path))
    submit(store, tmp_path)
    log = disposal_log(opened(store, tmp_path), "default", "year-1")
    log.load()
    lock = Lock(LockMode.GOVERNANCE, store.now() + timedelta(days=9))
    log._chain.append(log.head, body, lock=lock, now=store.now())
    with pytest.raises(error):
        run_disposal(opened(store, tmp_path), "default", "year-1")
    assert readable(store, tmp_path) == {file.uid for file in FILES}


def test_an_approval_of_ones_own_counts_for_nothing(store: Ended, tmp_path: Path) -> None:
    require_approval(opened(store, tmp_path))
    submit(store, tmp_path)
    log = disposal_log(opened(store, tmp_path), "default", "year-1")
    log.load()
    lock = Lock(LockMode.GOVERNANCE, store.now() + timedelta(days=9))
    log.append({"type": "approve", "actor": "ADA"}, lock=lock, now=store.now())
    assert run_disposal(opened(store, tmp_path), "default", "year-1").stage is Stage.WAITING


def test_a_request_that_was_copied_elsewhere_is_none(store: Ended, tmp_path: Path) -> None:
    require_approval(opened(store, tmp_path))
    submit(store, tmp_path)
    data = store.get(KEYS.disposal("default", "year-1", 1)).data
    lock = Lock(LockMode.GOVERNANCE, store.now() + timedelta(days=9))
    store.put(KEYS.disposal("default", "year-2", 1), data, lock=lock)
    with pytest.raises(IntegrityError, match="Somebody copied"):
        run_disposal(opened(store, tmp_path), "default", "year-2")


# ---------------------------------------------------------------------- crashes and races


def test_a_disposal_that_dies_at_any_request_is_finished_by_whoever_comes_next(store: Ended, tmp_path: Path) -> None:
    def again() -> Ended:
        fresh = Ended()
        fresh._keys, fresh._made = copied(store)._keys, store._made
        fresh.time.now = store.time.now
        return fresh

    watched = FaultyStore(again())
    repo = opened(watched, tmp_path)
    watched.calls.clear()
    submit_disposal(repo, DRAFT)
    left = {file.uid for file in LONG}
    for number in range(1, len(watched.calls) + 1):
        for action in (Action.FAIL, Action.LOSE_REPLY):
            fresh = again()
            dying = FaultyStore(fresh)
            repo = opened(dying, tmp_path)
            dying.add(Rule(action, nth=number))
            dying.add(Rule(Action.FAIL, nth=number + 1, times=None))
            with pytest.raises(VeraError):
                submit_disposal(repo, DRAFT)
            assert left <= readable(fresh, tmp_path)
            doctor = opened(fresh, tmp_path)
            if number % 2:
                assert execute_doctor(doctor, plan_doctor(doctor)).ok
            report = submit(fresh, tmp_path)
            assert (report.stage, report.disposed) == (Stage.DONE, 2)
            assert readable(fresh, tmp_path) == left
            named = [
                item["version_id"]
                for slot in all_slots(doctor)
                for record in doctor.slot_log(slot).load().records
                if record.type == "dispose"
                for item in record.body["shards"]
            ]
            assert len(named) == len(set(named)) == 2


@pytest.mark.parametrize("kind", ["put", "get_lock", "get_hold"])
def test_a_hold_that_comes_between_keeps_its_shard(store: Ended, tmp_path: Path, kind: str) -> None:
    slot = Retriever(opened(store, tmp_path)).slot(STD[0].uid, DAY)
    racing = FaultyStore(store)
    repo = opened(racing, tmp_path, "ada")
    key = f"*/{slot.index_text}/log/*" if kind == "put" else f"*/{slot.index_text}/*.vera"
    held = hold_order(STD[0].uid)
    racing.add(Rule(Action.RUN_BEFORE, kind, key, run=lambda: execute_hold(opened(store, tmp_path), held)))
    report = submit_disposal(repo, DRAFT)
    assert STD[0].uid in readable(store, tmp_path)
    assert report.disposed == 1


def test_the_audit_knows_before_and_after(store: Ended, tmp_path: Path) -> None:
    failing = opened(FaultyStore(store, [Rule(Action.FAIL, "put", "*/audit/*")]), tmp_path)
    with pytest.raises(UnavailableError):
        submit_disposal(failing, DRAFT)
    assert readable(store, tmp_path) == {file.uid for file in FILES}
    assert list_disposals(opened(store, tmp_path), "default") == []
