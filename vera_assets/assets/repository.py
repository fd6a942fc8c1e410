"""The asset `vera/repository`: what the repository says of itself, looked at daily with its bucket's settings.

No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

from dagster import AssetKey, AssetsDefinition, AssetSpec, DataVersion, MaterializeResult, MetadataValue, multi_asset

from vera_assets.assets.spec import OWNERS, REPOSITORY_GROUP
from vera_assets.days import translated
from vera_assets.metadata import command, table
from vera_assets.resources import RepositoryResource
from vera_core.config import RepositoryConfig

REPOSITORY_KEY = AssetKey(["vera", "repository"])


def repository_asset() -> AssetsDefinition:
    """The repository as its config log describes it."""
    spec = AssetSpec(
        REPOSITORY_KEY,
        description="The repository's config: lock mode, retention classes, routing epochs, versions that may write.",
        group_name=REPOSITORY_GROUP,
        owners=OWNERS,
        kinds={"s3"},
        code_version="1",
    )

    @multi_asset(name="vera_repository", specs=[spec])
    def repository_config(repository: RepositoryResource) -> Iterator[MaterializeResult[Any]]:
        with translated():
            repo = repository.open()
            config = repo.refresh_config()
        yield MaterializeResult(
            asset_key=REPOSITORY_KEY,
            data_version=DataVersion(str(config.revision)),
            metadata={"repository": MetadataValue.text(repo.uri), **_metadata(config)},
        )

    return repository_config


def _metadata(config: RepositoryConfig) -> dict[str, MetadataValue[Any]]:
    epochs = config.routing.epochs
    return {
        "id": MetadataValue.text(config.repository_id),
        "config revision": MetadataValue.int(config.revision),
        "lock mode": MetadataValue.text(config.lock_mode.value),
        "slots a day": MetadataValue.int(1 << config.routing.n_bits(date.max)),
        "retention classes": table(config.classes),
        "routing epochs": table(
            {"from day": epoch.from_day.isoformat(), "bits": epoch.n_bits, "state": epoch.state.value}
            for epoch in epochs
        ),
        "more": command("probe"),
    }
