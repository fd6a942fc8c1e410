"""Erasure through Dagster: what runs, what is shown of it, and checks that fail when the thing they check is broken."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from dagster import (
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    AssetSelection,
    Definitions,
    FloatMetadataValue,
    IntMetadataValue,
    build_schedule_context,
    define_asset_job,
)

from tests.dagster.erasing import FILES_A_DAY, Archive, checked, key, make_archive, materialized, shown
from tests.dagster.world import DAYS, failures, passed
from tests.protocol.packing import KEYS, opened
from vera_assets.assets.scrub import DESCRIPTIONS, SCRUB_KEY
from vera_assets.erasure_checks import DEADLINES
from vera_core.errors import ErasedError
from vera_core.operations.erasure_proof import ERASED, SIDECAR
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.erasures import approve, run_due
from vera_core.operations.proving import WORM_LOCK
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.slotlog import encode_sidecar
from vera_core.source.mapping import ErasureTable, Given, TimeColumn, TimeType
from vera_core.store.base import Condition
from vera_core.store.marked import put_marked

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from dagster import DagsterInstance
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

    from vera_core.operations.repository import Repository

ERASE, REPACK, LOOK = "vera__default_erase", "vera__default_repack", "vera__default_deadlines"
REQUESTS, TOMBSTONES, REPACKED = "erasure_requests", "tombstones", "repacked_shards"
MANY = FILES_A_DAY // 2


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make_archive(tmp_path)


@pytest.fixture
def careful(tmp_path: Path) -> Archive:
    """An archive whose erasures need an approval."""
    return make_archive(tmp_path, erasure_approval=True)


def is_erased(archive: Archive, uid: str, day: date = DAYS[0]) -> bool:
    try:
        Retriever(opened(archive.store, archive.spool)).get(uid, day)
    except ErasedError:
        return True
    return False


def forge_sidecars(repo: Repository) -> None:
    """What somebody with the right to lock can do: sidecars that fit their logs' heads and know of no erasure."""
    for slot in all_slots(repo):
        state = repo.slot_log(slot).load()
        state.dead.clear()
        name = repo.keys.sidecar(slot)
        condition = Condition(repo.store.get(name).etag)
        put_marked(repo.store, name, encode_sidecar(state), condition=condition, marked_at=repo.clock.now())


def test_a_request_becomes_tombstones_and_repacked_shards(archive: Archive, instance: DagsterInstance) -> None:
    gone = archive.uids(DAYS[0], MANY)
    assert archive.request("art17-1", *gone).stage is Stage.DONE
    assert archive.run(instance, ERASE).success
    assert shown(instance, REQUESTS)["erased days"] == [DAYS[0].isoformat()]
    assert archive.run(instance, REPACK, DAYS[0]).success

    before, after = shown(instance, TOMBSTONES, DAYS[0]), shown(instance, REPACKED, DAYS[0])
    assert (before["erased files"], before["tombstone ratio"]) == (MANY, MANY / FILES_A_DAY)
    assert before["hidden in live shards (bytes)"] > 0
    assert before["more"] == "vera repack --dry-run --ratio 0 --day 2026-03-01 --tenant default"
    assert (after["erased files left behind"], after["tombstone ratio"]) == (MANY, 0.0)
    assert after["bytes to rewrite (bytes)"] > 0
    assert after["shards replaced"] == after["shards in their place"] > 0
    for concept, name in ((TOMBSTONES, ERASED), (TOMBSTONES, SIDECAR), (REPACKED, WORM_LOCK)):
        (record,) = checked(instance, concept, name, DAYS[0])
        assert passed(record)
    assert all(is_erased(archive, uid) for uid in gone)
    everything = str([item.metadata for concept in (REQUESTS, TOMBSTONES) for item in materialized(instance, concept)])
    assert not any(uid in everything for uid in gone), "names of erased files are not kept in Dagster"


