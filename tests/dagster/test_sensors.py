"""Sensors and schedules: what they request, when they give up and say so, what they show of the command line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import boto3
import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterRunStatus,
    RunRequest,
    SensorResult,
    build_run_status_sensor_context,
    build_schedule_context,
    build_sensor_context,
)
from dagster._core.test_utils import create_run_for_test

from tests.dagster.world import (
    DAYS,
    RANGE_END,
    RANGE_START,
    SOURCE,
    World,
    evaluations,
    materializations,
    passed,
)
from vera_assets.resources import RepositoryResource
from vera_assets.sensors import MAX_ATTEMPTS, MAX_IN_FLIGHT, RUNS_LOOKED_AT
from vera_core.model import Lock, LockMode
from vera_core.operations.due import window_to_pack
from vera_core.operations.migrate import migrate_window
from vera_core.source.base import Window
from vera_core.source.state import WindowState

if TYPE_CHECKING:
    from datetime import date

    from dagster import AssetCheckExecutionRecord, DagsterInstance, ExecuteInProcessResult, SensorDefinition

JOB = f"{SOURCE}_archive"
LAST = datetime(2026, 3, 4, tzinfo=UTC)
PROGRESS = AssetCheckKey(AssetKey([SOURCE, "watermark"]), "progress")


@pytest.fixture(autouse=True)
def on_the_fourth_of_march(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three days of the source are over."""
    monkeypatch.setattr("vera_core.operations.due.Migration.end_day", lambda _self: LAST.date())
    assert world.watermark() is None


def sensor(world: World, name: str) -> SensorDefinition:
    return next(item for item in world.defs.get_repository_def().sensor_defs if item.name == name)


def tick(world: World, instance: DagsterInstance, cursor: str | None = None) -> SensorResult:
    """One tick of the watermark sensor."""
    resource = RepositoryResource.named_by(world.settings)
    context = build_sensor_context(
        instance=instance, cursor=cursor, resources={"repository": resource}, definitions=world.defs
    )
    with context:
        result = sensor(world, f"{SOURCE}_watermark_sensor")(context)
    assert isinstance(result, SensorResult)
    return result


def requested(result: SensorResult) -> list[RunRequest]:
    return list(result.run_requests or ())


