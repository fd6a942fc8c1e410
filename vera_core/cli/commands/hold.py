"""`vera hold`: keeps files for a case, whatever else is asked for."""

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
from vera_core.errors import Kind
from vera_core.operations.hold import HoldOrder, HoldReport, Outcome, execute_hold, plan_hold
from vera_core.operations.opening import open_repository


def command(
    case: Annotated[str, typer.Option("--case", metavar="ID", help="The case that needs the files.")],
    reason: ReasonOption,
    uids: UidsArgument = None,
    listed: ListOption = None,
    created_at: CreatedAtOption = None,
    release: Annotated[
        bool, typer.Option("--release", help="The case needs the files no more; all of its files if none is named.")
    ] = False,
    dry_run: DryRunOption = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep files for a legal case, or let them go.

    A held file can't be erased, left behind by a repack or disposed of, and the objects that hold it are under S3 legal
    hold: nobody deletes them, not even once their locks have ended. That lasts until the case releases the file, and
    every other case that holds it. A release only lets go; what becomes of the file then is what would have become of
    it anyway.

    All versions that are archived now are held. Versions that are archived later are not: run the same command again,
    it adds them. If one of the files is not archived, or was erased, nothing is done at all.

    Running the command again after a crash finishes what it began.
    """
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    whole_case = release and not uids and listed is None
    order = HoldOrder(
        tenant=chosen.tenant, case=case, reason=reason, release=release,
        targets=() if whole_case else named_files(uids, listed, created_at),
    )  # fmt: skip
    repo = open_repository(chosen)
    with meter("Releasing" if release else "Holding", "files", quiet=as_json) as progress:
        report = (plan_hold if dry_run else execute_hold)(repo, order, progress)
    if as_json:
        emit(report)
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(Kind.NOT_FOUND.exit_code)


def _show(report: HoldReport) -> None:
    say(f"Case {report.case}: {'release' if report.release else 'hold'}.")
    show_figures(report)
    absent = [file for file in report.files if file.outcome in (Outcome.MISSING, Outcome.ERASED)]
    others = [file for file in report.files if report.release and file.cases]
    lines = [f"{file.outcome.value}: {file.uid}" for file in absent]
    lines += [f"still held for {', '.join(file.cases)}: {file.uid}" for file in others]
    show_first(lines)


app = command_app(
    command,
    examples="""
vera hold customers/4711.pdf --created-at 2026-03-01 --case LIT-2026-417 --reason "claim of 3 April"
vera hold --list customer.csv --case LIT-2026-417 --reason "claim of 3 April" --dry-run
vera hold --release --case LIT-2026-417 --reason "settled on 9 May"
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNSAFE_STORE, Kind.UNAVAILABLE),
)
