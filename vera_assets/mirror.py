"""Days that the command line migrated, shown in Dagster as runless materializations with their checks.

VERA's records say what was done; this repeats it, a bounded number of days a tick, and decides nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dagster import AssetCheckEvaluation, AssetCheckSeverity, AssetMaterialization, MetadataValue
from sqlalchemy.exc import IntegrityError

from vera_assets.assets.spec import SHARDS, WINDOW
from vera_assets.checks import DESCRIPTIONS, REJECTS, rejects_text, target_of
from vera_assets.days import DATA_VERSION_TAG
from vera_assets.metadata import command, numbers_of
from vera_assets.partitions import partition_of
from vera_core.operations.pack import PackReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance

    from vera_assets.sources import MigratedSource
    from vera_core.operations.due import Migration
    from vera_core.source.state import WindowRecord

WINDOWS_PER_TICK = 20


def mirror(instance: DagsterInstance, source: MigratedSource, migration: Migration, since: str) -> str:
    """Reports the windows settled after `since` that Dagster does not show yet; returns where to go on next time."""
    for record in migration.state.settled(*migration.name, since=since, limit=WINDOWS_PER_TICK):
        since = record.updated_at
        # What a later revision answered for was closed after that one, and would be shown in its place.
        if record.day < source.begin or record.answered_by:
            continue
        if _shown(instance, source, record) != record.manifest:
            _report(instance, source, record)
    return since


def _shown(instance: DagsterInstance, source: MigratedSource, record: WindowRecord) -> str:
    """The data version that Dagster shows for the day's shards; "" for none."""
    latest = instance.get_latest_data_version_record(
        source.naming.key(SHARDS), is_source=False, partition_key=partition_of(record.day)
    )
    event = None if latest is None else latest.asset_materialization
    return "" if event is None or event.tags is None else event.tags.get(DATA_VERSION_TAG, "")


def _report(instance: DagsterInstance, source: MigratedSource, record: WindowRecord) -> None:
    partition = partition_of(record.day)
    span = ("--from", partition, "--to", partition)
    metadata: dict[str, MetadataValue[Any]] = {
        **numbers_of(PackReport, record.verdict.get("pack", {})),
        "revision": MetadataValue.int(record.revision),
        "migrated by": MetadataValue.text("the command line, or a run that Dagster forgot"),
        "more": command("verify", "--deep", "--tenant", source.tenant, *span),
    }
    for concept in (WINDOW, SHARDS):
        instance.report_runless_asset_event(
            AssetMaterialization(
                source.naming.key(concept),
                partition=partition,
                metadata=metadata,
                tags={DATA_VERSION_TAG: record.manifest},
            )
        )
    key = source.naming.key(SHARDS)
    for name, passed, text in _checks(record):
        evaluation = AssetCheckEvaluation(
            asset_key=key,
            check_name=name,
            passed=passed,
            description=text,
            partition=partition,
            blocking=False,
            severity=AssetCheckSeverity.WARN if name == REJECTS else AssetCheckSeverity.ERROR,
            target_materialization_data=target_of(instance, key, record.day),
        )
        # Dagster 1.13 keeps one evaluation of a partition that belongs to no run: the first, which was as good.
        with suppress(IntegrityError):
            instance.report_runless_asset_event(evaluation)


def _checks(record: WindowRecord) -> Iterator[tuple[str, bool, str]]:
    """(name, whether it passed, what it found) of each check, as the verdict tells."""
    for check in record.verdict.get("verify", {}).get("checks", ()):
        if check["name"] in DESCRIPTIONS:
            yield check["name"], bool(check["ok"]), f"{check['checked']:,} checked, {check['failed']:,} findings."
    pack = record.verdict.get("pack", {})
    yield REJECTS, not pack.get("rejected"), rejects_text(pack.get("rejects", {}))
