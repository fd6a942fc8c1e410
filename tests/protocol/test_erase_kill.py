"""SIGKILL of a separate process at every step of an erasure, on a real store: run again, it ends in the same place.

One archive serves all kills, each with files and a request of its own.
"""

from __future__ import annotations

import uuid
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.protocol.erasing import assert_erased, assert_readable
from tests.protocol.packing import DAY, KEYS, File, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.worker import Worker, rule
from vera_core.errors import ErasedError
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.erasure_reports import show_request
from vera_core.operations.inventory import write_inventory
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.store.embedded import EmbeddedS3

POINTS = {
    "audit intent": ("put", "*/audit/*/000001.json", 1),
    "request": ("put", "*/requests/*/000001.json", 1),
    "first tombstone": ("put", "*/log/*", 1),
    "second tombstone": ("put", "*/log/*", 2),
    "first sidecar": ("put", "*.vera.meta", 1),
    "second sidecar": ("put", "*.vera.meta", 2),
    "inventory": ("delete", "*/inventory/*", 1),
    "answer": ("put", "*/requests/*/000002.json", 1),
    "audit outcome": ("put", "*/audit/*/000002.json", 1),
}
KILLS = [*((point, Action.KILL_BEFORE) for point in POINTS), ("audit outcome", Action.KILL_AFTER)]
"""Between any two steps: after one is before the next."""


class Archive(NamedTuple):
    """Files of two slots in a bucket; two of them, one of each slot, for each kill; the uids of those it came to."""

    store: S3Store
    spool: Path
    files: list[File]
    pairs: list[tuple[File, File]]
    erased: set[str]


@pytest.fixture(scope="module")
def archive(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    store = S3Store(f"kill-{uuid.uuid4().hex[:12]}")
    store.create_bucket()
    spool = tmp_path_factory.mktemp("spool")
    repo = make_repository(store, spool, part_rows=1000)
    files = some_files(80)
    pack(repo, MemorySource(files))
    reader = Retriever(repo)
    by_slot: dict[Slot, list[File]] = {}
    for file in files:
        by_slot.setdefault(reader.slot(file.uid, DAY), []).append(file)
    return Archive(store, spool, files, list(zip(*by_slot.values(), strict=False)), set())


@pytest.fixture(scope="module")
def worker(embedded_s3: EmbeddedS3) -> Iterator[Worker]:
    with closing(Worker()) as made:
        yield made


@pytest.mark.parametrize(("point", "action"), KILLS, ids=[f"{point}-{action.name}" for point, action in KILLS])
def test_an_erasure_killed_anywhere(archive: Archive, worker: Worker, point: str, action: Action) -> None:
    store, spool = archive.store, archive.spool
    number = KILLS.index((point, action))
    pair = archive.pairs[number]
    archive.erased.update(file.uid for file in pair)
    if point == "inventory":
        write_inventory(opened(store, spool), "default", DAY)
    job = {
        "bucket": store.bucket, "spool": str(spool), "verb": "erase",
        "uids": [file.uid for file in pair], "request": f"r-{number}",
    }  # fmt: skip
    ended = worker.do(**job, rules=[rule(action, *POINTS[point])])
    assert ended["end"] == "killed", ended
    reader = Retriever(opened(store, spool))
    for file in pair:
        with suppress(ErasedError):
            assert reader.get(file.uid, DAY) == file.content
    known = list(store.list_versions(KEYS.request_prefix("default", f"r-{number}")))
    began = point not in {"audit intent", "request"}
    assert bool(known) == began, "nothing before the intent is stored (I6)"

    # Whoever runs what is due finishes it; what nobody stored must be asked for again.
    again = worker.do(**(job | {"verb": "run due"} if began else job))
    assert again["end"] == "done", again
    assert show_request(opened(store, spool), "default", f"r-{number}").erased == 2
    assert_erased(store, spool, *(file.uid for file in pair))


def test_after_all_of_that_each_file_was_erased_once_and_no_other(archive: Archive) -> None:
    """Runs last: every pair above is erased by one tombstone, everything else is readable, nothing is left to mend."""
    store, spool = archive.store, archive.spool
    repo = opened(store, spool)
    named = [
        entry["uid"]
        for slot in all_slots(repo)
        for record in repo.slot_log(slot).load().records
        if record.type == "tombstone"
        for entry in record.body["entries"]
    ]
    assert sorted(named) == sorted(archive.erased)
    left = [(file.uid, file.content) for file in archive.files if file.uid not in archive.erased]
    assert_readable(store, spool, left)
    assert write_inventory(repo, "default", DAY).files == len(left)
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
