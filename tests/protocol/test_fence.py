"""`min_writer`: a repository that takes no writes from this version gets none from any operation, and is read on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, KEYS, MemorySource, assert_archived, make_repository, opened, pack, some_files
from vera_core.config import PROTOCOL_VERSION
from vera_core.errors import IncompatibleError
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.due import Migration
from vera_core.operations.epochs import set_epoch
from vera_core.operations.gc import GRACE, GcLine, GcPlan, Sort, Step, execute_gc
from vera_core.operations.inventory import write_inventory
from vera_core.operations.migrate import verify_packed
from vera_core.operations.pack import freeze_rows, pack_window
from vera_core.operations.repack import Volume, rewrite_slots
from vera_core.operations.rewrite import Purpose
from vera_core.operations.verify import verify_window
from vera_core.operations.walk import all_slots
from vera_core.source.database import connect
from vera_core.source.state import MigrationState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore

SOURCE = MemorySource(some_files(20))


def doctor(repo: Repository) -> None:
    plan = plan_doctor(repo)
    assert plan.sidecars, "there is something to do"
    execute_doctor(repo, plan)


def verdict(repo: Repository) -> None:
    spool = repo.workplace.spool
    state = MigrationState(connect(f"sqlite:///{spool}/business.db", writable=True))
    state.create()
    verify_packed(Migration(repo=repo, source=SOURCE, state=state), SOURCE.window())


def rewrite(repo: Repository) -> None:
    purpose = Purpose("merge", lambda _: [], repo.config.compression)
    rewrite_slots(repo, purpose, list(all_slots(repo)), volume=Volume(0, 0))


def collect(repo: Repository) -> None:
    slot = next(iter(all_slots(repo)))
    line = GcLine(
        slot=slot, key="", version_id="", size=0, sort=Sort.GARBAGE, step=Step.CONDEMN, due=None,
    )  # fmt: skip
    execute_gc(repo, GcPlan(grace=GRACE, lines=(line,)))


WRITERS: dict[str, Callable[[Repository], object]] = {
    "freeze": lambda repo: freeze_rows(repo, SOURCE, SOURCE.window(revision=2)),
    "pack": lambda repo: pack_window(repo, SOURCE, SOURCE.window(revision=2)),
    "epoch": lambda repo: set_epoch(repo, DAY.replace(year=2030), 4),
    "inventory": lambda repo: write_inventory(repo, SOURCE.tenant, DAY),
    "doctor": doctor,
    "repack": rewrite,
    "gc": collect,
    "verdict": verdict,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_no_writer_of_this_version_writes(memory_store: MemoryStore, tmp_path: Path, writer: str) -> None:
    """Raised while the writer's handle is open already, as in a process that lives for weeks."""
    (tmp_path / "business.db").touch()
    made = make_repository(memory_store, tmp_path)
    pack(made, SOURCE)
    for info in list(memory_store.list_objects(KEYS.root)):
        if info.key.endswith(".vera.meta"):
            memory_store.delete(info.key)
    repo = opened(memory_store, tmp_path)
    now = memory_store.now()
    fence = {"type": "require", "min_reader": PROTOCOL_VERSION, "min_writer": PROTOCOL_VERSION + 1}
    made.config_log.append(fence, now=now, until=made.record_until(now))
    before = [(info.key, info.version_id) for info in memory_store.list_versions("")]
    with pytest.raises(IncompatibleError, match=f"protocol version {PROTOCOL_VERSION + 1}"):
        WRITERS[writer](repo)
    assert [(info.key, info.version_id) for info in memory_store.list_versions("")] == before
    assert_archived(memory_store, tmp_path, SOURCE)
    assert verify_window(opened(memory_store, tmp_path), SOURCE, SOURCE.window()).ok
