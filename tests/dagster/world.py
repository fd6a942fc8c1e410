"""A small business for the Dagster tests: files over some days, their SQLite database, and a repository on real S3."""

from __future__ import annotations

import os
import sqlite3
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetRecordsFilter,
    AssetSelection,
    Definitions,
    ExecuteInProcessResult,
    define_asset_job,
)
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from tests.protocol.packing import KEK_VARIABLE, local_kek, make_encrypted, make_repository
from vera_assets.build import build_definitions
from vera_assets.checks import DESCRIPTIONS
from vera_core.operations.pack import ShardLine, packed_window
from vera_core.operations.sources import migration_state, open_migrations
from vera_core.settings import KeyServiceName, KeySettings, Settings
from vera_core.source.base import Window

if TYPE_CHECKING:
    from dagster import DagsterInstance, EventLogRecord

    from vera_assets.jobs import Job
    from vera_core.operations.due import Migration
    from vera_core.operations.repository import Repository
    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

SOURCE = "claims"
DAYS = [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
FILES_A_DAY = 30
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(slots=True)
class World:
    """A repository, a source, and the definitions over them."""

    root: Path
    server: EmbeddedS3
    store: S3Store
    repo: Repository
    settings: Settings
    defs: Definitions

    @property
    def files(self) -> Path:
        """Where the files lie."""
        return self.root / "files"

    def migration(self) -> Migration:
        """The source with its state, opened anew."""
        return open_migrations(self.repo, self.settings, SOURCE)[0]

    def run(self, instance: DagsterInstance, *days: date) -> ExecuteInProcessResult:
        """Runs the archive job for a day, or for the range from the first to the last day given."""
        job = self.defs.resolve_job_def(f"{SOURCE}_archive")
        return job.execute_in_process(instance=instance, raise_on_error=False, **of(*days))

    def run_checks(self, instance: DagsterInstance, *days: date, then: list[str]) -> ExecuteInProcessResult:
        """Runs the checks of shards that are there already, and after them the assets of those concepts."""
        checks = AssetSelection.checks(*(AssetCheckKey(AssetKey([SOURCE, "shards"]), name) for name in DESCRIPTIONS))
        selection = checks | AssetSelection.assets(*(AssetKey([SOURCE, name]) for name in then)) if then else checks
        return self._execute(instance, define_asset_job("checks_first", selection=selection), *days)

    def pack(self, instance: DagsterInstance, *days: date) -> ExecuteInProcessResult:
        """Freezes and packs days without checking them."""
        assets = AssetSelection.assets(AssetKey([SOURCE, "window"]), AssetKey([SOURCE, "shards"]))
        return self._execute(instance, define_asset_job("pack_only", selection=assets.without_checks()), *days)

    def _execute(self, instance: DagsterInstance, job: Job, *days: date) -> ExecuteInProcessResult:
        defs = Definitions.merge(self.defs, Definitions(jobs=[job]))
        return defs.resolve_job_def(job.name).execute_in_process(instance=instance, raise_on_error=False, **of(*days))

    def damage(self, key: str, version_id: str) -> None:
        """Flips a bit of one stored byte through the server's back door, past every lock."""
        url = f"{self.server.filer_url}/buckets/{self.store.bucket}/{key}.versions/v_{version_id}"
        with urllib.request.urlopen(url) as reply:
            data = bytearray(reply.read())
        assert bytes(data) == self.store.get(key, version_id=version_id).data
        data[len(data) // 3] ^= 1
        urllib.request.urlopen(urllib.request.Request(url, data=bytes(data), method="PUT")).close()

    def shards(self, day: date) -> list[ShardLine]:
        """The shards of a day, as the store has them."""
        return list(packed_window(self.repo, Window(SOURCE, "default", day)).shards)

    def watermark(self) -> date | None:
        """Where the watermark stands."""
        mark = self.migration().state.watermark(SOURCE, "default")
        return None if mark is None else mark.day

    def sql(self, statement: str, *values: object) -> None:
        """Changes the business database."""
        with closing(sqlite3.connect(self.root / "business.sqlite")) as database, database:
            database.execute(statement, values)

    def add(self, uid: str, moment: datetime, content: bytes = b"late") -> None:
        """Adds a file to the business."""
        path = self.files / uid.replace("/", "-")
        path.write_bytes(content)
        self.sql(
            "INSERT INTO documents (uid, created_at, path, bytes) VALUES (?, ?, ?, ?)",
            uid, moment.isoformat(), str(path), len(content),
        )  # fmt: skip


def of(*days: date) -> dict[str, Any]:
    """The arguments that make a run one of a day, of the range from the first to the last day, or of no day."""
    if len(days) > 1:
        return {"tags": {RANGE_START: days[0].isoformat(), RANGE_END: days[-1].isoformat()}}
    return {"partition_key": days[0].isoformat()} if days else {}


def make_world(root: Path, server: EmbeddedS3, store: S3Store, *, encrypted: bool = False) -> World:
    """Files, database, our tables in it, repository and definitions."""
    files = root / "files"
    files.mkdir()
    rows = []
    for day in DAYS:
        for number in range(FILES_A_DAY):
            uid = f"{day.isoformat()}/{number:03}.json"
            path = files / uid.replace("/", "-")
            path.write_bytes(f'{{"claim": "{uid}", "text": "{"word " * (number + 1)}"}}'.encode())
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=number)
            rows.append((uid, moment.isoformat(), str(path), path.stat().st_size))
    with closing(sqlite3.connect(root / "business.sqlite")) as database, database:
        database.execute(
            "CREATE TABLE documents "
            "(number INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT, created_at TEXT, path TEXT, bytes INTEGER)"
        )
        database.executemany("INSERT INTO documents (uid, created_at, path, bytes) VALUES (?, ?, ?, ?)", rows)
    settings = settings_for(root, store.bucket)
    if encrypted:
        settings = settings.model_copy(update={"keys": kek_settings()})
    repo = (make_encrypted if encrypted else make_repository)(store, root / "spool")
    migration_state(settings, SOURCE).create()
    return World(root, server, store, repo, settings, build_definitions(settings=settings))


def kek_settings() -> KeySettings:
    """The settings of the key service of the tests' encrypted repositories."""
    local_kek()
    return KeySettings(service=KeyServiceName.LOCAL, file=Path(os.environ[KEK_VARIABLE]))


def settings_for(root: Path, bucket: str, **changes: Any) -> Settings:
    """The settings as vera.toml would give them."""
    source = {
        "url": f"sqlite:///{root}/business.sqlite",
        "table": "documents",
        "uid": "uid",
        "created_at": {"column": "created_at", "type": "text"},
        "content": {"column": "path", "kind": "path", "roots": [str(root / "files")]},
        "size": "bytes",
        "late": {"column": "number", "settle_seconds": 0},
        "begin": DAYS[0].isoformat(),
        **changes,
    }
    return Settings.load(
        None, repository=f"s3://{bucket}/archive", actor="dagster-test", spool=root / "spool", sources={SOURCE: source}
    )


def materializations(instance: DagsterInstance, concept: str, day: date | None = None) -> list[EventLogRecord]:
    """The materializations of one of the source's assets, newest first."""
    partitions = None if day is None else [day.isoformat()]
    wanted = AssetRecordsFilter(asset_key=AssetKey([SOURCE, concept]), asset_partitions=partitions)
    return list(instance.fetch_materializations(wanted, limit=100).records)


def evaluations(instance: DagsterInstance, name: str, day: date | None) -> list[AssetCheckExecutionRecord]:
    """The executions of one of the checks of `shards` for a day (None: for no partition), newest first."""
    key = AssetCheckKey(AssetKey([SOURCE, "shards"]), name)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    partition = None if day is None else day.isoformat()
    return [record for record in history if record.partition == partition]


def passed(record: AssetCheckExecutionRecord) -> bool:
    """Whether an execution of a check ended, and well."""
    assert record.status in {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    return record.status is AssetCheckExecutionRecordStatus.SUCCEEDED


def failures(result: ExecuteInProcessResult) -> str:
    """What the failed steps of a run said."""
    return "\n".join(str(event.step_failure_data) for event in result.all_events if event.is_step_failure)
