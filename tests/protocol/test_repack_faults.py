"""A repack whose every request fails or is its last, that is killed, or outrun by anybody (I1, I4, I7).

Whatever happened, every living file reads as before; run again, it ends in the same place.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, File, MemorySource, make_encrypted, make_repository, opened, pack, some_files
from tests.protocol.repacking import (
    append,
    assert_gone_from_bytes,
    copied,
    erase,
    live_shards,
    living,
    readers_agree,
    repack,
)
from tests.protocol.slots_support import condemn, hold
from tests.protocol.test_repack import ONE_SLOT, assert_sound
from tests.protocol.worker import Worker, rule
from vera_core.errors import UnavailableError, VeraError
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.optimize import execute_optimize, plan_optimize
from vera_core.operations.repack import plan_repack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.embedded import EmbeddedS3

FILES = [File(f"doc/{number}", b"%d " % number * 9, retention_class=("std", "long")[number % 2]) for number in range(8)]
GONE = "doc/2", "doc/3"


def prepared(spool: Path) -> MemoryStore:
    """A slot with two shards, of each of which one file was erased."""
    store = MemoryStore()
    repo = make_repository(store, spool, routing=ONE_SLOT)
    pack(repo, MemorySource(FILES))
    erase(repo, *GONE)
    return store


def assert_converges(store: ObjectStore, spool: Path) -> None:
    """Run again, it is done: nothing of what was erased is left, nothing else is changed, everything is sealed."""
    before = living(opened(store, spool))
    assert {uid for _, uid, _ in before} == {file.uid for file in FILES} - set(GONE)
    assert repack(opened(store, spool)).ok
    repo = opened(store, spool)
    assert living(repo) == before
    assert_gone_from_bytes(repo, [uid.encode() for uid in GONE])
    assert len(live_shards(repo)) == 2
    assert plan_repack(repo, all_slots(repo), ratio=0).lines == ()
    plan = plan_doctor(repo)
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())


@pytest.mark.parametrize(("action", "ends"), [(Action.FAIL, False), (Action.LOSE_REPLY, True)])
def test_any_request_may_fail_or_be_the_last(tmp_path: Path, action: Action, ends: bool) -> None:
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    watched = FaultyStore(copied(template))
    repack(opened(watched, tmp_path))
    assert len(watched.calls) > 30
    for nth in range(1, len(watched.calls) + 1):
        store = copied(template)
        rules = [Rule(action, nth=nth)]
        if ends:
            rules.append(Rule(Action.FAIL, nth=nth + 1, times=None))
        with suppress(UnavailableError):
            repack(opened(FaultyStore(store, rules), tmp_path))
        assert living(opened(store, tmp_path)) == before, nth
        assert_converges(store, tmp_path)


def test_the_doctor_seals_what_a_repack_committed(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    dying = FaultyStore(store, [Rule(Action.FAIL, "set_lock", "*.vera", times=None)])
    with pytest.raises(UnavailableError):
        repack(opened(dying, tmp_path))
    plan = plan_doctor(opened(store, tmp_path))
    assert plan.unsealed == 1
    assert execute_doctor(opened(store, tmp_path), plan).sealed == 1
    for shard in live_shards(opened(store, tmp_path)):
        held = store.get_lock(shard.key, shard.version_id)
        assert held is not None
        assert held.until == shard.lock.until
    assert_converges(store, tmp_path)


def meanwhile(store: ObjectStore, spool: Path, what: Callable[[Repository], object]) -> FaultyStore:
    """A store in which somebody does `what` just before the first repack record is stored."""
    return FaultyStore(store, [Rule(Action.RUN_BEFORE, "put", "*/log/*", run=lambda: what(opened(store, spool)))])


def test_a_file_erased_meanwhile_stays_erased_and_is_left_behind_next_time(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    before = {name: kept for name, kept in living(opened(store, tmp_path)).items() if name[1] != "doc/5"}
    report = repack(opened(meanwhile(store, tmp_path, lambda repo: erase(repo, "doc/5")), tmp_path))
    assert report.ok
    assert report.left_out == 3, "the same run finds it, for it looks again"
    assert living(opened(store, tmp_path)) == before
    readers_agree(store, tmp_path, before)
    assert_gone_from_bytes(opened(store, tmp_path), [b"doc/5"])
    assert_sound(store, tmp_path)


def test_a_hold_that_comes_meanwhile_keeps_what_would_be_left_behind(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    repo = opened(store, tmp_path)
    slot = next(iter(all_slots(repo)))
    [held] = Retriever(repo).versions("doc/2", DAY)
    commit, ordinal = map(int, held.version.split("."))
    racing = meanwhile(store, tmp_path, lambda other: append(other, slot, hold("doc/2", (commit, ordinal))))
    report = repack(opened(racing, tmp_path))
    assert report.ok
    assert report.left_out == 1
    kept = [report.version for report in Retriever(opened(store, tmp_path)).versions("doc/2", DAY)]
    assert kept == [held.version]
    assert_sound(store, tmp_path)


@pytest.mark.parametrize("who", ["repacker", "merger"])
def test_of_two_that_replace_the_same_shards_one_wins(tmp_path: Path, who: str) -> None:
    store = MemoryStore()
    repo = make_repository(store, tmp_path, routing=ONE_SLOT)
    for number in range(5):
        pack(repo, MemorySource([File(f"doc/{number}/{each}", b"%d" % each) for each in range(4)], name=f"s-{number}"))
    erase(repo, *(f"doc/{number}/1" for number in range(5)))
    before = living(repo)

    def other(repo: Repository) -> None:
        if who == "repacker":
            assert repack(repo).replaced == 5
        else:
            assert execute_optimize(repo, plan_optimize(repo, all_slots(repo))).replaced == 5

    report = repack(opened(meanwhile(store, tmp_path, other), tmp_path))
    assert report.ok
    assert report.replaced == 0, "nothing is left to do"
    assert living(opened(store, tmp_path)) == before
    assert len(live_shards(opened(store, tmp_path))) == 1
    assert_sound(store, tmp_path)


def test_files_that_are_packed_meanwhile_are_not_in_the_way(tmp_path: Path) -> None:
    store = prepared(tmp_path)
    late = MemorySource([File("late", b"late"), File("doc/4", b"another version")], name="late")
    report = repack(opened(meanwhile(store, tmp_path, lambda repo: pack(repo, late)), tmp_path))
    assert (report.ok, report.left_out) == (True, 2)
    reader = Retriever(opened(store, tmp_path))
    assert reader.get("late", DAY) == b"late"
    assert len(reader.versions("doc/4", DAY)) == 2
    assert_sound(store, tmp_path)


def test_a_new_shard_that_is_condemned_meanwhile_is_stored_again(tmp_path: Path) -> None:
    store = prepared(tmp_path)

    def condemn_all(repo: Repository) -> None:
        slot = next(iter(all_slots(repo)))
        live = live_shards(repo)
        known = {shard.version_id for shard in live}
        fresh = [
            info for info in store.list_versions("") if info.key.endswith(".vera") and info.version_id not in known
        ]
        assert fresh
        body = condemn()
        body["versions"] = [{"key": info.key, "version_id": info.version_id} for info in fresh]
        append(repo, slot, body)

    assert repack(opened(meanwhile(store, tmp_path, condemn_all), tmp_path)).left_out == 2
    state = opened(store, tmp_path).slot_log(next(iter(all_slots(opened(store, tmp_path))))).load()
    assert not {(shard.key, shard.version_id) for shard in state.live()} & state.condemned
    assert_converges(store, tmp_path)


def test_a_packer_that_judged_by_the_old_shards_goes_on(tmp_path: Path) -> None:
    """The repack comes between a packer's build and its commit; equal rows stay equal, erased uids rejected."""
    store = prepared(tmp_path)
    racing = meanwhile(store, tmp_path, repack)
    report = pack(opened(racing, tmp_path), MemorySource([*FILES, File("more", b"more")], name="again"))
    assert (report.archived, report.equal, report.rejects) == (1, 6, {"erased": 2})
    assert_sound(store, tmp_path)


