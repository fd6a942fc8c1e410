"""Compressing cold shards anew: smaller by measure, the same files under the same names, no longer lock, and once."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.packing import CONFIG, DAY, File, MemorySource, copied, local_kek, make_repository, opened, pack
from tests.protocol.repacking import assert_no_longer_locked, erase, live_shards, living, readers_agree, repack
from tests.protocol.test_repack import ONE_SLOT, assert_sound
from vera_core.config import Encryption
from vera_core.errors import UnavailableError, UsageError
from vera_core.model import Policy
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.optimize import OptimizePlan, Worth, execute_optimize, plan_optimize
from vera_core.operations.recompress import pays_on
from vera_core.operations.verify import verify_window
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repack import RepackReport
    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.s3 import S3Store

OLD = Worth(older=timedelta(days=30))
RANDOM = random.Random("words")
WORDS = [bytes(RANDOM.choices(b"abcdefghijklmnopqrstuvwxyz", k=RANDOM.randint(2, 9))) for _ in range(3000)]
NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)


def texts(count: int, *, words: int = 500, prefix: str = "text") -> list[File]:
    """Files that a slow compressor makes a sixth smaller than a fast one: few words are frequent, many are rare."""
    rng = random.Random(prefix)

    def text() -> bytes:
        return b" ".join(WORDS[min(len(WORDS) - 1, int(rng.paretovariate(0.6)))] for _ in range(words))

    return [File(f"{prefix}/{number:04d}", text()) for number in range(count)]


def noise(count: int) -> list[File]:
    """Files that nothing makes smaller."""
    rng = random.Random("noise")
    return [File(f"noise/{number}", rng.randbytes(3000)) for number in range(count)]


class World:
    """A repository whose shards are a year old: they were packed for speed, and are locked for some more years."""

    def __init__(self, spool: Path, **changes: Any) -> None:
        self.moment = datetime(2026, 3, 2, tzinfo=UTC)
        self.store = MemoryStore(clock=lambda: self.moment)
        self.spool = spool
        settings = {"routing": ONE_SLOT, "compression": Policy.FAST, "part_rows": 400, **changes}
        make_repository(self.store, spool, **settings)

    def repo(self, store: ObjectStore | None = None) -> Repository:
        return opened(store or self.store, self.spool)

    def pack(self, *files: File, name: str = "docs") -> MemorySource:
        source = MemorySource(list(files), name=name)
        pack(self.repo(), source)
        return source

    def plan(self, worth: Worth = OLD) -> OptimizePlan:
        repo = self.repo()
        return plan_optimize(repo, all_slots(repo), worth=worth)

    def optimize(self, worth: Worth = OLD, store: ObjectStore | None = None) -> RepackReport:
        repo = self.repo(store)
        report = execute_optimize(repo, plan_optimize(repo, all_slots(repo), worth=worth))
        assert_no_longer_locked(report)
        return report


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("policy", [Policy.FAST, Policy.BALANCED])
def test_a_cold_shard_becomes_smaller_and_stays_what_it_was(tmp_path: Path, policy: Policy) -> None:
    world = World(tmp_path, compression=policy)
    source = world.pack(*texts(300))
    [old] = live_shards(world.repo())
    world.moment = NOW
    before = living(world.repo())
    plan = world.plan()
    [line] = plan.cold
    assert (line.shards, line.files, line.size, line.saved) == (1, 300, old.size, 0)
    assert (plan.lines, plan.cold_shards, plan.gained, plan.size) == ((), 1, line.gained, old.size)
    report = world.optimize()
    [new] = live_shards(world.repo())
    assert (report.reason, report.replaced, report.shards, report.files) == ("recompress", 1, 1, 300)
    assert new.lock == old.lock
    assert 0.8 < (old.size - new.size) / line.gained < 1.3, "as the sample told"
    assert living(world.repo()) == before
    readers_agree(world.store, world.spool, before)
    assert verify_window(world.repo(), source, source.window()).ok
    assert_sound(world.store, world.spool)
    assert plan_doctor(world.repo()).ok
    # Once is enough.
    assert world.plan().cold == ()
    assert world.optimize().replaced == 0
    [slot] = all_slots(world.repo())
    records = world.repo().slot_log(slot).load().records
    assert [record.body.get("reason") for record in records] == [None, "recompress"]


def test_encrypted_shards_too(tmp_path: Path) -> None:
    """The sample is opened for that; the new shard has a keyring of its own, in which what was erased never was."""
    world = World(tmp_path, encryption=Encryption(local_kek().kek))
    source = world.pack(*texts(200))
    [old] = live_shards(world.repo())
    erase(world.repo(), "text/0001")
    world.moment = NOW
    before = living(world.repo())
    [line] = world.plan().cold
    report = world.optimize()
    assert (report.ok, report.replaced, report.files, report.left_out) == (True, 1, 199, 1)
    [new] = live_shards(world.repo())
    assert (new.lock, new.keyring, new.sha256 == old.sha256) == (old.lock, 1, False)
    assert 0.7 < (old.size - new.size) / line.gained < 1.4
    assert living(world.repo()) == before
    assert verify_window(world.repo(), source, source.window()).ok
    assert world.plan().cold == ()


def test_a_real_store(s3_store: S3Store, tmp_path: Path) -> None:
    repo = make_repository(s3_store, tmp_path, routing=ONE_SLOT, compression=Policy.FAST, part_rows=400)
    source = MemorySource(texts(200))
    pack(repo, source)
    [old] = live_shards(repo)
    before = living(repo)
    plan = plan_optimize(repo, all_slots(repo), worth=OLD)
    report = execute_optimize(repo, plan)
    assert_no_longer_locked(report)
    [new] = live_shards(repo)
    assert (report.replaced, s3_store.get_lock(new.key, new.version_id)) == (1, old.lock)
    assert 0.8 < (old.size - new.size) / plan.gained < 1.3
    readers_agree(s3_store, tmp_path, before)
    assert verify_window(opened(s3_store, tmp_path), source, source.window()).ok
    assert_sound(s3_store, tmp_path)


def test_nothing_is_read_of_shards_unless_old_ones_are_asked_for(world: World) -> None:
    world.pack(*texts(60))
    world.moment = NOW
    watched = FaultyStore(world.store)
    repo = world.repo(watched)
    for worth in (Worth(), Worth(older=timedelta(days=400))):
        assert plan_optimize(repo, all_slots(repo), worth=worth).cold == ()
    assert watched.count("*", "*.vera") == 0
    assert len(plan_optimize(repo, all_slots(repo), worth=OLD).cold) == 1
    assert watched.count("download") == 0


def test_a_day_counts_by_the_stores_clock(world: World) -> None:
    world.pack(*texts(60))
    for days, found in ((30, 0), (31, 1)):
        world.moment = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC) + timedelta(days=days)
        assert len(world.plan().cold) == found


def test_only_what_gains_is_compressed_anew(world: World) -> None:
    world.pack(*noise(100))
    world.moment = NOW
    assert world.plan().cold == ()
    world.pack(*texts(200), name="texts")
    [line] = world.plan().cold
    assert 0.1 < line.gained / line.size < 0.5
    assert world.plan(Worth(older=OLD.older, least_gain=0.5)).cold == ()


def test_a_repository_that_packs_for_size_has_no_candidates(tmp_path: Path) -> None:
    world = World(tmp_path, compression=Policy.SMALL)
    world.pack(*texts(60))
    world.moment = NOW
    assert world.plan().cold == ()


def test_many_small_cold_shards_are_merged_by_it(world: World) -> None:
    for number in range(5):
        world.pack(*texts(60, prefix=f"text-{number}"), name=f"source-{number}")
    world.moment = NOW
    before = living(world.repo())
    plan = world.plan()
    [line] = plan.cold
    assert (line.shards, line.saved, plan.lines, plan.saved) == (5, 4, (), 4)
    report = world.optimize()
    assert (report.reason, report.replaced, report.shards) == ("recompress", 5, 1)
    assert living(world.repo()) == before
    # Late files merge among themselves, and leave what is small already alone.
    for number in range(4):
        world.pack(*texts(5, prefix=f"late-{number}"), name=f"late-{number}")
    report = world.optimize(Worth())
    assert (report.reason, report.replaced) == ("merge", 4)
    assert_sound(world.store, world.spool)


def test_erased_files_are_left_behind_and_big_ones_stay(world: World) -> None:
    big = File("big", b"big " * (CONFIG.inline_limit // 2))
    world.pack(*texts(60), big)
    erase(world.repo(), "text/0001", "text/0002")
    world.moment = NOW
    before = living(world.repo())
    [line] = world.plan().cold
    assert line.files == 58
    report = world.optimize()
    assert (report.left_out, report.files, report.shards) == (2, 58, 1)
    assert len(live_shards(world.repo())) == 2
    assert living(world.repo()) == before
    # A later repack moves contents as they are stored.
    erase(world.repo(), "text/0003")
    assert repack(world.repo()).left_out == 1
    assert world.plan().cold == ()


def test_where_the_sample_was_wrong_nothing_is_replaced(world: World) -> None:
    """Of the first files much can be gained, of the whole nothing to speak of."""
    files = sorted(texts(30, words=2500) + noise(300), key=lambda file: file.uid)
    world.pack(*files)
    world.moment = NOW
    lines = world.plan(Worth(older=OLD.older, least_gain=0.01)).cold
    assert all(line.gained < 0.5 * line.size for line in lines)
    repo = world.repo()
    plan = plan_optimize(repo, all_slots(repo), worth=Worth(older=OLD.older, least_gain=0.01))
    greedy = Worth(older=OLD.older, least_gain=0.99)
    report = execute_optimize(repo, OptimizePlan(worth=greedy, cold=plan.cold))
    assert (report.replaced, report.ok) == (0, True)
    assert_sound(world.store, world.spool)


def test_what_gains_a_little_less_than_the_sample_said_is_replaced_all_the_same(world: World) -> None:
    """Else it would be built again and again for nothing."""
    world.pack(*texts(300))
    world.moment = NOW
    [line] = world.plan().cold
    report = world.optimize(Worth(older=OLD.older, least_gain=line.gained / line.size - 1e-6))
    assert report.replaced == 1
    assert report.size_after < report.size_before


@pytest.mark.parametrize(("action", "ends"), [(Action.FAIL, False), (Action.LOSE_REPLY, True)])
def test_any_request_may_fail_and_the_next_run_finishes(world: World, action: Action, ends: bool) -> None:
    world.pack(*texts(40))
    erase(world.repo(), "text/0001")
    world.moment = NOW
    before = living(world.repo())
    template = world.store
    watched = FaultyStore(copied(template))
    watched.inner._clock = template._clock  # type: ignore[attr-defined]
    world.optimize(store=watched)
    for nth in range(1, len(watched.calls) + 1, 2):
        world.store = copied(template)
        world.store._clock = template._clock
        rules = [Rule(action, nth=nth), *([Rule(Action.FAIL, nth=nth + 1, times=None)] if ends else [])]
        with suppress(UnavailableError):
            world.optimize(store=FaultyStore(world.store, rules))
        assert living(world.repo()) == before
        world.optimize()
        assert living(world.repo()) == before
        assert world.plan().cold == ()
        assert len(live_shards(world.repo())) == 1


def test_two_at_once_replace_it_once(world: World) -> None:
    world.pack(*texts(60))
    world.moment = NOW
    before = living(world.repo())
    racing = FaultyStore(world.store, [Rule(Action.RUN_BEFORE, "put", "*/log/*", run=world.optimize)])
    assert world.optimize(store=racing).replaced == 0
    assert living(world.repo()) == before
    assert_sound(world.store, world.spool)


def test_when_it_pays() -> None:
    """Half of 100 bytes saved: each day of storing 50 more is made up for by a day of storing 50 less."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    day = timedelta(days=1)
    assert pays_on(now, 100 * day, before=100, after=50) == date(2026, 3, 1) + 200 * day
    assert pays_on(now, 100 * day, before=100, after=0) == date(2026, 3, 1) + 100 * day
    assert pays_on(now, 2 * day, before=100, after=90) == date(2026, 3, 1) + 20 * day
    assert pays_on(now, 100 * day, before=100, after=100) is None
    assert pays_on(now, 10_000 * day, before=100, after=90) is None


def test_the_plan_says_what_waiting_costs(world: World) -> None:
    """Locked for some more time: both are stored, and the line says until when, and when that has paid."""
    world.pack(*texts(300))
    [old] = live_shards(world.repo())
    world.moment = old.lock.until - timedelta(days=50)
    plan = world.plan()
    [line] = plan.cold
    assert line.locked_until == old.lock.until
    assert line.pays is not None
    assert line.pays > old.lock.until.date()
    assert 0 < plan.twice_cost < plan.saved_cost + 1
    world.moment = old.lock.until + timedelta(days=1)
    [ended] = world.plan().cold
    assert ended.pays is not None
    assert (ended.pays - world.moment.date()).days < 20, "only until `vera gc` has deleted it"
    assert ended.twice_cost < line.twice_cost


def test_what_makes_no_sense_is_refused() -> None:
    for gain in (0.0, 1.0, -1.0, 10.0):
        with pytest.raises(UsageError):
            Worth(least_gain=gain)
