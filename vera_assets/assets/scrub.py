"""The asset `scrub`: a share of the archive proved, the longest unproved first, with a check for each kind of proof.

No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Config,
    MaterializeResult,
    multi_asset,
)
from pydantic import Field

from vera_assets.assets.spec import OWNERS, UPKEEP_GROUP
from vera_assets.checks import shown_result
from vera_assets.days import insist, translated
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.resources import RepositoryResource
from vera_core.operations.proving import INTEGRITY, WORM_LOCK
from vera_core.operations.scrub import KEYRING, LEGAL_HOLD, SIDECAR, SLOT_LOG, execute_scrub
from vera_core.operations.scrub_plan import PERCENT, plan_scrub
from vera_core.operations.walk import all_slots

SCRUB_KEY = AssetKey(["vera", "scrub"])
SCRUB_STEP = "vera_prove"
DESCRIPTIONS: Mapping[str, str] = {
    INTEGRITY: "Every byte of the shards that were due, read from the store by VersionId and checked against all sums.",
    WORM_LOCK: "Their locks, and those of the records of their slots' logs, asked of the store.",
    LEGAL_HOLD: "The store has a legal hold on every shard that a case needs.",
    SLOT_LOG: "The logs of their slots, read whole: no gap, no record that does not follow the one before.",
    KEYRING: "Of encrypted shards: their keyrings, in the bucket and in each copy, opened by the key service.",
    SIDECAR: "Their sidecars say what the logs say; one that is missing or behind is a warning.",
}


class Share(Config):
    """How much a run proves."""

    percent: float = Field(default=PERCENT, gt=0, le=100, description="How many of the live shards to read, percent.")


def scrub_asset() -> AssetsDefinition:
    """A share of the archive, proved."""
    spec = AssetSpec(
        SCRUB_KEY,
        description="A share of the shards, those first whose last proof is oldest, read whole and proved, with their "
        "locks, logs, holds and sidecars. Damage stays on record until a scrub finds it whole. Nothing is repaired.",
        group_name=UPKEEP_GROUP,
        owners=OWNERS,
        kinds={"s3"},
        code_version="1",
    )
    checks = [AssetCheckSpec(name, asset=SCRUB_KEY, description=text) for name, text in DESCRIPTIONS.items()]

    @multi_asset(name=SCRUB_STEP, specs=[spec], check_specs=checks)
    def scrub(config: Share, repository: RepositoryResource) -> Iterator[MaterializeResult[Any] | AssetCheckResult]:
        with translated():
            repo = repository.open()
            plan = plan_scrub(repo, all_slots(repo), percent=config.percent)
            report = execute_scrub(repo, plan)
        metadata: Metadata = {**numbers(plan), **numbers(report), "more": command("scrub", "--findings")}
        if plan.ages:
            metadata["days since the last proof"] = table(plan.ages)
        yield MaterializeResult(asset_key=spec.key, metadata=metadata)
        for check in checks:
            yield shown_result(check, report.check(check.name), {"more": command("scrub", "--findings")})
        with translated():
            insist([finding for check in report.checks for finding in check.findings])

    return scrub
