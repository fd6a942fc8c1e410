"""The asset checks. Those of `shards` verify with new readers and record VERA's verdict; Dagster's status mirrors it.

In a run of one day they block what comes after. In a run of a range they are reported per day and block nothing, so
that one bad day does not hold back the others (docs/dagster.md, "What Dagster 1.13 does with a range").
No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    MetadataValue,
    Output,
    asset_check,
    multi_asset_check,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from vera_assets.assets.repository import REPOSITORY_KEY
from vera_assets.assets.spec import SHARDS, WATERMARK
from vera_assets.days import WAIT_SECONDS, each_day, translated
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.partitions import days_of, partition_of
from vera_assets.resources import RepositoryResource
from vera_assets.sources import MigratedSource
from vera_core.errors import NotFoundError, VeraError
from vera_core.operations.due import Migration, packed_record, stuck_windows
from vera_core.operations.leasing import the_day
from vera_core.operations.migrate import verify_packed
from vera_core.operations.proving import INTEGRITY, WORM_LOCK, CheckResult
from vera_core.operations.report import Finding
from vera_core.operations.verdicts import WindowReport
from vera_core.operations.verify import RECONCILIATION
from vera_core.store.probe import hygiene

DESCRIPTIONS: Mapping[str, str] = {
    INTEGRITY: "Every byte of every shard of the day, read from the store by VersionId and checked against all sums.",
    WORM_LOCK: "The lock of every VersionId of the day, asked of the store: there, and as long as its class says.",
    RECONCILIATION: "Every row of the day, read from the source again: archived, equal or rejected by name; same "
    "count, bytes and digests.",
}
REJECTS = "rejects"
REJECTS_TEXT = "No row of the day was rejected. A warning: rejected rows are named, and all others are archived."
NAMED_BY = "`vera migrate SOURCE` names them; Dagster keeps no uid of an encrypted repository."
PROGRESS = "progress"
HYGIENE = "bucket_hygiene"
SHOWN = 10
"""Findings of a check that are kept in its event."""


def shards_checks(source: MigratedSource) -> AssetChecksDefinition:
    """The three blocking checks of a source's shards and the warning about rejects, one verification for all."""
    key = source.naming.key(SHARDS)
    specs = [
        AssetCheckSpec(name, asset=key, description=text, blocking=True, partitions_def=source.partitions)
        for name, text in DESCRIPTIONS.items()
    ]
    specs.append(AssetCheckSpec(REJECTS, asset=key, description=REJECTS_TEXT, partitions_def=source.partitions))

    @multi_asset_check(specs=specs, name=source.naming.name("verify"), can_subset=True)
    def verify(
        context: AssetCheckExecutionContext, repository: RepositoryResource
    ) -> Iterator[AssetCheckResult | AssetCheckEvaluation | Output[None]]:
        with translated():
            migration = source.open(repository.open())
            days = _days(context, migration)
            verified, failed = each_day(days, lambda day: _verify(migration, day))
        for spec in specs:
            if spec.key in context.selected_asset_check_keys:
                results = {day: _result(spec, verified.get(day) or failed[day], day) for day in days}
                yield from by_day(context, spec, results)

    return verify


def by_day(
    context: AssetCheckExecutionContext, spec: AssetCheckSpec, results: Mapping[date, AssetCheckResult]
) -> Iterator[AssetCheckResult | AssetCheckEvaluation | Output[None]]:
    """What one check of a multi_asset_check yields, so that Dagster shows each day's result as that of the day."""
    if context.has_partition_key:
        yield from results.values()
        return
    # An AssetCheckResult would be of no day here, and in a run without days Dagster 1.13 even fails on it.
    for day, result in results.items():
        yield _evaluation(context.instance, result, day, partition=partition_of(day))
        if not context.has_partition_key_range:
            yield _evaluation(context.instance, result, day, partition=None)
    yield Output(None, output_name=spec.get_python_identifier())


def progress_check(source: MigratedSource) -> AssetChecksDefinition:
    """Whether something keeps the watermark where it stands, so that a person has to look."""

    @asset_check(
        asset=source.naming.key(WATERMARK),
        name=PROGRESS,
        description="No day holds the watermark back: none failed, and none has rejects that the policy stops at.",
    )
    def progress(repository: RepositoryResource) -> AssetCheckResult:
        with translated():
            stuck = stuck_windows(source.open(repository.open()))
        days = ", ".join(sorted({partition_of(record.day) for record in stuck}))
        return AssetCheckResult(
            passed=not stuck,
            description=f"Look at {days}." if stuck else "Nothing holds the watermark back.",
            metadata={
                "windows": table(
                    {"day": record.day, "revision": record.revision, "state": record.state.value} for record in stuck
                ),
                "more": command("migrate", source.source, "--dry-run"),
            },
        )

    return progress


def hygiene_check() -> AssetChecksDefinition:
    """Whether the bucket's settings endanger the archive, looked at every day."""

    @asset_check(
        asset=REPOSITORY_KEY,
        name=HYGIENE,
        description="Versioning and Object Lock are on, no default retention, no rule that expires our objects.",
    )
    def bucket_hygiene(repository: RepositoryResource) -> AssetCheckResult:
        with translated():
            repo = repository.open()
            findings = hygiene(repo.store, repo.keys.prefix)
        bad = [finding for finding in findings if finding.required]
        return AssetCheckResult(
            passed=not bad,
            description="\n".join(f"{finding.what}. {finding.todo}" for finding in findings) or "All is as it must be.",
            metadata={"findings": table(findings), "more": command("probe")},
        )

    return bucket_hygiene


