"""The index of open erasure requests: finished ones cost nothing, and none that is open is ever lost."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.erasing import MIDNIGHT, UID, assert_erased, draft
from tests.protocol.packing import KEYS, MemorySource, copied, local_kek, make_repository, opened, pack, some_files
from vera_core.config import Encryption
from vera_core.erasures import Target
from vera_core.errors import RestrictedError, UnavailableError
from vera_core.model import Erasability, Lock, LockMode, RetentionClass
from vera_core.operations.approval import require_approval
from vera_core.operations.deadlines import survey_requests
from vera_core.operations.erasures import Draft, approve, decline, run_due, submit
from vera_core.operations.walk import tenants
from vera_core.store.chain import encode_record
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.deadlines import RequestsReport
    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.s3 import S3Store

TWO_DAYS = timedelta(hours=48)
CLASSES = (RetentionClass("std", 5000), RetentionClass("long", 3000, Erasability.REGULATED))
REGULATED = "doc/00005.json"
LOGS = f"{KEYS.requests_prefix('default')}*"


class World:
    """An archive in a store whose clock is set on."""

    def __init__(self, spool: Path, **changes: Any) -> None:
        self.moment = datetime(2026, 3, 2, 12, tzinfo=UTC)
        self.store = MemoryStore(clock=lambda: self.moment)
        self.spool = spool
        pack(make_repository(self.store, spool, classes=CLASSES, **changes), MemorySource(some_files(40)))

    def repo(self, store: ObjectStore | None = None, actor: str = "test") -> Repository:
        return opened(store or self.store, self.spool, actor)

    def later(self, **time: float) -> None:
        self.moment += timedelta(**time)

    def survey(self, store: ObjectStore | None = None, *, everything: bool = False) -> RequestsReport:
        return survey_requests(self.repo(store), "default", TWO_DAYS, everything=everything)

    def listed(self, *, everything: bool = False) -> list[str]:
        return sorted(line.request for line in self.survey(everything=everything).requests)

    def index(self) -> set[str]:
        """The ids that have an entry."""
        prefix = KEYS.open_requests_prefix("default")
        return {info.key.removeprefix(prefix) for info in self.store.list_versions(prefix)}

    def read_logs(self) -> int:
        """How many records of requests a look and a run read."""
        watched = FaultyStore(self.store)
        self.survey(watched)
        run_due(self.repo(watched), "default")
        return watched.count("get", LOGS)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def asked(uid: str, request: str) -> Draft:
    return Draft(tenant="default", id=request, reason="Art. 17", targets=(Target(uid, MIDNIGHT),))


def unlock(world: World, *keys: str) -> None:
    """Somebody with the right to bypass locks deletes what lies under these keys."""
    for key in keys:
        for info in list(world.store.list_versions(key)):
            world.store.delete(info.key, version_id=info.version_id, bypass_governance=True)


def test_finished_requests_are_read_for_a_month_and_never_again(world: World) -> None:
    repo = world.repo()
    for number in range(12):
        submit(repo, draft(f"doc/{number:05d}.json", request=f"r-{number}"))
    assert submit(repo, draft(REGULATED, request="kept")).refused == 1
    run_due(world.repo(), "default")
    everything = {f"r-{number}" for number in range(12)} | {"kept"}
    assert world.index() == everything
    assert set(world.listed()) == everything
    for days in (10, 10, 10):
        world.later(days=days)
        run_due(world.repo(), "default")
        assert world.index() == everything
    world.later(days=2)
    run_due(world.repo(), "default")
    assert world.index() == {"kept", "r-5"}, "both wait for the end of a lock"
    assert world.listed() == ["kept", "r-5"]
    assert not world.survey().complete
    report = world.survey(everything=True)
    assert (report.complete, report.count, report.unfinished) == (True, 13, 2)
    assert world.read_logs() == 2 * 2 * 2, "two records each of two requests, by two"


def test_what_waits_for_long_stays_in_the_index_until_it_is_done(world: World) -> None:
    require_approval(world.repo())
    submit(world.repo(actor="ada"), draft(UID))
    submit(world.repo(actor="ada"), draft("doc/00001.json", request="r-2"))
    for _ in range(20):
        world.later(days=6)
        assert run_due(world.repo(), "default").requests == ()
    assert world.index() == {"r-1", "r-2"}
    assert len(world.survey().findings) == 2
    approve(world.repo(actor="bob"), "default", "r-1")
    decline(world.repo(actor="bob"), "default", "r-2", "not their own data")
    assert run_due(world.repo(), "default").erased == 1
    assert_erased(world.store, world.spool, UID)
    run_due(world.repo(), "default")
    assert world.index() == {"r-1"}
    world.later(days=32)
    run_due(world.repo(), "default")
    assert world.index() == set()
    assert world.listed(everything=True) == ["r-1", "r-2"]


def test_what_is_out_of_sight_stays_in_the_index_until_its_keys_are_destroyed(tmp_path: Path) -> None:
    """Also of a request that somebody declined meanwhile."""
    world = World(tmp_path, encryption=Encryption(local_kek().kek))
    for number in (1, 2):
        dying = FaultyStore(world.store, [Rule(Action.FAIL, "put", "*.keys", times=None)])
        with pytest.raises(UnavailableError):
            submit(world.repo(dying), draft(f"doc/0000{number}.json", request=f"r-{number}"))
    decline(world.repo(actor="bob"), "default", "r-2", "not their own data")
    broken = FaultyStore(world.store, [Rule(Action.FAIL, "put", "*.keys", times=None)])
    for _ in range(9):
        world.later(days=8)
        assert len(run_due(world.repo(broken), "default").findings) == 2
    assert world.index() == {"r-1", "r-2"}
    assert not world.survey().complete
    assert len(run_due(world.repo(), "default").requests) == 2
    assert world.survey().unfinished == 0
    world.later(days=32)
    run_due(world.repo(), "default")
    assert world.index() == set()


@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_a_request_that_is_stored_has_its_entry_wherever_its_writer_ends(world: World, action: Action) -> None:
    """No call of `submit` may leave a request that only a walk would find."""
    template = world.store
    run_due(world.repo(), "default")
    watched = FaultyStore(copied(template))
    submit(opened(watched, world.spool), draft(UID))
    for nth in range(1, len(watched.calls) + 1):
        world.store = copied(template)
        dying = FaultyStore(world.store, [Rule(action, nth=nth), Rule(Action.FAIL, nth=nth + 1, times=None)])
        with suppress(UnavailableError):
            submit(opened(dying, world.spool), draft(UID))
        stored = list(world.store.list_versions(KEYS.requests_prefix("default")))
        assert not stored or world.index() == {"r-1"}
        submit(opened(world.store, world.spool), draft(UID))
        assert world.index() == {"r-1"}
        assert_erased(world.store, world.spool, UID)


def test_a_lost_entry_is_found_by_the_next_walk(world: World) -> None:
    submit(world.repo(), draft(REGULATED, request="lost"))
    run_due(world.repo(), "default")
    entry = KEYS.open_request("default", "lost")
    [info] = world.store.list_versions(entry)
    with pytest.raises(RestrictedError):
        world.store.delete(entry, version_id=info.version_id)
    world.store.delete(entry)
    assert world.listed() == ["lost"], "a delete marker hides nothing"
    unlock(world, entry)
    assert world.listed() == []
    assert world.listed(everything=True) == ["lost"]
    run_due(world.repo(), "default")
    assert world.index() == set()
    world.later(days=7, minutes=1)
    run_due(world.repo(), "default")
    assert world.index() == {"lost"}
    assert world.listed() == ["lost"]


def test_readers_walk_themselves_where_nobody_does(world: World) -> None:
    submit(world.repo(), draft(REGULATED, request="lost"))
    unlock(world, KEYS.open_request("default", "lost"))
    assert (world.listed(), world.survey().complete) == (["lost"], True), "nobody ever walked"
    run_due(world.repo(), "default")
    assert not world.survey().complete
    unlock(world, KEYS.open_request("default", "lost"))
    assert world.listed() == []
    world.later(days=14, minutes=1)
    assert (world.listed(), world.survey().complete) == (["lost"], True)
    assert world.index() == set(), "a look changes nothing"


def test_nobody_can_say_unlocked_that_all_were_read(world: World) -> None:
    submit(world.repo(), draft(REGULATED, request="lost"))
    unlock(world, KEYS.open_request("default", "lost"))
    forged = encode_record({"type": "requests-walked", "tenant": "default", "time": "2036-01-01T00:00:00Z"})
    walked = KEYS.requests_walked("default")
    for data in (forged, b"no record", b""):
        world.store.put(walked, data)
        assert world.listed() == ["lost"]
    world.store.delete(walked)
    assert world.listed() == ["lost"]
    run_due(world.repo(), "default")
    assert (world.index(), world.survey().complete) == ({"lost"}, False)
    lock = Lock(LockMode.GOVERNANCE, world.moment + timedelta(minutes=1))
    for data in (b"no record", encode_record({"type": "other"}), encode_record({"type": "requests-walked"})):
        world.store.put(walked, data, lock=lock)
        assert world.survey().complete


def test_a_request_that_can_not_be_read_is_told_of_in_every_look(world: World) -> None:
    submit(world.repo(), draft(UID))
    lock = Lock(LockMode.GOVERNANCE, world.moment + timedelta(days=500))
    broken = KEYS.request("default", "r-0", 1)
    world.store.put(broken, b"no record", lock=lock)
    for _ in range(8):
        assert [finding.key for finding in run_due(world.repo(), "default").findings] == [broken]
        assert [finding.key for finding in world.survey().findings] == [broken]
        world.later(days=6)
    assert world.index() == {"r-0"}


def test_an_entry_without_a_request_goes_after_a_month(world: World) -> None:
    dying = FaultyStore(world.store, [Rule(Action.FAIL, "put", LOGS)])
    with pytest.raises(UnavailableError):
        submit(world.repo(dying), draft(UID))
    submit(world.repo(), draft(REGULATED, request="kept"))
    for days in (0, 30):
        world.later(days=days)
        run_due(world.repo(), "default")
        assert world.index() == {"r-1", "kept"}
    # Whoever comes with that id while it is dropped stores an entry of their own.
    world.later(days=2)
    racing = FaultyStore(world.store)
    racing.add(Rule(Action.RUN_BEFORE, "put", LOGS, run=lambda: run_due(world.repo(), "default")))
    assert submit(world.repo(racing), asked(REGULATED, "r-1")).refused == 1
    assert world.index() == {"r-1", "kept"}
    assert world.listed() == ["kept", "r-1"]


def test_two_that_run_requests_side_by_side_lose_none(world: World) -> None:
    submit(world.repo(), draft(UID))
    submit(world.repo(), draft(REGULATED, request="kept"))
    for kind, key in (("put", "*requests-walked*"), ("list_versions", "*requests-open*"), ("get", LOGS)):
        world.later(days=8)
        racing = FaultyStore(world.store)
        racing.add(Rule(Action.RUN_BEFORE, kind, key, run=lambda: run_due(world.repo(), "default")))
        assert run_due(world.repo(racing), "default").findings == ()
        assert world.survey().complete is False
        assert world.listed() == ["kept", "r-1"]


def test_where_nobody_ever_asked_nothing_is_stored(world: World) -> None:
    run_due(world.repo(), "default")
    run_due(world.repo(), "nobody")
    assert list(world.store.list_versions(KEYS.requests_walked("default"))) == []
    assert list(tenants(world.repo())) == ["default"]


def test_a_repository_without_locks_has_an_index_too(tmp_path: Path) -> None:
    moment = datetime(2026, 3, 2, 12, tzinfo=UTC)
    store = MemoryStore(clock=lambda: moment, object_lock=False)
    repo = make_repository(store, tmp_path, lock_mode=LockMode.NONE)
    pack(repo, MemorySource(some_files(9)))
    submit(repo, draft("doc/00001.json"))
    run_due(repo, "default")
    report = survey_requests(repo, "default", TWO_DAYS)
    assert (report.complete, report.count) == (False, 1)
    moment += timedelta(days=32)
    run_due(opened(store, tmp_path), "default")
    report = survey_requests(opened(store, tmp_path), "default", TWO_DAYS)
    assert (report.complete, report.count) == (False, 0)


def test_a_real_store_keeps_the_index(s3_store: S3Store, tmp_path: Path) -> None:
    repo = make_repository(s3_store, tmp_path)
    pack(repo, MemorySource(some_files(9)))
    submit(repo, draft("doc/00001.json"))
    run_due(repo, "default")
    report = survey_requests(opened(s3_store, tmp_path), "default", TWO_DAYS)
    assert (report.complete, [line.request for line in report.requests]) == (False, ["r-1"])
    [info] = s3_store.list_versions(KEYS.open_requests_prefix("default"))
    with pytest.raises(RestrictedError):
        s3_store.delete(info.key, version_id=info.version_id)
