"""The asset `erasure_requests`: materializing it executes what may be executed, and tells which days that concerned.

Requests are made and approved on the command line, by named persons. What nobody asked for there is not erased here.
No `from __future__ import annotations`: Dagster reads the annotations of steps as objects.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    DagsterInstance,
    Failure,
    MaterializeResult,
    MetadataValue,
    multi_asset,
)

from vera_assets.assets.spec import ERASURE_REQUESTS, tenant_spec
from vera_assets.days import translated
from vera_assets.metadata import Metadata, command, numbers, table
from vera_assets.partitions import partition_of
from vera_assets.resources import RepositoryResource
from vera_assets.tenants import Tenant
from vera_core.model import format_time, parse_time
from vera_core.operations.deadlines import RequestLine, RequestsReport, survey_requests
from vera_core.operations.erasure_imports import import_requests
from vera_core.operations.erasures import RunReport, run_due
from vera_core.operations.open_requests import KEPT
from vera_core.operations.repository import Repository

LOOKED_AT = "looked at"
LATELY = "erased lately"
ERASED_DAYS = "erased days"
SETTLED = timedelta(minutes=10)
"""A record can appear so long after the time that it states: so far back each look compares with the one before."""


def erasure_requests_asset(tenant: Tenant) -> AssetsDefinition:
    """The asset `erasure_requests` of a tenant; it has no partitions."""
    spec = tenant_spec(
        tenant,
        ERASURE_REQUESTS,
        description="What was asked to be erased. Materializing it executes the requests that may be: approved ones "
        "where the repository asks for approvals, and refused files whose ground has ended.",
        kinds={"s3"},
        code_version="1",
    )

    @multi_asset(name=tenant.naming.name(ERASURE_REQUESTS), specs=[spec])
    def erasure_requests(
        context: AssetExecutionContext, repository: RepositoryResource
    ) -> Iterator[MaterializeResult[Any]]:
        with translated():
            repo = repository.open()
            run = run_due(repo, tenant.name)
            taken = _taken(repo, tenant)
            since, known = _last_look(context.instance, spec.key)
            # What the index forgets after a month must have been looked at before.
            everything = since is None or since < repo.clock.now() - KEPT / 2
            report = survey_requests(repo, tenant.name, tenant.within, everything=everything)
        fresh = _fresh(report.requests, since, known)
        metadata = _metadata(run, report, fresh)
        if taken is not None:
            metadata["taken from the table"] = MetadataValue.int(len(taken.requests))
        yield MaterializeResult(asset_key=spec.key, metadata=metadata)
        findings = [*run.findings, *(taken.findings if taken is not None else ())]
        if findings:
            told = [f"{finding.key}: {finding.what}. {finding.todo}" for finding in findings]
            raise Failure("\n".join(told), allow_retries=False)

    return erasure_requests


def _taken(repo: Repository, tenant: Tenant) -> RunReport | None:
    """Takes new requests from the table that the settings name, if they wait for an approval then.

    Else taking is executing, on the word of whoever can write into the table: that is for the command line.
    """
    if tenant.table is None or not repo.refresh_config().erasure_approval:
        return None
    return import_requests(repo, tenant.table, tenant.name)


def erased_days(event: AssetMaterialization) -> list[date]:
    """The days in which files were erased, by whomever, between the look before and the one that `event` tells of.

    None where a person reported the event by hand.
    """
    days = _value(event, ERASED_DAYS)
    return [date.fromisoformat(day) for day in days] if isinstance(days, list) else []


def _last_look(instance: DagsterInstance, key: AssetKey) -> tuple[datetime | None, Mapping[str, str]]:
    """When Dagster looked for the last time, and which requests had erased something shortly before, and when."""
    entry = instance.get_latest_materialization_event(key)
    event = None if entry is None else entry.asset_materialization
    looked_at, lately = (None, None) if event is None else (_value(event, LOOKED_AT), _value(event, LATELY))
    if not isinstance(looked_at, str) or not isinstance(lately, dict):
        return None, {}
    return parse_time(looked_at), lately


def _value(event: AssetMaterialization, name: str) -> object:
    return event.metadata[name].value if name in event.metadata else None


def _fresh(lines: Iterable[RequestLine], since: datetime | None, known: Mapping[str, str]) -> list[RequestLine]:
    """The requests that erased something since the last look."""
    return [
        line
        for line in lines
        if line.last_erased is not None
        and (since is None or line.last_erased > since - SETTLED)
        and known.get(line.request) != format_time(line.last_erased)
    ]


def _metadata(run: RunReport, report: RequestsReport, fresh: Iterable[RequestLine]) -> Metadata:
    unfinished = (line for line in report.requests if line.open)
    lately = {
        line.request: format_time(line.last_erased)
        for line in report.requests
        if line.last_erased is not None and line.last_erased > report.now - SETTLED
    }
    return {
        **numbers(report),
        "erased by this run": MetadataValue.int(run.erased),
        "refused by this run": MetadataValue.int(run.refused),
        ERASED_DAYS: MetadataValue.json(sorted({partition_of(day) for line in fresh for day in line.erased_days})),
        LOOKED_AT: MetadataValue.text(format_time(report.now)),
        LATELY: MetadataValue.json(lately),
        "unfinished": table(_row(line) for line in unfinished),
        "more": command("erasures", "--tenant", report.tenant),
    }


def _row(line: RequestLine) -> dict[str, object]:
    """What is shown of a request: not who asked, which may be the person whose files they are."""
    return {
        "request": line.request, "stage": line.stage, "received": line.received, "files": line.requested,
        "erased": line.erased, "refused": line.refused, "open": line.open, "to be done by": line.hide_by,
    }  # fmt: skip
