"""Which days the tombstone sensor requests, when it gives up, and alerts of deadlines; no tick asks the store."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from dagster import (
    AssetMaterialization,
    DagsterRunStatus,
    RunRequest,
    SensorResult,
    build_run_status_sensor_context,
    build_sensor_context,
)
from dagster._core.test_utils import create_run_for_test

from tests.dagster.erasing import Archive, key, make_archive, materialized
from tests.dagster.world import DAYS, RANGE_END, RANGE_START
from tests.protocol.packing import KEYS
from vera_assets import erasure_sensors
from vera_assets.sensors import MAX_ATTEMPTS
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from dagster import DagsterInstance, ExecuteInProcessResult, SensorDefinition

ERASE, REPACK, LOOK = "vera__default_erase", "vera__default_repack", "vera__default_deadlines"
TOMBSTONES, DEADLINES = "vera__default_tombstone_sensor", "vera_erasure_deadlines"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make_archive(tmp_path)


def sensor(archive: Archive, name: str) -> SensorDefinition:
    return next(item for item in archive.defs.get_repository_def().sensor_defs if item.name == name)


def tick(
    archive: Archive, instance: DagsterInstance, cursor: str | None = None, name: str = TOMBSTONES
) -> SensorResult:
    """One tick of a sensor; its resources are not there: it may not ask the store."""
    with build_sensor_context(instance=instance, cursor=cursor, definitions=archive.defs) as context:
        result = sensor(archive, name)(context)
    assert isinstance(result, SensorResult)
    return result


def requested(result: SensorResult) -> list[RunRequest]:
    return list(result.run_requests or ())


def launch(archive: Archive, instance: DagsterInstance, request: RunRequest) -> ExecuteInProcessResult:
    """Runs what was requested, as the daemon would."""
    job = archive.defs.resolve_job_def(REPACK)
    return job.execute_in_process(
        instance=instance, partition_key=request.partition_key, tags=dict(request.tags), raise_on_error=False
    )


def erase(archive: Archive, instance: DagsterInstance, name: str, day: int, count: int = 1, skip: int = 0) -> None:
    """An erasure by the command line, and Dagster's next look at the requests."""
    archive.request(name, *archive.uids(DAYS[day], skip + count)[skip:], day=DAYS[day])
    assert archive.run(instance, ERASE).success


def test_days_with_new_tombstones_are_requested_once(archive: Archive, instance: DagsterInstance) -> None:
    assert requested(tick(archive, instance)) == []
    erase(archive, instance, "one", 0)
    first = tick(archive, instance)
    (request,) = requested(first)
    event = json.loads(first.cursor or "")["event"]
    assert request.run_key == f"repack:default:2026-03-01:2026-03-01:{event}:1"
    assert (request.partition_key, request.tags["vera/reason"]) == ("2026-03-01", "tombstones")
    assert launch(archive, instance, request).success
    second = tick(archive, instance, first.cursor)
    assert requested(second) == []
    assert json.loads(second.cursor or "")["waiting"] == {}, "the cursor does not grow with the days done"
    archive.run(instance, ERASE)
    assert requested(tick(archive, instance, second.cursor)) == [], "nothing was erased since"

    # Another erasure of the same day is another reason.
    erase(archive, instance, "two", 0, skip=1)
    third = tick(archive, instance, second.cursor)
    assert [item.partition_key for item in requested(third)] == ["2026-03-01"]
    assert requested(third)[0].run_key != request.run_key
    assert tick(archive, instance, None).run_requests == third.run_requests, "a cleared cursor finds the same"


def test_an_event_that_a_person_reported_by_hand_stops_nothing(archive: Archive, instance: DagsterInstance) -> None:
    archive.request("one", *archive.uids(DAYS[0], 1))
    instance.report_runless_asset_event(AssetMaterialization(key("erasure_requests")))
    instance.report_runless_asset_event(AssetMaterialization(key("repacked_shards"), partition="2026-03-01"))
    assert requested(tick(archive, instance)) == []
    assert archive.run(instance, ERASE).success
    result = tick(archive, instance)
    assert [item.partition_key for item in requested(result)] == ["2026-03-01"]
    instance.report_runless_asset_event(AssetMaterialization(key("repacked_shards"), partition="2026-03-01"))
    assert json.loads(tick(archive, instance, result.cursor).cursor or "")["waiting"], "nobody has looked yet"


