"""The asset `inventory`: a day's catalogue in Parquet, and the numbers that show what packing is good for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dagster import AssetsDefinition, MetadataValue

from vera_assets.assets.daily import daily_asset
from vera_assets.assets.spec import INVENTORY, SHARDS, source_spec
from vera_assets.days import DayResult
from vera_assets.metadata import command, numbers
from vera_assets.partitions import partition_of
from vera_core.errors import ConflictError
from vera_core.model import parse_day
from vera_core.operations.cost import S3_STANDARD_IA
from vera_core.operations.due import FINAL, Migration, packed_record
from vera_core.operations.inventory import InventoryReport, write_inventory
from vera_core.operations.pack import packed_window

if TYPE_CHECKING:
    from datetime import date

    from vera_assets.sources import MigratedSource


def inventory_asset(source: MigratedSource) -> AssetsDefinition:
    """The asset `inventory` of a source."""
    spec = source_spec(
        source,
        INVENTORY,
        description="The catalogue of the day's files for people, DuckDB and pandas, of the source's whole tenant. "
        "Derived: it can be written again at any time.",
        kinds={"parquet", "s3"},
        code_version="1",
        after=[SHARDS],
    )
    return daily_asset(
        source, INVENTORY, spec, lambda _, repository: partial(_catalogue, source.open(repository.open()))
    )


def _catalogue(migration: Migration, day: date) -> DayResult:
    """Writes the catalogue of a verified day, and of the days next to it where trusted uids' times led rows."""
    record = packed_record(migration, day)
    if record is None or record.state not in FINAL:
        raise ConflictError(
            f"the day is not verified: it is {'not packed' if record is None else record.state.value}",
            todo="See what its checks found; materialize its shards again once the cause is gone.",
            source=migration.source.name,
            day=day,
        )
    tenant = migration.source.tenant
    packed = packed_window(migration.repo, record.window)
    routed = {parse_day(line.slot.split("/")[1]) for line in packed.shards}
    reports = {each: write_inventory(migration.repo, tenant, each) for each in sorted(routed | {day})}
    return DayResult(packed.manifest, inventory_metadata(reports[day], day))


def inventory_metadata(report: InventoryReport, day: date) -> dict[str, MetadataValue[Any]]:
    """What a day's catalogue lists, and what the day takes in the bucket, as metadata."""
    return {
        **numbers(report),
        "prices": MetadataValue.text(f"{S3_STANDARD_IA.name}, {S3_STANDARD_IA.dated}"),
        "files written": MetadataValue.json(list(report.keys)),
        "more": command("ls", partition_of(day), "--tenant", report.tenant),
    }
