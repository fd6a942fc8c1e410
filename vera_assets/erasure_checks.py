"""The asset checks of erasure: deadlines met, nothing erased can be read, sidecars equal logs, locks as policy wants.

None blocks: what is wrong with one of them is for a person, and repacking makes none of it worse. Of a range of days
each is reported as its own, as with the checks of `shards`.
No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import partial

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    Output,
    asset_check,
    multi_asset_check,
)

from vera_assets.assets.spec import ERASURE_REQUESTS, REPACKED, TOMBSTONES
from vera_assets.checks import by_day, failed_result, shown_result
from vera_assets.days import each_day, translated
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.partitions import days_of, partition_of
from vera_assets.resources import RepositoryResource
from vera_assets.tenants import Tenant
from vera_core.errors import NotFoundError, VeraError
from vera_core.operations.deadlines import RequestsReport, survey_requests
from vera_core.operations.erasure_proof import ERASED, SAMPLE, SIDECAR, ErasureProof, prove_erased
from vera_core.operations.key_survey import NO_KEYS, KeySurvey, survey_keys
from vera_core.operations.keyring_survey import KEYRINGS, KeyringsReport, survey_keyrings
from vera_core.operations.proving import WORM_LOCK
from vera_core.operations.report import Report
from vera_core.operations.repository import Repository
from vera_core.operations.verify import verify_slots
from vera_core.operations.walk import slots

DEADLINES = "deadlines"
DESCRIPTIONS: Mapping[str, str] = {
    ERASED: f"A new reader was refused every erased version of the day that was tried: all, or {SAMPLE} by chance.",
    SIDECAR: "What readers begin with says of every slot of the day what its log says, read whole.",
}
LOCKS = "The lock of every live shard and every log record of the day, asked of the store: at least what it must be."
KEY_DESCRIPTIONS: Mapping[str, str] = {
    KEYRINGS: "The keyring of every shard of the day, in the bucket and in each registered copy: there, whole, opened "
    "by the key service, no older than the slot's log says, the same everywhere.",
    NO_KEYS: "No version of any keyring, in the bucket or in a registered copy, opens a file that was erased.",
}
KEY_SURVEYS: Mapping[str, Callable[[Repository, str, date], KeyringsReport | KeySurvey]] = {
    KEYRINGS: survey_keyrings,
    NO_KEYS: survey_keys,
}
SHOWN = 10


def deadlines_check(tenant: Tenant) -> AssetChecksDefinition:
    """Whether files are out of sight as soon as they must be: a warning while time is left, an error afterwards."""

    @asset_check(
        asset=tenant.naming.key(ERASURE_REQUESTS),
        name=DEADLINES,
        description=f"No file can be seen more than {tenant.within.total_seconds() / 3600:,.0f} hours after its "
        "erasure was due, nor more than a month; a warning says when little time is left.",
    )
    def deadlines(repository: RepositoryResource) -> AssetCheckResult:
        with translated():
            report = survey_requests(repository.open(), tenant.name, tenant.within)
        return AssetCheckResult(
            passed=not report.findings,
            severity=AssetCheckSeverity.WARN if report.ok else AssetCheckSeverity.ERROR,
            description=_deadlines_text(report),
            metadata={
                **numbers(report),
                "findings": table(report.findings),
                "more": command("erasures", "--tenant", tenant.name),
            },
        )

    return deadlines


def keyrings_checks(tenant: Tenant) -> AssetChecksDefinition:
    """The keyrings of a day, of an encrypted repository: in order, and of no use for what was erased."""
    key = tenant.naming.key(TOMBSTONES)
    specs = {
        name: AssetCheckSpec(name, asset=key, description=text, partitions_def=tenant.partitions)
        for name, text in KEY_DESCRIPTIONS.items()
    }

    @multi_asset_check(specs=list(specs.values()), name=tenant.naming.name("open_keyrings"), can_subset=True)
    def open_keyrings(
        context: AssetCheckExecutionContext, repository: RepositoryResource
    ) -> Iterator[AssetCheckResult | AssetCheckEvaluation | Output[None]]:
        with translated():
            repo = repository.open()
            days = _days(context, key)
            for name, survey in KEY_SURVEYS.items():
                if specs[name].key in context.selected_asset_check_keys:
                    found, failed = each_day(days, partial(survey, repo, tenant.name))
                    results = {day: _keys(specs[name], found.get(day) or failed[day]) for day in days}
                    yield from by_day(context, specs[name], results)

    return open_keyrings


def _keys(spec: AssetCheckSpec, found: KeyringsReport | KeySurvey | VeraError) -> AssetCheckResult:
    if isinstance(found, VeraError):
        return failed_result(spec, found)
    return shown_result(spec, found.check, {**numbers(found), "more": command("keys", "ls")})


def tombstones_checks(tenant: Tenant) -> AssetChecksDefinition:
    """What is erased stays out of sight: one look for both checks."""
    key = tenant.naming.key(TOMBSTONES)
    specs = [
        AssetCheckSpec(name, asset=key, description=text, partitions_def=tenant.partitions)
        for name, text in DESCRIPTIONS.items()
    ]

    @multi_asset_check(specs=specs, name=tenant.naming.name("prove_erased"), can_subset=True)
    def prove(
        context: AssetCheckExecutionContext, repository: RepositoryResource
    ) -> Iterator[AssetCheckResult | AssetCheckEvaluation | Output[None]]:
        with translated():
            repo = repository.open()
            days = _days(context, key)
            proved, failed = each_day(days, lambda day: prove_erased(repo, tenant.name, day))
        for spec in specs:
            if spec.key in context.selected_asset_check_keys:
                results = {day: _result(spec, proved.get(day) or failed[day], tenant, day) for day in days}
                yield from by_day(context, spec, results)

    return prove


def repacked_checks(tenant: Tenant) -> AssetChecksDefinition:
    """The locks after a repack, of new shards and of old ones' logs."""
    key = tenant.naming.key(REPACKED)
    spec = AssetCheckSpec(WORM_LOCK, asset=key, description=LOCKS, partitions_def=tenant.partitions)

    @multi_asset_check(specs=[spec], name=tenant.naming.name("ask_locks"))
    def ask_locks(
        context: AssetCheckExecutionContext, repository: RepositoryResource
    ) -> Iterator[AssetCheckResult | AssetCheckEvaluation | Output[None]]:
        with translated():
            repo = repository.open()
            days = _days(context, key)
            asked, failed = each_day(days, lambda day: verify_slots(repo, slots(repo, tenant.name, day)))
        results = {
            day: shown_result(spec, asked[day].check(WORM_LOCK), _about(asked[day], "verify", tenant, day))
            if day in asked
            else failed_result(spec, failed[day])
            for day in days
        }
        yield from by_day(context, spec, results)

    return ask_locks


