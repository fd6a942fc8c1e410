"""The asset `repacked_shards`: a day's shards after erased files were left behind, where these were many.

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

from vera_assets.assets.spec import REPACKED, TOMBSTONES, tenant_spec
from vera_assets.days import DayResult, insist, materialize_days, translated
from vera_assets.metadata import command, numbers, table
from vera_assets.partitions import days_of, partition_of, range_policy
from vera_assets.resources import RepositoryResource
from vera_assets.tenants import Tenant
from vera_core.operations.repack import RATIO, execute_repack, plan_repack
from vera_core.operations.repository import Repository
from vera_core.operations.tombstones import survey_tombstones
from vera_core.operations.walk import slots


def repacked_asset(tenant: Tenant) -> AssetsDefinition:
    """The asset `repacked_shards` of a tenant."""
    spec = tenant_spec(
        tenant,
        REPACKED,
        description=f"The day's shards, rewritten without erased files in slots where these are {RATIO:.0%} or more of "
        "a retention class. Nothing is deleted by it: the old shards stay locked until their locks end.",
        kinds={"s3", "python"},
        code_version="1",
        after=[TOMBSTONES],
    )

    @multi_asset(
        name=tenant.naming.name(REPACKED),
        specs=[spec],
        partitions_def=tenant.partitions,
        backfill_policy=range_policy(),
    )
    def repacked_shards(
        context: AssetExecutionContext, repository: RepositoryResource
    ) -> Iterator[MaterializeResult[Any] | AssetMaterialization]:
        with translated():
            repo = repository.open()
        yield from materialize_days(spec.key, days_of(context.partition_keys), lambda day: _repack(repo, tenant, day))

    return repacked_shards


def _repack(repo: Repository, tenant: Tenant, day: date) -> DayResult:
    plan = plan_repack(repo, slots(repo, tenant.name, day))
    insist(plan.findings)
    report = execute_repack(repo, plan)
    insist(report.findings)
    after = survey_tombstones(repo, tenant.name, day)
    metadata: dict[str, MetadataValue[Any]] = {
        **numbers(plan),
        **numbers(after),
        **numbers(report),
        "more": command("repack", "--dry-run", "--day", partition_of(day), "--tenant", tenant.name),
    }
    if plan.lines:
        metadata["repacked slots"] = table(plan.lines)
    return DayResult(f"{after.left_behind}", metadata)
