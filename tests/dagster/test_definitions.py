"""What loads: everything, without a warning that is not on the list, and without asking anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    EnvVar,
    build_resources,
    in_process_executor,
)
from dagster_aws.s3 import S3Resource

from tests.dagster.world import DAYS, SOURCE, settings_for
from vera_assets.build import ALLOWED_WARNINGS, _definitions, build_definitions
from vera_assets.resources import RepositoryResource, s3_options
from vera_core.errors import UsageError
from vera_core.keys.local import LocalKeys
from vera_core.operations.opening import workplace
from vera_core.settings import KeyServiceName, KeySettings, Settings

if TYPE_CHECKING:
    from dagster import Definitions

SETTINGS = """\
repository = "s3://bucket/archive"
[sources.claims]
url = "sqlite:////nowhere/business.sqlite"
table = "documents"
uid = "uid"
created_at = { column = "created_at", type = "text" }
content = { column = "path", kind = "path", roots = ["/nowhere/files"] }
begin = 2026-03-01
"""
ERASURE_JOBS = ("vera__default_erase", "vera__default_deadlines", "vera__default_repack")
UPKEEP_JOBS = ("vera_gc", "vera_doctor", "vera_scrub")
HOME = "telemetry:\n  enabled: false\n"


@pytest.fixture
def defs(tmp_path: Path) -> Definitions:
    """Definitions over a bucket and a database that are not there."""
    return build_definitions(settings=settings_for(tmp_path, "no-such-bucket"))


def dagster(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the `dagster` command with a home of its own."""
    home = tmp_path / "dagster_home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(HOME)
    program = Path(sys.executable).with_name("dagster")
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )


def test_it_loads_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defs = build_definitions(settings=settings_for(tmp_path, "no-such-bucket"))
        for name in (f"{SOURCE}_archive", "vera_repository_look", *ERASURE_JOBS, *UPKEEP_JOBS):
            defs.resolve_job_def(name)
        defs.get_repository_def()


def test_every_allowed_warning_is_still_needed(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _definitions(settings_for(tmp_path, "no-such-bucket"), {})
    for allowed in ALLOWED_WARNINGS:
        assert any(
            issubclass(item.category, allowed.category) and str(item.message).startswith(allowed.begins)
            for item in seen
        ), allowed
        assert allowed.why


def test_dagster_validates_them(tmp_path: Path) -> None:
    (tmp_path / "vera.toml").write_text(SETTINGS)
    done = dagster(tmp_path, "definitions", "validate", "-m", "vera_assets.definitions")
    assert done.returncode == 0, done.stdout + done.stderr
    # The command itself is superseded by one that is not installed with Dagster.
    told = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert [line for line in told if "definitions_validate_command" not in line] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no repository is named. Use --repository s3://bucket/prefix, set VERA_REPOSITORY"),
        ("repository =", "the settings file is no TOML"),
        (SETTINGS.replace("begin = 2026-03-01", ""), "Dagster needs to know the source's first day"),
    ],
)
def test_without_good_settings_it_says_what_to_do(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "vera.toml").write_text(content)
    done = dagster(tmp_path, "definitions", "validate", "-m", "vera_assets.definitions")
    assert done.returncode != 0
    assert f"UsageError: {told}" in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).splitlines()) < 30


def test_what_an_auditor_follows(defs: Definitions) -> None:
    graph = defs.resolve_asset_graph()
    key = {concept: AssetKey([SOURCE, concept]) for concept in ("window", "shards", "inventory", "watermark")}
    assert graph.get(key["shards"]).parent_keys == {key["window"]}
    assert graph.get(key["inventory"]).parent_keys == {key["shards"]}
    assert graph.get(key["watermark"]).parent_keys == {key["shards"]}
    for node in (graph.get(item) for item in graph.executable_asset_keys):
        assert node.owners == ["team:archive"]
        assert node.kinds
        assert node.code_version
        assert node.group_name in {SOURCE, "vera_repository", "vera__default_erasure", "vera_upkeep"}
    for concept in ("window", "shards", "inventory"):
        node = graph.get(key[concept])
        assert node.partitions_def is not None
        assert node.partitions_def.get_first_partition_key() == DAYS[0].isoformat()
        assert node.backfill_policy is not None
        assert node.backfill_policy.max_partitions_per_run == 31
    assert graph.get(key["watermark"]).partitions_def is None


def test_what_an_auditor_follows_of_an_erasure(defs: Definitions) -> None:
    graph = defs.resolve_asset_graph()
    requests, tombstones, repacked = (
        AssetKey(["vera", "default", name]) for name in ("erasure_requests", "tombstones", "repacked_shards")
    )
    assert graph.get(requests).partitions_def is None
    assert graph.get(tombstones).parent_keys == {requests, AssetKey([SOURCE, "shards"])}
    assert graph.get(repacked).parent_keys == {tombstones}
    assert graph.get(AssetKey(["vera", "default", "inventory"])).parent_keys == {repacked}
    for key in (tombstones, repacked):
        node = graph.get(key)
        assert node.partitions_def is not None
        assert node.partitions_def.get_first_partition_key() == DAYS[0].isoformat()
        assert node.backfill_policy is not None
        assert node.backfill_policy.max_partitions_per_run == 31
    found = {(item.asset_key, item.name) for item in graph.asset_check_keys}
    assert {
        (requests, "deadlines"), (tombstones, "erased_unreadable"), (tombstones, "sidecar_equals_log"),
        (repacked, "worm_lock"),
    } <= found  # fmt: skip


