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
from tests.protocol.packing import DAY, File, MemorySource, make_encrypted, make_repository, opened, pack, some_files
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
    "keyring": ("put", "*.keys"),
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
SEALED_KILLS = [
    ("hold", "record", Action.KILL_AFTER),
    ("retain", "keyring", Action.KILL_AFTER),
    ("retain", "record", Action.KILL_AFTER),
    ("retain", "lock", Action.KILL_AFTER),
]
"""In an encrypted repository."""
ALL_KILLS = [*((False, *kill) for kill in KILLS), *((True, *kill) for kill in SEALED_KILLS)]


class Archive(NamedTuple):
    """Files in a bucket, each in a shard of its own, one for each kill."""

    store: S3Store
    spool: Path
    files: list[File]


@pytest.fixture(scope="module")
def archives(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Archive]:
    """An unencrypted and an encrypted one."""
    found = {}
    for encrypted, make in ((False, make_repository), (True, make_encrypted)):
        store = S3Store(f"kill-{uuid.uuid4().hex[:12]}")
        store.create_bucket()
        spool = tmp_path_factory.mktemp("spool")
        files = some_files(len(KILLS) + 1)
        pack(make(store, spool, part_rows=1), MemorySource(files))
        found[encrypted] = Archive(store, spool, files)
    return found


@pytest.fixture(scope="module")
def worker(archives: object) -> Iterator[Worker]:
    """After the archives: it inherits the name of their KEK's file."""
    with closing(Worker()) as made:
        yield made


@pytest.mark.parametrize("kill", ALL_KILLS, ids=lambda kill: "-".join(map(str, kill)))
def test_whoever_is_killed_leaves_it_whole_or_not_there(
    archives: dict[bool, Archive], worker: Worker, kill: tuple[bool, str, str, Action]
) -> None:
    encrypted, verb, point, action = kill
    archive, number = archives[encrypted], ALL_KILLS.index(kill) % len(KILLS)
    store, spool = archive.store, archive.spool
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
        name = opened(store, spool).naming("default").name(file.uid)
        assert held_uids(store, spool, case) == (set() if verb == "release" else {name})
        if verb == "hold":
            assert shards_of(store, spool, file.uid) <= held_shards(store)


@pytest.mark.parametrize("encrypted", [False, True])
def test_after_all_of_that_each_file_is_there_once_and_nothing_is_left_to_mend(
    archives: dict[bool, Archive], encrypted: bool
) -> None:
    archive = archives[encrypted]
    store, spool = archive.store, archive.spool
    reader = Retriever(opened(store, spool))
    assert sorted(report.uid for report in reader.list_day(DAY)) == sorted(file.uid for file in archive.files)
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.legal_holds, plan.sidecars, plan.findings) == (0, 0, 0, ())
    assert plan.garbage <= 2, "uploads that no record names"
