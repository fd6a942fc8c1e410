"""`vera optimize`: merges many small shards of a slot into few, and compresses those of old days anew."""

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
from vera_core.cli.output import say, show_table
from vera_core.cli.planned import Work, carry_out
from vera_core.cli.progress import meter
from vera_core.cli.rewriting import days_of, show_candidates, show_rewritten
from vera_core.cli.values import read_period
from vera_core.errors import Kind
from vera_core.operations.opening import open_repository
from vera_core.operations.optimize import LEAST_SAVED, OptimizePlan, Worth, execute_optimize, plan_optimize
from vera_core.operations.recompress import LEAST_GAIN
from vera_core.operations.report import size_text
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.operations.recompress import ColdLine


def command(
    saves: Annotated[
        int, typer.Option("--saves", metavar="N", help="Only where merging saves at least so many objects.")
    ] = LEAST_SAVED,
    older: Annotated[
        str | None,
        typer.Option("--older-than", metavar="PERIOD", help="Also compress anew what is of days older than this: 1y."),
    ] = None,
    gains: Annotated[
        float, typer.Option("--gains", metavar="RATIO", help="Only where that saves this part of the bytes.")
    ] = LEAST_GAIN,
    day: DayOption = None,
    first: FromOption = None,
    last: ToOption = None,
    tenant: AnyTenantOption = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge small shards, and compress the shards of old days anew.

    Late files and small windows leave small shards in a slot. Those less than half full, of one slot and retention
    class, whose locks end within a month of each other, are replaced by one that holds what lives of all of them;
    erased files are left behind. With --dry-run each candidate is listed with the objects that it saves and the bytes
    that must be rewritten for it.

    With --older-than, shards of older days that were packed for speed (compression `fast` or `balanced`) are compressed
    anew, as `small` does, where that saves a tenth of their bytes (--gains) by measure on a sample, for which a few MB
    of each candidate are read. Files with a shard of their own are left alone.

    It is done as by `vera repack`: verified first, every file keeps its version, and the old shards stay until their
    locks end and `vera gc` deletes them. So until then there are more objects, not fewer: merging pays where locks end
    soon, or where slots are read often, as a file is looked for in every shard that may hold it. Old and new shards
    have the same end of their locks, and until then both are stored: compressing anew pays for what stays beyond it,
    from the day that the list names. `vera gc --lifecycle-rule` makes waiting cheaper.
    """
    days = days_of(day, first, last)
    worth = Worth(
        least_saved=saves, older=None if older is None else timedelta(days=read_period(older)), least_gain=gains
    )
    repo = open_repository(load_settings(settings, repository=repository))
    slots = all_slots(repo, tenant=tenant, first=days.first, last=days.last)
    with meter("Optimizing: examining", "slots", quiet=as_json) as progress:
        plan = plan_optimize(repo, slots, worth=worth, progress=progress)
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
    if plan.cold:
        _show_cold(plan.cold)


def _show_cold(lines: Sequence[ColdLine]) -> None:
    say("To compress anew:")
    rows = [
        (
            str(line.slot), line.retention_class, f"{line.shards:,}", f"{line.files:,}", f"{line.saved:,}",
            size_text(line.size), size_text(line.gained), f"{100 * line.gained / line.size:.0f} %",
            line.locked_until.date().isoformat(), "never" if line.pays is None else line.pays.isoformat(),
        )
        for line in lines
    ]  # fmt: skip
    header = (
        "slot", "class", "shards", "files", "objects saved", "to rewrite", "bytes saved", "part", "locked until",
        "has paid on",
    )  # fmt: skip
    show_table(header, rows, right=frozenset(range(2, 8)))
    say()


WORK = Work(
    "Optimizing: rewriting",
    "files",
    execute_optimize,
    show_plan=_show_plan,
    show_done=lambda _, report: show_rewritten(report, nothing="Nothing to optimize."),
)
app = command_app(
    command,
    examples="""
vera optimize --dry-run
vera optimize --saves 10
vera optimize --older-than 1y --gains 0.2 --dry-run
vera optimize --from 2026-01-01 --to 2026-03-31 --json
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.INCOMPATIBLE),
)
