"""The step of every asset that is made day by day: what a day is made of is each asset's own.

No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    multi_asset,
)

from vera_assets.days import DayResult, materialize_days, translated
from vera_assets.partitions import days_of, range_policy
from vera_assets.resources import RepositoryResource
from vera_assets.sources import MigratedSource
from vera_assets.tenants import Tenant

Begin = Callable[[AssetExecutionContext, RepositoryResource], Callable[[date], DayResult]]
"""Opens what a run needs, and returns what it does for each of its days."""


def daily_asset(owner: MigratedSource | Tenant, concept: str, spec: AssetSpec, begin: Begin) -> AssetsDefinition:
    """The asset of that concept of a source or a tenant, with its days as partitions."""

    @multi_asset(
        name=owner.naming.name(concept),
        specs=[spec],
        partitions_def=owner.partitions,
        backfill_policy=range_policy(),
    )
    def step(
        context: AssetExecutionContext, repository: RepositoryResource
    ) -> Iterator[MaterializeResult[Any] | AssetMaterialization]:
        with translated():
            work = begin(context, repository)
        yield from materialize_days(spec.key, days_of(context.partition_keys), work)

    return step
