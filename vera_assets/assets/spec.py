"""What all assets of a source have in common: key, group, owners, kinds, code version; not what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster import AssetSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vera_assets.sources import MigratedSource

OWNERS = ["team:archive"]
REPOSITORY_GROUP = "vera_repository"

WINDOW = "window"
SHARDS = "shards"
INVENTORY = "inventory"
WATERMARK = "watermark"


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
