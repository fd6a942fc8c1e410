"""Days through Dagster's real execution, into a real S3 server: what is archived, shown, checked and held back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from dagster import AssetCheckKey, AssetKey, FloatMetadataValue, IntMetadataValue
from dagster._core.definitions.data_version import DATA_VERSION_TAG as DAGSTERS_TAG

from tests.dagster.world import (
    DAYS,
    FILES_A_DAY,
    SOURCE,
    World,
    evaluations,
    failures,
    materializations,
    of,
    passed,
    settings_for,
)
from vera_assets.assets.spec import INVENTORY, SHARDS, WATERMARK, WINDOW
from vera_assets.build import build_definitions
from vera_assets.checks import DESCRIPTIONS
from vera_assets.days import DATA_VERSION_TAG
from vera_core.erasures import Target
from vera_core.errors import ErasedError
from vera_core.operations.due import note_late_rows
from vera_core.operations.erasures import Draft, submit
from vera_core.operations.retrieve import Retriever
from vera_core.source.state import WindowState

if TYPE_CHECKING:
    from dagster import DagsterInstance, EventLogRecord

DAILY = (WINDOW, SHARDS, INVENTORY)


def version(record: EventLogRecord) -> str:
    assert record.asset_materialization is not None
    assert record.asset_materialization.tags is not None
    return record.asset_materialization.tags[DATA_VERSION_TAG]


def shown(instance: DagsterInstance, concept: str, day_index: int = 0) -> dict[str, object]:
    """Numbers and texts of a day's newest materialization."""
    record = materializations(instance, concept, None if concept == WATERMARK else DAYS[day_index])[0]
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def test_the_tag_is_dagsters() -> None:
    assert DATA_VERSION_TAG == DAGSTERS_TAG


def test_a_day_is_archived_checked_and_shown(world: World, instance: DagsterInstance) -> None:
    assert world.run(instance, DAYS[0]).success
    (manifest,) = {version(materializations(instance, concept, DAYS[0])[0]) for concept in DAILY}
    record = world.migration().state.windows(SOURCE, "default")[0]
    assert (record.state, record.manifest) == (WindowState.VERIFIED, manifest)
    for name in DESCRIPTIONS:
        (evaluation,) = evaluations(instance, name, DAYS[0])
        assert passed(evaluation)
        assert evaluations(instance, name, None) == []
    assert world.watermark() == DAYS[1]
    retriever = Retriever(world.repo, "default")
    for path in world.files.glob(f"{DAYS[0]}-*"):
        uid = f"{DAYS[0]}/{path.name[len('2026-03-01-') :]}"
        moment = datetime(2026, 3, 1, tzinfo=UTC)
        assert b"".join(retriever.stream(uid, moment)[1]) == path.read_bytes()


def test_the_numbers_that_the_ui_plots(world: World, instance: DagsterInstance) -> None:
    world.run(instance, DAYS[0])
    record = materializations(instance, INVENTORY, DAYS[0])[0]
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    wanted = {
        "files", "content (bytes)", "stored (bytes)", "objects of every kind", "files per object",
        "content per stored byte", "saved against one object a file (USD/month)",
    }  # fmt: skip
    assert wanted <= set(metadata)
    assert all(isinstance(metadata[name], IntMetadataValue | FloatMetadataValue) for name in wanted)
    numbers = shown(instance, INVENTORY)
    size = sum(path.stat().st_size for path in world.files.glob(f"{DAYS[0]}-*"))
    assert (numbers["files"], numbers["content (bytes)"]) == (FILES_A_DAY, size)
    everything = [info for info in world.store.list_versions("archive/t/") if "20260301" in info.key]
    assert numbers["objects of every kind"] == len(everything)
    assert numbers["files per object"] == FILES_A_DAY / len(everything)
    assert float(str(shown(instance, SHARDS)["speed (files/s)"])) > 0
    assert shown(instance, SHARDS)["more"] == "vera ls 2026-03-01 --tenant default"
    assert shown(instance, WATERMARK)["watermark"] == "20260302"


def test_a_range_of_days_in_one_run(world: World, instance: DagsterInstance) -> None:
    result = world.run(instance, *DAYS)
    assert result.success
    states = world.migration().state.windows(SOURCE, "default")
    assert [record.state for record in states] == [WindowState.VERIFIED] * 3
    for record in states:
        for concept in DAILY:
            assert version(materializations(instance, concept, record.day)[0]) == record.manifest
        for name in DESCRIPTIONS:
            (evaluation,) = evaluations(instance, name, record.day)
            assert passed(evaluation)
            assert evaluation.run_id == result.run_id
    assert len({record.manifest for record in states}) == 3
    assert world.watermark() == datetime(2026, 3, 4).date()  # noqa: DTZ001 - a day has no zone


