"""The asset `repacked_shards`: a day's shards after erased files were left behind, where these were many."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vera_assets.assets.daily import daily_asset
from vera_assets.assets.spec import REPACKED, TOMBSTONES, tenant_spec
from vera_assets.days import DayResult, insist
from vera_assets.metadata import command, numbers, table
from vera_assets.partitions import partition_of
from vera_core.operations.repack import RATIO, execute_repack, plan_repack
from vera_core.operations.tombstones import survey_tombstones
from vera_core.operations.walk import slots

if TYPE_CHECKING:
    from datetime import date

    from dagster import AssetsDefinition, MetadataValue

    from vera_assets.tenants import Tenant
    from vera_core.operations.repository import Repository


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
    return daily_asset(tenant, REPACKED, spec, lambda _, repository: partial(_repack, repository.open(), tenant))


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