def test_the_numbers_that_the_ui_plots(archive: Archive, instance: DagsterInstance) -> None:
    archive.request("art17-1", *archive.uids(DAYS[0], 1))
    archive.run(instance, ERASE)
    archive.run(instance, REPACK, DAYS[0])
    wanted = {
        REQUESTS: {"requests", "unfinished requests", "files still to be seen", "overdue", "erased by this run"},
        TOMBSTONES: {"tombstone ratio", "erased files", "hidden in live shards (bytes)"},
        REPACKED: {"tombstone ratio", "bytes to rewrite (bytes)", "files moved", "erased files left behind"},
    }
    for concept, names in wanted.items():
        metadata = materialized(instance, concept)[0].metadata
        assert names <= set(metadata)
        assert all(isinstance(metadata[name], IntMetadataValue | FloatMetadataValue) for name in names)
    assert shown(instance, REPACKED, DAYS[0])["shards replaced"] == 0, "one file of many is not worth a repack"


def test_a_range_shows_each_day(archive: Archive, instance: DagsterInstance) -> None:
    archive.request("one", *archive.uids(DAYS[0], MANY))
    archive.request("two", *archive.uids(DAYS[1], 1), day=DAYS[1])
    assert archive.run(instance, REPACK, *DAYS[:2]).success
    assert [shown(instance, TOMBSTONES, day)["erased files"] for day in DAYS[:2]] == [MANY, 1]
    assert [shown(instance, REPACKED, day)["erased files left behind"] for day in DAYS[:2]] == [MANY, 0]
    for concept, name in ((TOMBSTONES, ERASED), (TOMBSTONES, SIDECAR), (REPACKED, WORM_LOCK)):
        for day in DAYS[:2]:
            (record,) = checked(instance, concept, name, day)
            assert passed(record)


def test_a_day_before_another_source_of_the_tenant_begins(tmp_path: Path, instance: DagsterInstance) -> None:
    archive = make_archive(tmp_path, also=DAYS[1])
    archive.request("one", *archive.uids(DAYS[0], 1))
    assert archive.run(instance, REPACK, DAYS[0]).success
    assert archive.run(instance, REPACK, *DAYS[:2]).success
    assert shown(instance, TOMBSTONES, DAYS[0])["erased files"] == 1
    days = {info.key.split("date=")[1][:8] for info in archive.store.list_versions("archive/t/default/inventory/")}
    assert days == {"20260301"}, "of a day without erasures no catalogue is written"


def test_a_day_again_changes_nothing(archive: Archive, instance: DagsterInstance) -> None:
    archive.request("one", *archive.uids(DAYS[0], MANY))
    archive.run(instance, REPACK, DAYS[0])
    objects = len(list(archive.store.list_versions("archive/t/")))
    assert archive.run(instance, REPACK, DAYS[0]).success
    assert len(list(archive.store.list_versions("archive/t/"))) == objects
    assert shown(instance, REPACKED, DAYS[0])["shards replaced"] == 0


def test_nothing_is_erased_that_nobody_approved(careful: Archive, instance: DagsterInstance) -> None:
    (uid,) = careful.uids(DAYS[0], 1)
    assert careful.request("art17-1", uid).stage is Stage.WAITING
    assert careful.run(instance, ERASE).success
    assert not is_erased(careful, uid)
    assert (shown(instance, REQUESTS)["erased by this run"], shown(instance, REQUESTS)["erased days"]) == (0, [])
    assert "art17-1" in str(materialized(instance, REQUESTS)[0].metadata["unfinished"])
    assert "privacy" not in str(materialized(instance, REQUESTS)[0].metadata), "who asked is not kept in Dagster"

    approve(opened(careful.store, careful.spool, "officer"), "default", "art17-1")
    assert careful.run(instance, ERASE).success
    assert is_erased(careful, uid)
    assert shown(instance, REQUESTS)["erased by this run"] == 1
    assert shown(instance, REQUESTS)["erased days"] == [DAYS[0].isoformat()]


