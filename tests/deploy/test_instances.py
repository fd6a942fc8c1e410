from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from dagster import DagsterInstance, DagsterInvalidConfigError, job, op
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from sqlalchemy import create_engine, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.store.embedded import EmbeddedS3

ROOT = Path(__file__).parents[2]
LOGS_BUCKET = "dagster-logs"


@op
def answer() -> int:
    return 42


@job
def answering() -> None:
    answer()


@contextmanager
def loaded(settings: Path, home: Path, caplog: pytest.LogCaptureFixture) -> Iterator[DagsterInstance]:
    """The instance of a settings file in a home of its own; a warning of Python or Dagster is a failure."""
    home.mkdir()
    shutil.copy(settings, home / "dagster.yaml")
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, logger="dagster"):
        warnings.simplefilter("error")
        with DagsterInstance.from_config(str(home)) as instance:
            yield instance
    assert not caplog.records


def use_whole_instance(home: Path) -> None:
    """Dagster makes an instance's parts when they are first used."""
    with DagsterInstance.from_config(str(home)) as instance:
        assert instance.compute_log_manager is not None
        assert instance.get_runs_count() == 0


def check_common_settings(instance: DagsterInstance) -> None:
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.run_monitoring_enabled
    assert instance.get_concurrency_config().run_queue_config is not None


def test_the_embedded_instance_keeps_everything_in_its_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with loaded(ROOT / "dagster_home" / "dagster.yaml", tmp_path / "home", caplog) as instance:
        check_common_settings(instance)
        queue = instance.get_concurrency_config().run_queue_config
        assert queue
        assert queue.max_concurrent_runs == 2
        result = answering.execute_in_process(instance=instance)
        assert result.success
        assert instance.get_run_by_id(result.run_id)
    assert (tmp_path / "home" / "history" / "runs.db").exists()


@pytest.fixture
def production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_s3: EmbeddedS3, postgres_url: str
) -> Iterator[Path]:
    """The environment that deploy/README.md describes; gives the home."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("DAGSTER_LOGS_BUCKET", LOGS_BUCKET)
    monkeypatch.setenv("DAGSTER_LOCAL_DIR", str(tmp_path / "local"))
    client = boto3.client("s3")
    if LOGS_BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=LOGS_BUCKET)
    yield tmp_path / "home"
    client.close()


def test_the_production_instance_runs_on_postgres_and_s3(
    production: Path, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with loaded(ROOT / "deploy" / "dagster.yaml", production, caplog) as instance:
        check_common_settings(instance)
        queue = instance.get_concurrency_config().run_queue_config
        assert queue
        assert queue.max_concurrent_runs == 4
        assert isinstance(instance.run_storage, PostgresRunStorage)
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        result = answering.execute_in_process(instance=instance)
        assert result.success
        assert instance.get_run_by_id(result.run_id)
        assert instance.all_logs(result.run_id)

        logs = instance.compute_log_manager
        assert isinstance(logs, S3ComputeLogManager)
        with logs.open_log_stream([result.run_id, "compute_logs", "answer"], ComputeIOType.STDERR) as stream:
            assert stream
            stream.write("forty-two")
    engine = create_engine(postgres_url)
    assert {"runs", "event_logs", "jobs"} <= set(inspect(engine).get_table_names())
    engine.dispose()
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket=LOGS_BUCKET, Prefix=f"compute-logs/storage/{result.run_id}/")["Contents"]
    bodies = [client.get_object(Bucket=LOGS_BUCKET, Key=found["Key"])["Body"].read() for found in listed]
    assert b"forty-two" in bodies
    client.close()
    assert [path.name for path in production.iterdir()] == ["dagster.yaml"], "the home may be read-only"


@pytest.mark.parametrize("missing", ["DAGSTER_POSTGRES_URL", "DAGSTER_LOGS_BUCKET", "DAGSTER_LOCAL_DIR"])
def test_a_missing_variable_is_named(production: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    production.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", production)
    monkeypatch.delenv(missing)
    with pytest.raises(DagsterInvalidConfigError, match=missing):
        use_whole_instance(production)


def test_the_workspace_names_the_code_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERA_CODE_SERVER_HOST", "code.example")
    target = WorkspaceFileTarget([str(ROOT / "deploy" / "workspace.yaml")])
    [origin] = target.create_origins()
    assert origin.location_name == "vera"
    assert origin.get_display_metadata() == {"host": "code.example", "port": "4000"}


def test_the_commands_of_the_image_exist() -> None:
    programs = Path(sys.executable).parent
    for program in ("dagster", "dagster-webserver", "dagster-daemon"):
        assert (programs / program).exists()
    unreachable = subprocess.run(
        [programs / "dagster", "api", "grpc-health-check", "--port", "1"], capture_output=True, check=False
    )
    assert unreachable.returncode == 1
