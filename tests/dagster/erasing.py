"""A small archive in memory from which files are erased through Dagster, without a business database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    Definitions,
    ExecuteInProcessResult,
)

from tests.dagster.world import DAYS, SOURCE, kek_settings, of, settings_for
from tests.protocol.packing import MemorySource, make_repository, opened, pack, some_files
from vera_assets.build import build_definitions
from vera_assets.resources import RepositoryResource
from vera_core.erasures import Target
from vera_core.operations.erasures import Draft, submit
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

    from vera_core.operations.erasure_reports import ErasureReport
    from vera_core.operations.repository import Repository
    from vera_core.source.mapping import ErasureTable

FILES_A_DAY = 40
STORES: dict[str, MemoryStore] = {}
"""Resources are made of plain values: this is how one gets at a store in memory."""


class MemoryRepository(RepositoryResource):
    """The repository resource over a store in memory, which `uri` names."""

    def open(self) -> Repository:
        """A new handle, as another process would have."""
        return opened(STORES[self.uri], Path(self.spool), self.actor)


@dataclass(slots=True)
class Archive:
    """Two days of files, and the definitions over them."""

    store: MemoryStore
    spool: Path
    repo: Repository
    source: MemorySource
    defs: Definitions

    def uids(self, day: date, count: int) -> list[str]:
        """The first files of a day."""
        return [file.uid for file in self.source.files if file.created_at.date() == day][:count]

    def request(self, name: str, *uids: str, day: date = DAYS[0], received: datetime | None = None) -> ErasureReport:
        """Asks for an erasure as `vera erase` does; who asks is never who runs Dagster."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        targets = tuple(Target(uid, midnight) for uid in uids)
        draft = Draft(tenant="default", id=name, reason="GDPR Art. 17", targets=targets, received=received)
        return submit(opened(self.store, self.spool, "privacy"), draft)

    def run(self, instance: DagsterInstance, job: str, *days: date, **options: Any) -> ExecuteInProcessResult:
        """Runs one of the jobs, of a day, a range of days or of none."""
        found = self.defs.resolve_job_def(job)
        return found.execute_in_process(instance=instance, raise_on_error=False, **of(*days), **options)


def make_archive(root: Path, *, also: date | None = None, table: ErasureTable | None = None, **changes: Any) -> Archive:
    """Archives two days; `changes` are the repository's config's.

    `also`: a second source that begins on that day; `table`: where requests are taken from. An encrypted repository's
    settings name the key service of the tests.
    """
    store = MemoryStore()
    uri = f"s3://{root.name}-{id(store)}/archive"
    STORES[uri] = store
    repo = make_repository(store, root / "spool", **changes)
    source = MemorySource([
        file for number, day in enumerate(DAYS[:2])
        for file in some_files(FILES_A_DAY, day=day, prefix=f"doc{number}")
    ])  # fmt: skip
    for day in DAYS[:2]:
        pack(repo, source, day)
    settings = settings_for(root, "not-asked")
    if table is not None:
        settings = settings.model_copy(update={"erasure_table": table})
    if "encryption" in changes:
        settings = settings.model_copy(update={"keys": kek_settings()})
    if also is not None:
        late = replace(settings.sources[SOURCE], begin=also)
        settings = settings.model_copy(update={"sources": {**settings.sources, "late": late}})
    resource = MemoryRepository(uri=uri, actor="dagster", spool=str(root / "spool"))
    defs = build_definitions(settings=settings, resources={"repository": resource})
    return Archive(store, root / "spool", repo, source, defs)


def key(concept: str) -> AssetKey:
    """An asset of erasure."""
    return AssetKey(["vera", "default", concept])


def materialized(instance: DagsterInstance, concept: str, day: date | None = None) -> list[AssetMaterialization]:
    """The materializations of one of them, newest first."""
    wanted = AssetRecordsFilter(asset_key=key(concept), asset_partitions=None if day is None else [day.isoformat()])
    records = instance.fetch_materializations(wanted, limit=100).records
    return [record.asset_materialization for record in records if record.asset_materialization is not None]


def shown(instance: DagsterInstance, concept: str, day: date | None = None) -> dict[str, Any]:
    """Numbers and texts of the newest one."""
    return {name: value.value for name, value in materialized(instance, concept, day)[0].metadata.items()}


def checked(
    instance: DagsterInstance, concept: str, name: str, day: date | None = None
) -> list[AssetCheckExecutionRecord]:
    """The executions of a check for a day (None: for no partition), newest first."""
    check = AssetCheckKey(key(concept), name)
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
    return [record for record in history if record.partition == (None if day is None else day.isoformat())]


__all__ = ["SOURCE", "Archive", "checked", "key", "make_archive", "materialized", "shown"]