@pytest.mark.parametrize("asks", [True, False])
def test_requests_are_taken_from_a_table_where_they_wait_for_an_approval(
    tmp_path: Path, instance: DagsterInstance, *, asks: bool
) -> None:
    with closing(sqlite3.connect(tmp_path / "asked.sqlite")) as database, database:
        database.execute("CREATE TABLE asked (no TEXT, document TEXT, day TEXT, at TEXT)")
        values = (
            "r-7",
            "doc0/00001.json",
            "2026-03-01T00:00:00Z",
            (datetime.now(UTC) - timedelta(hours=1)).isoformat(),
        )
        database.execute("INSERT INTO asked VALUES (?, ?, ?, ?)", values)
    table = ErasureTable(
        url=f"sqlite:///{tmp_path}/asked.sqlite", table="asked", id="no", uid="document", reason=Given(value="Art. 17"),
        created_at=TimeColumn(column="day", type=TimeType.TEXT), requested_by=Given(value="desk"),
        requested_at=TimeColumn(column="at", type=TimeType.TEXT),
    )  # fmt: skip
    archive = make_archive(tmp_path, table=table, erasure_approval=asks)
    assert archive.run(instance, ERASE).success
    assert not is_erased(archive, "doc0/00001.json")
    assert shown(instance, REQUESTS)["requests"] == int(asks)
    assert ("taken from the table" in shown(instance, REQUESTS)) == asks
    if asks:
        approve(opened(archive.store, archive.spool, "officer"), "default", "r-7")
        assert archive.run(instance, ERASE).success
        assert is_erased(archive, "doc0/00001.json")
        assert shown(instance, REQUESTS)["taken from the table"] == 0


def test_a_look_tells_of_each_erasure_once(archive: Archive, instance: DagsterInstance) -> None:
    told = []
    for name, day in (("one", DAYS[0]), ("two", DAYS[1]), ("", None)):
        if day is not None:
            archive.request(name, *archive.uids(day, 1), day=day)
        archive.run(instance, ERASE)
        told.append(shown(instance, REQUESTS)["erased days"])
    assert told == [["2026-03-01"], ["2026-03-02"], []]


def test_a_look_after_a_long_pause_tells_of_what_the_index_of_requests_forgot(
    archive: Archive, instance: DagsterInstance
) -> None:
    archive.request("one", *archive.uids(DAYS[0], 1))
    archive.run(instance, ERASE)
    archive.request("two", *archive.uids(DAYS[1], 1), day=DAYS[1])
    archive.store._clock = lambda: datetime.now(UTC) + timedelta(days=33)
    for _ in range(2):
        run_due(opened(archive.store, archive.spool), "default")
    assert list(archive.store.list_versions(KEYS.open_requests_prefix("default"))) == []
    for told in (["2026-03-02"], []):
        assert archive.run(instance, ERASE).success
        assert shown(instance, REQUESTS)["erased days"] == told
    assert shown(instance, REQUESTS)["requests"] == 0, "finished long ago"


def test_a_request_that_can_not_be_read_fails_the_run_and_keeps_no_other(
    careful: Archive, instance: DagsterInstance
) -> None:
    uid, other = careful.uids(DAYS[0], 2)
    careful.request("broken", other)
    careful.request("whole", uid)
    approve(opened(careful.store, careful.spool, "officer"), "default", "whole")
    record = KEYS.request("default", "broken", 1)
    careful.store._keys[record] = [replace(version, data=b"{}") for version in careful.store._keys[record]]
    result = careful.run(instance, ERASE)
    assert is_erased(careful, uid)
    assert len(materialized(instance, REQUESTS)) == 1
    assert not result.success
    assert "requests/broken/" in failures(result)