def test_a_day_again_changes_nothing(world: World, instance: DagsterInstance) -> None:
    world.run(instance, DAYS[0])
    before = world.shards(DAYS[0])
    assert world.run(instance, DAYS[0]).success
    assert world.shards(DAYS[0]) == before
    versions = {version(record) for record in materializations(instance, SHARDS, DAYS[0])}
    assert len(versions) == 1
    assert shown(instance, SHARDS)["archived by this run"] == 0


def test_a_damaged_byte_fails_the_check_and_holds_the_watermark(world: World, instance: DagsterInstance) -> None:
    assert world.run(instance, DAYS[0]).success
    assert world.pack(instance, DAYS[1]).success
    assert evaluations(instance, "integrity", DAYS[1]) == []
    line = world.shards(DAYS[1])[0]
    world.damage(line.key, line.version_id)

    assert not world.run_checks(instance, DAYS[1], then=[INVENTORY, WATERMARK]).success
    bad = evaluations(instance, "integrity", DAYS[1])[0]
    assert not passed(bad)
    assert bad.evaluation is not None
    assert line.key in str(bad.evaluation.description)
    assert not passed(evaluations(instance, "worm_lock", DAYS[1])[0]), "the back door takes the lock away as well"
    assert materializations(instance, WATERMARK)[0].run_id != bad.run_id
    assert materializations(instance, INVENTORY, DAYS[1]) == []
    assert world.watermark() == DAYS[1]
    assert world.migration().state.windows(SOURCE, "default")[1].state is WindowState.FAILED

    # Materializing the day again makes it good from the source, and the watermark goes on.
    assert world.run(instance, DAYS[1]).success
    assert passed(evaluations(instance, "integrity", DAYS[1])[0])
    assert world.watermark() == DAYS[2]


def test_in_a_range_a_bad_day_does_not_hold_back_the_others(world: World, instance: DagsterInstance) -> None:
    assert world.pack(instance, *DAYS).success
    for line in world.shards(DAYS[1]):
        world.damage(line.key, line.version_id)
    result = world.run_checks(instance, *DAYS, then=[INVENTORY, WATERMARK])
    assert not result.success
    assert [passed(evaluations(instance, "integrity", day)[0]) for day in DAYS] == [True, False, True]
    assert "2026-03-02: the day is not verified: it is failed" in failures(result)
    assert [len(materializations(instance, INVENTORY, day)) for day in DAYS] == [1, 0, 1]
    assert world.watermark() == DAYS[1]


def test_the_button_without_a_day_checks_the_newest(world: World, instance: DagsterInstance) -> None:
    world.run(instance, *DAYS[:2])
    assert world.run_checks(instance, then=[]).success
    for name in DESCRIPTIONS:
        assert len(evaluations(instance, name, DAYS[0])) == 1
        assert [passed(item) for item in evaluations(instance, name, DAYS[1])] == [True, True]
        assert [passed(item) for item in evaluations(instance, name, None)] == [True]


def test_the_button_before_any_day_says_so(world: World, instance: DagsterInstance) -> None:
    result = world.run_checks(instance, then=[])
    assert "no day of the source was packed yet" in failures(result)


def test_rejects_are_shown_by_name_and_hold_the_watermark(world: World, instance: DagsterInstance) -> None:
    gone = world.files / "2026-03-01-007.json"
    kept = gone.read_bytes()
    gone.unlink()
    assert world.run(instance, DAYS[0]).success
    assert shown(instance, SHARDS)["rejected"] == 1
    assert "missing-file" in str(shown(instance, SHARDS)["rejects"])
    assert world.watermark() == DAYS[0]
    assert "rejects" in str(shown(instance, WATERMARK)["held by"])
    key = AssetCheckKey(AssetKey([SOURCE, WATERMARK]), "progress")
    assert not passed(instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0])

    # The file is found again; materializing the day tries its rejects once more, in a new revision.
    gone.write_bytes(kept)
    assert world.run(instance, DAYS[0]).success
    assert shown(instance, WINDOW)["revision"] == 2
    assert world.watermark() == DAYS[1]
    assert passed(instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0])


