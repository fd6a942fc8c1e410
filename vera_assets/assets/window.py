"""The asset `window`: the frozen manifest of a day's rows, which everything after it goes by.

No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from vera_assets.assets.spec import WINDOW, source_spec
from vera_assets.days import DayResult, materialize_days, translated
from vera_assets.metadata import command, numbers
from vera_assets.partitions import days_of, partition_of, range_policy
from vera_assets.resources import RepositoryResource
from vera_assets.sources import MigratedSource
from vera_core.operations.due import Migration, window_to_pack
from vera_core.operations.migrate import freeze_due


def window_asset(source: MigratedSource) -> AssetsDefinition:
    """The asset `window` of a source."""
    spec = source_spec(
        source,
        WINDOW,
        description="The rows of a UTC day, frozen: a locked manifest that names every row, kept for ever. A later "
        "revision holds only rows that came late, changed, or were rejected before.",
        kinds={"parquet", "s3"},
        code_version="1",
    )

    @multi_asset(
        name=source.naming.name(WINDOW),
        specs=[spec],
        partitions_def=source.partitions,
        backfill_policy=range_policy(),
    )
    def window(
        context: AssetExecutionContext, repository: RepositoryResource
    ) -> Iterator[MaterializeResult[Any] | AssetMaterialization]:
        with translated():
            migration = source.open(repository.open())
        days = days_of(context.partition_keys)
        yield from materialize_days(spec.key, days, lambda day: _freeze(migration, day))

    return window


def _freeze(migration: Migration, day: date) -> DayResult:
    plan = freeze_due(migration, window_to_pack(migration, day, retry_rejects=True))
    return DayResult(
        plan.manifest,
        {
            **numbers(plan),
            "revision": MetadataValue.int(plan.revision),
            "manifest": MetadataValue.text(f"s3://{migration.repo.store.bucket}/{plan.key}"),
            "more": command("migrate", migration.source.name, "--dry-run", *_span(day)),
        },
    )


def _span(day: date) -> tuple[str, ...]:
    return ("--from", partition_of(day), "--to", partition_of(day))