@pytest.mark.parametrize(
    ("hours", "severity", "told"),
    [
        (1, None, "1 unfinished requests, and time for all of them"),
        (40, AssetCheckSeverity.WARN, "a file must be out of sight by"),
        (49, AssetCheckSeverity.ERROR, "a file can be seen more than 48 hours after"),
        (24 * 40, AssetCheckSeverity.ERROR, "a file can be seen more than a month after"),
    ],
)
def test_deadlines_warn_early_and_fail_when_over(
    careful: Archive, instance: DagsterInstance, hours: int, severity: AssetCheckSeverity | None, told: str
) -> None:
    received = datetime.now(UTC) - timedelta(hours=hours)
    careful.request("art17-1", *careful.uids(DAYS[0], 1), received=received)
    assert careful.run(instance, LOOK).success
    (record,) = checked(instance, REQUESTS, DEADLINES)
    assert record.evaluation is not None
    assert passed(record) == (severity is None)
    assert severity is None or record.evaluation.severity is severity
    assert told in str(record.evaluation.description)
    assert materialized(instance, REQUESTS) == [], "looking at deadlines runs no request"


def test_a_reader_that_serves_an_erased_file_fails_the_checks(archive: Archive, instance: DagsterInstance) -> None:
    gone = archive.uids(DAYS[0], 3)
    archive.request("art17-1", *gone)
    forge_sidecars(archive.repo)
    assert not is_erased(archive, gone[0]), "what this test is about"
    for days in ((DAYS[0],), DAYS[:2]):
        archive.run(instance, REPACK, *days)
        served = checked(instance, TOMBSTONES, ERASED, DAYS[0])[0]
        forged = checked(instance, TOMBSTONES, SIDECAR, DAYS[0])[0]
        for record, what in ((served, "of an erased file is served"), (forged, "the sidecar is not of this log")):
            assert not passed(record)
            assert record.evaluation is not None
            assert record.evaluation.severity is AssetCheckSeverity.ERROR
            assert what in str(record.evaluation.description)
            assert gone[0] not in str(record.evaluation)
    assert passed(checked(instance, TOMBSTONES, ERASED, DAYS[1])[0])


def test_a_missing_sidecar_is_a_warning_and_the_doctor_brings_it_back(
    archive: Archive, instance: DagsterInstance
) -> None:
    for slot in all_slots(archive.repo, first=DAYS[0], last=DAYS[0]):
        archive.store.delete(KEYS.sidecar(slot))
    archive.run(instance, REPACK, DAYS[0])
    record = checked(instance, TOMBSTONES, SIDECAR, DAYS[0])[0]
    assert record.evaluation is not None
    assert (record.evaluation.passed, record.evaluation.severity) == (False, AssetCheckSeverity.WARN)
    assert "the sidecar is missing" in str(record.evaluation.description)

    assert archive.run(instance, "vera_doctor").success
    doctor = instance.fetch_materializations(AssetKey(["vera", "doctor"]), limit=1).records[0].asset_materialization
    assert doctor is not None
    assert doctor.metadata["sidecars to rebuild"].value == 2, "by hand it only looks"
    assert "sidecars rebuilt" not in doctor.metadata
    schedule = archive.defs.get_repository_def().get_schedule_def("vera_doctor_daily")
    (request,) = schedule.evaluate_tick(build_schedule_context()).run_requests or ()
    assert archive.run(instance, "vera_doctor", run_config=dict(request.run_config)).success
    archive.run(instance, REPACK, DAYS[0])
    assert passed(checked(instance, TOMBSTONES, SIDECAR, DAYS[0])[0])


def test_a_lock_that_was_shortened_fails_the_check(archive: Archive, instance: DagsterInstance) -> None:
    slot = next(all_slots(archive.repo))
    shard = archive.repo.slot_log(slot).load().live()[0]
    (version,) = archive.store._keys[shard.key]
    shortened = shard.lock._replace(until=shard.lock.until - timedelta(days=1))
    archive.store._keys[shard.key] = [replace(version, lock=shortened)]
    assert archive.run(instance, REPACK, DAYS[0]).success
    record = checked(instance, REPACKED, WORM_LOCK, DAYS[0])[0]
    assert not passed(record)
    assert record.evaluation is not None
    assert shard.key in str(record.evaluation.description)
    assert "must be at least" in str(record.evaluation.description)


