"""The asset `inventory` of a tenant: a day's catalogue, whole again after an erasure, which takes parts of it away.

No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

from dagster import AssetExecutionContext, AssetMaterialization, AssetsDefinition, MaterializeResult, multi_asset

from vera_assets.assets.inventory import inventory_metadata
from vera_assets.assets.spec import INVENTORY, REPACKED, tenant_spec
from vera_assets.days import DayResult, materialize_days, translated
from vera_assets.metadata import numbers
from vera_assets.partitions import days_of, range_policy
from vera_assets.resources import RepositoryResource
from vera_assets.tenants import Tenant
from vera_core.operations.inventory import write_inventory
from vera_core.operations.repository import Repository
from vera_core.operations.tombstones import survey_tombstones


def erased_inventory_asset(tenant: Tenant) -> AssetsDefinition:
    """The asset `inventory` of a tenant."""
    spec = tenant_spec(
        tenant,
        INVENTORY,
        description="The day's catalogue, written again where files were erased: an erasure removes the parts of it "
        "that showed them. Of a day without erasures nothing is written.",
        kinds={"parquet", "s3"},
        code_version="1",
        after=[REPACKED],
    )

    @multi_asset(
        name=tenant.naming.name(INVENTORY),
        specs=[spec],
        partitions_def=tenant.partitions,
        backfill_policy=range_policy(),
    )
    def inventory(
        context: AssetExecutionContext, repository: RepositoryResource
    ) -> Iterator[MaterializeResult[Any] | AssetMaterialization]:
        with translated():
            repo = repository.open()
        yield from materialize_days(spec.key, days_of(context.partition_keys), lambda day: _write(repo, tenant, day))

    return inventory


def _write(repo: Repository, tenant: Tenant, day: date) -> DayResult:
    erased = survey_tombstones(repo, tenant.name, day)
    if not erased.erased:
        return DayResult("0", numbers(erased))
    return DayResult(f"{erased.erased}", inventory_metadata(write_inventory(repo, tenant.name, day), day))
