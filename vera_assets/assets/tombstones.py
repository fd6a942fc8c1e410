"""The asset `tombstones`: how much of a day is erased, counted from the slot logs. Materializing it changes nothing.

No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

from dagster import AssetExecutionContext, AssetMaterialization, AssetsDefinition, MaterializeResult, multi_asset

from vera_assets.assets.spec import ERASURE_REQUESTS, SHARDS, TOMBSTONES, tenant_spec
from vera_assets.days import DayResult, insist, materialize_days, translated
from vera_assets.metadata import command, numbers
from vera_assets.partitions import days_of, partition_of, range_policy
from vera_assets.resources import RepositoryResource
from vera_assets.tenants import Tenant
from vera_core.operations.repository import Repository
from vera_core.operations.tombstones import survey_tombstones


def tombstones_asset(tenant: Tenant) -> AssetsDefinition:
    """The asset `tombstones` of a tenant."""
    spec = tenant_spec(
        tenant,
        TOMBSTONES,
        description="What is erased of the day: hidden from every reader by a tombstone in its slot's log. The bytes "
        "stay in their locked shard, hidden, until its lock ends.",
        kinds={"s3"},
        code_version="1",
        after=[ERASURE_REQUESTS],
        after_sources=[SHARDS],
    )

    @multi_asset(
        name=tenant.naming.name(TOMBSTONES),
        specs=[spec],
        partitions_def=tenant.partitions,
        backfill_policy=range_policy(),
    )
    def tombstones(
        context: AssetExecutionContext, repository: RepositoryResource
    ) -> Iterator[MaterializeResult[Any] | AssetMaterialization]:
        with translated():
            repo = repository.open()
        yield from materialize_days(spec.key, days_of(context.partition_keys), lambda day: _count(repo, tenant, day))

    return tombstones


def _count(repo: Repository, tenant: Tenant, day: date) -> DayResult:
    report = survey_tombstones(repo, tenant.name, day)
    insist(report.findings)
    more = command("repack", "--dry-run", "--ratio", "0", "--day", partition_of(day), "--tenant", tenant.name)
    return DayResult(f"{report.erased}", {**numbers(report), "more": more})
