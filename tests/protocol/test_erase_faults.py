"""An erasure whose every single request fails, loses its reply or is the last one before a crash (I4, I6, I7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import assert_erased, assert_readable, draft
from tests.protocol.packing import DAY, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.test_faults import audit_operations
from vera_core.errors import UnavailableError
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.inventory import write_inventory
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

FILES = some_files(8)
ERASED, KEPT = FILES[:4], FILES[4:]
REQUEST = draft(*(file.uid for file in ERASED))


def archive(spool: Path) -> MemoryStore:
    """Files in two slots, and an inventory that shows them."""
    store = MemoryStore()
    repo = make_repository(store, spool)
    pack(repo, MemorySource(FILES))
    write_inventory(repo, "default", DAY)
    return store


def assert_converged(store: MemoryStore, spool: Path) -> None:
    """Run again it ends well: each file has one tombstone, nothing shows it, nothing else is gone or left to mend."""
    assert submit(opened(store, spool), REQUEST).erased == len(ERASED)
    assert_erased(store, spool, *(file.uid for file in ERASED))
    assert_readable(store, spool, [(file.uid, file.content) for file in KEPT])
    repo = opened(store, spool)
    records = [record for slot in all_slots(repo) for record in repo.slot_log(slot).load().records]
    named = [entry["uid"] for record in records if record.type == "tombstone" for entry in record.body["entries"]]
    assert sorted(named) == [file.uid for file in ERASED]
    plan = plan_doctor(repo)
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())
    assert not [info for info in store.list_versions("") if "/inventory/" in info.key]
    for types in audit_operations(store).values():
        assert types[0] == "intent"


@pytest.mark.parametrize(
    "last", [True, False], ids=["and nothing gets through any more", "and the store answers again"]
)
@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_any_request_of_an_erasure_may_fail(action: Action, last: bool, tmp_path: Path) -> None:
    watched = FaultyStore(archive(tmp_path))
    submit(opened(watched, tmp_path), REQUEST)
    assert len(watched.calls) > 40
    for nth in range(1, len(watched.calls) + 1):
        store = archive(tmp_path)
        hurt = FaultyStore(store, [Rule(action, nth=nth)])
        if last:
            hurt.add(Rule(Action.FAIL, nth=nth + 1, times=None))
        try:
            report = submit(opened(hurt, tmp_path), REQUEST)
        except UnavailableError:
            pass
        else:
            assert report.ok
            assert_erased(store, tmp_path, *(file.uid for file in ERASED))
        assert_converged(store, tmp_path)
