"""The asset `key_rotation`: what wraps an encrypted repository's keys, whether it is old, and a restore drill.

Materialized from the UI it only looks. It rotates and rewraps in runs whose config says so, as its schedule does.
No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)
from pydantic import Field

from vera_assets.assets.spec import OWNERS, UPKEEP_GROUP
from vera_assets.assets.upkeep import Upkeep
from vera_assets.days import insist, translated
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.resources import RepositoryResource
from vera_core.operations.key_census import KeyCensus, take_census
from vera_core.operations.key_drill import PERCENT, DrillReport, drill
from vera_core.operations.repository import Repository
from vera_core.operations.rewrap import execute_rewrap, rotate

KEYS_KEY = AssetKey(["vera", "key_rotation"])
KEYS_STEP = "vera_keys"
VERSIONS = "no_key_is_wrapped_by_an_old_version"
AGE = "kek_is_not_too_old"
DRILL = "each_place_would_do_alone"
ROTATE_DAYS = 365
BEHIND_DAYS = 30
SHOWN = 10
DESCRIPTIONS = {
    VERSIONS: f"Every keyring and tenant key, in every place, is wrapped by the current version of the key encryption "
    f"key, or by the one before as long as that one is not older than {BEHIND_DAYS} days.",
    AGE: f"The current version of the key encryption key is not older than {ROTATE_DAYS + BEHIND_DAYS} days.",
    DRILL: f"A restore drill: with the keys of each place alone {PERCENT:g} % of the shards were opened and read from.",
}


class Rotation(Upkeep):
    """What a run may do."""

    rotate_days: int = Field(
        default=ROTATE_DAYS, ge=0, description="Make a new version of the KEK after so many days; 0: never."
    )


def key_rotation_asset() -> AssetsDefinition:
    """What wraps the keys of the repository."""
    spec = AssetSpec(
        KEYS_KEY,
        description="The keyrings and tenant keys of an encrypted repository, by place and by the version of the key "
        "encryption key that wraps them. With `execute` that key gets a new version when its last one is a year old, "
        "and all keys are wrapped by it; no shard is touched.",
        group_name=UPKEEP_GROUP,
        owners=OWNERS,
        kinds={"s3"},
        code_version="1",
    )
    checks = [AssetCheckSpec(name, asset=KEYS_KEY, description=text) for name, text in DESCRIPTIONS.items()]

    @multi_asset(name=KEYS_STEP, specs=[spec], check_specs=checks)
    def keys(config: Rotation, repository: RepositoryResource) -> Iterator[MaterializeResult[Any] | AssetCheckResult]:
        with translated():
            repo = repository.open()
            repo.refresh_config()
        if repo.config.encryption is None:
            yield MaterializeResult(asset_key=spec.key, metadata={"encrypted": MetadataValue.bool(False)})
            yield from (_passed(check, "The repository is not encrypted: it has no keys.", {}) for check in checks)
            return
        with translated():
            census, metadata = _upkeep(repo, config)
            drilled = drill(repo)
        yield MaterializeResult(asset_key=spec.key, metadata={**metadata, **numbers(drilled)})
        age = repo.clock.now() - census.made
        yield _passed(checks[0], _versions_text(census, age), _places(census), ok=not _is_behind(census, age))
        text = f"The key encryption key's version {census.current} was made {age.days:,} days ago."
        yield _passed(checks[1], text, {}, ok=age <= timedelta(days=ROTATE_DAYS + BEHIND_DAYS))
        yield _passed(checks[2], _drill_text(drilled), {"first findings": table(drilled.findings, limit=SHOWN)},
                      ok=drilled.ok)  # fmt: skip
        with translated():
            insist(census.findings)

    return keys


def _upkeep(repo: Repository, config: Rotation) -> tuple[KeyCensus, Metadata]:
    """Looks, and does what is due; what there is afterwards, and what was done."""
    census = take_census(repo)
    metadata: Metadata = {**numbers(census), **_places(census), "more": command("keys")}
    if not config.execute:
        return census, metadata
    age = repo.clock.now() - census.made
    if config.rotate_days and age > timedelta(days=config.rotate_days):
        metadata |= numbers(rotate(repo))
        census = take_census(repo)
    if census.behind:
        metadata |= numbers(execute_rewrap(repo, census))
        census = take_census(repo)
    return census, {**metadata, **numbers(census), **_places(census)}


def _is_behind(census: KeyCensus, age: timedelta) -> bool:
    """Whether a key is wrapped by a version that was replaced too long ago, or by one that was replaced before that."""
    old = census.oldest < census.current - 1
    return bool(census.behind) and (old or age > timedelta(days=BEHIND_DAYS))


def _versions_text(census: KeyCensus, age: timedelta) -> str:
    text = f"{census.keys:,} keys, {census.behind:,} of them wrapped by a version before {census.current}"
    return f"{text}, which was made {age.days:,} days ago. Run `vera keys rewrap`." if census.behind else f"{text}."


def _drill_text(report: DrillReport) -> str:
    if report.findings:
        first = report.findings[0]
        return f"{len(report.findings):,} findings. First: {first.key}: {first.what}. {first.todo}"
    return f"{report.shards:,} shards were opened and read from with the keys of each of {len(report.places):,} places."


def _places(census: KeyCensus) -> Metadata:
    rows = [
        {
            "place": line.place, "keyrings": line.keyrings, "tenant keys": line.tenant_keys,
            "versions": ", ".join(f"{version}: {count:,}" for version, count in line.versions), "error": line.error,
        }
        for line in census.places
    ]  # fmt: skip
    return {"places": table(rows)}


def _passed(spec: AssetCheckSpec, text: str, metadata: Metadata, *, ok: bool = True) -> AssetCheckResult:
    return AssetCheckResult(
        passed=ok, severity=AssetCheckSeverity.ERROR, description=text, metadata=metadata,
        asset_key=spec.asset_key, check_name=spec.name,
    )  # fmt: skip