def launch(world: World, instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    """Runs what the sensor requested, as the daemon would."""
    job = world.defs.resolve_job_def(JOB)
    return job.execute_in_process(
        instance=instance, partition_key=request.partition_key, tags=dict(request.tags), raise_on_error=False
    )


def progress(instance: DagsterInstance) -> AssetCheckExecutionRecord:
    return instance.event_log_storage.get_asset_check_execution_history(PROGRESS, limit=1)[0]


def test_days_are_requested_oldest_first_and_few_at_a_time(world: World, instance: DagsterInstance) -> None:
    first = tick(world, instance)
    assert [item.run_key for item in requested(first)] == [
        f"pack:{SOURCE}:2026-03-01:1:1",
        f"pack:{SOURCE}:2026-03-02:1:1",
    ]
    assert len(requested(first)) == MAX_IN_FLIGHT
    assert [item.partition_key for item in requested(first)] == ["2026-03-01", "2026-03-02"]
    for request in requested(first):
        assert launch(world, instance, request).success
    second = tick(world, instance, first.cursor)
    assert [item.run_key for item in requested(second)] == [f"pack:{SOURCE}:2026-03-03:1:1"]
    assert launch(world, instance, requested(second)[0]).success
    third = tick(world, instance, second.cursor)
    assert requested(third) == []
    assert third.skip_reason is not None
    assert "0 windows due" in str(third.skip_reason.skip_message)
    assert world.watermark() == LAST.date()
    assert json.loads(third.cursor or "")["attempts"] == {}, "the cursor does not grow with the days done"


@pytest.mark.parametrize("status", [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED])
def test_days_in_flight_are_left_alone(world: World, instance: DagsterInstance, status: DagsterRunStatus) -> None:
    tags = {RANGE_START: DAYS[0].isoformat(), RANGE_END: DAYS[1].isoformat()}
    create_run_for_test(instance, job_name=JOB, tags=tags, status=status)
    assert [item.partition_key for item in requested(tick(world, instance))] == ["2026-03-03"]
    by_hand = {"dagster/partition": DAYS[2].isoformat()}
    selection = frozenset({AssetKey([SOURCE, "shards"])})
    create_run_for_test(instance, job_name="__ASSET_JOB", tags=by_hand, status=status, asset_selection=selection)
    assert requested(tick(world, instance)) == []
    assert RUNS_LOOKED_AT < 1000


def test_other_sources_runs_do_not_count(world: World, instance: DagsterInstance) -> None:
    for _ in range(MAX_IN_FLIGHT):
        tags = {"dagster/partition": DAYS[0].isoformat()}
        create_run_for_test(instance, job_name="letters_archive", tags=tags, status=DagsterRunStatus.STARTED)
    assert len(requested(tick(world, instance))) == MAX_IN_FLIGHT


def break_day(world: World, day: date) -> None:
    """Makes freezing the day fail: under its manifest's key lies an earlier, locked object that is none."""
    until = world.repo.clock.now().replace(microsecond=0) + timedelta(days=1)
    key = world.repo.keys.manifest("default", SOURCE, day, 1)
    world.repo.store.put(key, b"no manifest", lock=Lock(LockMode.GOVERNANCE, until))


def test_a_day_that_fails_is_given_up_and_the_alert_names_the_relaunch(
    world: World, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    break_day(world, DAYS[0])
    cursor: str | None = None
    keys: list[str | None] = []
    for _ in range(MAX_ATTEMPTS):
        result = tick(world, instance, cursor)
        cursor = result.cursor
        for request in requested(result):
            keys.append(request.run_key)
            assert launch(world, instance, request).success is (request.partition_key != "2026-03-01")
    first = [key for key in keys if key and "2026-03-01" in key]
    assert first == [f"pack:{SOURCE}:2026-03-01:1:{number}" for number in (1, 2, 3)]
    with caplog.at_level(logging.ERROR, logger="vera.alert"):
        given_up = tick(world, instance, cursor)
    assert requested(given_up) == []
    (event,) = given_up.asset_events
    assert "materialize 2026-03-01 by hand: job claims_archive" in str(event.description)
    assert "`vera migrate claims --once --from 2026-03-01 --to 2026-03-01`" in caplog.text
    assert "failed 3 times" in str(given_up.skip_reason)

    again = tick(world, instance, given_up.cursor)
    assert (requested(again), again.asset_events) == ([], []), "the alert is told once"
    cleared = tick(world, instance, None)
    assert requested(cleared) == [], "a cleared cursor does not make Dagster reuse a run key"
    assert len(cleared.asset_events) == 1
    assert world.watermark() == DAYS[0]


def test_late_rows_are_requested_as_a_new_revision(
    world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vera_assets.sensors.LATE_SECONDS", 0.0)
    cursor: str | None = None
    for _ in range(3):
        result = tick(world, instance, cursor)
        cursor = result.cursor
        for request in requested(result):
            launch(world, instance, request)
    world.add("late/one.json", datetime(2026, 3, 2, 9, tzinfo=UTC))
    cursor = tick(world, instance, cursor).cursor  # sees the row; it counts once it has settled
    (request,) = requested(tick(world, instance, cursor))
    assert request.run_key == f"pack:{SOURCE}:2026-03-02:2:1"
    assert launch(world, instance, request).success


def test_late_rows_are_looked_for_once_an_hour(
    world: World, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[None] = []
    monkeypatch.setattr("vera_assets.sensors.note_late_rows", lambda _migration: looked.append(None))
    cursor = tick(world, instance).cursor
    tick(world, instance, cursor)
    assert len(looked) == 1


def test_what_the_command_line_migrated_shows_up(world: World, instance: DagsterInstance) -> None:
    report = migrate_window(world.migration(), Window(SOURCE, "default", DAYS[0]))
    result = tick(world, instance)
    (shards,) = materializations(instance, "shards", DAYS[0])
    assert shards.asset_materialization is not None
    assert shards.asset_materialization.tags is not None
    assert shards.asset_materialization.tags["dagster/data_version"] == report.pack.manifest
    assert shards.asset_materialization.metadata["archived"].value == report.pack.archived
    assert shards.run_id == ""
    assert [passed(evaluations(instance, check.name, DAYS[0])[0]) for check in report.verify.checks] == [True] * 3
    tick(world, instance, result.cursor)
    tick(world, instance, None)
    assert len(materializations(instance, "shards", DAYS[0])) == 1


def test_a_revision_that_a_later_one_answered_for_is_not_shown_in_its_place(
    world: World, instance: DagsterInstance
) -> None:
    gone = world.files / "2026-03-01-007.json"
    kept = gone.read_bytes()
    gone.unlink()
    migration = world.migration()
    assert migrate_window(migration, window_to_pack(migration, DAYS[0])).pack.rejected == 1
    cursor = tick(world, instance).cursor
    gone.write_bytes(kept)
    again = migrate_window(migration, window_to_pack(migration, DAYS[0], retry_rejects=True))
    assert (again.revision, again.pack.rejected) == (2, 0)
    tick(world, instance, tick(world, instance, cursor).cursor)
    shown = materializations(instance, "shards", DAYS[0])
    assert len(shown) == 2
    newest = shown[0].asset_materialization
    assert newest is not None
    assert newest.metadata["revision"].value == 2


def test_dagsters_own_days_are_not_shown_twice(world: World, instance: DagsterInstance) -> None:
    assert world.run(instance, DAYS[0]).success
    tick(world, instance)
    assert len(materializations(instance, "shards", DAYS[0])) == 1


def test_a_failed_run_is_told_with_its_cause_and_the_relaunch(
    world: World, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    break_day(world, DAYS[0])
    result = world.run(instance, DAYS[0])
    assert not result.success
    failed = next(event for event in result.all_events if event.is_job_failure)
    context = build_run_status_sensor_context(
        sensor_name="vera_run_failure", dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=failed
    ).for_run_failure()
    with caplog.at_level(logging.ERROR, logger="vera.alert"):
        sensor(world, "vera_run_failure")(context)
    assert "a locked manifest does not verify" in caplog.text
    assert "Days: 2026-03-01" in caplog.text
    assert "job claims_archive" in caplog.text
    assert not passed(progress(instance))
    assert world.migration().state.windows(SOURCE, "default")[0].state is WindowState.FAILED


def test_the_nightly_schedule_asks_for_the_newest_day_that_is_over(world: World) -> None:
    repository = world.defs.get_repository_def()
    nightly = repository.get_schedule_def(f"{SOURCE}_daily")
    at = datetime(2026, 3, 4, 2, 17, tzinfo=UTC)
    data = nightly.evaluate_tick(build_schedule_context(scheduled_execution_time=at, repository_def=repository))
    (request,) = data.run_requests or ()
    assert request.partition_key == "2026-03-03"
    before = nightly.evaluate_tick(
        build_schedule_context(scheduled_execution_time=at - timedelta(days=30), repository_def=repository)
    )
    assert not before.run_requests
    assert "begins on 2026-03-01" in str(before.skip_message)


def look(world: World, instance: DagsterInstance) -> AssetCheckExecutionRecord:
    """The daily look at the repository, and what it found of the bucket."""
    job = world.defs.resolve_job_def("vera_repository_look")
    assert job.execute_in_process(instance=instance).success
    key = AssetCheckKey(AssetKey(["vera", "repository"]), "bucket_hygiene")
    return instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]


def test_the_daily_look_at_a_clean_bucket(world: World, instance: DagsterInstance) -> None:
    assert passed(look(world, instance))
    (record,) = instance.fetch_materializations(AssetKey(["vera", "repository"]), limit=1).records
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["lock mode"].value == "GOVERNANCE"


def test_the_daily_look_finds_a_default_retention(world: World, instance: DagsterInstance) -> None:
    boto3.client("s3").put_object_lock_configuration(
        Bucket=world.store.bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}},
        },
    )
    found = look(world, instance)
    assert not passed(found)
    assert found.evaluation is not None
    assert "Remove the default retention" in str(found.evaluation.description)


def test_the_daily_look_finds_a_rule_that_expires_our_objects(world: World, instance: DagsterInstance) -> None:
    boto3.client("s3").put_bucket_lifecycle_configuration(
        Bucket=world.store.bucket,
        LifecycleConfiguration={
            "Rules": [
                {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": "archive/t/"}, "Expiration": {"Days": 30}}
            ]
        },
    )
    found = look(world, instance)
    assert not passed(found)
    assert found.evaluation is not None
    assert "'tidy'" in str(found.evaluation.description)
