"""`vera optimize`: merges many small shards of a slot into few."""

from __future__ import annotations

from typing import Annotated

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
from vera_core.cli.planned import Work, carry_out
from vera_core.cli.progress import meter
from vera_core.cli.rewriting import days_of, show_candidates, show_rewritten
from vera_core.errors import Kind
from vera_core.operations.opening import open_repository
from vera_core.operations.optimize import LEAST_SAVED, OptimizePlan, execute_optimize, plan_optimize
from vera_core.operations.report import size_text
from vera_core.operations.walk import all_slots


def command(
    saves: Annotated[
        int, typer.Option("--saves", metavar="N", help="Only where merging saves at least so many objects.")
    ] = LEAST_SAVED,
    day: DayOption = None,
    first: FromOption = None,
    last: ToOption = None,
    tenant: AnyTenantOption = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the small shards that late files and small windows leave in a slot.

    Shards less than half full, of one slot and retention class, whose locks end within a month of each other, are
    replaced by one that holds what lives of all of them; erased files are left behind. With --dry-run each candidate is
    listed with the objects that it saves and the bytes that must be rewritten for it.

    It is done as by `vera repack`: verified first, every file keeps its version, and the old shards stay until their
    locks end and `vera gc` deletes them. So until then there are more objects, not fewer: it pays where locks end soon,
    or where slots are read often, as a file is looked for in every shard that may hold it.
    """
    days = days_of(day, first, last)
    repo = open_repository(load_settings(settings, repository=repository))
    slots = all_slots(repo, tenant=tenant, first=days.first, last=days.last)
    with meter("Optimizing: examining", "slots", quiet=as_json) as progress:
        plan = plan_optimize(repo, slots, least_saved=saves, progress=progress)
    if not carry_out(repo, plan, WORK, dry_run=dry_run, as_json=as_json):
        raise typer.Exit(Kind.INTEGRITY.exit_code)


def _show_plan(plan: OptimizePlan) -> None:
    rows = [
        (
            str(line.slot), line.retention_class, f"{line.shards:,}", f"{line.files:,}", f"{line.saved:,}",
            size_text(line.size), size_text(line.size / line.saved),
        )
        for line in plan.lines
    ]  # fmt: skip
    header = ("slot", "class", "shards", "files", "objects saved", "to rewrite", "for each")
    show_candidates(plan, header, rows)


WORK = Work(
    "Optimizing: merging",
    "files",
    execute_optimize,
    show_plan=_show_plan,
    show_done=lambda _, report: show_rewritten(report, nothing="Nothing to merge."),
)
app = command_app(
    command,
    examples="""
vera optimize --dry-run
vera optimize --saves 10
vera optimize --from 2026-01-01 --to 2026-03-31 --json
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.INCOMPATIBLE),
)
