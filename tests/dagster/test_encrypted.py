"""Encrypted repositories in Dagster: keys are looked at, and nothing of a file is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.dagster.erasing import FILES_A_DAY, Archive, checked, make_archive, shown
from tests.dagster.world import DAYS, evaluations, make_world, passed
from tests.protocol.packing import copy_bucket, local_kek, opened
from tests.protocol.repacking import live_shards
from vera_assets.assets.scrub import SCRUB_KEY
from vera_core.config import Encryption
from vera_core.operations.erasure_proof import ERASED, SIDECAR
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.key_survey import NO_KEYS
from vera_core.operations.keyring_survey import KEYRINGS
from vera_core.operations.proving import WORM_LOCK
from vera_core.operations.verify import RECONCILIATION

if TYPE_CHECKING:
    from pathlib import Path

    from dagster import DagsterInstance

    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

ERASE, REPACK = "vera__default_erase", "vera__default_repack"
TOMBSTONES, REPACKED = "tombstones", "repacked_shards"
MANY = FILES_A_DAY // 2


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    encryption = Encryption(local_kek().kek, (f"s3://{copy_bucket().bucket}/safe",))
    return make_archive(tmp_path, encryption=encryption)


def told(instance: DagsterInstance) -> str:
    """Everything that Dagster keeps of all runs."""
    return str([instance.all_logs(run.run_id) for run in instance.get_runs()])


def test_erasing_and_repacking_pass_every_check_and_name_no_file(archive: Archive, instance: DagsterInstance) -> None:
    gone = archive.uids(DAYS[0], MANY)
    assert archive.request("art17-1", *gone).stage is Stage.DONE
    assert archive.run(instance, ERASE).success
    assert archive.run(instance, REPACK, DAYS[0]).success
    checks = {TOMBSTONES: (ERASED, SIDECAR, KEYRINGS, NO_KEYS), REPACKED: (WORM_LOCK,)}
    for concept, name in ((concept, name) for concept, names in checks.items() for name in names):
        (record,) = checked(instance, concept, name, DAYS[0])
        assert passed(record), record.evaluation
    before = shown(instance, TOMBSTONES, DAYS[0])
    assert (before["erased files"], before["tombstone ratio"]) == (MANY, MANY / FILES_A_DAY)
    assert before["of them punctured"] > 0
    assert before["highest revision of a keyring"] == 2
    assert before["places that keep keyrings"] == 2
    assert before["current version of the KEK"] == before["oldest version of the KEK in use"]
    assert_names_no_file(archive, instance)


def test_a_keyring_that_is_gone_fails_the_check_of_its_day(archive: Archive, instance: DagsterInstance) -> None:
    repo = opened(archive.store, archive.spool)
    shard = next(shard for shard in live_shards(repo) if "/20260301/" in shard.key)
    place = repo.keyrings.places()[1]
    name = place.keyring(shard)
    for info in list(place.store.list_versions(name)):
        place.store.delete(name, version_id=info.version_id)
    archive.run(instance, REPACK, *DAYS[:2])
    record = checked(instance, TOMBSTONES, KEYRINGS, DAYS[0])[0]
    assert not passed(record)
    assert "the shard's keyring is missing" in str(record.evaluation)
    assert passed(checked(instance, TOMBSTONES, KEYRINGS, DAYS[1])[0])


def test_an_old_keyring_that_is_back_fails_the_check_of_its_day(archive: Archive, instance: DagsterInstance) -> None:
    repo = opened(archive.store, archive.spool)
    shards = [shard for shard in live_shards(repo) if "/20260301/" in shard.key]
    before = {repo.keyrings.key_of(shard): archive.store.get(repo.keyrings.key_of(shard)).data for shard in shards}
    archive.request("art17-1", *archive.uids(DAYS[0], MANY))
    archive.run(instance, REPACK, DAYS[0])
    assert passed(checked(instance, TOMBSTONES, NO_KEYS, DAYS[0])[0])
    for name, data in before.items():
        archive.store.put(name, data)
    archive.run(instance, REPACK, *DAYS[:2])
    for name in (NO_KEYS, KEYRINGS):
        assert not passed(checked(instance, TOMBSTONES, name, DAYS[0])[0])
        assert passed(checked(instance, TOMBSTONES, name, DAYS[1])[0])
    record = checked(instance, TOMBSTONES, NO_KEYS, DAYS[0])[0]
    assert "a version of a keyring opens" in str(record.evaluation)
    assert "vera erasures destroy" in str(record.evaluation)
    assert_names_no_file(archive, instance)


def test_a_scrub_proves_keyrings(archive: Archive, instance: DagsterInstance) -> None:
    result = archive.run(instance, "vera_scrub", run_config={"ops": {"vera_prove": {"config": {"percent": 100}}}})
    assert result.success
    (record,) = instance.fetch_materializations(SCRUB_KEY, limit=1).records
    assert record.asset_materialization is not None
    assert_names_no_file(archive, instance)


def test_plain_repositories_have_no_such_check(tmp_path: Path, instance: DagsterInstance) -> None:
    plain = make_archive(tmp_path)
    assert plain.run(instance, REPACK, DAYS[0]).success
    assert checked(instance, TOMBSTONES, KEYRINGS, DAYS[0]) == []
    assert "keyrings" not in shown(instance, TOMBSTONES, DAYS[0])


def test_what_differs_from_the_source_is_counted_and_not_named(
    tmp_path: Path, embedded_s3: EmbeddedS3, s3_store: S3Store, instance: DagsterInstance
) -> None:
    world = make_world(tmp_path, embedded_s3, s3_store, encrypted=True)
    assert world.run(instance, DAYS[0]).success
    paths = sorted(world.files.iterdir())
    changed = [path for path in paths if path.name.startswith("2026-03-01")][:3]
    for path in changed[:2]:
        path.write_bytes(b"x" * path.stat().st_size)
    changed[2].unlink()
    world.run(instance, DAYS[0])
    record = evaluations(instance, RECONCILIATION, DAYS[0])[0]
    assert not passed(record)
    for what in ("not archived: 2", "not in the source: 2", "the source does not give the file any more: 1"):
        assert what in str(record.evaluation)
    everything = told(instance)
    assert not [path.name for path in paths if path.name in everything or path.name.replace("-", "/", 3) in everything]


def assert_names_no_file(archive: Archive, instance: DagsterInstance) -> None:
    everything = told(instance)
    telling: list[Any] = [file.uid for file in archive.source.files]
    assert not [uid for uid in telling if uid in everything]
