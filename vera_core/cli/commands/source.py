"""`vera source`: a look at the sources that the settings name."""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import AnyTenantOption, JsonOption, RepositoryOption, SettingsOption, command_app
from vera_core.cli.output import LINES_SHOWN, emit, say, show_figures, show_findings, show_pairs, show_table, warn
from vera_core.errors import Kind, UsageError
from vera_core.operations.opening import open_repository
from vera_core.operations.report import size_text
from vera_core.operations.source_check import check_source
from vera_core.operations.sources import terms
from vera_core.source.sql import open_sources

if TYPE_CHECKING:
    from vera_core.operations.source_check import SourceCheckReport


class _Action(StrEnum):
    """What is to be done."""

    CHECK = "check"


def command(
    action: Annotated[_Action, typer.Argument(metavar="check", help="The only thing to do with a source here.")],  # noqa: ARG001
    name: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="The source; all if none is named.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out what reads the whole table: days, duplicates, empty columns.")
    ] = False,
    tenant: AnyTenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a source before its migration, and say what it needs.

    Shows the columns that the settings use and their types; whether an index serves the query of a page, and the
    statement that makes it; rows of each day; rows without a time, uid or content; uids that several rows have; sizes
    and compression, from a sample of contents packed as the repository would; the column for late rows. Proposes
    routing epochs for the backlog, as `vera epoch` takes them, so that a day's slots hold at most about half a GiB.

    Only reads. Whatever needs the whole table is one statement each, and takes as long as the database does. --quick
    leaves those out.
    """
    chosen = load_settings(settings, repository=repository)
    names = [name] if name is not None else sorted(chosen.sources)
    if not names:
        raise UsageError("the settings name no source", todo="Describe one in vera.toml; see docs/sources.md.")
    config = open_repository(chosen).config
    opened = [source for each in names for source in open_sources(each, chosen.source(each), terms(config))]
    chosen_sources = [source for source in opened if tenant is None or source.tenant == tenant]
    if not chosen_sources:
        raise UsageError(f"no source has the tenant {tenant!r}")
    reports = []
    for source in chosen_sources:
        label = f"{source.name}/{source.tenant}"
        reports.append(check_source(config, source, quick=quick, tell=partial(_tell, label)))
        if not as_json:
            _show(reports[-1])
    ok = all(report.ok for report in reports)
    if as_json:
        emit({"ok": ok, "sources": reports})
    if not ok:
        raise typer.Exit(Kind.REJECTS.exit_code)


def _tell(source: str, what: str) -> None:
    """What takes its time now, where somebody is looking."""
    if sys.stderr.isatty():
        warn(f"{source}: {what} ...")


def _show(report: SourceCheckReport) -> None:
    say(f"Source {report.source}, tenant {report.tenant}: table {report.table} ({report.database})")
    show_table(("setting", "column", "type"), [tuple(role) for role in report.columns])
    show_pairs([("index for pages", report.index or "none"), ("make it with", report.index_statement)])
    show_figures(report)
    if report.days:
        say("  the busiest days:")
        busiest = sorted(report.days, key=lambda day: -day[1])[:LINES_SHOWN]
        rows = [(str(day), f"{count:,}", size_text(stored)) for day, count, _, stored in busiest]
        show_table(("day", "rows", "stored, estimated"), rows, right=frozenset({1, 2}))
    if report.duplicates:
        say("  uids of most rows: " + ", ".join(f"{uid} ({rows:,})" for uid, rows in report.duplicates[:5]))
    show_findings(report.findings)
    if report.epochs:
        say("  Routing epochs for these days:")
        first, *later = report.epochs
        say(f"    vera init --bits {first.n_bits}     # a busy day stores {size_text(first.busy_day)}")
        for epoch in later:
            say(f"    vera epoch {epoch.from_day} {epoch.n_bits}    # {size_text(epoch.busy_day)}")


app = command_app(
    command,
    examples="""
vera source check
vera source check invoices --quick
vera source check invoices --json
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.UNAVAILABLE, Kind.REJECTS),
)
