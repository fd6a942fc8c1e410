"""The asset `tombstones`: how much of a day is erased, counted from the slot logs. Materializing it changes nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vera_assets.assets.daily import daily_asset
from vera_assets.assets.spec import ERASURE_REQUESTS, SHARDS, TOMBSTONES, tenant_spec
from vera_assets.days import DayResult, insist
from vera_assets.metadata import command, numbers
from vera_assets.partitions import partition_of
from vera_core.operations.keyring_survey import survey_keyrings
from vera_core.operations.tombstones import survey_tombstones

if TYPE_CHECKING:
    from datetime import date

    from dagster import AssetsDefinition

    from vera_assets.tenants import Tenant
    from vera_core.operations.repository import Repository


def tombstones_asset(tenant: Tenant) -> AssetsDefinition:
    """The asset `tombstones` of a tenant."""
    spec = tenant_spec(
        tenant,
        TOMBSTONES,
        description="What is erased of the day: hidden from every reader by a tombstone in its slot's log. The bytes "
        "stay in their locked shard until its lock ends: hidden, or without a key where the repository is encrypted.",
        kinds={"s3"},
        code_version="1",
        after=[ERASURE_REQUESTS],
        after_sources=[SHARDS],
    )
    return daily_asset(tenant, TOMBSTONES, spec, lambda _, repository: partial(_count, repository.open(), tenant))


def _count(repo: Repository, tenant: Tenant, day: date) -> DayResult:
    report = survey_tombstones(repo, tenant.name, day)
    insist(report.findings)
    more = command("repack", "--dry-run", "--ratio", "0", "--day", partition_of(day), "--tenant", tenant.name)
    keys = numbers(survey_keyrings(repo, tenant.name, day)) if tenant.encrypted else {}
    return DayResult(f"{report.erased}", {**keys, **numbers(report), "more": more})
