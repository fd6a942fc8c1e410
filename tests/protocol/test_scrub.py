"""Scrubbing: everything is read in its time, what is damaged is found and stays named, proofs outlive crashes (I3)."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.law import hold_order
from tests.protocol.packing import DAY, KEYS, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.repacking import erase, live_shards, repack
from tests.protocol.test_repack import Clock
from tests.protocol.test_tampering import edit_bytes, flip
from vera_core.errors import UnavailableError, UsageError
from vera_core.keyspace import KeyKind
from vera_core.model import Lock, LockMode, Slot
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.hold import execute_hold
from vera_core.operations.proofs import Place, Proof, gather_proofs, merged, read_proofs
from vera_core.operations.proving import INTEGRITY, WORM_LOCK
from vera_core.operations.retrieve import Retriever
from vera_core.operations.scrub import (
    LEGAL_HOLD,
    SIDECAR,
    SLOT_LOG,
    ScrubReport,
    execute_scrub,
    list_damage,
)
from vera_core.operations.scrub_plan import Candidate, ScrubPlan, chosen, plan_scrub
from vera_core.operations.walk import all_slots
from vera_core.store.chain import decode_record, encode_record
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.proofs import Name
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef
    from vera_core.store.base import ObjectStore

PLACE = Place("default", DAY)
START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """A store with a clock of its own, and a packed day of six shards in two slots, a day later."""

    def __init__(self, spool: Path, files: int = 60) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.spool = spool
        self.source = MemorySource(some_files(files))
        pack(make_repository(self.store, spool, part_rows=12), self.source)
        self.later(days=2)

    def later(self, **time: float) -> None:
        self.clock.moment += timedelta(**time)

    def repo(self, store: ObjectStore | None = None) -> Repository:
        """As another process would have it, later on: it asks for the time anew."""
        self.later(seconds=10)
        return opened(store or self.store, self.spool)

    def plan(self, percent: float = 100, max_age: timedelta | None = None) -> ScrubPlan:
        repo = self.repo()
        return plan_scrub(repo, all_slots(repo), percent=percent, max_age=max_age)

    def scrub(self, percent: float = 100, store: ObjectStore | None = None) -> ScrubReport:
        repo = self.repo(store)
        return execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=percent))

    def proofs(self) -> dict[Name, Proof]:
        return read_proofs(self.repo(), PLACE)

    def damaged(self) -> set[str]:
        """Keys that scrubs name."""
        return {proof.key for proof in list_damage(self.repo()).damaged}

    def shards(self) -> list[ShardRef]:
        return live_shards(self.repo())

    def names(self) -> set[Name]:
        return {(shard.key, shard.version_id) for shard in self.shards()}

    def keys(self, kind: KeyKind) -> list[str]:
        return sorted({i.key for i in self.store.list_versions(KEYS.root) if KEYS.parse(i.key).kind is kind})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# ---------------------------------------------------------------------- what is read when


def candidate(number: int, since: datetime, *, damaged: bool = False) -> Candidate:
    return Candidate(
        since, (f"key-{number:04d}", "v"), Slot("default", DAY, 0, 0), 1, since, proved=True, damaged=damaged
    )


@given(st.integers(1, 60), st.floats(0.5, 100), st.lists(st.integers(0, 5), max_size=10), st.randoms())
def test_every_shard_is_read_within_its_share_of_runs(
    count: int, percent: float, arrivals: list[int], chance: object
) -> None:
    """Also while new ones arrive: they wait behind those that are there."""
    ages = {number: START + timedelta(seconds=number % 7) for number in range(count)}
    waiting = dict.fromkeys(ages, 0)
    for run in range(2 * math.ceil(100 / percent)):
        now = START + timedelta(days=run + 1)
        for _ in range(arrivals[run] if run < len(arrivals) else 0):
            waiting[len(ages)] = 0
            ages[len(ages)] = now
        found = [candidate(number, since) for number, since in ages.items()]
        read = [int(item.name[0][4:]) for item in chosen(found, percent=percent)]
        assert len(read) == math.ceil(len(ages) * percent / 100)
        for number in ages:
            waiting[number] = 0 if number in read else waiting[number] + 1
        ages.update(dict.fromkeys(read, now + timedelta(hours=1)))
        assert max(waiting.values()) < math.ceil(100 / percent)


def test_damaged_ones_are_read_besides_and_keep_nobody_waiting() -> None:
    found = [candidate(number, START + timedelta(days=number), damaged=number < 50) for number in range(100)]
    read = chosen(found, percent=10)
    assert [item.damaged for item in read] == [True] * 50 + [False] * 10
    assert chosen(found, percent=10, before=START) == read[:50]


def test_an_archive_is_read_whole_in_its_turns(world: World) -> None:
    names = world.names()
    assert len(names) >= 5
    plan = world.plan(percent=25)
    assert (plan.live, plan.due, plan.slots) == (len(names), 2, 2)
    assert plan.size == sum(line.size for line in plan.lines) > 0
    assert plan.requests > 2 * plan.due
    assert plan.estimate > 0
    assert world.proofs() == {}, "a plan changes nothing"
    [age] = plan.ages
    assert (age.shards, age.never, age.damaged) == (len(names), len(names), 0)
    assert 2 <= age.median <= age.p90 <= age.p99 <= age.oldest_days < 2.1
    for _ in range(4):
        report = world.scrub(percent=25)
        assert (report.ok, report.shards, report.failures, report.passed_over) == (True, 2, 0, 0)
        world.later(days=1)
    assert set(world.proofs()) == names
    assert all(proof.status == "proved" and proof.proved == proof.read for proof in world.proofs().values())
    [age] = world.plan().ages
    assert (age.never, age.damaged) == (0, 0)
    assert age.oldest_days < 4.1


def test_only_what_was_not_proved_for_longer(world: World) -> None:
    world.scrub()
    world.later(days=3)
    assert world.plan(max_age=timedelta(days=4)).due == 0
    pack(world.repo(), replace(world.source, files=some_files(8, prefix="late"), name="late"))
    fresh = world.plan(max_age=timedelta(days=2))
    assert fresh.due == fresh.live - fresh.ages[0].never
    assert world.plan(max_age=timedelta(days=3)).due > 0
    for percent in (0, -1, 100.1, math.nan):
        with pytest.raises(UsageError, match="percentage"):
            world.plan(percent=percent)


def test_an_empty_archive_has_nothing_to_prove(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    plan = plan_scrub(repo, all_slots(repo))
    assert (plan.live, plan.due, plan.ages) == (0, 0, ())
    assert execute_scrub(repo, plan).ok
    assert not any("/audit/" in info.key for info in memory_store.list_objects(""))


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=8, unique_by=lambda look: look[0]))
def test_looks_come_to_the_same_in_any_order(looks: list[tuple[int, bool]]) -> None:
    """The latest says how it is, the latest good one when it was whole."""
    found = [
        Proof(key="k", version_id="v", read=at, proved=None if bad else at, failures=int(bad))
        for number, bad in looks
        for at in [START + timedelta(minutes=number)]
    ]
    one = reduce(merged, found)
    assert one == reduce(merged, sorted(found, key=lambda proof: proof.read))
    assert one.read == max(proof.read for proof in found)
    assert one.proved == max((proof.proved for proof in found if proof.proved is not None), default=None)


def test_of_two_looks_at_one_moment_damage_counts() -> None:
    good = Proof(key="k", version_id="v", read=START + timedelta(seconds=2), proved=START)
    bad = replace(good, read=START, proved=None, failures=1)
    assert merged(good, bad) == merged(bad, good) == replace(bad, proved=START)


# ---------------------------------------------------------------------- what is found


def test_a_damaged_shard_is_named_until_it_verifies_again(world: World) -> None:
    world.scrub()
    proved = world.proofs()
    broken = world.shards()[1]
    whole = world.store.get(broken.key).data
    edit_bytes(world.store, broken.key, flip(len(whole) // 2))
    world.later(days=1)

    report = world.scrub()
    assert (report.ok, report.shards) == (False, len(proved))
    assert {finding.key for finding in report.check(INTEGRITY).findings} == {broken.key}
    assert report.check(WORM_LOCK).ok
    assert world.damaged() == {broken.key}
    proof = world.proofs()[broken.key, broken.version_id]
    assert (proof.status, proof.proved) == ("damaged", proved[proof.name].proved)
    assert not any(file.uid in str(proof) for file in world.source.files), "proofs name no file"
    readable = 0
    reader = Retriever(world.repo(), "default")
    for file in world.source.files:
        try:
            assert reader.get(file.uid, DAY) == file.content
            readable += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be about that shard
            assert broken.key in str(error.__dict__)  # noqa: PT017
    assert readable >= len(world.source.files) - broken.entries

    small = world.plan(percent=1)
    assert (small.due, small.damaged) == (2, 1), "it is read again besides the share"
    assert not world.scrub(percent=1).ok
    edit_bytes(world.store, broken.key, flip(len(whole) // 2))
    assert world.damaged() == {broken.key}
    assert world.scrub(percent=1).ok
    assert world.damaged() == set()
    assert list_damage(world.repo()).ok


@pytest.mark.parametrize("kind", [KeyKind.SHARD, KeyKind.LOG, KeyKind.SIDECAR])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damage_of_every_sort_of_object_is_found(world: World, kind: KeyKind, how: str) -> None:
    key = world.keys(kind)[0]
    # Of sidecars, an older version may be there.
    del world.store._keys[key][:-1]
    if how == "flip":
        edit_bytes(world.store, key, flip(30))
    elif how == "cut":
        edit_bytes(world.store, key, lambda data: data.__delitem__(slice(len(data) // 2, None)))
    else:
        del world.store._keys[key]
    report = world.scrub()
    found = [finding for check in report.checks for finding in check.findings]
    assert {finding.key for finding in found} & {key, *(k for k in world.keys(KeyKind.LOG) if kind is KeyKind.LOG)}
    missing_sidecar = kind is KeyKind.SIDECAR and how == "gone"
    assert report.ok == missing_sidecar
    assert all(finding.todo for finding in found)
    assert bool(world.damaged()) != missing_sidecar
    if kind is KeyKind.SIDECAR:
        assert not report.check(SIDECAR).ok or missing_sidecar
        execute_doctor(world.repo(), plan_doctor(world.repo()))
        assert world.scrub().ok
        assert world.damaged() == set()


def test_shards_of_a_slot_whose_log_is_damaged_are_not_proved_and_keep_nobody_waiting(world: World) -> None:
    log = world.keys(KeyKind.LOG)[0]
    slot = log.rpartition("log/")[0]
    edit_bytes(world.store, log, flip(30))
    for _ in range(12):
        assert not world.scrub(percent=10).ok
    proofs = world.proofs()
    proved = {name for name, proof in proofs.items() if proof.status == "proved"}
    assert proved == world_names(world, slot)
    assert {proof.status for name, proof in proofs.items() if name[0].startswith(slot)} == {"damaged"}


def world_names(world: World, without: str) -> set[Name]:
    """The shards outside of a slot; a slot with a damaged log can't be asked."""
    repo = world.repo()
    slots = [slot for slot in all_slots(repo) if repo.keys.slot_prefix(slot) != without]
    return {(shard.key, shard.version_id) for slot in slots for shard in repo.slot_log(slot).load().live()}


