"""The asset `watermark`: every row created before it is archived and verified, or a reject that is named.

It goes by VERA's own verdicts, never by what Dagster shows of a check.
No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from vera_assets.assets.spec import SHARDS, WATERMARK, source_spec
from vera_assets.days import translated
from vera_assets.metadata import Metadata, command, numbers
from vera_assets.resources import RepositoryResource
from vera_assets.sources import MigratedSource
from vera_core.operations.migrate import WatermarkReport, advance_watermark


def watermark_asset(source: MigratedSource) -> AssetsDefinition:
    """The asset `watermark` of a source; it has no partitions, and each run moves it as far as the verdicts allow."""
    spec = source_spec(
        source,
        WATERMARK,
        description="The first day that is not yet archived and verified. It moves over days without a gap only, and "
        "never back.",
        kinds={"sql"},
        code_version="1",
        after=[SHARDS],
    )

    @multi_asset(name=source.naming.name(WATERMARK), specs=[spec])
    def watermark(context: AssetExecutionContext, repository: RepositoryResource) -> Iterator[MaterializeResult[Any]]:
        with translated():
            report = advance_watermark(source.open(repository.open()))
        if report.held_by:
            context.log.info("The watermark stands at %s: %s", report.after, report.held_by)
        yield MaterializeResult(asset_key=spec.key, metadata=_metadata(report), data_version=DataVersion(report.after))

    return watermark


def _metadata(report: WatermarkReport) -> Metadata:
    return {
        **numbers(report),
        "watermark": MetadataValue.text(report.after),
        "before this run": MetadataValue.text(report.before),
        "held by": MetadataValue.text(report.held_by or "nothing: it stands at the first day that is left alone"),
        "more": command("migrate", report.source, "--dry-run"),
    }
