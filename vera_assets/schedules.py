"""The schedules: looks at the bucket and at deadlines, and what somebody may turn on: archiving, erasing, upkeep.

No `from __future__ import annotations`: Dagster reads the annotations of evaluation functions as objects.
"""

from collections.abc import Iterator
from datetime import UTC, timedelta

from dagster import (
    DefaultScheduleStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    schedule,
)

from vera_assets.assets.key_rotation import KEYS_STEP, ROTATE_DAYS
from vera_assets.assets.upkeep import DOCTOR_STEP, GARBAGE_STEP, acting
from vera_assets.jobs import TENANT_TAG, Job
from vera_assets.partitions import partition_of
from vera_assets.sources import MigratedSource
from vera_assets.tenants import Tenant
from vera_core.operations.scrub_plan import PERCENT

DEADLINES_AT = "37 * * * *"
ERASE_AT = "7 * * * *"
GC_AT = "47 3 * * *"
SCRUB_AT = "17 4 * * *"
ROTATE_AT = "27 6 * * 1"
DOCTOR_AT = "17 3 * * *"
LOOK_AT = "17 5 * * *"
ARCHIVE_AT = "17 2 * * *"


def look_schedule(job: Job) -> ScheduleDefinition:
    """Looks at the repository and its bucket every day; runs unless somebody stops it."""
    return ScheduleDefinition(
        name="vera_repository_daily",
        job=job,
        cron_schedule=LOOK_AT,
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.RUNNING,
        description="Looks every day at the settings of the repository's bucket.",
    )


def daily_schedule(source: MigratedSource, job: Job) -> ScheduleDefinition:
    """Archives the newest day that is not left alone, every night. Off at first: the sensor does the same and more."""

    @schedule(
        name=source.naming.name("daily"),
        job=job,
        cron_schedule=ARCHIVE_AT,
        execution_timezone="UTC",
        description="One run every night for the newest day that is over. The watermark sensor also finds days that "
        "were missed, failed, or got late rows: use one of the two.",
    )
    def daily(context: ScheduleEvaluationContext) -> Iterator[RunRequest | SkipReason]:
        today = context.scheduled_execution_time.astimezone(UTC).date()
        day = today - timedelta(days=max(1, source.lag_days))
        if day < source.begin:
            yield SkipReason(f"The source begins on {partition_of(source.begin)}.")
        else:
            yield RunRequest(run_key=f"daily:{source.naming.identifier}:{today}", partition_key=partition_of(day))

    return daily


def deadlines_schedule(tenant: Tenant, job: Job) -> ScheduleDefinition:
    """Looks at the deadlines of erasures every hour; runs unless somebody stops it."""
    return ScheduleDefinition(
        name=tenant.naming.name("deadlines_hourly"),
        job=job,
        cron_schedule=DEADLINES_AT,
        execution_timezone="UTC",
        tags={TENANT_TAG: tenant.name},
        default_status=DefaultScheduleStatus.RUNNING,
        description="Looks every hour whether erasures are, or will soon be, overdue. The sensor "
        "vera_erasure_deadlines raises the alert.",
    )


def erase_schedule(tenant: Tenant, job: Job) -> ScheduleDefinition:
    """Executes what may be executed, every hour. Off at first: what is erased does not come back."""
    return ScheduleDefinition(
        name=tenant.naming.name("erase_hourly"),
        job=job,
        cron_schedule=ERASE_AT,
        execution_timezone="UTC",
        tags={TENANT_TAG: tenant.name},
        description="Executes every hour the erasure requests that were approved, where the repository asks for "
        "approvals, and are due. What they erase does not come back.",
    )


def gc_schedule(job: Job) -> ScheduleDefinition:
    """Collects garbage every night. Off at first: it deletes."""
    return ScheduleDefinition(
        name="vera_gc_daily",
        job=job,
        cron_schedule=GC_AT,
        execution_timezone="UTC",
        run_config=acting(GARBAGE_STEP),
        description="Condemns, and a day later deletes, what counts no more, every night.",
    )


def doctor_schedule(job: Job) -> ScheduleDefinition:
    """Puts right every night what crashes left, and keeps locks as long as holds need. Off at first."""
    return ScheduleDefinition(
        name="vera_doctor_daily",
        job=job,
        cron_schedule=DOCTOR_AT,
        execution_timezone="UTC",
        run_config=acting(DOCTOR_STEP),
        description="Puts right every night what crashes and strangers left, sets legal holds as the logs say, and "
        "extends the locks of logs as long as anything is held.",
    )


def scrub_schedule(job: Job) -> ScheduleDefinition:
    """Proves a share of the archive every night. Off at first: reading costs."""
    return ScheduleDefinition(
        name="vera_scrub_daily",
        job=job,
        cron_schedule=SCRUB_AT,
        execution_timezone="UTC",
        description=f"Reads and proves {PERCENT:g} % of the shards every night, the longest unproved first.",
    )


def key_rotation_schedule(job: Job) -> ScheduleDefinition:
    """Rewraps every week what an old version of the KEK wraps, and makes a new one every year. Off at first."""
    return ScheduleDefinition(
        name="vera_key_rotation_weekly",
        job=job,
        cron_schedule=ROTATE_AT,
        execution_timezone="UTC",
        run_config=acting(KEYS_STEP),
        description="Wraps every week the keys of an encrypted repository by the current version of the key encryption "
        f"key, makes a new version when that one is {ROTATE_DAYS} days old, and drills restoring.",
    )
