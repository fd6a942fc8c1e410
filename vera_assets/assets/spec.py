"""What all assets of a source, or of a tenant, have in common: key, group, owners, kinds; not what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster import AssetSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vera_assets.sources import MigratedSource
    from vera_assets.tenants import Tenant

OWNERS = ["team:archive"]
REPOSITORY_GROUP = "vera_repository"
UPKEEP_GROUP = "vera_upkeep"

WINDOW = "window"
SHARDS = "shards"
INVENTORY = "inventory"
WATERMARK = "watermark"

ERASURE_REQUESTS = "erasure_requests"
TOMBSTONES = "tombstones"
REPACKED = "repacked_shards"


def source_spec(
    source: MigratedSource,
    concept: str,
    *,
    description: str,
    kinds: set[str],
    code_version: str,
    after: Iterable[str] = (),
) -> AssetSpec:
    """The asset of `concept`, made from the source's assets `after`.

    `code_version` changes only when the step would make something else of the same rows: a release of VERA alone makes
    no archived day stale.
    """
    return AssetSpec(
        source.naming.key(concept),
        deps=[source.naming.key(other) for other in after],
        description=description,
        group_name=source.naming.identifier,
        owners=OWNERS,
        kinds=kinds,
        code_version=code_version,
    )


def tenant_spec(
    tenant: Tenant,
    concept: str,
    *,
    description: str,
    kinds: set[str],
    code_version: str,
    after: Iterable[str] = (),
    after_sources: Iterable[str] = (),
) -> AssetSpec:
    """The asset of `concept`, made from the tenant's assets `after`, and from those of each of its sources."""
    return AssetSpec(
        tenant.naming.key(concept),
        deps=[
            *(tenant.naming.key(other) for other in after),
            *(source.naming.key(other) for source in tenant.sources for other in after_sources),
        ],
        description=description,
        group_name=tenant.naming.name("erasure"),
        owners=OWNERS,
        kinds=kinds,
        code_version=code_version,
    )
