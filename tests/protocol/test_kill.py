"""SIGKILL of a separate process at every named point of the protocol, on a real store (I1, I2, I5, I6, I7).

After each kill an independent reader compares what is there with the source, bit for bit; then another process runs the
same again and must converge to exactly one version of every row.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    EITHER,
    KEYS,
    MemorySource,
    assert_archived,
    local_kek,
    make_encrypted,
    make_repository,
    opened,
    some_files,
)
from tests.protocol.worker import Worker, database_url, rule
from vera_core.errors import NotFoundError
from vera_core.keyspace import keyring_of
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.commit import satisfies
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.source.database import connect
from vera_core.source.state import MigrationState, WindowState
from vera_core.store.chain import ChainedLog
from vera_core.store.faulty import Action

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.protocol.packing import Make
    from vera_core.store.base import ObjectStore
    from vera_core.store.chain import Record
    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

FILES = 60
POINTS = {
    "audit intent": ("put", "*/audit/*/000001.json", 1),
    "manifest": ("put_file", "*/windows/*", 1),
    "first shard upload": ("put_file", "*.vera", 1),
    "second shard upload": ("put_file", "*.vera", 2),
    "first commit": ("put", "*/log/*", 1),
    "third commit": ("put", "*/log/*", 3),
    "first lock extension": ("set_lock", "*.vera", 1),
    "last lock extension": ("set_lock", "*.vera", 4),
    "config lock extension": ("set_lock", "*/config/*", 1),
    "sidecar": ("put", "*.vera.meta", 1),
    "audit outcome": ("put", "*/audit/*/000002.json", 1),
}
KEYED_POINTS = {
    **{point: POINTS[point] for point in ("manifest", "first shard upload", "first commit", "sidecar")},
    "tenant key": ("put", "*/tenant.keys", 1),
    "first keyring": ("put", "*/????????????????????????????????.keys", 1),
    "second keyring": ("put", "*/????????????????????????????????.keys", 2),
}
"""Of encrypted repositories: their own, and some of the others."""
EVERY_POINT = [
    *(pytest.param(make_repository, point, id=f"plain-{point}") for point in POINTS),
    *(pytest.param(make_encrypted, point, id=f"encrypted-{point}") for point in KEYED_POINTS),
]
REGULATED = {
    "last keyring": ("put", "*.keys", 5),
    "look at the log": ("list_versions", "*/log/*", 3),
    "keyring's lock": ("set_lock", "*/????????????????????????????????.keys", 1),
    "its shard's lock": ("set_lock", "*.vera", 2),
}
SEALING = {
    "its first entry": ("put", "*/audit/*/000001.json", 1),
    "its second entry": ("put", "*/audit/*/000002.json", 1),
    "lock extension": ("set_lock", "*.vera", 1),
    "sidecar": ("put", "*.vera.meta", 1),
}


@pytest.fixture(scope="module")
def worker(embedded_s3: EmbeddedS3) -> Iterator[Worker]:
    """A worker that finds the embedded server, and the KEK, by the same environment as this process."""
    local_kek()
    with closing(Worker()) as made:
        yield made


@pytest.fixture
def source() -> MemorySource:
    return MemorySource(some_files(FILES))


def assert_only_right_bytes(store: ObjectStore, spool: Path, source: MemorySource) -> int:
    """Whatever can be read already is right; returns how many files that are."""
    reader = Retriever(opened(store, spool, "reader"))
    readable = 0
    for file in source.files:
        with suppress(NotFoundError):
            assert reader.get(file.uid, DAY) == file.content
            readable += 1
    assert len(list(reader.list_day(DAY))) == readable
    return readable


def audit_records(store: ObjectStore) -> dict[str, list[Record]]:
    """All audit entries by writer."""
    return {
        prefix.rsplit("/", 2)[1]: ChainedLog(store, prefix, lambda n, at=prefix: f"{at}{n:06d}.json").read()  # type: ignore[misc]
        for prefix in store.list_prefixes(KEYS.audit_prefix)
    }


@pytest.mark.parametrize("action", [Action.KILL_BEFORE, Action.KILL_AFTER])
@pytest.mark.parametrize(("make", "point"), EVERY_POINT)
def test_a_packer_killed_anywhere(
    s3_store: S3Store, tmp_path: Path, worker: Worker, make: Make, point: str, action: Action
) -> None:
    source = MemorySource(some_files(FILES))
    make(s3_store, tmp_path)
    job = {"bucket": s3_store.bucket, "spool": str(tmp_path), "files": FILES}
    ended = worker.do(**job, rules=[rule(action, *(POINTS | KEYED_POINTS)[point])])
    assert ended["end"] == "killed", ended
    assert_only_right_bytes(s3_store, tmp_path, source)
    if point == "audit intent" and action is Action.KILL_BEFORE:
        assert not list(s3_store.list_versions(KEYS.tenants_prefix)), "nothing before the intent is stored (I6)"
    else:
        assert [trail[0].type for trail in audit_records(s3_store).values()] == ["intent"]

    again = worker.do(**job)
    assert again["end"] == "done", again
    assert (again["rows"], again["archived"]) == (FILES, FILES)
    assert_archived(s3_store, tmp_path, source)
    plan = plan_doctor(opened(s3_store, tmp_path))
    assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
    assert plan.garbage <= (1 if make is make_repository else 2), "at most the shards that nobody committed"
    assert not list(tmp_path.glob("vera-*")), "what the killed process left in the spool is gone"


@pytest.mark.parametrize("action", [Action.KILL_BEFORE, Action.KILL_AFTER])
@pytest.mark.parametrize("point", REGULATED)
def test_a_packer_killed_while_it_stores_or_locks_keyrings(
    s3_store: S3Store, tmp_path: Path, worker: Worker, source: MemorySource, point: str, action: Action
) -> None:
    """What another run builds has other keys; nothing is archived twice, and every committed shard has its keyring."""
    law = RetentionClass("long", 3000, Erasability.REGULATED)
    make_encrypted(s3_store, tmp_path, classes=(RetentionClass("std", 100), law))
    job = {"bucket": s3_store.bucket, "spool": str(tmp_path), "files": FILES}
    ended = worker.do(**job, rules=[rule(action, *REGULATED[point])])
    assert ended["end"] == "killed", ended
    assert_only_right_bytes(s3_store, tmp_path, source)

    again = worker.do(**job)
    assert again["end"] == "done", again
    assert (again["rows"], again["archived"]) == (FILES, FILES)
    assert_archived(s3_store, tmp_path, source)
    repo = opened(s3_store, tmp_path)
    plan = plan_doctor(repo)
    assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
    assert plan.garbage <= 1, "at most the shard that nobody committed"
    for slot in all_slots(repo):
        for shard in repo.slot_log(slot).load().live():
            lock = s3_store.get_lock(keyring_of(shard.key), repo.keyrings.fetch(shard).version_id)
            assert satisfies(lock, shard.lock) if shard.retention_class == "long" else lock is None


@pytest.mark.parametrize("point", ["first commit", "first lock extension", "third commit", "sidecar"])
def test_the_doctor_finishes_what_a_killed_packer_committed(
    s3_store: S3Store, tmp_path: Path, worker: Worker, source: MemorySource, point: str
) -> None:
    make_repository(s3_store, tmp_path)
    job = {"bucket": s3_store.bucket, "spool": str(tmp_path), "files": FILES}
    assert worker.do(**job, rules=[rule(Action.KILL_AFTER, *POINTS[point])])["end"] == "killed"
    readable = assert_only_right_bytes(s3_store, tmp_path, source)
    assert readable > 0
    plan = plan_doctor(opened(s3_store, tmp_path))
    report = execute_doctor(opened(s3_store, tmp_path), plan)
    assert report.ok
    assert (report.sealed, report.sidecars) == (plan.unsealed, plan.sidecars)
    assert plan_doctor(opened(s3_store, tmp_path)).ok
    assert assert_only_right_bytes(s3_store, tmp_path, source) == readable


def sealed_and_told(store: ObjectStore, spool: Path, writer: str) -> tuple[set[str], set[str]]:
    """VersionIds of the shards that `writer` committed and somebody sealed, and of all that an entry says so of."""
    repo = opened(store, spool)
    sealed = set()
    for slot in all_slots(repo):
        state = repo.slot_log(slot).load()
        for shard in state.live():
            if state.records[state.named_by[shard.version_id] - 1].body["writer"] == writer and satisfies(
                store.get_lock(shard.key, shard.version_id), shard.lock
            ):
                sealed.add(shard.version_id)
    entries = [record for trail in audit_records(store).values() for record in trail if record.type == "recovered"]
    return sealed, {record.body["detail"]["version_id"] for record in entries}


@pytest.mark.parametrize("action", [Action.KILL_BEFORE, Action.KILL_AFTER])
@pytest.mark.parametrize("point", SEALING)
@pytest.mark.parametrize("verb", ["pack", "doctor"])
def test_whoever_seals_for_another_is_killed_and_it_is_told_all_the_same(
    s3_store: S3Store, tmp_path: Path, worker: Worker, source: MemorySource, verb: str, point: str, action: Action
) -> None:
    """At any moment a shard that another one committed is unsealed, for the next to find, or told to the audit (I6)."""
    make_repository(s3_store, tmp_path)
    job = {"bucket": s3_store.bucket, "spool": str(tmp_path), "files": FILES}
    assert worker.do(**job, rules=[rule(Action.KILL_AFTER, *POINTS["first commit"])])["end"] == "killed"
    [dead] = audit_records(s3_store)
    assert sealed_and_told(s3_store, tmp_path, dead) == (set(), set())
    ended = worker.do(**job, verb=verb, rules=[rule(action, *SEALING[point])])
    assert ended["end"] == "killed", ended
    sealed, told = sealed_and_told(s3_store, tmp_path, dead)
    assert sealed <= told

    assert worker.do(**job, verb=verb)["end"] == "done"
    sealed, told = sealed_and_told(s3_store, tmp_path, dead)
    assert sealed
    assert sealed <= told


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", ["record", "start_watermark", "move_watermark"])
def test_a_migration_killed_at_its_verdict_or_watermark(
    s3_store: S3Store, tmp_path: Path, worker: Worker, source: MemorySource, point: str, when: str
) -> None:
    """The watermark is never ahead of a verified window (I5), and a re-run ends in the same place."""
    make_repository(s3_store, tmp_path)
    job = {"bucket": s3_store.bucket, "spool": str(tmp_path), "files": FILES, "verb": "migrate"}
    ended = worker.do(**job, point=f"{when} {point}")
    assert ended["end"] == "killed", ended
    state = MigrationState(connect(database_url(tmp_path), writable=True))
    record, mark = state.window(source.window()), state.watermark(source.name, source.tenant)
    if mark is not None and mark.day > DAY:
        assert record is not None
        assert record.state is WindowState.VERIFIED
        assert_archived(s3_store, tmp_path, source)
    again = worker.do(**job)
    assert again == {"end": "done", "verdict": "verified", "after": "20260302"}
    mark = state.watermark(source.name, source.tenant)
    assert mark is not None
    assert mark.day.isoformat() == "2026-03-02"
    assert_archived(s3_store, tmp_path, source)


@EITHER
def test_four_processes_race_and_two_are_killed(
    s3_store: S3Store, tmp_path: Path, worker: Worker, source: MemorySource, make: Make
) -> None:
    make(s3_store, tmp_path)
    deaths = [rule(Action.KILL_AFTER, "put", "*/log/*", 2), rule(Action.KILL_BEFORE, "set_lock", "*.vera", 1)]
    jobs = [
        {"bucket": s3_store.bucket, "spool": str(tmp_path / str(number)), "rules": deaths[number : number + 1]}
        for number in range(4)
    ]
    ends = worker.do_together([{**job, "files": FILES} for job in jobs])
    assert [end["end"] for end in ends[2:]] == ["done", "done"], ends
    assert all(end["end"] in ("done", "killed") for end in ends[:2]), ends
    assert len({end["manifest"] for end in ends[2:]}) == 1
    assert all(end["archived"] == FILES for end in ends[2:])
    assert_archived(s3_store, tmp_path, source)
    plan = plan_doctor(opened(s3_store, tmp_path))
    assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
