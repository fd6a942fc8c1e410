"""SIGKILL of a separate process at every step of destroying keys, on a real store with a copy: run again, it converges.

One archive serves all kills, each with files and a request of its own.
"""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.protocol.erasing import assert_readable
from tests.protocol.packing import (
    DAY,
    KEYS,
    PREFIX,
    File,
    MemorySource,
    local_kek,
    make_repository,
    opened,
    pack,
    some_files,
)
from tests.protocol.test_puncture import assert_destroyed
from tests.protocol.worker import Worker, rule
from vera_core.config import Encryption
from vera_core.errors import ErasedError
from vera_core.keyspace import KeyKind
from vera_core.operations.certificates import verify_certificates
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.retrieve import Retriever
from vera_core.store.faulty import Action
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.store.embedded import EmbeddedS3

POINTS = {
    "done": ("put", "*/requests/*/000002.json", 1),
    "first keyring": ("put", "*.keys", 1),
    "second keyring": ("put", "*.keys", 2),
    "first puncture": ("put", "*/log/*", 3),
    "second puncture": ("put", "*/log/*", 4),
    "first purge": ("delete", "*.keys", 1),
    "second purge": ("delete", "*.keys", 2),
    "first sidecar": ("put", "*.vera.meta", 1),
    "certificate": ("put", "*/requests/*/000003.json", 1),
    "audit outcome": ("put", "*/audit/*/000002.json", 1),
}


class Archive(NamedTuple):
    """Files of two slots; two of them, one of each slot, for each kill; the uids of those it came to."""

    store: S3Store
    copy: S3Store
    spool: Path
    files: list[File]
    pairs: list[tuple[File, File]]
    erased: set[str]


@pytest.fixture(scope="module")
def archive(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    store, copy = (S3Store(f"puncture-{uuid.uuid4().hex[:12]}") for _ in range(2))
    for bucket in (store, copy):
        bucket.create_bucket()
    spool = tmp_path_factory.mktemp("spool")
    encryption = Encryption(local_kek().kek, (f"s3://{copy.bucket}/{PREFIX}",))
    repo = make_repository(store, spool, part_rows=1000, encryption=encryption)
    files = some_files(60)
    pack(repo, MemorySource(files))
    by_slot: dict[Slot, list[File]] = {}
    for file in files:
        by_slot.setdefault(Retriever(repo).slot(file.uid, DAY), []).append(file)
    return Archive(store, copy, spool, files, list(zip(*by_slot.values(), strict=False)), set())


@pytest.fixture(scope="module")
def worker(archive: Archive) -> Iterator[Worker]:
    with closing(Worker()) as made:
        yield made


@pytest.mark.parametrize("point", POINTS)
def test_a_destruction_killed_anywhere(archive: Archive, worker: Worker, point: str) -> None:
    store, spool, number = archive.store, archive.spool, list(POINTS).index(point)
    pair = archive.pairs[number]
    uids = tuple(file.uid for file in pair)
    archive.erased.update(uids)
    job = {"bucket": store.bucket, "spool": str(spool), "verb": "erase", "uids": uids, "request": f"r-{number}"}
    ended = worker.do(**job, rules=[rule(Action.KILL_BEFORE, *POINTS[point])])
    assert ended["end"] == "killed", ended
    reader = Retriever(opened(store, spool))
    for uid in uids:
        with pytest.raises(ErasedError):
            reader.get(uid, DAY)
    left = show_request(opened(store, spool), "default", f"r-{number}")
    assert (left.stage is Stage.DONE) == (point == "audit outcome")

    again = worker.do(**(job | {"verb": "run due"}))
    assert again["end"] == "done", again
    repo = opened(store, spool)
    assert show_request(repo, "default", f"r-{number}").destroyed == 2
    assert verify_certificates(repo, "default", f"r-{number}").ok
    assert_destroyed(repo, store, archive.copy, uids=uids)


def test_after_all_of_that_nothing_else_is_lost(archive: Archive) -> None:
    """Runs last: each keyring lies once in each place, every other file is readable, nothing is left to mend."""
    store, spool = archive.store, archive.spool
    repo = opened(store, spool)
    assert_readable(
        store, spool, [(file.uid, file.content) for file in archive.files if file.uid not in archive.erased]
    )
    assert survey_keys(repo, "default", DAY).ok
    for bucket in (store, archive.copy):
        keyrings = [info.key for info in bucket.list_versions("") if KEYS.parse(info.key).kind is KeyKind.KEYRING]
        assert len(keyrings) == len(set(keyrings))
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.sidecars, plan.findings) == (0, 0, ())
