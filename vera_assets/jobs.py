"""The jobs: a source's days from window to watermark, a tenant's erasures, and the upkeep of the repository.

One job serves a day (a partition key) and a range of days (the two range tags, as a backfill sets them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from dagster import AssetCheckKey, AssetSelection, define_asset_job, in_process_executor
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from vera_assets.assets.key_rotation import KEYS_KEY
from vera_assets.assets.scrub import SCRUB_KEY
from vera_assets.assets.spec import ERASURE_REQUESTS, INVENTORY, REPACKED, REPOSITORY_GROUP, TOMBSTONES
from vera_assets.assets.upkeep import DOCTOR_KEY, GARBAGE_KEY

if TYPE_CHECKING:
    from dagster import AssetKey

    from vera_assets.sources import MigratedSource
    from vera_assets.tenants import Tenant

Job: TypeAlias = UnresolvedAssetJobDefinition
"""What `define_asset_job` returns; Dagster does not export the name."""

SOURCE_TAG = "vera/source"
TENANT_TAG = "vera/tenant"
REASON_TAG = "vera/reason"
TOMBSTONES_REASON = "tombstones"


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


def erase_job(tenant: Tenant) -> Job:
    """Executes the erasure requests of a tenant that may be executed."""
    return define_asset_job(
        tenant.naming.name("erase"),
        selection=AssetSelection.assets(tenant.naming.key(ERASURE_REQUESTS)),
        description="Executes erasure requests that were approved, where that is asked for, and are due.",
        tags={TENANT_TAG: tenant.name},
        executor_def=in_process_executor,
    )


def deadlines_job(tenant: Tenant, check: str) -> Job:
    """Looks at the deadlines of a tenant's erasure requests; erases nothing."""
    return define_asset_job(
        tenant.naming.name("deadlines"),
        selection=AssetSelection.checks(AssetCheckKey(tenant.naming.key(ERASURE_REQUESTS), check)),
        description="Looks whether files are still to be seen too long after their erasure was asked for.",
        tags={TENANT_TAG: tenant.name},
        executor_def=in_process_executor,
    )


def repack_job(tenant: Tenant) -> Job:
    """Counts what is erased of days, proves that it is out of sight, repacks where it is much, and catalogues anew."""
    return define_asset_job(
        tenant.naming.name("repack"),
        selection=AssetSelection.assets(*(tenant.naming.key(name) for name in (TOMBSTONES, REPACKED, INVENTORY))),
        description="Proves that what was erased of days is out of sight, and leaves it behind where it is much.",
        tags={TENANT_TAG: tenant.name, REASON_TAG: TOMBSTONES_REASON},
        executor_def=in_process_executor,
    )


def garbage_job() -> Job:
    """Looks for what does not count any more; deletes it in runs that may."""
    return _upkeep("vera_gc", GARBAGE_KEY, "Finds shard versions that count no more; with `execute` collects them.")


def doctor_job() -> Job:
    """Looks for what crashes and strangers left; puts it right in runs that may."""
    return _upkeep("vera_doctor", DOCTOR_KEY, "Finds what is to be put right in the bucket; with `execute` does it.")


def scrub_job() -> Job:
    """Proves a share of the archive."""
    return _upkeep("vera_scrub", SCRUB_KEY, "Proves a share of the archive, the longest unproved first.")


def key_rotation_job() -> Job:
    """Looks at what wraps the keys; rotates and rewraps in runs that may."""
    return _upkeep("vera_key_rotation", KEYS_KEY, "Counts keys by what wraps them; with `execute` rotates and rewraps.")


def _upkeep(name: str, key: AssetKey, description: str) -> Job:
    return define_asset_job(
        name, selection=AssetSelection.assets(key), description=description, executor_def=in_process_executor
    )