@pytest.mark.parametrize("kind", ["download", "get"])
def test_an_object_that_the_store_does_not_give_keeps_nobody_from_proving_the_others(world: World, kind: str) -> None:
    key = world.shards()[2].key if kind == "download" else world.keys(KeyKind.LOG)[0]
    sick = FaultyStore(world.store, [Rule(Action.FAIL, kind, key, times=None)])
    report = world.scrub(store=sick)
    assert not report.ok
    assert [finding.what for check in report.checks for finding in check.findings if finding.key == key]
    statuses = [proof.status for proof in world.proofs().values()]
    assert statuses.count("proved") >= 2
    assert world.damaged()
    assert world.scrub(percent=1).ok
    assert world.damaged() == set()


def test_a_plan_asks_little(world: World) -> None:
    """Two requests a slot and two a day, where everything was proved before."""
    world.scrub()
    store = FaultyStore(world.store)
    repo = world.repo(store)
    slots = list(all_slots(repo))
    store.calls.clear()
    assert plan_scrub(repo, slots, percent=100).due == len(world.names())
    asked = [call for call in store.calls if call.kind not in {"now", "get_lock"}]
    assert len(asked) <= 2 * len(slots) + 2 + 1, "and one for the config"


def test_proofs_of_other_tenants_and_days_are_not_taken_over(world: World) -> None:
    """Not even from an object that is marked, by somebody who may lock."""
    world.scrub()
    [key] = world.keys(KeyKind.PROOFS)
    body = decode_record(world.store.get(key).data)
    assert body is not None
    lock = Lock(LockMode.GOVERNANCE, world.clock.moment + timedelta(minutes=1))
    for field, value in (("tenant", "clinic"), ("day", "20260302")):
        world.store.put(key, encode_record({**body, field: value}), lock=lock)
        assert set(world.proofs()) == world.names(), "the one below counts"
    foreign = [{**item, "key": item["key"].replace("/default/", "/clinic/")} for item in body["proofs"]]
    world.store.put(key, encode_record({**body, "proofs": foreign}), lock=lock)
    assert world.proofs() == {}