def _days(context: AssetCheckExecutionContext, migration: Migration) -> list[date]:
    """The days that a run checks; without a partition, as the UI's button runs checks, the newest packed one.

    Raises:
        NotFoundError: nothing was packed yet.
    """
    if context.has_partition_key or context.has_partition_key_range:
        return list(days_of(context.op_execution_context.partition_keys))
    for record in reversed(migration.state.latest(*migration.name)):
        if packed_record(migration, record.day) is not None:
            return [record.day]
    raise NotFoundError("no day of the source was packed yet", todo="Materialize one.", source=migration.source.name)


def _verify(migration: Migration, day: date) -> WindowReport:
    record = packed_record(migration, day)
    if record is None:
        raise NotFoundError(
            "the day was not packed yet", todo="Materialize its shards first.", source=migration.source.name, day=day
        )
    with the_day(migration, day, wait_seconds=WAIT_SECONDS) as held:
        report = verify_packed(held.migration, record.window)
    if migration.repo.config.encryption is None:
        return report
    checks = tuple(_nameless(check) for check in report.verify.checks)
    return replace(report, verify=replace(report.verify, checks=checks))


def _nameless(check: CheckResult) -> CheckResult:
    """The findings without what the source says of files: Dagster's event log keeps it for good, and openly."""
    if check.name != RECONCILIATION:
        return check
    kinds = Counter((finding.what.partition(":")[0], finding.severity) for finding in check.findings if finding.uid)
    counted = [
        Finding(what=f"{what}: {count:,}", todo=NAMED_BY, severity=kind) for (what, kind), count in kinds.items()
    ]
    return replace(check, findings=(*counted, *(finding for finding in check.findings if not finding.uid)))


def _result(spec: AssetCheckSpec, found: WindowReport | VeraError, day: date) -> AssetCheckResult:
    """What one check of one day found, or why it could not say."""
    if isinstance(found, VeraError):
        return failed_result(spec, found)
    if spec.name == REJECTS:
        return _rejects_result(spec, found, day)
    check = found.verify.check(spec.name)
    return AssetCheckResult(
        passed=check.ok, description=text_of(check), metadata=_metadata(found, check, day), asset_key=spec.asset_key,
        check_name=spec.name,
    )  # fmt: skip


def _rejects_result(spec: AssetCheckSpec, found: WindowReport, day: date) -> AssetCheckResult:
    span = ("--from", partition_of(day), "--to", partition_of(day))
    rejects = found.pack.rejects
    return AssetCheckResult(
        passed=not found.pack.rejected, severity=AssetCheckSeverity.WARN, description=rejects_text(rejects),
        metadata={
            "rejected": MetadataValue.int(found.pack.rejected),
            "reasons": table({"reason": reason, "rows": count} for reason, count in rejects.items()),
            "more": command("rejects", "ls", found.source, *span),
        },
        asset_key=spec.asset_key, check_name=spec.name,
    )  # fmt: skip


def rejects_text(rejects: Mapping[str, int]) -> str:
    """How many rows of a day were rejected, by reason."""
    return ", ".join(f"{reason}: {count:,}" for reason, count in rejects.items()) or "No row was rejected."


def failed_result(spec: AssetCheckSpec, error: VeraError) -> AssetCheckResult:
    """A check that could not be made: it did not pass, and says why."""
    return AssetCheckResult(
        passed=False, description=str(error), metadata={"error": MetadataValue.json(error.to_json())},
        asset_key=spec.asset_key, check_name=spec.name,
    )  # fmt: skip


def shown_result(spec: AssetCheckSpec, check: CheckResult, about: Metadata) -> AssetCheckResult:
    """A check's result with what it is about; findings that harm nobody are a warning."""
    metadata = {**about, "first findings": table(check.findings, limit=SHOWN)} if check.findings else about
    return AssetCheckResult(
        passed=not check.findings, severity=AssetCheckSeverity.WARN if check.ok else AssetCheckSeverity.ERROR,
        description=text_of(check), metadata=metadata, asset_key=spec.asset_key, check_name=spec.name,
    )  # fmt: skip


def text_of(check: CheckResult) -> str:
    """What a check found, for people."""
    if not check.findings:
        return f"{check.checked:,} checked, nothing found."
    first = check.findings[0]
    place = " ".join(part for part in (first.key, first.version_id, first.uid) if part)
    count = max(check.failed, len(check.findings))
    return f"{count:,} findings in {check.checked:,} checked. First: {place}: {first.what}. {first.todo}"


def _metadata(report: WindowReport, check: CheckResult, day: date) -> Metadata:
    span = ("--from", partition_of(day), "--to", partition_of(day))
    shown: Metadata = {
        "checked": MetadataValue.int(check.checked),
        "failed": MetadataValue.int(check.failed),
        "verdict": MetadataValue.text(report.verdict.value),
        **numbers(report.verify),
        "more": command("verify", "--deep", "--tenant", report.tenant, *span),
    }
    return {**shown, "first findings": table(check.findings)} if check.findings else shown


def _evaluation(
    instance: DagsterInstance, result: AssetCheckResult, day: date, *, partition: str | None
) -> AssetCheckEvaluation:
    """The result for `day` as an evaluation that blocks nothing; it settles what Dagster planned for `partition`."""
    assert result.asset_key is not None
    assert result.check_name is not None
    return AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=bool(result.passed),
        metadata=result.metadata,
        description=result.description,
        severity=result.severity,
        blocking=False,
        partition=partition,
        target_materialization_data=target_of(instance, result.asset_key, day),
    )


def target_of(
    instance: DagsterInstance, key: AssetKey, day: date
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The materialization that an evaluation of `day` is about: the latest of that day."""
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition_of(day)])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        return AssetCheckEvaluationTargetMaterializationData(
            run_id=record.run_id, storage_id=record.storage_id, timestamp=record.timestamp
        )
    return None