def test_a_day_that_can_not_be_read_fails_by_name_and_keeps_no_other(
    archive: Archive, instance: DagsterInstance
) -> None:
    slot = next(all_slots(archive.repo, first=DAYS[1]))
    del archive.store._keys[KEYS.log(slot, 1)]
    result = archive.run(instance, REPACK, *DAYS[:2])
    assert not result.success
    assert "2026-03-02" in failures(result)
    assert [len(materialized(instance, TOMBSTONES, day)) for day in DAYS[:2]] == [1, 0]


def test_the_button_without_a_day_checks_the_one_looked_at_last(archive: Archive, instance: DagsterInstance) -> None:
    archive.run(instance, REPACK, DAYS[1])
    result = archive.run(instance, REPACK, DAYS[0])
    assert result.success

    job = define_asset_job("button", selection=AssetSelection.checks_for_assets(key(TOMBSTONES)))
    defs = Definitions.merge(archive.defs, Definitions(jobs=[job]))
    assert defs.resolve_job_def("button").execute_in_process(instance=instance).success
    assert [passed(record) for record in checked(instance, TOMBSTONES, ERASED, DAYS[0])] == [True, True]
    assert [passed(record) for record in checked(instance, TOMBSTONES, ERASED)] == [True]


def test_garbage_is_only_collected_in_runs_that_may(archive: Archive, instance: DagsterInstance) -> None:
    slot = next(all_slots(archive.repo))
    stray = archive.store.put(KEYS.shard(slot, b"g" * 32), b"what a crash left")
    (version,) = archive.store._keys[stray.key]
    archive.store._keys[stray.key] = [replace(version, last_modified=datetime.now(UTC) - timedelta(days=3))]
    before = archive.repo.slot_log(slot).load().head.number
    assert archive.run(instance, "vera_gc").success
    assert archive.repo.slot_log(slot).load().head.number == before
    schedule = archive.defs.get_repository_def().get_schedule_def("vera_gc_daily")
    (request,) = schedule.evaluate_tick(build_schedule_context()).run_requests or ()
    assert archive.run(instance, "vera_gc", run_config=dict(request.run_config)).success
    assert archive.repo.slot_log(slot).load().head.number == before + 1
    assert (stray.key, stray.version_id) in archive.repo.slot_log(slot).load().condemned


def test_a_scrub_proves_and_names_what_is_damaged(archive: Archive, instance: DagsterInstance) -> None:
    whole = {"vera_prove": {"config": {"percent": 100.0}}}
    assert archive.run(instance, "vera_scrub", run_config={"ops": whole}).success
    assert all(passed(record) for record in scrubbed(instance).values())
    assert set(scrubbed(instance)) == {"integrity", "keyring", "worm_lock", "legal_hold", "slot_log", "sidecar"}

    shard = archive.repo.slot_log(next(all_slots(archive.repo))).load().live()[0]
    (version,) = archive.store._keys[shard.key]
    assert version.data is not None
    archive.store._keys[shard.key] = [replace(version, data=version.data[:-1] + b"?")]
    result = archive.run(instance, "vera_scrub", run_config={"ops": whole})
    assert not result.success
    assert shard.key in failures(result)
    assert [name for name, record in scrubbed(instance).items() if not passed(record)] == ["integrity"]


def scrubbed(instance: DagsterInstance) -> dict[str, AssetCheckExecutionRecord]:
    """The newest result of each of the scrub's checks."""
    keys = [AssetCheckKey(SCRUB_KEY, name) for name in DESCRIPTIONS]
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return {key.name: record for key, record in found.items()}