def test_several_days_are_one_run(archive: Archive, instance: DagsterInstance) -> None:
    archive.request("one", *archive.uids(DAYS[1], 1), day=DAYS[1])
    erase(archive, instance, "two", 0)
    (request,) = requested(tick(archive, instance))
    assert request.partition_key is None
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("2026-03-01", "2026-03-02")
    assert launch(archive, instance, request).success
    assert all(materialized(instance, "repacked_shards", day) for day in DAYS[:2])


def test_one_run_at_a_time(archive: Archive, instance: DagsterInstance) -> None:
    erase(archive, instance, "one", 0)
    selection = frozenset({key("repacked_shards")})
    create_run_for_test(instance, job_name="__ASSET_JOB", status=DagsterRunStatus.STARTED, asset_selection=selection)
    assert requested(tick(archive, instance)) == []


def test_a_run_that_began_before_is_not_taken_for_one_that_saw_it(archive: Archive, instance: DagsterInstance) -> None:
    assert archive.run(instance, REPACK, DAYS[0]).success
    erase(archive, instance, "one", 0)
    cursor = erasure_sensors.Cursor.parse(tick(archive, instance).cursor)
    (waiting,) = cursor.waiting.values()
    # As if that run had ended after it: its number in the log is higher, but it began earlier.
    early = erasure_sensors.Cursor(cursor.event, {"2026-03-01": erasure_sensors.Waiting(0, waiting.told)})
    assert len(requested(tick(archive, instance, early.text()))) == 1


def test_a_day_that_fails_is_given_up_with_an_alert(
    archive: Archive, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    erase(archive, instance, "one", 0)
    log = KEYS.log(next(all_slots(archive.repo)), 1)
    record = archive.store._keys.pop(log)
    cursor, keys = None, []
    for _ in range(MAX_ATTEMPTS):
        result = tick(archive, instance, cursor)
        cursor = result.cursor
        (request,) = requested(result)
        keys.append(request.run_key)
        assert not launch(archive, instance, request).success
    assert len(set(keys)) == MAX_ATTEMPTS
    with caplog.at_level(logging.ERROR, logger="vera.alert"):
        for _ in range(2):
            result = tick(archive, instance, cursor)
            cursor = result.cursor
            assert requested(result) == []
    (told,) = caplog.messages
    assert "2026-03-01" in told
    assert "vera repack --tenant default" in told
    assert requested(tick(archive, instance, None)) == [], "a cleared cursor does not begin to count anew"

    # Once the cause is gone a run by hand ends it.
    archive.store._keys[log] = record
    assert archive.run(instance, REPACK, DAYS[0]).success
    assert json.loads(tick(archive, instance, cursor).cursor or "")["waiting"] == {}


def test_a_failed_run_is_told_with_the_relaunch(
    archive: Archive, instance: DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    del archive.store._keys[KEYS.log(next(all_slots(archive.repo)), 1)]
    result = archive.run(instance, REPACK, DAYS[0])
    failed = next(event for event in result.all_events if event.is_job_failure)
    context = build_run_status_sensor_context(
        sensor_name="vera_run_failure", dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=failed
    ).for_run_failure()
    with caplog.at_level(logging.ERROR, logger="vera.alert"):
        sensor(archive, "vera_run_failure")(context)
    assert "of vera__default_repack failed" in caplog.text
    assert "launch the job again for 2026-03-01" in caplog.text


def test_deadlines_are_told_once_then_daily_until_they_are_met(
    tmp_path: Path, instance: DagsterInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(tmp_path, erasure_approval=True)
    assert tick(archive, instance, name=DEADLINES).skip_reason is not None
    received = datetime.now(UTC) - timedelta(hours=40)
    archive.request("art17-1", *archive.uids(DAYS[0], 1), received=received)
    assert archive.run(instance, LOOK).success
    cursor = None
    with caplog.at_level(logging.ERROR, logger="vera.alert"):
        for _ in range(2):
            cursor = tick(archive, instance, cursor, DEADLINES).cursor
        assert len(caplog.messages) == 1, "early, and once"
        assert "art17-1" in caplog.text
        assert "must be out of sight by" in caplog.text

        monkeypatch.setattr(erasure_sensors, "REMIND_SECONDS", 0.0)
        cursor = tick(archive, instance, cursor, DEADLINES).cursor
        assert len(caplog.messages) == 2
        monkeypatch.undo()

        archive.request("art17-2", *archive.uids(DAYS[0], 2)[1:], received=received - timedelta(hours=10))
        assert archive.run(instance, LOOK).success
        cursor = tick(archive, instance, cursor, DEADLINES).cursor
        assert "a file can be seen more than 48 hours" in caplog.messages[-1]
        assert len(caplog.messages) == 3
    assert cursor is not None
    assert set(json.loads(cursor)) == {"default"}
