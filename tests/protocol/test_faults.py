"""A pack whose every single request fails, loses its reply or is the last one before a crash (I1, I2, I6, I7).

Each case is followed by an independent reader's comparison of what was acknowledged, and by a re-run that must converge
to exactly one version of every row. The crash here is an error that nobody handles; real SIGKILLs are test_kill.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    KEYS,
    MemorySource,
    assert_archived,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import UnavailableError
from vera_core.keyspace import keyring_of
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.retrieve import Retriever
from vera_core.store.chain import ChainedLog
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore

FILES = 60
"""With 2 slots and 2 classes: 4 segments, of which 2 have two parts."""


LAW = RetentionClass("long", 3000, Erasability.REGULATED)


def make(spool: Path, *, encrypted: bool = False) -> MemoryStore:
    store = MemoryStore()
    if encrypted:
        make_encrypted(store, spool, part_rows=20, classes=(RetentionClass("std", 100), LAW))
    else:
        make_repository(store, spool, part_rows=20)
    return store


def count_calls(spool: Path, *, encrypted: bool = False) -> int:
    store = FaultyStore(make(spool, encrypted=encrypted))
    pack(opened(store, spool), MemorySource(some_files(FILES)))
    return len(store.calls)


def assert_converged(store: ObjectStore, spool: Path, source: MemorySource) -> None:
    """A re-run ends well, everything is archived once, every lock holds and nothing is left to put right."""
    report = pack(opened(store, spool), source)
    assert (report.rows, report.archived, report.rejected) == (FILES, FILES, 0)
    assert_archived(store, spool, source)
    for line in report.shards:
        held = store.get_lock(line.key, line.version_id)
        assert held is not None
        assert (held.until - store.now()).days >= 99, "sealed: a short lock would last one day"
        for info in store.list_versions(keyring_of(line.key)):
            lock, law = store.get_lock(info.key, info.version_id), (held.until - store.now()).days > 2000
            assert lock == held if law else lock is None, "a keyring is locked like its shard, or not at all"
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())


def audit_operations(store: ObjectStore) -> dict[str, list[str]]:
    """Types of the entries of every audit writer, in order."""
    writers = [prefix.rsplit("/", 2)[1] for prefix in store.list_prefixes(KEYS.audit_prefix)]
    return {
        writer: [
            record.type
            for record in ChainedLog(store, KEYS.writer_prefix(writer), lambda n, w=writer: KEYS.audit(w, n)).read()  # type: ignore[misc]
        ]
        for writer in writers
    }


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_every_request_of_a_pack_may_be_its_last(action: Action, tmp_path: Path, encrypted: bool) -> None:
    source = MemorySource(some_files(FILES))
    total = count_calls(tmp_path, encrypted=encrypted)
    assert total > 60
    for nth in range(1, total + 1):
        store = make(tmp_path, encrypted=encrypted)
        # From this request on nothing gets through: as if the process were gone.
        crashing = FaultyStore(store)
        repo = opened(crashing, tmp_path)
        seen = len(crashing.calls)
        crashing.add(Rule(action, nth=nth - seen if nth > seen else 1))
        crashing.add(Rule(Action.FAIL, nth=(nth - seen if nth > seen else 1) + 1, times=None))
        try:
            pack(repo, source)
        except UnavailableError:
            pass
        else:
            assert action is Action.LOSE_REPLY or nth > len(crashing.calls), nth
        committed = [info for info in store.list_objects(KEYS.tenant_prefix("default")) if "/log/" in info.key]
        reader = Retriever(opened(store, tmp_path))
        if committed:
            by_uid = {file.uid: file for file in source.files}
            for listed in reader.list_day(DAY):
                assert reader.get(listed.uid, DAY) == by_uid[listed.uid].content
        assert_converged(store, tmp_path, source)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_any_one_request_may_fail(action: Action, tmp_path: Path, encrypted: bool) -> None:
    """The same with a store that answers again afterwards: what went on in the meantime must fit together."""
    source = MemorySource(some_files(FILES))
    total = count_calls(tmp_path, encrypted=encrypted)
    for nth in range(1, total + 1):
        store = make(tmp_path, encrypted=encrypted)
        flaky = FaultyStore(store)
        repo = opened(flaky, tmp_path)
        flaky.add(Rule(action, nth=nth))
        try:
            report = pack(repo, source)
        except UnavailableError:
            pass
        else:
            assert report.archived == FILES
            assert_archived(store, tmp_path, source)
        assert_converged(store, tmp_path, source)
        for types in audit_operations(store).values():
            assert types[0] == "intent"
            assert types[-1] in ("outcome", "intent"), types


def test_the_doctor_puts_right_what_a_crash_left(tmp_path: Path) -> None:
    """Without a re-run: what was committed before the crash is sealed by the doctor."""
    source = MemorySource(some_files(FILES))
    shards = len(pack(opened(make(tmp_path), tmp_path), source).shards)
    assert shards >= 5
    for nth in range(1, shards + 1):
        store = make(tmp_path)
        crashing = FaultyStore(store)
        repo = opened(crashing, tmp_path)
        # The locks of committed shards can't be extended from the nth on: commits that nobody sealed.
        crashing.add(Rule(Action.FAIL, "set_lock", "*.vera", nth=nth, times=None))
        with pytest.raises(UnavailableError):
            pack(repo, source)
        plan = plan_doctor(opened(store, tmp_path))
        assert plan.unsealed == 1
        assert not plan.ok
        report = execute_doctor(opened(store, tmp_path), plan)
        assert report.sealed == 1
        assert report.ok
        after = plan_doctor(opened(store, tmp_path))
        assert after.ok
        assert (after.unsealed, after.sidecars) == (0, 0)
        assert execute_doctor(opened(store, tmp_path), after).sealed == 0
        assert_converged(store, tmp_path, source)
        if nth == 1:
            entries = [types for types in audit_operations(store).values() if "recovered" in types]
            assert entries == [["intent", "recovered", "outcome"]]