def _days(context: AssetCheckExecutionContext, key: AssetKey) -> list[date]:
    """The days that a run checks; without a partition, as the UI's button runs checks, the one looked at last.

    Raises:
        NotFoundError: none was materialized yet.
    """
    if context.has_partition_key or context.has_partition_key_range:
        return list(days_of(context.op_execution_context.partition_keys))
    entry = context.instance.get_latest_materialization_event(key)
    event = None if entry is None else entry.asset_materialization
    if event is None or event.partition is None:
        raise NotFoundError("no day was looked at yet", todo="Materialize one.", asset=key.to_user_string())
    return list(days_of([event.partition]))


def _result(spec: AssetCheckSpec, found: ErasureProof | VeraError, tenant: Tenant, day: date) -> AssetCheckResult:
    if isinstance(found, VeraError):
        return failed_result(spec, found)
    return shown_result(spec, found.check(spec.name), _about(found, "doctor", tenant, day))


def _about(report: Report, name: str, tenant: Tenant, day: date) -> Metadata:
    span = ("--from", partition_of(day), "--to", partition_of(day)) if name == "verify" else ("--dry-run",)
    return {**numbers(report), "more": command(name, *span, "--tenant", tenant.name)}


def _deadlines_text(report: RequestsReport) -> str:
    if not report.findings:
        return f"{report.unfinished:,} unfinished requests, and time for all of them."
    lines = [f"{finding.key}: {finding.what}. {finding.todo}" for finding in report.findings[:SHOWN]]
    return "\n".join(lines)
