"""The schedules: the daily look at the bucket, and for whoever prefers a fixed hour to the sensor, one run a day.

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

from vera_assets.jobs import Job
from vera_assets.partitions import partition_of
from vera_assets.sources import MigratedSource

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
