"""The jobs: a source's days from window to watermark, and the daily look at the repository.

One job serves a day (a partition key) and a range of days (the two range tags, as a backfill sets them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from dagster import AssetSelection, define_asset_job, in_process_executor
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from vera_assets.assets.spec import REPOSITORY_GROUP

if TYPE_CHECKING:
    from vera_assets.sources import MigratedSource

Job: TypeAlias = UnresolvedAssetJobDefinition
"""What `define_asset_job` returns; Dagster does not export the name."""

SOURCE_TAG = "vera/source"
TENANT_TAG = "vera/tenant"


def archive_job(source: MigratedSource) -> Job:
    """Archives and verifies days of a source, and moves its watermark."""
    return define_asset_job(
        source.naming.name("archive"),
        selection=AssetSelection.groups(source.naming.identifier),
        description=f"Archives days of {source.source} and verifies them.",
        tags={SOURCE_TAG: source.source, TENANT_TAG: source.tenant},
        executor_def=in_process_executor,
    )


def repository_job() -> Job:
    """Looks at the repository's config and at its bucket's settings."""
    return define_asset_job(
        "vera_repository_look",
        selection=AssetSelection.groups(REPOSITORY_GROUP),
        description="Looks at the repository's config and at the settings of its bucket.",
        executor_def=in_process_executor,
    )
