"""`vera scrub`: proves a share of the archive at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    AnyTenantOption,
    DayOption,
    DryRunOption,
    FromOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    ToOption,
    command_app,
)
from vera_core.cli.output import INDENT, emit, say, show_figures, show_findings, show_table, show_verification
from vera_core.cli.planned import Work, carry_out
from vera_core.cli.progress import meter
from vera_core.cli.rewriting import days_of
from vera_core.cli.values import read_period
from vera_core.errors import Kind, UsageError
from vera_core.model import format_time
from vera_core.operations.opening import open_repository
from vera_core.operations.proofs import gather_proofs
from vera_core.operations.scrub import execute_scrub, list_damage
from vera_core.operations.scrub_plan import PERCENT, plan_scrub
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vera_core.operations.proofs import GatherReport
    from vera_core.operations.scrub import DamageReport, ScrubReport
    from vera_core.operations.scrub_plan import ProofAges, ScrubPlan


def command(
    percent: Annotated[
        float,
        typer.Option("--percent", metavar="P", help="How many of the shards to read, longest unproved first."),
    ] = PERCENT,
    max_age: Annotated[
        str | None, typer.Option("--max-age", metavar="PERIOD", help="Only what was not proved for longer: 90d.")
    ] = None,
    day: DayOption = None,
    first: FromOption = None,
    last: ToOption = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="Only list what scrubs found damaged, and not whole since.")
    ] = False,
    gather: Annotated[
        bool, typer.Option("--gather", help="Only find the proofs again in the audit, where they were lost.")
    ] = False,
    tenant: AnyTenantOption = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a share of the archive: whole shards, keyrings, locks, logs, holds.

    Reads the shards whose last proof is oldest (where there is none, the upload counts), so run it on a schedule: with
    1 percent a day every shard is read within 100 days. Each is read by its VersionId and every sum in it checked; the
    store is asked for its lock, for every record of its slot's log and their locks, for the legal holds that cases
    need; and the sidecar is compared with the log. Of an encrypted shard every file is opened, and its keyring is
    looked at in the bucket and in each registered copy: it must be there, open, be no older than the log says, and be
    the same everywhere; the key service is asked once a shard. Without it nothing is proved: exit code 9.

    What is found damaged is a finding and exit code 6, stands in the audit and in --findings, and is read again by
    every scrub until it is whole or counts no more. Nothing is repaired here: `vera recover --put-back` makes a shard
    whole, from itself or from a replica's copy, if its data allows it; else pack its window again, or save what is left
    with `vera recover`. `vera doctor` puts locks, holds and sidecars right, `vera keys restore` keyrings. Everything
    that is whole stays readable meanwhile.

    Several scrubs may run side by side. One that is killed has lost a minute of what it proved.
    """
    days = days_of(day, first, last)
    period = None if max_age is None else timedelta(days=read_period(max_age))
    if findings and gather:
        raise UsageError("--findings and --gather are two different things", todo="Use one of them.")
    repo = open_repository(load_settings(settings, repository=repository))
    if findings:
        ok = _findings(list_damage(repo, tenant=tenant, span=days), as_json=as_json)
    elif gather:
        ok = _gathered(gather_proofs(repo, tenant=tenant), as_json=as_json)
    else:
        slots = all_slots(repo, tenant=tenant, first=days.first, last=days.last)
        with meter("Examining", "slots", quiet=as_json) as progress:
            plan = plan_scrub(repo, slots, percent=percent, max_age=period, progress=progress)
        ok = carry_out(repo, plan, WORK, dry_run=dry_run, as_json=as_json)
    if not ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)


def _show_plan(plan: ScrubPlan) -> None:
    show_figures(plan)
    _show_ages(plan.ages)


def _show_done(plan: ScrubPlan, report: ScrubReport) -> None:
    say("Done:" if plan.slots_due else "Nothing is due.")
    show_verification(report)


def _show_ages(ages: Iterable[ProofAges]) -> None:
    rows = [
        (
            line.tenant, f"{line.shards:,}", f"{line.never:,}", f"{line.damaged:,}", f"{line.oldest_days:,.1f}",
            f"{line.median:,.1f}", f"{line.p90:,.1f}", f"{line.p99:,.1f}",
        )
        for line in ages
    ]  # fmt: skip
    if rows:
        say("Days since shards were last proved, or uploaded, before this run:")
        header = ("tenant", "shards", "never proved", "damaged", "oldest", "median", "90 %", "99 %")
        show_table(header, rows, right=frozenset(range(1, 8)))


def _findings(report: DamageReport, *, as_json: bool) -> bool:
    if as_json:
        emit(report)
    else:
        for proof in report.damaged:
            last = "never" if proof.proved is None else f"on {format_time(proof.proved)}"
            say(f"{INDENT}{proof.key} {proof.version_id}".rstrip())
            say(f"{INDENT * 2}looked at on {format_time(proof.read)}, last whole {last}")
            show_findings(proof.findings())
        show_figures(report)
    return report.ok


def _gathered(report: GatherReport, *, as_json: bool) -> bool:
    if as_json:
        emit(report)
    else:
        show_figures(report)
        show_findings(report.findings)
    return report.ok


WORK = Work("Proving", "shards", execute_scrub, show_plan=_show_plan, show_done=_show_done)
app = command_app(
    command,
    examples="""
vera scrub --dry-run
vera scrub --percent 1
vera scrub --percent 100 --max-age 90d --tenant clinic
vera scrub --findings
vera scrub --json | jq '.plan.ages[] | {tenant, oldest_days, p99}'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.INCOMPATIBLE),
)
