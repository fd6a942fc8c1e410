"""The assets `garbage` and `doctor`: what the whole repository has to be cleared of, and what has to be put right.

Materialized from the UI they only look. They act in runs whose config says so, as their schedules do.
No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterator
from typing import Any

from dagster import AssetKey, AssetsDefinition, AssetSpec, Config, MaterializeResult, MetadataValue, multi_asset
from pydantic import Field

from vera_assets.assets.spec import OWNERS, UPKEEP_GROUP
from vera_assets.days import insist, translated
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.resources import RepositoryResource
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.gc import execute_gc, plan_gc
from vera_core.operations.walk import all_slots

GARBAGE_KEY = AssetKey(["vera", "garbage"])
DOCTOR_KEY = AssetKey(["vera", "doctor"])
GARBAGE_STEP = "vera_find_garbage"
DOCTOR_STEP = "vera_examine"


class Upkeep(Config):
    """What a run may do."""

    execute: bool = Field(default=False, description="Do what the plan says. Otherwise the run only looks.")


def acting(step: str) -> dict[str, Any]:
    """The config of a run in which that step acts."""
    return {"ops": {step: {"config": {"execute": True}}}}


def garbage_asset() -> AssetsDefinition:
    """Shard versions that count no more."""
    spec = AssetSpec(
        GARBAGE_KEY,
        description="Shard versions that count no more: uploads that no record names, and what repacks replaced. With "
        "`execute` they are condemned, and deleted a day later at the earliest, when their locks have ended.",
        group_name=UPKEEP_GROUP,
        owners=OWNERS,
        kinds={"s3"},
        code_version="1",
    )

    @multi_asset(name=GARBAGE_STEP, specs=[spec])
    def garbage(config: Upkeep, repository: RepositoryResource) -> Iterator[MaterializeResult[Any]]:
        with translated():
            repo = repository.open()
            plan = plan_gc(repo, all_slots(repo))
            report = execute_gc(repo, plan) if config.execute else None
        metadata: Metadata = {**numbers(plan), "more": command("gc", "--dry-run")}
        if report is not None:
            metadata |= numbers(report)
        if plan.lines:
            metadata["versions"] = table(plan.lines)
        yield MaterializeResult(asset_key=spec.key, metadata=metadata)
        with translated():
            insist((report or plan).findings)

    return garbage


def doctor_asset() -> AssetsDefinition:
    """What crashes and strangers left behind, and locks and legal holds that have to follow the logs."""
    spec = AssetSpec(
        DOCTOR_KEY,
        description="What crashes and strangers left behind. With `execute` it is put right: commits are sealed, locks "
        "extended and legal holds set as the slot logs say, sidecars rebuilt, strangers' versions removed.",
        group_name=UPKEEP_GROUP,
        owners=OWNERS,
        kinds={"s3"},
        code_version="1",
    )

    @multi_asset(name=DOCTOR_STEP, specs=[spec])
    def doctor(config: Upkeep, repository: RepositoryResource) -> Iterator[MaterializeResult[Any]]:
        with translated():
            repo = repository.open()
            plan = plan_doctor(repo)
            report = execute_doctor(repo, plan) if config.execute else None
        metadata: Metadata = {**numbers(plan), "more": command("doctor", "--dry-run")}
        if report is not None:
            metadata |= numbers(report)
        if plan.diagnoses:
            metadata["places"] = table(
                {"place": item.place, "sidecar": item.sidecar, "unsealed": item.unsealed, "error": item.error}
                for item in plan.diagnoses
            )
        metadata["trouble"] = MetadataValue.bool(not plan.ok)
        yield MaterializeResult(asset_key=spec.key, metadata=metadata)
        with translated():
            insist((report or plan).findings)

    return doctor
