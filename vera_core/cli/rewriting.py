"""What the commands that rewrite shards have in common: which days they look at, and what they say they did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.cli.output import say, show_figures, show_findings, show_table
from vera_core.cli.values import Days, read_days
from vera_core.errors import UsageError
from vera_core.operations.report import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.operations.optimize import OptimizePlan
    from vera_core.operations.repack import RepackPlan, RepackReport


def days_of(day: str | None, first: str | None, last: str | None) -> Days:
    """The days that --day, or --from and --to, name.

    Raises:
        UsageError: both do, or they name none.
        BadTimeError: one is no day.
    """
    if day is None:
        return read_days(first, last)
    if first is not None or last is not None:
        raise UsageError("--day names the day already", todo="Use either --day, or --from and --to.")
    return read_days(day, day)


def show_candidates(plan: RepackPlan | OptimizePlan, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """What is to be rewritten, a line each; the third to the seventh column are numbers."""
    show_figures(plan)
    if rows:
        show_table(header, rows, right=frozenset(range(2, 7)))
    show_findings(plan.findings)
    if rows:
        say()


def show_rewritten(report: RepackReport, *, nothing: str) -> None:
    """What was replaced by what, a line each; `nothing` is said where nothing was."""
    if report.done:
        say("Done:")
        rows = [
            (
                each.slot, each.retention_class, str(each.record), f"{len(each.replaced):,}", f"{len(each.shards):,}",
                f"{each.files:,}", f"{each.left_out:,}", size_text(sum(shard.size for shard in each.replaced)),
                size_text(sum(shard.size for shard in each.shards)),
            )
            for each in report.done
        ]  # fmt: skip
        header = ("slot", "class", "record", "shards", "now", "files", "left behind", "before", "after")
        show_table(header, rows, right=frozenset(range(2, 9)))
        show_figures(report)
    elif report.ok:
        say(nothing)
    show_findings(report.findings)