def test_many_at_once(tmp_path: Path) -> None:
    """Repackers, a packer and an eraser side by side."""
    store = MemoryStore()
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    erase(repo, *(file.uid for file in source.files[:20]))
    late = MemorySource(some_files(20, prefix="late"), name="late")
    work: list[Callable[[], object]] = [lambda: repack(opened(store, tmp_path))] * 4
    work.append(lambda: pack(opened(store, tmp_path), late))
    errors: list[VeraError] = []

    def run(one: Callable[[], object]) -> None:
        try:
            one()
        except VeraError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert repack(opened(store, tmp_path)).replaced == 0
    contents = {file.uid: file.content for file in [*source.files[20:], *late.files]}
    assert {name[1]: kept.content for name, kept in living(opened(store, tmp_path)).items()} == contents
    assert_gone_from_bytes(opened(store, tmp_path), [file.content for file in source.files[:20]])
    assert_sound(store, tmp_path)


POINTS = {
    "keyring": ("put", "*.keys", 1),
    "upload": ("put_file", "*.vera", 1),
    "record": ("put", "*/log/*", 1),
    "lock extension": ("set_lock", "*.vera", 1),
    "sidecar": ("put", "*.vera.meta", 1),
    "audit outcome": ("put", "*/audit/*/000002.json", 1),
}
"""Where a kill leaves something behind. What it leaves anywhere else is what a request leaves that is the last."""
KILLS = [*((False, point) for point in POINTS if point != "keyring"), *((True, point) for point in POINTS)]
"""In an unencrypted repository, and in an encrypted one."""