def test_short_locks_are_found_in_the_store_whatever_the_records_say(world: World) -> None:
    shard, log = world.shards()[0], world.keys(KeyKind.LOG)[-1]
    until = world.clock.moment + timedelta(days=1)
    for key in (shard.key, log):
        [info] = world.store.list_versions(key)
        world.store.set_lock(key, info.version_id, Lock(LockMode.GOVERNANCE, until), bypass_governance=True)
    report = world.scrub()
    assert {finding.key for finding in report.check(WORM_LOCK).findings} == {shard.key, log}
    assert report.check(INTEGRITY).ok
    assert world.damaged() == {shard.key, log.rpartition("/")[0] + "/"}
    plan = plan_doctor(world.repo())
    assert (plan.unsealed, plan.records) == (1, 1)
    done = execute_doctor(world.repo(), plan)
    assert (done.sealed, done.records) == (1, 1)
    assert world.scrub(percent=1).ok
    assert world.damaged() == set()
    assert plan_doctor(world.repo()).records == 0


def test_a_packer_at_work_is_no_finding(world: World, tmp_path: Path) -> None:
    """Between commit and seal locks are short; it is neither proof nor damage, and an error only a day later."""
    dying = FaultyStore(world.store, [Rule(Action.FAIL, "set_lock", times=None)])
    late = replace(world.source, files=some_files(8, prefix="late"), name="late")
    with pytest.raises(UnavailableError):
        pack(world.repo(dying), late)
    unsealed = world.names() - set(world.proofs())
    report = world.scrub()
    assert report.ok
    assert {finding.severity for finding in report.check(WORM_LOCK).findings} == {"warning"}
    left = unsealed - set(world.proofs())
    assert len(left) in {1, 2}
    assert world.damaged() == set()
    broken, _ = min(left)
    edit_bytes(world.store, broken, flip(40))
    assert not world.scrub().ok
    assert world.damaged() == {broken}, "damage is damage"
    world.later(days=2)
    # The lock of a day has ended by now, and nobody came.
    assert not world.scrub().ok
    assert {name[0] for name in left} <= world.damaged()


