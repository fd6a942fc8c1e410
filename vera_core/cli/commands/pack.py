"""`vera pack`: archives a directory or a list of files."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    DryRunOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    command_app,
)
from vera_core.cli.output import day_words, emit, say, show_figures, show_packs, show_rejects, show_table
from vera_core.cli.progress import meters
from vera_core.errors import Kind, UsageError
from vera_core.operations.archive import ArchivePlan, ArchiveReport, archive, plan_archive
from vera_core.operations.opening import open_repository
from vera_core.operations.sources import terms
from vera_core.source.directory import DirectorySource, ManifestSource, Packing


def command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A directory, or a list of files (.csv, .jsonl).", show_default=False)
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The source's name; by default made of PATH's last part.")
    ] = "",
    retention_class: Annotated[
        str, typer.Option("--class", metavar="NAME", help="The retention class; by default the repository's.")
    ] = "",
    roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", metavar="DIR", help="Where the files of a list may lie; its own directory by default. Repeatable."
        ),
    ] = None,
    dry_run: DryRunOption = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Archive a directory, or the files that a list names, and verify them.

    Of a directory every file below it: its uid is the path from there, its time the modification time. A list is a .csv
    file with a header or a .jsonl file, with uid and path (relative to the list), and if wanted created_at, size,
    media_type, metadata and retention_class. Links and special files are not archived but rejected by name.

    Each day is frozen, packed and then verified with new readers, by bytes, locks and comparison with the files. Run it
    again at any time: it goes on where it stopped and archives only what is new or changed; a changed file becomes a
    new version. Rejected files are named and make the exit code 10; the others are archived all the same.
    """
    if not path.exists():
        raise UsageError("there is no such directory or list", todo="Check the path.", path=path)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    repo = open_repository(chosen)
    packing = Packing(spool=chosen.spool, tenant=chosen.tenant, name=name, retention_class=retention_class)
    source: DirectorySource | ManifestSource
    if path.is_dir():
        source = DirectorySource(path, terms(repo.config), packing)
    else:
        source = ManifestSource(path, terms(repo.config), packing, roots=[root.resolve() for root in roots or []])
    if dry_run:
        plan = plan_archive(source)
        if as_json:
            emit(plan)
        else:
            _show_plan(plan)
        return
    with meters("Packing", quiet=as_json) as each:
        report = archive(repo, source, each=lambda window: each(str(window.day)))
    if as_json:
        emit(report)
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)
    if report.rejected or report.untimed:
        raise typer.Exit(Kind.REJECTS.exit_code)


def _show_plan(plan: ArchivePlan) -> None:
    say(f"Source {plan.source}, tenant {plan.tenant}:")
    rows = [(day_words(day), f"{count:,}") for day, count in plan.windows.items()]
    show_table(("day", "files"), rows, right=frozenset({1}))
    show_figures(plan)


def _show(report: ArchiveReport) -> None:
    say(f"Source {report.source}, tenant {report.tenant}:")
    show_packs(report.packs, report.verifies)
    show_figures(report)
    show_rejects(((item.day, item.uid, item.reason, item.detail) for item in report.rejects), report.rejected)
    for uid in report.untimed:
        say(f"  rejected: {uid}: it has no time, and so belongs to no day")


app = command_app(
    command,
    examples="""
vera pack ./invoices
vera pack ./invoices --name invoices-2026 --class tax --dry-run
vera pack scans.csv --root /srv/scans
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.REJECTS),
)