@pytest.fixture(scope="module")
def archives(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[S3Store, Path]]:
    """One of each for all kills, which each erase two files more."""
    found = {}
    for encrypted, make in ((False, make_repository), (True, make_encrypted)):
        store = S3Store(f"kill-{uuid.uuid4().hex[:12]}")
        store.create_bucket()
        spool = tmp_path_factory.mktemp("spool")
        files = [File(f"doc/{number}", b"%d" % number * 40) for number in range(40)]
        pack(make(store, spool), MemorySource(files))
        found[encrypted] = store, spool
    return found


@pytest.fixture(scope="module")
def worker(archives: object) -> Iterator[Worker]:
    """After the archives: it inherits the name of their KEK's file."""
    with closing(Worker()) as made:
        yield made


@pytest.mark.parametrize(("encrypted", "point"), KILLS)
def test_a_repack_killed_before_each_step(
    archives: dict[bool, tuple[S3Store, Path]], worker: Worker, encrypted: bool, point: str
) -> None:
    store, spool = archives[encrypted]
    repo = opened(store, spool)
    reader = Retriever(repo)
    chosen = {reader.slot(uid, DAY): uid for _, uid, _ in living(repo)}
    assert len(chosen) == 2
    erase(repo, *chosen.values())
    before = living(repo)
    job = {"bucket": store.bucket, "spool": str(spool), "verb": "repack"}
    ended = worker.do(**job, rules=[rule(Action.KILL_BEFORE, *POINTS[point])])
    assert ended["end"] == "killed", ended
    assert living(opened(store, spool)) == before
    again = worker.do(**job)
    assert again["end"] == "done", again
    repo = opened(store, spool)
    assert living(repo) == before
    assert sum(shard.entries for shard in live_shards(repo)) == len(before), "nothing that was erased is left"
    plan = plan_doctor(repo)
    assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
    assert not list(spool.glob("vera-*")), "what the killed process left in the spool is gone"


def test_who_dies_before_the_legal_hold_is_followed_by_the_next(tmp_path: Path) -> None:
    store = prepared(tmp_path)

    def is_held() -> bool:
        """Whether the shard that holds the version is under an S3 legal hold."""
        place = Retriever(opened(store, tmp_path)).stat("doc/4", DAY)
        return store.get_hold(place.shard, place.version_id)

    repo = opened(store, tmp_path)
    commit, ordinal = map(int, Retriever(repo).stat("doc/4", DAY).version.split("."))
    append(repo, next(iter(all_slots(repo))), hold("doc/4", (commit, ordinal)))
    execute_doctor(repo, plan_doctor(repo))
    assert is_held()
    dying = FaultyStore(store, [Rule(Action.FAIL, "set_hold", times=None)])
    with pytest.raises(UnavailableError):
        repack(opened(dying, tmp_path))
    assert not is_held()
    repack(opened(store, tmp_path))
    assert is_held()
