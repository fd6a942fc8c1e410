"""Legal holds: what is held stays, in the log's word and in the store's, through crashes, races and repairs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import draft
from tests.protocol.law import held_shards, held_uids, hold_order, shards_of
from tests.protocol.packing import DAY, File, MemorySource, copied, make_repository, opened, pack, some_files
from tests.protocol.repacking import erase, repack
from tests.protocol.test_races import damage
from vera_core.erasures import Ground
from vera_core.errors import NotFoundError, RestrictedError, UnavailableError, UnsafeStoreError, UsageError, VeraError
from vera_core.model import LockMode, Origin
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.hold import HoldOrder, HoldReport, Outcome, execute_hold, plan_hold
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.slots import SlotState
    from vera_core.store.base import ObjectStore

UIDS = [file.uid for file in some_files(30)][:8]


def place(store: ObjectStore, spool: Path, wanted: HoldOrder) -> HoldReport:
    """As a process of its own would."""
    return execute_hold(opened(store, spool), wanted)


def states(store: ObjectStore, spool: Path) -> list[SlotState]:
    repo = opened(store, spool)
    return [repo.slot_log(slot).load() for slot in all_slots(repo)]


def packed(store: ObjectStore, spool: Path, files: int = 30) -> Repository:
    repo = make_repository(store, spool, part_rows=8)
    pack(repo, MemorySource(some_files(files)))
    return repo


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    return packed(memory_store, tmp_path)


# ---------------------------------------------------------------------- placing and releasing


def test_a_held_file_keeps_its_shard_until_no_case_needs_it(store: ObjectStore, tmp_path: Path) -> None:
    packed(store, tmp_path)
    one, two = UIDS[0], UIDS[1]
    plan = plan_hold(opened(store, tmp_path), hold_order(one, two))
    assert [file.outcome for file in plan.files] == [Outcome.PLANNED] * 2
    assert held_uids(store, tmp_path) == held_shards(store) == set()

    report = place(store, tmp_path, hold_order(one, two))
    assert (report.ok, report.changed, report.before) == (True, 2, 0)
    assert held_uids(store, tmp_path) == {one, two}
    assert held_shards(store) == shards_of(store, tmp_path, one, two)
    again = place(store, tmp_path, hold_order(one, two))
    assert (again.changed, again.before) == (0, 2)
    place(store, tmp_path, hold_order(one, case="tax audit 2026"))

    first = place(store, tmp_path, hold_order(one, two, release=True))
    cases = {file.uid: file.cases for file in first.files}
    assert cases == {one: ("tax audit 2026",), two: ()}
    assert held_shards(store) == shards_of(store, tmp_path, one)
    assert place(store, tmp_path, hold_order(one, two, release=True)).before == 2
    place(store, tmp_path, hold_order(one, case="tax audit 2026", release=True))
    assert held_shards(store) == set()
    assert plan_doctor(opened(store, tmp_path)).ok
    assert [len(state.holds) for state in states(store, tmp_path)] == [0, 0]


def test_a_whole_case_is_released_at_once(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    execute_hold(repo, hold_order(*UIDS))
    execute_hold(repo, hold_order(UIDS[0], case="another"))
    assert plan_hold(repo, hold_order(release=True)).changed == len(UIDS)
    assert execute_hold(repo, hold_order(release=True)).changed == len(UIDS)
    assert held_shards(memory_store) == shards_of(memory_store, tmp_path, UIDS[0])
    with pytest.raises(NotFoundError, match="no file is held"):
        execute_hold(repo, hold_order(release=True))


def test_nothing_is_held_if_a_file_is_unknown(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    submit(repo, draft(UIDS[3]))
    before = len(list(memory_store.list_versions("")))
    for unknown in ("no such file", UIDS[3]):
        plan = plan_hold(repo, hold_order(UIDS[0], unknown))
        assert (plan.ok, plan.missing) == (False, 1)
        with pytest.raises(NotFoundError, match="1 of 2 files are not archived, or erased; nothing was done") as caught:
            execute_hold(repo, hold_order(UIDS[0], unknown))
        assert caught.value.where["uids"] == unknown
    with pytest.raises(NotFoundError, match="never held for this case"):
        execute_hold(repo, hold_order(UIDS[0], release=True))
    assert len(list(memory_store.list_versions(""))) == before
    assert held_uids(memory_store, tmp_path) == set()


@pytest.mark.parametrize(
    "wrong", [{"case": ""}, {"case": " "}, {"case": "a\nb"}, {"case": "x" * 129}, {"reason": " "}, {"targets": ()}]
)
def test_an_order_that_says_too_little_is_refused(repo: Repository, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        plan_hold(repo, replace(hold_order(UIDS[0]), **wrong))  # type: ignore[arg-type]


def test_later_versions_are_held_by_placing_it_again(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    execute_hold(repo, hold_order(UIDS[0]))
    pack(repo, MemorySource([File(UIDS[0], b"changed")], name="late"))
    plan = plan_hold(repo, hold_order(UIDS[0]))
    assert plan.changed == 1
    [file] = execute_hold(repo, hold_order(UIDS[0])).files
    assert file.versions == (Origin(*map(int, Retriever(repo).stat(UIDS[0], DAY).version.split("."))),)
    assert held_shards(memory_store) == shards_of(memory_store, tmp_path, UIDS[0])
    assert len(held_shards(memory_store)) == 2


def test_a_file_that_is_held_is_not_erased(repo: Repository) -> None:
    execute_hold(repo, hold_order(UIDS[0]))
    [file] = submit(repo, draft(UIDS[0])).files
    assert file.refusal is not None
    assert (file.refusal.ground, "LIT-417" in file.refusal.detail) == (Ground.CLAIMS, True)


def test_a_repository_without_locks_holds_by_its_log(tmp_path: Path) -> None:
    store = MemoryStore(object_lock=False)
    repo = make_repository(store, tmp_path, lock_mode=LockMode.NONE)
    pack(repo, MemorySource(some_files(10)))
    assert execute_hold(repo, hold_order(UIDS[0])).changed == 1
    assert held_uids(store, tmp_path) == {UIDS[0]}
    assert submit(repo, draft(UIDS[0])).refused == 1


def test_a_store_without_legal_holds_is_told_and_the_log_holds_all_the_same(tmp_path: Path) -> None:
    class Holdless(MemoryStore):
        def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
            raise UnsafeStoreError("the store does not offer this S3 function", key=key, version_id=version_id)

    store = Holdless()
    repo = packed(store, tmp_path)
    with pytest.raises(UnsafeStoreError):
        execute_hold(repo, hold_order(UIDS[0]))
    assert held_uids(store, tmp_path) == {UIDS[0]}


def test_a_store_that_forgets_legal_holds_is_found_out(tmp_path: Path) -> None:
    class Forgetful(MemoryStore):
        def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
            pass

    with pytest.raises(UnsafeStoreError, match="says that there is none"):
        execute_hold(packed(Forgetful(), tmp_path), hold_order(UIDS[0]))


# ---------------------------------------------------------------------- it stays


def test_a_hold_outlasts_every_lock(tmp_path: Path) -> None:
    """Years later shard, records and config are still there, for the doctor came by once a year."""
    now = datetime(2026, 3, 2, tzinfo=UTC)
    store = MemoryStore(clock=lambda: now)
    packed(store, tmp_path)
    place(store, tmp_path, hold_order(UIDS[0]))
    for _ in range(20):
        now += timedelta(days=300)
        repo = opened(store, tmp_path)
        execute_doctor(repo, plan_doctor(repo))
        assert plan_doctor(opened(store, tmp_path)).ok
    everything = [(info.key, info.version_id) for info in store.list_versions("")]
    kept = {(key, version) for key, version, _ in store.delete_batch(everything, bypass_governance=False)}
    assert {version for _, version in kept} >= shards_of(store, tmp_path, UIDS[0]) != set()
    reader = Retriever(opened(store, tmp_path))
    assert reader.get(UIDS[0], DAY) == some_files(30)[0].content


def test_the_doctor_follows_the_log(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    execute_hold(repo, hold_order(UIDS[0]))
    [held] = held_shards(memory_store)
    reports = {report.version_id: report for report in Retriever(repo).list_day(DAY)}
    slot = reports[held].slot
    idle = next(item for item in reports.values() if item.version_id != held and item.slot == slot)
    memory_store.set_hold(reports[held].shard, held, held=False)
    memory_store.set_hold(idle.shard, idle.version_id, held=True)
    checked = verify_slots(opened(memory_store, tmp_path), all_slots(repo))
    assert [finding.version_id for finding in checked.check("worm_lock").findings] == [held]
    plan = plan_doctor(opened(memory_store, tmp_path))
    assert (plan.ok, plan.legal_holds) == (False, 2)
    assert execute_doctor(opened(memory_store, tmp_path), plan).legal_holds == 2
    assert held_shards(memory_store) == {held}


def test_a_shard_that_is_gone_is_told_and_the_others_are_held(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    execute_hold(repo, hold_order(*UIDS))
    wanted = held_shards(memory_store)
    report = Retriever(repo).stat(UIDS[0], DAY)
    for shard in {(item.shard, item.version_id) for uid in UIDS for item in Retriever(repo).versions(uid, DAY)}:
        memory_store.set_hold(*shard, held=False)
    memory_store.delete(report.shard, version_id=report.version_id, bypass_governance=True)
    done = execute_doctor(opened(memory_store, tmp_path), plan_doctor(opened(memory_store, tmp_path)))
    assert not done.ok
    assert any("legal hold needs is gone" in finding.what for finding in done.findings)
    assert held_shards(memory_store) == wanted - {report.version_id}


def test_a_hold_follows_the_repair_of_its_shard(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    execute_hold(repo, hold_order(UIDS[0]))
    before = Retriever(repo).stat(UIDS[0], DAY)
    damage(memory_store, before.shard, before.version_id)
    watched = FaultyStore(memory_store)
    pack(opened(watched, tmp_path), MemorySource(some_files(30)))
    after = Retriever(opened(memory_store, tmp_path)).stat(UIDS[0], DAY)
    assert after.version_id != before.version_id
    assert held_shards(memory_store) == {after.version_id}
    changed = [call.version_id for call in watched.calls if call.kind == "set_hold"]
    assert changed == [after.version_id, before.version_id], "the new one is held before the old one is let go"
    with pytest.raises(RestrictedError):
        memory_store.delete(after.shard, version_id=after.version_id, bypass_governance=True)


def test_a_hold_follows_a_repack_and_is_not_left_behind_by_it(store: ObjectStore, tmp_path: Path) -> None:
    packed(store, tmp_path)
    reader = Retriever(opened(store, tmp_path))
    before = reader.stat(UIDS[0], DAY)
    beside = [report.uid for report in reader.list_day(DAY) if report.version_id == before.version_id]
    place(store, tmp_path, hold_order(UIDS[0]))
    erase(opened(store, tmp_path), *(uid for uid in beside if uid != UIDS[0]))
    watched = FaultyStore(store)
    assert repack(opened(watched, tmp_path)).ok
    after = Retriever(opened(store, tmp_path)).stat(UIDS[0], DAY)
    assert after.version_id != before.version_id
    assert (after.version, after.sha256) == (before.version, before.sha256)
    assert held_shards(store) == {after.version_id}
    changed = [call.version_id for call in watched.calls if call.kind == "set_hold"]
    assert changed == [after.version_id, before.version_id], "the new one is held before the old one is let go"


# ---------------------------------------------------------------------- crashes and races


def calls_of(store: MemoryStore, spool: Path, wanted: HoldOrder) -> int:
    watched = FaultyStore(store)
    repo = opened(watched, spool)
    watched.calls.clear()
    execute_hold(repo, wanted)
    return len(watched.calls)


@pytest.mark.parametrize("release", [False, True])
def test_a_hold_that_dies_at_any_request_is_finished_by_whoever_comes_next(tmp_path: Path, release: bool) -> None:
    """Once with the fatal request made, once without; only what is whole is ever acknowledged."""
    case = hold_order(UIDS[0], UIDS[1])

    begin = MemoryStore()
    packed(begin, tmp_path, 12)
    if release:
        place(begin, tmp_path, case)
    wanted = replace(case, release=release)
    count = calls_of(copied(begin), tmp_path, wanted)
    for number in range(1, count + 1):
        for action in (Action.FAIL, Action.LOSE_REPLY):
            store = copied(begin)
            dying = FaultyStore(store)
            repo = opened(dying, tmp_path)
            dying.add(Rule(action, nth=number))
            dying.add(Rule(Action.FAIL, nth=number + 1, times=None))
            with pytest.raises(VeraError):
                execute_hold(repo, wanted)
            said = held_uids(store, tmp_path)
            needed = shards_of(store, tmp_path, *said) if said else set()
            doctor = opened(store, tmp_path)
            if number % 2:
                execute_doctor(doctor, plan_doctor(doctor))
                assert held_uids(store, tmp_path) == said, "the log decides"
                assert held_shards(store) == needed
            place(store, tmp_path, wanted)
            assert held_uids(store, tmp_path) == (set() if release else {UIDS[0], UIDS[1]})
            assert held_shards(store) == (set() if release else shards_of(store, tmp_path, UIDS[0], UIDS[1]))


@pytest.mark.parametrize("when", [Action.RUN_BEFORE, Action.RUN_AFTER])
@pytest.mark.parametrize("kind", ["set_hold", "get_hold", "put"])
def test_a_hold_placed_while_another_case_lets_go_is_held(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path, kind: str, when: Action
) -> None:
    execute_hold(repo, hold_order(UIDS[0], case="ends"))
    racing = FaultyStore(memory_store)
    letting = opened(racing, tmp_path)
    key = "*/log/*" if kind == "put" else "*.vera"
    racing.add(Rule(when, kind, key, run=lambda: place(memory_store, tmp_path, hold_order(UIDS[0], case="begins"))))
    execute_hold(letting, hold_order(UIDS[0], case="ends", release=True))
    assert held_uids(memory_store, tmp_path, "begins") == {UIDS[0]}
    assert held_uids(memory_store, tmp_path, "ends") == set()
    assert held_shards(memory_store) == shards_of(memory_store, tmp_path, UIDS[0])


def test_an_erasure_that_comes_first_is_told(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    racing = FaultyStore(memory_store)
    holding = opened(racing, tmp_path)
    erasing = Rule(
        Action.RUN_BEFORE, "put", "*/log/*", run=lambda: submit(opened(memory_store, tmp_path), draft(UIDS[0]))
    )
    racing.add(erasing)
    report = execute_hold(holding, hold_order(UIDS[0]))
    assert (report.ok, [file.outcome for file in report.files]) == (False, [Outcome.ERASED])
    assert held_shards(memory_store) == set()


def test_the_audit_knows_before_and_after(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    failing = opened(FaultyStore(memory_store, [Rule(Action.FAIL, "put", "*/audit/*")]), tmp_path)
    with pytest.raises(UnavailableError):
        execute_hold(failing, hold_order(UIDS[0]))
    assert held_uids(memory_store, tmp_path) == set(), "nothing before the intent is stored (I6)"
