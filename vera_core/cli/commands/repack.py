"""`vera repack`: leaves erased files behind, in new shards of what lives."""

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
from vera_core.operations.repack import RATIO, RepackPlan, execute_repack, plan_repack
from vera_core.operations.report import size_text
from vera_core.operations.walk import all_slots


def command(
    ratio: Annotated[
        float,
        typer.Option("--ratio", metavar="RATIO", help="Repack where so many of the files are erased: 0.3 is 30 %."),
    ] = RATIO,
    day: DayOption = None,
    first: FromOption = None,
    last: ToOption = None,
    tenant: AnyTenantOption = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave erased files behind: write what lives of their shards into new ones.

    An erased file is hidden at once, but its bytes lie in a shard that is locked as a whole. Where, of the files of a
    slot and retention class, at least RATIO are erased, the shards that hold them are read, and what lives in them is
    written to new shards, which are verified before anything else happens. One record in the slot's log then puts them
    in the place of the old ones; every file keeps its version, and a reader notices nothing.

    The new shards are locked as long as the old ones were, never longer. The old ones stay, locked, and readable by
    who still knows them, until their locks end and `vera gc` deletes them. Files under a legal hold are never left
    behind, copies that `vera retain` made are not touched, and a file that is a shard of its own is not rewritten.

    Safe to run again and side by side with everything else: whoever comes second finds nothing to do. A slot whose
    shards do not verify is left alone and named, with exit code 6; all others are repacked.
    """
    days = days_of(day, first, last)
    repo = open_repository(load_settings(settings, repository=repository))
    slots = all_slots(repo, tenant=tenant, first=days.first, last=days.last)
    with meter("Repacking: examining", "slots", quiet=as_json) as progress:
        plan = plan_repack(repo, slots, ratio=ratio, progress=progress)
    if not carry_out(repo, plan, WORK, dry_run=dry_run, as_json=as_json):
        raise typer.Exit(Kind.INTEGRITY.exit_code)


def _show_plan(plan: RepackPlan) -> None:
    rows = [
        (
            str(line.slot), line.retention_class, f"{line.files:,}", f"{line.erased:,}", f"{line.ratio:.0%}",
            f"{line.shards:,}", size_text(line.size), line.locked_until.date().isoformat(),
        )
        for line in plan.lines
    ]  # fmt: skip
    header = ("slot", "class", "files", "erased", "ratio", "shards", "to rewrite", "locked until")
    show_candidates(plan, header, rows)


WORK = Work(
    "Repacking: moving what lives",
    "files",
    execute_repack,
    show_plan=_show_plan,
    show_done=lambda _, report: show_rewritten(report, nothing="Nothing to repack."),
)
app = command_app(
    command,
    examples="""
vera repack --dry-run
vera repack
vera repack --day 2026-03-01 --ratio 0.1
vera repack --from 2026-01-01 --to 2026-03-31 --tenant clinic --json
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.INCOMPATIBLE),
)
