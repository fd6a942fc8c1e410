"""`vera gc`: deletes shard versions that count no more."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import connect, load_settings
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
from vera_core.cli.output import emit, say, show_figures, show_findings, show_table
from vera_core.cli.planned import Work, carry_out
from vera_core.cli.progress import meter
from vera_core.cli.rewriting import days_of
from vera_core.cli.values import read_period
from vera_core.errors import Kind
from vera_core.keyspace import Keyspace
from vera_core.operations.gc import GcLine, GcPlan, GcReport, execute_gc, plan_gc
from vera_core.operations.opening import named_repository, open_repository
from vera_core.operations.report import size_text
from vera_core.operations.walk import all_slots
from vera_core.store.cold import COLD, lifecycle_configuration

if TYPE_CHECKING:
    from collections.abc import Iterable


def command(
    grace: Annotated[
        str, typer.Option("--grace", metavar="PERIOD", help="Days between condemning a version and deleting it.")
    ] = "1d",
    day: DayOption = None,
    first: FromOption = None,
    last: ToOption = None,
    tenant: AnyTenantOption = None,
    lifecycle_rule: Annotated[
        str | None,
        typer.Option(
            "--lifecycle-rule",
            metavar="CLASS",
            help=f"Only print the bucket's rule that moves superseded shards to this class: {', '.join(COLD)}.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete shard versions that count no more, once their locks have ended.

    These are garbage (uploads that no record names, which crashes leave behind) and shards that a repack replaced. A
    version goes in two steps, so run this daily: first a record in the slot's log condemns it, and from then on no
    other can bring it back; when the grace period is over, its log is read once more, and it is deleted by VersionId.
    The keyring of an encrypted shard is deleted with it, in every place; one without a shard goes by itself.

    Nothing is deleted whose lock has not ended, that is under a legal hold, or that a record still names as live; what
    was uploaded within a day may still be committed, and is left alone. What has to wait is listed with the time when
    it can be deleted. Locks are never lifted, not even where the credentials would allow it.

    A superseded shard that must wait gets the object tag vera-state=superseded, a grace period after it was superseded.
    With --lifecycle-rule nothing is collected: the lifecycle configuration is printed by which the store moves tagged
    shards to a cold storage class until they can be deleted. It moves by tag and expires nothing. Give it to the bucket
    beside the rules that it has: the call replaces them all.
    """
    if lifecycle_rule is not None:
        _, prefix = connect(named_repository(load_settings(settings, repository=repository)))
        emit(lifecycle_configuration(Keyspace(prefix), lifecycle_rule))
        return
    days = days_of(day, first, last)
    period = timedelta(days=read_period(grace))
    repo = open_repository(load_settings(settings, repository=repository))
    slots = all_slots(repo, tenant=tenant, first=days.first, last=days.last)
    with meter("Examining", "slots", quiet=as_json) as progress:
        plan = plan_gc(repo, slots, grace=period, progress=progress)
    if not carry_out(repo, plan, WORK, dry_run=dry_run, as_json=as_json):
        raise typer.Exit(Kind.INTEGRITY.exit_code)


def _show_plan(plan: GcPlan) -> None:
    show_figures(plan)
    if plan.lines:
        _show_lines(plan.lines)
    show_findings(plan.findings)


def _show_lines(lines: Iterable[GcLine]) -> None:
    """Versions that have the same next step, for the same reason, on the same day, in one line."""
    groups: defaultdict[tuple[str, str, str, str], list[GcLine]] = defaultdict(list)
    for line in lines:
        due = "" if line.due is None else line.due.date().isoformat()
        groups[(line.sort.value, line.step.value, line.why, due)].append(line)
    rows = [
        (sort, step, f"{len(found):,}", size_text(sum(line.size for line in found)), due or "not known", why)
        for (sort, step, why, due), found in sorted(groups.items())
    ]
    header = ("what", "next", "versions", "stored", "can be deleted", "because it is")
    show_table(header, rows, right=frozenset({2, 3}))


def _show_report(plan: GcPlan, report: GcReport) -> None:
    if not plan.condemn and not plan.delete and not plan.tag:
        say("Nothing to do now.")
        return
    say("Done:")
    show_figures(report)
    if report.kept:
        say("Kept after all:")
        _show_lines(report.kept)
    show_findings(report.findings[len(plan.findings) :])


WORK = Work("Collecting", "versions", execute_gc, show_plan=_show_plan, show_done=_show_report)
app = command_app(
    command,
    examples="""
vera gc --dry-run
vera gc
vera gc --grace 7d --tenant clinic
vera gc --lifecycle-rule DEEP_ARCHIVE > rule.json   # for aws s3api put-bucket-lifecycle-configuration
vera gc --dry-run --json | jq '.plan.lines[] | {key, step, due}'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.INCOMPATIBLE),
)
