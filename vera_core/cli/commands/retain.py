"""`vera retain`: keeps single files longer than their class says."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.naming import ListOption, UidsArgument, named_files
from vera_core.cli.options import (
    CreatedAtOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    command_app,
)
from vera_core.cli.output import emit, say, show_figures, show_first
from vera_core.cli.progress import meter
from vera_core.cli.values import read_until
from vera_core.errors import Kind
from vera_core.model import format_time
from vera_core.operations.opening import open_repository
from vera_core.operations.retain import Outcome, RetainOrder, RetainReport, execute_retain, plan_retain

NAMED = (Outcome.MISSING, Outcome.ERASED, Outcome.LONGER)


def command(
    until: Annotated[
        str,
        typer.Option("--until", metavar="DATE", help="Until when: a UTC day, itself included, or a time with zone."),
    ],
    reason: ReasonOption,
    uids: UidsArgument = None,
    listed: ListOption = None,
    created_at: CreatedAtOption = None,
    dry_run: DryRunOption = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep files longer than their retention class says.

    All archived versions of the files are copied into a small object of their slot that is locked until DATE. No other
    file is kept longer by it, and readers, lists and the inventory go on showing each file once. The lock can't be
    taken back: in COMPLIANCE mode by nobody.

    It only extends. A file that is kept beyond DATE already is an error, and so are dates that are over, or more than a
    hundred years away, by the store's clock. Then, and if one of the files is not archived, nothing is done at all.

    A file of an erasable class can still be erased; its bytes are then hidden until DATE. To keep a file from erasure,
    hold it (`vera hold`). Running the command again after a crash finishes what it began.
    """
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    order = RetainOrder(
        tenant=chosen.tenant, reason=reason, until=read_until(until), targets=named_files(uids, listed, created_at)
    )
    repo = open_repository(chosen)
    with meter("Copying", "files", quiet=as_json) as progress:
        report = (plan_retain if dry_run else execute_retain)(repo, order, progress)
    if as_json:
        emit(report)
    else:
        _show(report)
    if report.missing:
        raise typer.Exit(Kind.NOT_FOUND.exit_code)
    if not report.ok:
        raise typer.Exit(Kind.RESTRICTED.exit_code)


def _show(report: RetainReport) -> None:
    say(f"To be kept until {format_time(report.until)}.")
    show_figures(report)
    lines = [
        f"{file.outcome.value}: {file.uid}" + (f" (until {format_time(file.until)})" if file.until is not None else "")
        for file in report.files
        if file.outcome in NAMED
    ]
    show_first(lines)


app = command_app(
    command,
    examples="""
vera retain contracts/4711.pdf --created-at 2026-03-01 --until 2041-12-31 --reason "guarantee of 15 years"
vera retain --list guarantees.csv --until 2041-12-31 --reason "guarantee of 15 years" --dry-run
vera stat contracts/4711.pdf --created-at 2026-03-01 --json | jq -r .lock_until
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