def test_a_tenant_of_several_sources_is_erased_from_as_one(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "no-such-bucket")
    one = settings.sources[SOURCE]
    later = replace(one, begin=DAYS[2])
    defs = build_definitions(settings=settings.model_copy(update={"sources": {"late": later, SOURCE: one}}))
    graph = defs.resolve_asset_graph()
    node = graph.get(AssetKey(["vera", "default", "tombstones"]))
    assert {AssetKey([SOURCE, "shards"]), AssetKey(["late", "shards"])} <= node.parent_keys
    assert node.partitions_def is not None
    assert node.partitions_def.get_first_partition_key() == DAYS[0].isoformat()


def test_checks_of_shards_block(defs: Definitions) -> None:
    graph = defs.resolve_asset_graph()
    blocking = {item.name for item in graph.asset_check_keys if graph.get(item).blocking}
    assert blocking == {"integrity", "worm_lock", "reconciliation"}
    assert AssetCheckKey(AssetKey(["vera", "repository"]), "bucket_hygiene") in graph.asset_check_keys


def test_one_process_and_no_step_per_shard(defs: Definitions) -> None:
    job = defs.resolve_job_def(f"{SOURCE}_archive")
    assert job.executor_def is in_process_executor
    assert sorted(node.name for node in job.nodes) == [
        f"{SOURCE}__watermark_progress", f"{SOURCE}_inventory", f"{SOURCE}_shards", f"{SOURCE}_verify",
        f"{SOURCE}_watermark", f"{SOURCE}_window",
    ]  # fmt: skip


def test_only_looking_runs_unasked(defs: Definitions) -> None:
    sensors = {item.name: item.default_status for item in defs.sensors or ()}
    assert sensors == {
        "vera_run_failure": DefaultSensorStatus.RUNNING,
        "vera_erasure_deadlines": DefaultSensorStatus.RUNNING,
        f"{SOURCE}_watermark_sensor": DefaultSensorStatus.STOPPED,
        "vera__default_tombstone_sensor": DefaultSensorStatus.STOPPED,
    }
    repository = defs.get_repository_def()
    schedules = {item.name: item.default_status for item in repository.schedule_defs}
    assert schedules == {
        "vera_repository_daily": DefaultScheduleStatus.RUNNING,
        "vera_gc_daily": DefaultScheduleStatus.STOPPED,
        "vera_doctor_daily": DefaultScheduleStatus.STOPPED,
        "vera_scrub_daily": DefaultScheduleStatus.STOPPED,
        f"{SOURCE}_daily": DefaultScheduleStatus.STOPPED,
        "vera__default_deadlines_hourly": DefaultScheduleStatus.RUNNING,
        "vera__default_erase_hourly": DefaultScheduleStatus.STOPPED,
    }


def test_sources_that_dagster_would_confuse_are_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "no-such-bucket")
    one = settings.sources[SOURCE]
    with pytest.raises(UsageError, match="same name in Dagster"):
        build_definitions(settings=settings.model_copy(update={"sources": {"a.b": one, "a-b": one}}))


def test_dots_and_dashes_in_names_do_not_break_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "no-such-bucket")
    one = settings.sources[SOURCE]
    defs = build_definitions(settings=settings.model_copy(update={"sources": {"a.b-c": one}}))
    assert AssetKey(["a_b-c", "shards"]) in defs.resolve_asset_graph().materializable_asset_keys
    defs.resolve_job_def("a_b_c_archive")


def test_no_sources_leave_the_repository(tmp_path: Path) -> None:
    settings = Settings.load(None, repository="s3://bucket/archive", spool=tmp_path)
    graph = build_definitions(settings=settings).resolve_asset_graph()
    assert graph.materializable_asset_keys == {
        AssetKey(["vera", name]) for name in ("repository", "garbage", "doctor", "scrub")
    }


def test_the_s3_resource_says_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVE_SECRET", "hush")
    resource = RepositoryResource(
        uri="s3://bucket/archive",
        actor="me",
        spool="spool",
        s3=S3Resource(
            endpoint_url="http://127.0.0.1:1",
            region_name="eu-central-1",
            aws_access_key_id="id",
            aws_secret_access_key=EnvVar("ARCHIVE_SECRET"),
            max_attempts=2,
        ),
    )
    with build_resources({"repository": resource}) as resources:
        options = s3_options(resources.repository.s3)
    access = options.access
    assert (options.attempts, access.endpoint, access.region) == (2, "http://127.0.0.1:1", "eu-central-1")
    assert (access.key_id, access.secret) == ("id", "hush")
    assert "hush" not in repr(options)


def test_the_resource_passes_the_key_service_on(tmp_path: Path) -> None:
    LocalKeys.create(tmp_path / "kek.json")
    keys = KeySettings(service=KeyServiceName.LOCAL, file=tmp_path / "kek.json")
    settings = Settings.load(None, repository="s3://bucket/archive", spool=tmp_path, keys=keys)
    with build_resources({"repository": RepositoryResource.named_by(settings)}) as resources:
        opener = resources.repository.workplace().key_service
    assert opener == workplace(settings).key_service
    assert opener().kek == LocalKeys(tmp_path / "kek.json").kek


@pytest.mark.parametrize("unsafe", [{"use_unsigned_session": True}, {"use_ssl": False}, {"verify": False}])
def test_an_unsafe_s3_resource_is_refused(unsafe: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not verified"):
        s3_options(S3Resource(**unsafe))


def test_workers_do_not_import_dagster() -> None:
    code = (
        "import sys, vera_core.operations.migrate, vera_core.operations.sources, vera_core.operations.inspector;"
        "print([name for name in sys.modules if name.partition('.')[0] in {'dagster', 'vera_assets'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
