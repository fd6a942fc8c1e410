"""SIGKILL of a separate process at every step of a hold, a release and an extension, on a real store.

One archive serves all kills, each with a file and a case of its own: what was acknowledged holds, what died is whole or
not there, and whoever comes next finishes it.
"""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.protocol.erasing import draft
from tests.protocol.law import LATER, held_shards, held_uids, shards_of
from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.worker import Worker, rule
from vera_core.model import format_time
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.retrieve import Retriever
from vera_core.store.faulty import Action
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3

POINTS = {
    "record": ("put", "*/log/*"),
    "lock": ("set_lock", "*.vera"),
    "legal hold": ("set_hold", "*.vera"),
    "audit outcome": ("put", "*/audit/*/000002.json"),
}
KILLS = [
    ("hold", "record", Action.KILL_AFTER),
    ("hold", "legal hold", Action.KILL_BEFORE),
    ("hold", "audit outcome", Action.KILL_AFTER),
    ("release", "record", Action.KILL_AFTER),
    ("release", "legal hold", Action.KILL_BEFORE),
    ("retain", "record", Action.KILL_AFTER),
    ("retain", "lock", Action.KILL_AFTER),
]
"""Requests between which a process dies; in memory test_hold.py and test_retain.py try all of them."""


class Archive(NamedTuple):
    """Files in a bucket, each in a shard of its own, one for each kill."""

    store: S3Store
    spool: Path
    files: list[File]


@pytest.fixture(scope="module")
def archive(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    store = S3Store(f"kill-{uuid.uuid4().hex[:12]}")
    store.create_bucket()
    spool = tmp_path_factory.mktemp("spool")
    files = some_files(len(KILLS) + 1)
    pack(make_repository(store, spool, part_rows=1), MemorySource(files))
    return Archive(store, spool, files)


@pytest.fixture(scope="module")
def worker(embedded_s3: EmbeddedS3) -> Iterator[Worker]:
    with closing(Worker()) as made:
        yield made


@pytest.mark.parametrize(("verb", "point", "action"), KILLS)
def test_whoever_is_killed_leaves_it_whole_or_not_there(
    archive: Archive, worker: Worker, verb: str, point: str, action: Action
) -> None:
    store, spool = archive.store, archive.spool
    number = KILLS.index((verb, point, action))
    file, case = archive.files[number], f"case-{number}"
    job = {
        "bucket": store.bucket, "spool": str(spool), "verb": "retain" if verb == "retain" else "hold",
        "uids": [file.uid], "case": case, "release": False, "until": format_time(LATER),
    }  # fmt: skip
    if verb == "release":
        assert worker.do(**job)["end"] == "done"
        job["release"] = True
    ended = worker.do(**job, rules=[rule(action, *POINTS[point])])
    assert ended["end"] == "killed", ended

    reader = Retriever(opened(store, spool))
    assert reader.get(file.uid, DAY) == file.content
    assert len(reader.versions(file.uid, DAY)) == 1
    if held_uids(store, spool, case):
        refused = submit(opened(store, spool), draft(file.uid, request=f"r-{number}"))
        assert refused.refused == 1, "what the log holds is kept, acknowledged or not"
    again = worker.do(**job)
    assert again["end"] == "done", again
    if verb == "retain":
        assert Retriever(opened(store, spool)).stat(file.uid, DAY).lock_until == LATER
    else:
        assert held_uids(store, spool, case) == (set() if verb == "release" else {file.uid})
        if verb == "hold":
            assert shards_of(store, spool, file.uid) <= held_shards(store)


def test_after_all_of_that_each_file_is_there_once_and_nothing_is_left_to_mend(archive: Archive) -> None:
    store, spool = archive.store, archive.spool
    reader = Retriever(opened(store, spool))
    assert sorted(report.uid for report in reader.list_day(DAY)) == sorted(file.uid for file in archive.files)
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.legal_holds, plan.sidecars, plan.findings) == (0, 0, 0, ())
    assert plan.garbage <= 2, "uploads that no record names"
