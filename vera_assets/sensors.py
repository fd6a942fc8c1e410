"""The sensors decide what is to run and request it; they archive nothing themselves.

The watermark sensor asks our schema which windows are due: one bounded query a tick, no walk over S3. It counts
attempts, because Dagster never runs a run key again, and stops at `MAX_ATTEMPTS` with an alert that names the manual
relaunch. Days that the command line migrated are shown in Dagster too: see mirror.py.
No `from __future__ import annotations`: Dagster reads the annotations of evaluation functions as objects.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import Self

from dagster import (
    AssetCheckEvaluation,
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DefaultSensorStatus,
    RunFailureSensorContext,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    run_failure_sensor,
    sensor,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from vera_assets.assets.spec import WATERMARK
from vera_assets.checks import PROGRESS
from vera_assets.jobs import SOURCE_TAG, TENANT_TAG, Job
from vera_assets.mirror import mirror
from vera_assets.partitions import partition_of
from vera_assets.resources import RepositoryResource
from vera_assets.sources import MigratedSource
from vera_core.operations.due import Migration, due_windows, note_late_rows
from vera_core.source.base import Window

INTERVAL_SECONDS = 60
LATE_SECONDS = 3600.0
"""How often late rows are looked for: one indexed query of the source each."""
MAX_IN_FLIGHT = 2
"""Runs of one source that are queued or running at a time: a run uses all cores by itself."""
MAX_ATTEMPTS = 3
RUNS_LOOKED_AT = 200
DAY_TAG = "vera/day"
REVISION_TAG = "vera/revision"
ATTEMPT_TAG = "vera/attempt"
PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

alerts = logging.getLogger("vera.alert")
"""Where alerts go: attach a handler to be paged."""


@dataclass(slots=True)
class Cursor:
    """What the sensor remembers between ticks: attempts of windows that are due, alerts told, late rows, mirror."""

    attempts: dict[str, int] = field(default_factory=dict)
    alerted: list[str] = field(default_factory=list)
    late_at: float = 0.0
    mirrored: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Reads a cursor; none, or one that a person cleared, begins anew."""
        return cls(**json.loads(text)) if text else cls()

    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps(
            {
                "attempts": self.attempts,
                "alerted": self.alerted,
                "late_at": self.late_at,
                "mirrored": self.mirrored,
            }
        )


def watermark_sensor(source: MigratedSource, job: Job) -> SensorDefinition:
    """Requests runs for the due windows of a source, oldest first."""

    @sensor(
        name=source.naming.name("watermark_sensor"),
        job=job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description=f"Requests runs for days of {source.source} that are due: new, failed, or with late rows. At most "
        f"{MAX_IN_FLIGHT} at a time, each day {MAX_ATTEMPTS} times.",
    )
    def evaluate(context: SensorEvaluationContext, repository: RepositoryResource) -> SensorResult:
        migration = source.open(repository.open())
        cursor = Cursor.parse(context.cursor)
        _look_for_late_rows(migration, cursor)
        due = due_windows(migration, first=source.begin)
        running = runs_in_flight(context.instance, source)
        requests, exhausted = _decide(context.instance, source, due, running=running, cursor=cursor)
        alerted = _alerts(source, exhausted, cursor)
        cursor.mirrored = mirror(context.instance, source, migration, cursor.mirrored)
        told = [f"{len(due)} windows due, {len(running)} runs in flight, {len(exhausted)} given up"]
        return SensorResult(
            run_requests=requests,
            skip_reason=None if requests else "; ".join(told + [_relaunch(source, item) for item in exhausted]),
            cursor=cursor.text(),
            asset_events=alerted,
        )

    return evaluate


def failure_sensor(sources: Sequence[MigratedSource], jobs: Sequence[Job]) -> SensorDefinition:
    """Tells of every failed run of ours: what failed, and how to begin it again."""
    by_tags = {(source.source, source.tenant): source for source in sources}

    @run_failure_sensor(
        name="vera_run_failure",
        monitored_jobs=list(jobs),
        default_status=DefaultSensorStatus.RUNNING,
        description="Tells the logger vera.alert, and for a source its progress check, of every failed run.",
    )
    def tell(context: RunFailureSensorContext) -> None:
        run = context.dagster_run
        causes = "; ".join(_cause(event) for event in context.get_step_failure_events())
        text = f"Run {run.run_id} of {run.job_name} failed: {causes or context.failure_event.message}"
        source = by_tags.get((run.tags.get(SOURCE_TAG, ""), run.tags.get(TENANT_TAG, "")))
        if source is not None:
            days = ", ".join(partition_of(day) for day in sorted(days_of_run(run))) or "of no day"
            text += f" Days: {days}. Once the cause is gone, materialize them again: {_how(source)}."
            context.instance.report_runless_asset_event(_progress(source, text))
        else:
            days = ", ".join(partition_of(day) for day in sorted(days_of_run(run)))
            text += f" Once the cause is gone, launch the job again{f' for {days}' if days else ''}."
        alerts.error(text)
        context.log.error(text)

    return tell


