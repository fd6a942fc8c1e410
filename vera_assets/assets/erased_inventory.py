"""The asset `inventory` of a tenant: a day's catalogue, whole again after an erasure, which takes parts of it away."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vera_assets.assets.daily import daily_asset
from vera_assets.assets.inventory import inventory_metadata
from vera_assets.assets.spec import INVENTORY, REPACKED, tenant_spec
from vera_assets.days import DayResult
from vera_assets.metadata import numbers
from vera_core.operations.inventory import write_inventory
from vera_core.operations.tombstones import survey_tombstones

if TYPE_CHECKING:
    from datetime import date

    from dagster import AssetsDefinition

    from vera_assets.tenants import Tenant
    from vera_core.operations.repository import Repository


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
    return daily_asset(tenant, INVENTORY, spec, lambda _, repository: partial(_write, repository.open(), tenant))


def _write(repo: Repository, tenant: Tenant, day: date) -> DayResult:
    erased = survey_tombstones(repo, tenant.name, day)
    if not erased.erased:
        return DayResult("0", numbers(erased))
    return DayResult(f"{erased.erased}", inventory_metadata(write_inventory(repo, tenant.name, day), day))
