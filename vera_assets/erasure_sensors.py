"""The sensors of erasure: which days are to be looked at and repacked, and alerts before and after deadlines.

What both ask is Dagster's own database. The store is asked in runs: each look at the requests tells the days in which
files were erased since the one before, by whomever, and its check tells of deadlines. So a tick is cheap, however many
requests, slots and shards there are.
No `from __future__ import annotations`: Dagster reads the annotations of evaluation functions as objects.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Self

from dagster import (
    AssetCheckKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from vera_assets.assets.erasure_requests import erased_days
from vera_assets.assets.spec import ERASURE_REQUESTS, REPACKED
from vera_assets.erasure_checks import DEADLINES
from vera_assets.jobs import REASON_TAG, TENANT_TAG, TOMBSTONES_REASON, Job
from vera_assets.partitions import DAYS_PER_RUN, partition_of
from vera_assets.sensors import ATTEMPT_TAG, INTERVAL_SECONDS, MAX_ATTEMPTS, RANGE_TAGS, alerts
from vera_assets.tenants import Tenant

EVENTS_PER_TICK = 100
MAX_IN_FLIGHT = 1
"""Runs of a tenant's repack job at a time: one rewrites with all cores."""
RUNS_LOOKED_AT = 200
SPAN_TAG = "vera/span"
REMIND_SECONDS = 86_400.0
"""How often an alert is repeated that nobody has ended."""


@dataclass(slots=True)
class Waiting:
    """A day to be looked at: the event that told of it, and the runs requested so far.

    `event` is its number in Dagster's log, `told` when it was stored there, in seconds since 1970.
    """

    event: int
    told: float
    attempts: int = 0


@dataclass(slots=True)
class Cursor:
    """What the tombstone sensor remembers: the last event seen, the days still to be done, those given up."""

    event: int = 0
    waiting: dict[str, Waiting] = field(default_factory=dict)
    alerted: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Reads a cursor; none, or one that a person cleared, begins anew: days that are done already drop out."""
        if not text:
            return cls()
        body = json.loads(text)
        waiting = {day: Waiting(**item) for day, item in body["waiting"].items()}
        return cls(body["event"], waiting, body["alerted"])

    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps(asdict(self))


def tombstone_sensor(tenant: Tenant, job: Job) -> SensorDefinition:
    """Requests runs for the days in which files were erased: each measures the ratio, and repacks where it is high."""

    @sensor(
        name=tenant.naming.name("tombstone_sensor"),
        job=job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        description="Requests runs for days in which files were erased: they prove that these are out of sight, and "
        f"repack where they are many. One run at a time, of up to {DAYS_PER_RUN} days; each day {MAX_ATTEMPTS} times.",
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult:
        cursor = Cursor.parse(context.cursor)
        _take_events(context.instance, tenant, cursor)
        _drop_done(context.instance, tenant, cursor)
        running = _in_flight(context.instance, tenant, job)
        given_up = sorted(day for day, item in cursor.waiting.items() if item.attempts >= MAX_ATTEMPTS)
        _alert(tenant, [day for day in given_up if day not in cursor.alerted])
        cursor.alerted = given_up
        requests = [] if running >= MAX_IN_FLIGHT else _requests(context.instance, tenant, cursor)
        told = f"{len(cursor.waiting)} days with new tombstones, {running} runs in flight, {len(given_up)} given up"
        return SensorResult(run_requests=requests, skip_reason=None if requests else told, cursor=cursor.text())

    return evaluate


def deadline_sensor(tenants: Sequence[Tenant]) -> SensorDefinition:
    """Alerts when the check of a tenant's deadlines warns or fails: once for each thing it says, then once a day."""
    keys = {tenant.name: AssetCheckKey(tenant.naming.key(ERASURE_REQUESTS), DEADLINES) for tenant in tenants}

    @sensor(
        name="vera_erasure_deadlines",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Tells the logger vera.alert of erasures that will soon be overdue, and of those that are.",
    )
    def evaluate(context: SensorEvaluationContext) -> SensorResult:
        told: dict[str, tuple[str, float]] = json.loads(context.cursor) if context.cursor else {}
        latest = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys.values()))
        now = time.time()
        trouble = {name: text for name, key in keys.items() if (text := _trouble(latest.get(key)))}
        for name, text in trouble.items():
            before, moment = told.get(name, ("", 0.0))
            if text != before or now - moment >= REMIND_SECONDS:
                alerts.error("Erasures of tenant %s: %s", name, text)
                told[name] = (text, now)
        kept = {name: told[name] for name in trouble}
        reason = "; ".join(f"{name}: {text}" for name, text in trouble.items()) or "No deadline is near."
        return SensorResult(skip_reason=reason, cursor=json.dumps(kept))

    return evaluate


