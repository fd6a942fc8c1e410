"""The asset `window`: the frozen manifest of a day's rows, which everything after it goes by."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dagster import AssetsDefinition, MetadataValue

from vera_assets.assets.daily import daily_asset
from vera_assets.assets.spec import WINDOW, source_spec
from vera_assets.days import WAIT_SECONDS, DayResult
from vera_assets.metadata import command, numbers
from vera_assets.partitions import partition_of
from vera_core.operations.due import Migration, window_to_pack
from vera_core.operations.leasing import the_day
from vera_core.operations.migrate import freeze_due

if TYPE_CHECKING:
    from datetime import date

    from vera_assets.sources import MigratedSource


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
    return daily_asset(source, WINDOW, spec, lambda _, repository: partial(_freeze, source.open(repository.open())))


def _freeze(migration: Migration, day: date) -> DayResult:
    with the_day(migration, day, wait_seconds=WAIT_SECONDS) as held:
        plan = freeze_due(held.migration, window_to_pack(migration, day, retry_rejects=True))
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
