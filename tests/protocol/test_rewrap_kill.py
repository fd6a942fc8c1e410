"""SIGKILL of a separate process at every step of a rewrapping, and of putting keys back, on a real store."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, KEK_VARIABLE, MemorySource, local_kek, make_repository, opened, pack, some_files
from tests.protocol.worker import Worker, rule
from vera_core.config import Encryption
from vera_core.keys.local import LocalKeys
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.key_census import take_census
from vera_core.operations.key_restore import plan_restore
from vera_core.operations.retrieve import Retriever
from vera_core.operations.rewrap import execute_rewrap, rotate
from vera_core.store.faulty import Action
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.embedded import EmbeddedS3

SOURCE = MemorySource(some_files(60))
KILLS = [
    (Action.KILL_BEFORE, "put", "*/audit/*/000001.json", 1),
    (Action.KILL_BEFORE, "put", "*/tenant.keys", 1),
    (Action.KILL_AFTER, "put", "*/tenant.keys", 1),
    (Action.KILL_BEFORE, "put", "*/2026*.keys", 1),
    (Action.KILL_AFTER, "put", "*/2026*.keys", 2),
    (Action.KILL_BEFORE, "delete_batch", "*.keys", 1),
    (Action.KILL_AFTER, "delete_batch", "*.keys", 1),
    (Action.KILL_BEFORE, "put", "*/audit/*/000002.json", 1),
]


@pytest.fixture(scope="module")
def kek(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKeys]:
    """A KEK of these tests' own, also in the worker."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("kek") / "kek.json"
        patch.setenv(KEK_VARIABLE, str(path))
        yield LocalKeys.create(path)


@pytest.fixture(scope="module")
def archive(embedded_s3: EmbeddedS3, kek: LocalKeys, tmp_path_factory: pytest.TempPathFactory) -> tuple[S3Store, Path]:
    """A packed repository with a registered copy in another bucket; one class is regulated."""
    store, copy = (S3Store(f"kill-{uuid.uuid4().hex[:12]}") for _ in range(2))
    for bucket in (store, copy):
        bucket.create_bucket()
    spool = tmp_path_factory.mktemp("rewrap-kill")
    classes = (RetentionClass("std", 100), RetentionClass("long", 3000, Erasability.REGULATED))
    encryption = Encryption(kek.kek, (f"s3://{copy.bucket}/spare",))
    pack(make_repository(store, spool, encryption=encryption, classes=classes), SOURCE)
    return store, spool


@pytest.fixture(scope="module")
def worker(archive: tuple[S3Store, Path]) -> Iterator[Worker]:
    with closing(Worker()) as started:
        yield started


def assert_whole(repo: Repository) -> None:
    reader = Retriever(repo)
    assert all(reader.get(file.uid, DAY) == file.content for file in SOURCE.files)
    assert plan_restore(repo).missing == 0, "all places agree"


@pytest.mark.parametrize(("action", "kind", "key", "nth"), KILLS)
def test_a_rewrapping_that_is_killed_is_gone_on_with(
    archive: tuple[S3Store, Path], worker: Worker, action: Action, kind: str, key: str, nth: int
) -> None:
    store, spool = archive
    rotate(opened(store, spool))
    end = worker.do(verb="rewrap", bucket=store.bucket, spool=str(spool), rules=[rule(action, kind, key, nth)])
    assert end["end"] == "killed"
    assert_whole(opened(store, spool))
    repo = opened(store, spool)
    report = execute_rewrap(repo, take_census(repo))
    assert (report.ok, report.behind, report.raise_to) == (True, 0, local_kek().current())
    assert_whole(opened(store, spool))
    for place in repo.key_places():
        unlocked = [
            info.key
            for info in place.store.list_versions(place.keys.root)
            if info.key.endswith(".keys") and place.store.get_lock(info.key, info.version_id) is None
        ]
        assert len(unlocked) == len(set(unlocked)), "no older version is left but those that are locked"


@pytest.mark.parametrize("action", [Action.KILL_BEFORE, Action.KILL_AFTER])
def test_putting_keys_back_that_is_killed_is_gone_on_with(
    archive: tuple[S3Store, Path], worker: Worker, action: Action
) -> None:
    store, spool = archive
    lost = [info.key for info in store.list_objects("") if info.key.endswith(".keys") and "/2026" in info.key]
    for key in lost:
        for info in list(store.list_versions(key)):
            if store.get_lock(key, info.version_id) is None:
                store.delete(key, version_id=info.version_id)
    job = {"verb": "restore keys", "bucket": store.bucket, "spool": str(spool)}
    assert worker.do(**job, rules=[rule(action, "put", "*/2026*.keys")])["end"] == "killed"
    done = worker.do(**job)
    assert done["end"] == "done"
    assert_whole(opened(store, spool))