def _take_events(instance: DagsterInstance, tenant: Tenant, cursor: Cursor) -> None:
    """The days that looks at the requests told of since the last tick."""
    wanted = AssetRecordsFilter(asset_key=tenant.naming.key(ERASURE_REQUESTS), after_storage_id=cursor.event or None)
    for record in instance.fetch_materializations(wanted, limit=EVENTS_PER_TICK, ascending=True).records:
        cursor.event = record.storage_id
        if record.asset_materialization is not None:
            for day in erased_days(record.asset_materialization):
                if day >= tenant.begin:
                    cursor.waiting[partition_of(day)] = Waiting(record.storage_id, record.timestamp)


def _drop_done(instance: DagsterInstance, tenant: Tenant, cursor: Cursor) -> None:
    """Forgets the days that a run looked at which began after they were told of."""
    if not cursor.waiting:
        return
    key = tenant.naming.key(REPACKED)
    kind = DagsterEventType.ASSET_MATERIALIZATION
    latest = instance.get_latest_storage_id_by_partition(key, kind, set(cursor.waiting))
    later = [number for day, number in latest.items() if number > cursor.waiting[day].event]
    if not later:
        return
    wanted = AssetRecordsFilter(asset_key=key, storage_ids=later)
    records = instance.fetch_materializations(wanted, limit=len(later)).records
    runs = instance.get_run_records(RunsFilter(run_ids=list({record.run_id for record in records})))
    began = {run.dagster_run.run_id: run.start_time or 0.0 for run in runs}
    for record in records:
        day = record.partition_key
        if day is not None and began.get(record.run_id, 0.0) >= cursor.waiting[day].told:
            del cursor.waiting[day]


def _in_flight(instance: DagsterInstance, tenant: Tenant, job: Job) -> int:
    """The runs of the tenant's repack that are queued or running, however they were launched."""
    key = tenant.naming.key(REPACKED)
    runs = instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES), limit=RUNS_LOOKED_AT)
    return sum(run.job_name == job.name or key in (run.asset_selection or ()) for run in runs)


def _requests(instance: DagsterInstance, tenant: Tenant, cursor: Cursor) -> list[RunRequest]:
    """A run for the oldest days that wait, as many as one run takes; counts the attempts in `cursor`."""
    today = datetime.now(UTC).date()
    open_days = [
        day
        for day in sorted(
            date.fromisoformat(day) for day, item in cursor.waiting.items() if item.attempts < MAX_ATTEMPTS
        )
        if day < today
    ]
    if not open_days:
        return []
    span = [day for day in open_days if day - open_days[0] < timedelta(days=DAYS_PER_RUN)]
    chosen = [cursor.waiting[partition_of(day)] for day in span]
    first, last = partition_of(span[0]), partition_of(span[-1])
    name = f"{tenant.name}:{first}:{last}:{max(item.event for item in chosen)}"
    before = instance.get_runs_count(RunsFilter(tags={SPAN_TAG: name}))
    attempt = 1 + max(before, *(item.attempts for item in chosen))
    for item in chosen:
        item.attempts = min(attempt, MAX_ATTEMPTS)
    if attempt > MAX_ATTEMPTS:
        return []
    tags = {TENANT_TAG: tenant.name, REASON_TAG: TOMBSTONES_REASON, SPAN_TAG: name, ATTEMPT_TAG: str(attempt)}
    key = f"repack:{name}:{attempt}"
    if len(span) == 1:
        return [RunRequest(run_key=key, partition_key=first, tags=tags)]
    return [RunRequest(run_key=key, tags={**tags, **dict(zip(RANGE_TAGS, (first, last), strict=True))})]


def _alert(tenant: Tenant, days: Sequence[str]) -> None:
    if days:
        shown = ", ".join(days[:10]) + (f" and {len(days) - 10} more" if len(days) > 10 else "")
        alerts.error(
            "Looking at days with erased files of tenant %s failed %d times and is not tried again by itself: %s. Find "
            "the cause in the runs, then materialize them by hand: job %s, or run `vera repack --tenant %s`.",
            tenant.name, MAX_ATTEMPTS, shown, tenant.naming.name("repack"), tenant.name,
        )  # fmt: skip


def _trouble(record: AssetCheckExecutionRecord | None) -> str:
    """What the latest check of deadlines found wrong; "" if nothing, or as long as none has ended."""
    if record is None or record.status is not AssetCheckExecutionRecordStatus.FAILED or record.evaluation is None:
        return ""
    return record.evaluation.description or "the deadlines could not be looked at"