def test_legal_holds_that_somebody_lifted_are_found(world: World) -> None:
    uid = world.source.files[0].uid
    execute_hold(world.repo(), hold_order(uid))
    world.later(days=2)
    assert world.scrub().check(LEGAL_HOLD).checked == 1
    [held] = [shard for shard in world.shards() if world.store.get_hold(shard.key, shard.version_id)]
    world.store.set_hold(held.key, held.version_id, held=False)
    report = world.scrub()
    assert [finding.key for finding in report.check(LEGAL_HOLD).findings] == [held.key]
    assert len(world.damaged()) == 1
    execute_doctor(world.repo(), plan_doctor(world.repo()))
    assert world.scrub(percent=1).ok


def test_a_foreign_sidecar_that_is_locked_is_found(world: World) -> None:
    one, two = world.keys(KeyKind.SIDECAR)
    lock = Lock(LockMode.GOVERNANCE, world.clock.moment + timedelta(days=9))
    world.store.put(one, world.store.get(two).data, lock=lock)
    report = world.scrub()
    assert [finding.key for finding in report.check(SIDECAR).findings] == [one]
    assert report.check(SLOT_LOG).ok
    assert not report.ok


# ---------------------------------------------------------------------- while others work


def test_racing_scrubbers_lose_no_proof(world: World) -> None:
    """Each with a plan of its own from the same moment: all that they proved is there, and nothing is read twice for
    long."""
    repos = [world.repo() for _ in range(8)]
    plans = [plan_scrub(repo, all_slots(repo), percent=100) for repo in repos]
    barrier = threading.Barrier(len(repos))
    reports: list[ScrubReport] = []

    def run(repo: Repository, plan: ScrubPlan) -> None:
        barrier.wait()
        reports.append(execute_scrub(repo, plan))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(repos, plans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == len(repos)
    assert all(report.ok for report in reports)
    assert all(report.shards + report.passed_over == len(plans[0].lines) for report in reports)
    assert set(world.proofs()) == world.names()
    before = world.proofs()
    late = execute_scrub(world.repo(), plans[0])
    assert (late.shards, late.passed_over) == (0, len(before))


def test_another_writer_between_reading_and_writing_proofs_is_merged(world: World) -> None:
    other = world.plan(percent=50)
    rule = Rule(
        Action.RUN_BEFORE, "put", "*/proofs/*", run=lambda: execute_scrub(opened(world.store, world.spool), other)
    )
    assert world.scrub(store=FaultyStore(world.store, [rule])).ok
    assert set(world.proofs()) == world.names()


def test_a_shard_that_was_repacked_or_erased_meanwhile(world: World) -> None:
    world.scrub()
    plan = world.plan()
    erase(world.repo(), *(file.uid for file in world.source.files[::2]))
    repack(world.repo())
    report = execute_scrub(world.repo(), plan)
    assert report.ok
    assert report.passed_over > 0
    assert report.shards + report.passed_over == len(plan.lines)
    assert world.scrub().ok
    assert set(world.proofs()) == world.names(), "what counts no more is forgotten"


def test_damage_of_what_counts_no_more_is_not_listed(world: World) -> None:
    erase(world.repo(), *(file.uid for file in world.source.files[::2]))
    broken = world.shards()[0]
    whole = bytes(world.store.get(broken.key).data)
    edit_bytes(world.store, broken.key, flip(len(whole) // 2))
    world.scrub()
    assert world.damaged() == {broken.key}
    edit_bytes(world.store, broken.key, flip(len(whole) // 2))
    repack(world.repo())
    assert broken.key not in {shard.key for shard in world.shards()}
    assert world.damaged() == set()


# ---------------------------------------------------------------------- crashes, strangers, lost proofs


@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY, Action.REPEAT])
def test_every_write_of_a_scrub_may_fail(world: World, action: Action) -> None:
    """Run again, it converges, and what it said before it broke stays said."""
    broken = world.shards()[0]
    edit_bytes(world.store, broken.key, flip(40))
    for kind, key in (("put", "*/audit/*"), ("put", "*/proofs/*"), ("delete", "*/proofs/*"), ("get*", "*")):
        store = FaultyStore(world.store, [Rule(action, kind, key)])
        try:
            assert not world.scrub(store=store).ok
        except UnavailableError:
            assert action is not Action.REPEAT
        world.later(minutes=5)
        assert not world.scrub().ok
        assert set(world.proofs()) == world.names()
        assert world.damaged() == {broken.key}


def test_a_scrub_that_breaks_has_told_of_what_it_proved_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vera_core.operations.scrub.TELL_PROOFS", 2)
    dying = FaultyStore(
        world.store, [Rule(Action.FAIL, "download", nth=4, times=None), Rule(Action.FAIL, "now", nth=2, times=None)]
    )
    with pytest.raises(UnavailableError):
        world.scrub(store=dying)
    proved = set(world.proofs())
    assert 2 <= len(proved) <= 3
    rest = world.plan(percent=50)
    assert not {line.name for line in rest.lines} & proved


def test_lost_proofs_are_found_again_in_the_audit(world: World) -> None:
    broken = world.shards()[0]
    edit_bytes(world.store, broken.key, flip(40))
    for _ in range(3):
        world.scrub(percent=40)
        world.later(days=1)
    before = world.proofs()
    assert gather_proofs(world.repo()).days == 0, "nothing was lost"
    [key] = world.keys(KeyKind.PROOFS)
    del world.store._keys[key]
    assert (world.proofs(), world.damaged()) == ({}, set())
    other = gather_proofs(world.repo(), tenant="other")
    assert (other.ok, other.days) == (True, 0)
    report = gather_proofs(world.repo())
    assert (report.ok, report.days) == (True, 1)
    assert world.proofs() == before
    assert world.damaged() == {broken.key}


def test_a_damaged_audit_trail_is_named_and_the_others_are_gathered(world: World) -> None:
    world.scrub(percent=40)
    world.later(days=1)
    world.scrub(percent=40)
    [key] = world.keys(KeyKind.PROOFS)
    del world.store._keys[key]
    trails = [key for key in world.keys(KeyKind.AUDIT) if b'"scrub"' in world.store.get(key).data]
    edit_bytes(world.store, trails[0], flip(30))
    report = gather_proofs(world.repo())
    assert [finding.key for finding in report.findings] == [trails[0]]
    assert not report.ok
    assert len(world.proofs()) == 3


def put_forged(store: MemoryStore, key: str) -> None:
    store.put(key, store.get(key).data.replace(b"proved", b"forged"))


def put_nonsense(store: MemoryStore, key: str) -> None:
    store.put(key, b"[]")


def delete(store: MemoryStore, key: str) -> None:
    store.delete(key)


@pytest.mark.parametrize("attack", [put_forged, put_nonsense, delete])
def test_strangers_neither_forge_proofs_nor_hide_damage(world: World, attack: object) -> None:
    broken = world.shards()[0]
    edit_bytes(world.store, broken.key, flip(40))
    world.scrub()
    before = world.proofs()
    [key] = world.keys(KeyKind.PROOFS)
    assert callable(attack)
    attack(world.store, key)
    assert world.proofs() == before
    assert world.damaged() == {broken.key}
    world.later(days=1)
    world.scrub()
    assert min(proof.read for proof in world.proofs().values()) > max(proof.read for proof in before.values())
    world.later(days=1)
    world.scrub()
    assert len(list(world.store.list_versions(key))) <= 2, "replaced versions go"


def test_tenants_and_days_are_scrubbed_by_themselves(world: World) -> None:
    day = date(2026, 3, 2)
    pack(world.repo(), MemorySource(some_files(10), tenant="clinic"))
    pack(world.repo(), MemorySource(some_files(10, day=day), name="later"), day)
    world.later(days=1)
    repo = world.repo()
    plan = plan_scrub(repo, all_slots(repo, tenant="clinic"), percent=100)
    assert {line.slot.tenant for line in plan.lines} == {"clinic"}
    assert execute_scrub(repo, plan).ok
    assert world.proofs() == {}
    assert read_proofs(repo, Place("clinic", DAY))
    repo = world.repo()
    later = plan_scrub(repo, all_slots(repo, first=day), percent=100)
    assert {line.slot.day for line in later.lines} == {day}
    assert sorted(age.tenant for age in world.plan().ages) == ["clinic", "default"]