def runs_in_flight(instance: DagsterInstance, source: MigratedSource) -> list[DagsterRun]:
    """The runs of the source that are queued or running, however they were launched."""
    runs = instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES), limit=RUNS_LOOKED_AT)
    return [run for run in runs if _concerns(run, source)]


def days_of_run(run: DagsterRun) -> Iterator[date]:
    """The days that a run's tags name, one or a range."""
    day, (first, last) = run.tags.get(PARTITION_TAG), (run.tags.get(tag) for tag in RANGE_TAGS)
    if day:
        yield date.fromisoformat(day)
    elif first and last:
        for number in range(date.fromisoformat(first).toordinal(), date.fromisoformat(last).toordinal() + 1):
            yield date.fromordinal(number)


def _concerns(run: DagsterRun, source: MigratedSource) -> bool:
    ours = run.asset_selection and any(key.path[:-1] == source.naming.prefix for key in run.asset_selection)
    return bool(ours) or run.job_name == source.naming.name("archive")


def _look_for_late_rows(migration: Migration, cursor: Cursor) -> None:
    if time.time() - cursor.late_at >= LATE_SECONDS:
        note_late_rows(migration)
        cursor.late_at = time.time()


def _decide(
    instance: DagsterInstance,
    source: MigratedSource,
    due: Sequence[Window],
    *,
    running: Sequence[DagsterRun],
    cursor: Cursor,
) -> tuple[list[RunRequest], list[Window]]:
    """The runs to request now, and the windows that were tried too often; counts the attempts in `cursor`."""
    requests: list[RunRequest] = []
    exhausted: list[Window] = []
    names = {_name(window) for window in due}
    cursor.attempts = {name: count for name, count in cursor.attempts.items() if name in names}
    busy = {day for run in running for day in days_of_run(run)}
    free = MAX_IN_FLIGHT - len(running)
    for window in due:
        name = _name(window)
        tried = cursor.attempts.get(name, 0)
        if window.day in busy:
            continue
        if tried < MAX_ATTEMPTS and len(requests) < free:
            tried = cursor.attempts[name] = max(tried, _runs_before(instance, source, window))
            if tried < MAX_ATTEMPTS:
                cursor.attempts[name] = tried + 1
                busy.add(window.day)
                requests.append(_request(source, window, tried + 1))
                continue
        if tried >= MAX_ATTEMPTS:
            exhausted.append(window)
    return requests, exhausted


def _request(source: MigratedSource, window: Window, attempt: int) -> RunRequest:
    tags = {
        SOURCE_TAG: source.source,
        TENANT_TAG: source.tenant,
        DAY_TAG: partition_of(window.day),
        REVISION_TAG: str(window.revision),
        ATTEMPT_TAG: str(attempt),
    }
    name = "/".join(source.naming.prefix)
    key = f"pack:{name}:{partition_of(window.day)}:{window.revision}:{attempt}"
    return RunRequest(run_key=key, partition_key=partition_of(window.day), tags=tags)


def _runs_before(instance: DagsterInstance, source: MigratedSource, window: Window) -> int:
    """How many runs the sensor requested for the window: more than it remembers, if its cursor was cleared."""
    tags = {
        SOURCE_TAG: source.source,
        TENANT_TAG: source.tenant,
        DAY_TAG: partition_of(window.day),
        REVISION_TAG: str(window.revision),
    }
    return instance.get_runs_count(RunsFilter(tags=tags))


def _alerts(source: MigratedSource, exhausted: Sequence[Window], cursor: Cursor) -> list[AssetCheckEvaluation]:
    """The progress check, failed, if a window was given up since the last tick."""
    names = sorted(_name(window) for window in exhausted)
    fresh = [window for window in exhausted if _name(window) not in cursor.alerted]
    cursor.alerted = names
    if not fresh:
        return []
    text = " ".join(_relaunch(source, window) for window in islice(fresh, 10))
    alerts.error(text)
    return [_progress(source, text)]


def _progress(source: MigratedSource, text: str) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=source.naming.key(WATERMARK), check_name=PROGRESS, passed=False, description=text
    )


def _relaunch(source: MigratedSource, window: Window) -> str:
    day = partition_of(window.day)
    return (
        f"{day} revision {window.revision} of {source.source} failed {MAX_ATTEMPTS} times and is not tried again by "
        f"itself. Find the cause in its runs, then materialize {day} by hand: {_how(source)}, or run "
        f"`vera migrate {source.source} --once --from {day} --to {day}`."
    )


def _how(source: MigratedSource) -> str:
    return f"job {source.naming.name('archive')}, partition"


def _name(window: Window) -> str:
    return f"{partition_of(window.day)}:{window.revision}"


def _cause(event: DagsterEvent) -> str:
    """What a failed step says to a person: VERA's own words where there are any."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    error = None if data.error is None else data.error.cause or data.error
    return event.message or "" if error is None else error.message.strip()
