"""The asset `shards`: a day's rows in locked `.vera` shards, each named by a record of its slot's log."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dagster import AssetsDefinition, DagsterLogManager, MetadataValue

from vera_assets.assets.daily import daily_asset
from vera_assets.assets.spec import SHARDS, WINDOW, source_spec
from vera_assets.days import WAIT_SECONDS, DayResult, logged_progress
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.partitions import partition_of
from vera_core.operations.due import Migration, window_to_pack
from vera_core.operations.leasing import the_day
from vera_core.operations.migrate import pack_due

if TYPE_CHECKING:
    from datetime import date

    from vera_assets.sources import MigratedSource
    from vera_core.operations.pack import PackReport


def shards_asset(source: MigratedSource) -> AssetsDefinition:
    """The asset `shards` of a source."""
    spec = source_spec(
        source,
        SHARDS,
        description="The day's files, packed into large write-once objects. Materializing a day again finds what is "
        "archived already, and repairs a damaged shard from the source.",
        kinds={"s3", "python"},
        code_version="1",
        after=[WINDOW],
    )
    return daily_asset(
        source, SHARDS, spec, lambda context, repository: partial(_pack, source.open(repository.open()), context.log)
    )


def _pack(migration: Migration, log: DagsterLogManager, day: date) -> DayResult:
    with the_day(migration, day, wait_seconds=WAIT_SECONDS) as held:
        progress = held.listener(logged_progress(log, day))
        report = pack_due(held.migration, window_to_pack(migration, day), progress=progress)
    return DayResult(report.manifest, pack_metadata(report, day))


def pack_metadata(report: PackReport, day: date) -> Metadata:
    """What packing a day came to, as metadata."""
    largest = sorted(report.shards, key=lambda line: line.size, reverse=True)
    shown: Metadata = {
        **numbers(report),
        "revision": MetadataValue.int(report.revision),
        "shards": MetadataValue.int(len(report.shards)),
        "largest shards": table(largest),
        "more": command("ls", partition_of(day), "--tenant", report.tenant),
    }
    if report.rejects:
        shown["rejects"] = table({"reason": reason, "rows": count} for reason, count in report.rejects.items())
    return shown