def test_an_erasure_of_an_archived_day(world: World, instance: DagsterInstance) -> None:
    assert world.run(instance, DAYS[0]).success
    uids = [f"{DAYS[0]}/{number:03}.json" for number in range(FILES_A_DAY // 2)]
    targets = tuple(Target(uid, datetime(2026, 3, 1, tzinfo=UTC)) for uid in uids)
    submit(world.repo, Draft(tenant="default", id="art17-1", reason="GDPR Art. 17", targets=targets))
    for job, days in (("vera__default_erase", []), ("vera__default_repack", DAYS[:1])):
        done = world.defs.resolve_job_def(job)
        result = done.execute_in_process(instance=instance, raise_on_error=False, **of(*days))
        assert result.success
        assert all(item.passed for item in result.get_asset_check_evaluations())
    repacked = instance.fetch_materializations(AssetKey(["vera", "default", "repacked_shards"]), limit=1).records[0]
    assert repacked.asset_materialization is not None
    assert repacked.asset_materialization.metadata["erased files left behind"].value == FILES_A_DAY // 2

    listed = instance.fetch_materializations(AssetKey(["vera", "default", "inventory"]), limit=1).records[0]
    assert listed.asset_materialization is not None
    assert listed.asset_materialization.metadata["files"].value == FILES_A_DAY - FILES_A_DAY // 2
    assert len(list(world.store.list_versions("archive/t/default/inventory/"))) == 2, "a file for each slot"

    # The day as it was migrated still verifies, and nothing that was erased comes back with it.
    assert world.run(instance, DAYS[0]).success
    assert shown(instance, INVENTORY)["files"] == FILES_A_DAY - FILES_A_DAY // 2
    retriever = Retriever(world.repo, "default")
    for uid in uids:
        with pytest.raises(ErasedError):
            retriever.get(uid, datetime(2026, 3, 1, tzinfo=UTC))


def test_late_rows_are_a_new_revision_of_the_day(world: World, instance: DagsterInstance) -> None:
    world.run(instance, DAYS[0])
    note_late_rows(world.migration())
    world.add("late/one.json", datetime(2026, 3, 1, 9, tzinfo=UTC))
    note_late_rows(world.migration())  # sees the row; it counts once it has settled
    assert [window.revision for window in note_late_rows(world.migration())] == [2]
    assert world.run(instance, DAYS[0]).success
    assert shown(instance, WINDOW)["revision"] == 2
    assert shown(instance, SHARDS)["archived"] == 1
    assert shown(instance, INVENTORY)["files"] == FILES_A_DAY + 1
    assert len({version(record) for record in materializations(instance, SHARDS, DAYS[0])}) == 2


def test_a_store_that_can_not_be_reached_is_tried_again(
    world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vera_assets.days.RETRIES", 1)
    monkeypatch.setattr("vera_assets.days.RETRY_SECONDS", 0)
    hidden = world.root / "elsewhere.sqlite"
    (world.root / "business.sqlite").rename(hidden)
    (world.root / "business.sqlite").mkdir()
    result = world.run(instance, DAYS[0])
    assert not result.success
    (world.root / "business.sqlite").rmdir()
    hidden.rename(world.root / "business.sqlite")
    assert world.run(instance, DAYS[0]).success


def test_an_error_is_told_in_veras_words(world: World, instance: DagsterInstance) -> None:
    world.sql("DROP TABLE vera_windows")
    result = world.run(instance, DAYS[0])
    told = failures(result)
    assert "VERA's own tables are not in the database" in told
    assert "vera migrate --create-schema" in told or "--create-schema" in told


def test_several_tenants_are_several_groups(world: World, instance: DagsterInstance) -> None:
    world.sql("ALTER TABLE documents ADD COLUMN bank TEXT DEFAULT '1'")
    world.sql("UPDATE documents SET bank = '2' WHERE number % 3 = 0")
    tenant = {"column": "bank", "map": {"1": "bank-one", "2": "bank.two"}}
    settings = settings_for(world.root, world.store.bucket, tenant=tenant)
    defs = build_definitions(settings=settings)
    for name in ("bank_one", "bank_two"):
        job = defs.resolve_job_def(f"claims__{name}_archive")
        assert job.execute_in_process(instance=instance, partition_key=DAYS[0].isoformat()).success
    rows = {
        part: instance.fetch_materializations(AssetKey([SOURCE, part, SHARDS]), limit=1).records[0]
        for part in ("bank-one", "bank_two")
    }
    counts = {
        part: record.asset_materialization.metadata["archived"].value
        for part, record in rows.items()
        if record.asset_materialization is not None
    }
    assert counts == {"bank-one": 20, "bank_two": 10}
