"""SIGKILL of a separate process at every step of a scrub, on a real store: run again, every proof is there."""

from __future__ import annotations

import time
import uuid
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.cli.support import change_stored_byte
from tests.protocol.packing import DAY, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.repacking import live_shards
from tests.protocol.worker import Worker, rule
from vera_core.operations.proofs import CLOCKS_APART, Place, read_proofs
from vera_core.operations.scrub import list_damage
from vera_core.store.faulty import Action
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3

KILLS = {
    "while reading": (Action.KILL_AFTER, "download", "*", 2),
    "before the audit is told": (Action.KILL_BEFORE, "put", "*/audit/*", 1),
    "after the audit is told": (Action.KILL_AFTER, "put", "*/audit/*", 1),
    "before the proofs are stored": (Action.KILL_BEFORE, "put", "*/proofs/*", 1),
    "after the proofs are stored": (Action.KILL_AFTER, "put", "*/proofs/*", 1),
}


class Archive(NamedTuple):
    """A packed day in a bucket, with one shard damaged on the disk."""

    store: S3Store
    spool: Path
    names: set[tuple[str, str]]
    broken: str


@pytest.fixture(scope="module")
def archive(embedded_s3: EmbeddedS3, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    store = S3Store(f"scrub-{uuid.uuid4().hex[:12]}")
    store.create_bucket()
    spool = tmp_path_factory.mktemp("spool")
    repo = make_repository(store, spool)
    pack(repo, MemorySource(some_files(60)))
    shards = live_shards(repo)
    broken = shards[0]
    change_stored_byte(embedded_s3, store, broken.key, broken.version_id)
    return Archive(store, spool, {(shard.key, shard.version_id) for shard in shards}, broken.key)


@pytest.fixture(scope="module")
def worker(embedded_s3: EmbeddedS3) -> Iterator[Worker]:
    with closing(Worker()) as made:
        yield made


@pytest.mark.parametrize("point", KILLS)
def test_a_scrub_killed_anywhere(archive: Archive, worker: Worker, point: str) -> None:
    job = {"bucket": archive.store.bucket, "spool": str(archive.spool), "verb": "scrub"}
    if "proofs" in point:
        # What was proved at the same time already, as far as the clocks of two processes tell, is not stored again.
        time.sleep((CLOCKS_APART + timedelta(seconds=1)).total_seconds())
    ended = worker.do(**job, rules=[rule(*KILLS[point])])
    assert ended["end"] == "killed", ended
    again = worker.do(**job)
    assert (again["end"], again["shards"]) == ("done", len(archive.names)), again
    repo = opened(archive.store, archive.spool)
    proofs = read_proofs(repo, Place("default", DAY))
    assert set(proofs) == archive.names
    assert [proof.key for proof in list_damage(repo).damaged] == [archive.broken]
    assert {proof.status for proof in proofs.values() if proof.key != archive.broken} == {"proved"}


def test_scrubs_side_by_side_on_a_real_store(archive: Archive, worker: Worker) -> None:
    job = {"bucket": archive.store.bucket, "spool": str(archive.spool), "verb": "scrub"}
    assert [end["end"] for end in worker.do_together([job] * 3)] == ["done"] * 3
    assert set(read_proofs(opened(archive.store, archive.spool), Place("default", DAY))) == archive.names
