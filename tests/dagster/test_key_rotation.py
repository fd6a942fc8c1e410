"""The asset `key_rotation`: it looks, and rotates and rewraps in runs that may; its checks see what is old or lost."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from dagster import AssetCheckKey

from tests.dagster.erasing import make_archive
from tests.protocol.packing import DAY, KEK_VARIABLE, local_kek, opened
from vera_assets.assets.key_rotation import AGE, BEHIND_DAYS, DRILL, KEYS_KEY, KEYS_STEP, ROTATE_DAYS, VERSIONS
from vera_core.config import Encryption
from vera_core.keys.local import LocalKeys
from vera_core.operations.key_census import take_census
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from pathlib import Path

    from dagster import DagsterInstance

    from tests.dagster.erasing import Archive

JOB = "vera_key_rotation"
ACTING = {"ops": {KEYS_STEP: {"config": {"execute": True}}}}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An encrypted archive with a KEK of its own."""
    LocalKeys.create(tmp_path / "kek.json")
    monkeypatch.setenv(KEK_VARIABLE, str(tmp_path / "kek.json"))
    return make_archive(tmp_path, encryption=Encryption(local_kek().kek))


def aged(days: int) -> None:
    """Makes the current version of the KEK so many days old."""
    then = time.time() - days * 86_400
    os.utime(os.environ[KEK_VARIABLE], (then, then))


def run(archive: Archive, instance: DagsterInstance, **options: Any) -> dict[str, bool]:
    """Runs the job; which checks passed."""
    archive.run(instance, JOB, **options)
    found = {}
    for name in (VERSIONS, AGE, DRILL):
        storage = instance.event_log_storage
        record = storage.get_asset_check_execution_history(AssetCheckKey(KEYS_KEY, name), limit=1)[0]
        assert record.event is not None
        assert record.event.dagster_event is not None
        found[name] = record.event.dagster_event.asset_check_evaluation_data.passed
    return found


def test_it_looks_and_in_runs_that_may_it_rotates(archive: Archive, instance: DagsterInstance) -> None:
    assert run(archive, instance) == {VERSIONS: True, AGE: True, DRILL: True}
    kek = local_kek()
    kek.rotate()
    assert run(archive, instance)[VERSIONS], "there is time left"
    aged(BEHIND_DAYS + 1)
    assert not run(archive, instance)[VERSIONS]
    assert take_census(archive.repo).behind > 0, "it only looked"
    assert run(archive, instance, run_config=ACTING) == {VERSIONS: True, AGE: True, DRILL: True}
    assert (take_census(archive.repo).behind, kek.current()) == (0, 2), "no version more before its time"

    aged(ROTATE_DAYS + BEHIND_DAYS + 1)
    assert not run(archive, instance)[AGE]
    assert run(archive, instance, run_config=ACTING) == {VERSIONS: True, AGE: True, DRILL: True}
    census = take_census(archive.repo)
    assert (census.behind, census.current) == (0, 3)
    reader = Retriever(opened(archive.store, archive.spool))
    file = next(file for file in archive.source.files if file.created_at.date() == DAY)
    assert reader.get(file.uid, DAY) == file.content


def test_it_sees_keys_that_are_lost(archive: Archive, instance: DagsterInstance) -> None:
    for info in list(archive.store.list_versions("archive/t/default/")):
        if info.key.endswith(".keys") and "tenant" not in info.key:
            archive.store.delete(info.key, version_id=info.version_id)
    assert run(archive, instance) == {VERSIONS: True, AGE: True, DRILL: False}
