"""`build_definitions`: everything that Dagster shows and runs, made from the settings. Tests call it too.

Loading asks nobody: neither store nor database is touched before a step, check or sensor needs it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster import Definitions, PreviewWarning, in_process_executor

from vera_assets.assets.erased_inventory import erased_inventory_asset
from vera_assets.assets.erasure_requests import erasure_requests_asset
from vera_assets.assets.inventory import inventory_asset
from vera_assets.assets.key_rotation import key_rotation_asset
from vera_assets.assets.repacked import repacked_asset
from vera_assets.assets.repository import repository_asset
from vera_assets.assets.scrub import scrub_asset
from vera_assets.assets.shards import shards_asset
from vera_assets.assets.tombstones import tombstones_asset
from vera_assets.assets.upkeep import doctor_asset, garbage_asset
from vera_assets.assets.watermark import watermark_asset
from vera_assets.assets.window import window_asset
from vera_assets.checks import hygiene_check, progress_check, shards_checks
from vera_assets.erasure_checks import DEADLINES, deadlines_check, keyrings_checks, repacked_checks, tombstones_checks
from vera_assets.erasure_sensors import deadline_sensor, tombstone_sensor
from vera_assets.jobs import (
    archive_job,
    deadlines_job,
    doctor_job,
    erase_job,
    garbage_job,
    key_rotation_job,
    repack_job,
    repository_job,
    scrub_job,
)
from vera_assets.resources import RepositoryResource
from vera_assets.schedules import (
    daily_schedule,
    deadlines_schedule,
    doctor_schedule,
    erase_schedule,
    gc_schedule,
    key_rotation_schedule,
    look_schedule,
    scrub_schedule,
)
from vera_assets.sensors import failure_sensor, watermark_sensor
from vera_assets.sources import migrated_sources
from vera_assets.tenants import erasing_tenants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster import AssetChecksDefinition, AssetsDefinition, ScheduleDefinition, SensorDefinition

    from vera_assets.jobs import Job
    from vera_assets.sources import MigratedSource
    from vera_assets.tenants import Tenant
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
    """Assets, checks, jobs, sensors and schedules for every source that the settings name, and for its tenant.

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
    tenants = erasing_tenants(settings, sources)
    parts = [
        _repository(),
        *([_keys()] if settings.keys is not None else []),
        *map(_migration, sources),
        *map(_erasure, tenants),
    ]
    jobs = [job for part in parts for job in part.jobs]
    sensors = [failure_sensor(sources, jobs), *([deadline_sensor(tenants)] if tenants else [])]
    return Definitions(
        assets=[asset for part in parts for asset in part.assets],
        asset_checks=[check for part in parts for check in part.checks],
        jobs=jobs,
        sensors=[*sensors, *(sensor for part in parts for sensor in part.sensors)],
        schedules=[schedule for part in parts for schedule in part.schedules],
        resources={"repository": RepositoryResource.named_by(settings), **resources},
        executor=in_process_executor,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What one source, one tenant, or the repository as a whole brings."""

    assets: Sequence[AssetsDefinition]
    jobs: Sequence[Job]
    checks: Sequence[AssetChecksDefinition] = ()
    sensors: Sequence[SensorDefinition] = ()
    schedules: Sequence[ScheduleDefinition] = ()


def _repository() -> _Part:
    look, garbage, doctor, scrub = repository_job(), garbage_job(), doctor_job(), scrub_job()
    return _Part(
        assets=[repository_asset(), garbage_asset(), doctor_asset(), scrub_asset()],
        jobs=[look, garbage, doctor, scrub],
        checks=[hygiene_check()],
        schedules=[look_schedule(look), gc_schedule(garbage), doctor_schedule(doctor), scrub_schedule(scrub)],
    )


def _keys() -> _Part:
    """Where the settings name a key service, as those of an encrypted repository do."""
    job = key_rotation_job()
    return _Part(assets=[key_rotation_asset()], jobs=[job], schedules=[key_rotation_schedule(job)])


def _migration(source: MigratedSource) -> _Part:
    job = archive_job(source)
    return _Part(
        assets=[make(source) for make in (window_asset, shards_asset, inventory_asset, watermark_asset)],
        jobs=[job],
        checks=[shards_checks(source), progress_check(source)],
        sensors=[watermark_sensor(source, job)],
        schedules=[daily_schedule(source, job)],
    )


def _erasure(tenant: Tenant) -> _Part:
    erase, deadlines, repack = erase_job(tenant), deadlines_job(tenant, DEADLINES), repack_job(tenant)
    return _Part(
        assets=[
            erasure_requests_asset(tenant),
            tombstones_asset(tenant),
            repacked_asset(tenant),
            erased_inventory_asset(tenant),
        ],
        jobs=[erase, deadlines, repack],
        checks=[
            deadlines_check(tenant),
            tombstones_checks(tenant),
            repacked_checks(tenant),
            *([keyrings_checks(tenant)] if tenant.encrypted else []),
        ],
        sensors=[tombstone_sensor(tenant, repack)],
        schedules=[deadlines_schedule(tenant, deadlines), erase_schedule(tenant, erase)],
    )
