"""Commands that plan, show the plan, and then do it unless --dry-run: what all of them do with a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from vera_core.cli.output import emit
from vera_core.cli.progress import meter
from vera_core.operations.report import Report
from vera_core.operations.report import as_json as jsonable

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.cli.progress import Meter
    from vera_core.operations.repository import Repository

Plan = TypeVar("Plan", bound=Report)
Done = TypeVar("Done", bound=Report)
Plan_contra = TypeVar("Plan_contra", bound=Report, contravariant=True)
Done_co = TypeVar("Done_co", bound=Report, covariant=True)


class Execute(Protocol[Plan_contra, Done_co]):
    """An operation that does what a plan says."""

    def __call__(self, repo: Repository, plan: Plan_contra, /, *, progress: Meter | None) -> Done_co:
        """Does it."""
        ...


@dataclass(frozen=True, slots=True)
class Work(Generic[Plan, Done]):
    """How a command does what it planned, what its progress line says and counts, and how it shows plan and report."""

    label: str
    unit: str
    execute: Execute[Plan, Done]
    show_plan: Callable[[Plan], None]
    show_done: Callable[[Plan, Done], None]


def carry_out(repo: Repository, plan: Plan, work: Work[Plan, Done], *, dry_run: bool, as_json: bool) -> bool:
    """Shows the plan, does it unless `dry_run`, and shows what came of it, or both as JSON; whether both are ok."""
    if not as_json:
        work.show_plan(plan)
    report = None
    if not dry_run:
        with meter(work.label, work.unit, quiet=as_json) as progress:
            report = work.execute(repo, plan, progress=progress)
    ok = plan.ok and (report is None or report.ok)
    if as_json:
        emit({"ok": ok, "plan": jsonable(plan), "done": jsonable(report)})
    elif report is not None:
        work.show_done(plan, report)
    return ok
