"""`build_definitions`: everything that Dagster shows and runs, made from the settings. Tests call it too.

Loading asks nobody: neither store nor database is touched before a step, check or sensor needs it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster import Definitions, PreviewWarning, in_process_executor

from vera_assets.assets.inventory import inventory_asset
from vera_assets.assets.repository import repository_asset
from vera_assets.assets.shards import shards_asset
from vera_assets.assets.watermark import watermark_asset
from vera_assets.assets.window import window_asset
from vera_assets.checks import hygiene_check, progress_check, shards_checks
from vera_assets.jobs import archive_job, repository_job
from vera_assets.resources import RepositoryResource
from vera_assets.schedules import daily_schedule, look_schedule
from vera_assets.sensors import failure_sensor, watermark_sensor
from vera_assets.sources import migrated_sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vera_core.settings import Settings


class AllowedWarning(NamedTuple):
    """A warning of Dagster's that we accept: its class, how its text begins, and why."""

    category: type[Warning]
    begins: str
    why: str


ALLOWED_WARNINGS = (
    AllowedWarning(
        PreviewWarning,
        "Specifying a partitions_def on an AssetCheckSpec",
        "A check's status per day; without it only the last evaluated day shows.",
    ),
)
"""All of them, for the Dagster that is pinned. A test fails if there are more, and if one is not needed any more."""


def build_definitions(*, settings: Settings, resources: Mapping[str, Any] | None = None) -> Definitions:
    """Assets, checks, jobs, sensors and schedules for every source that the settings name.

    Args:
        settings: the repository and its sources.
        resources: in place of the resources of the same name (`repository`).

    Raises:
        UsageError: the settings name no repository, or a source without its first day.
    """
    with warnings.catch_warnings():
        for allowed in ALLOWED_WARNINGS:
            warnings.filterwarnings("ignore", message=allowed.begins, category=allowed.category)
        return _definitions(settings, resources or {})


def _definitions(settings: Settings, resources: Mapping[str, Any]) -> Definitions:
    sources = migrated_sources(settings)
    look = repository_job()
    jobs = {source.naming: archive_job(source) for source in sources}
    factories = (window_asset, shards_asset, inventory_asset, watermark_asset)
    every = [*jobs.values(), look]
    return Definitions(
        assets=[repository_asset(), *(make(source) for source in sources for make in factories)],
        asset_checks=[
            hygiene_check(),
            *(make(source) for source in sources for make in (shards_checks, progress_check)),
        ],
        jobs=every,
        sensors=[
            failure_sensor(sources, every),
            *(watermark_sensor(source, jobs[source.naming]) for source in sources),
        ],
        schedules=[look_schedule(look), *(daily_schedule(source, jobs[source.naming]) for source in sources)],
        resources={"repository": RepositoryResource.named_by(settings), **resources},
        executor=in_process_executor,
    )
