"""`vera migrate`: archives and verifies what is due of the sources that the settings name."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.migrating import serve_metrics, show_status, watch
from vera_core.cli.options import (
    AnyTenantOption,
    DryRunOption,
    FromOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    ToOption,
    command_app,
)
from vera_core.cli.output import (
    day_words,
    describe,
    emit,
    say,
    show_figures,
    show_packs,
    show_rejects,
    show_table,
    warn,
)
from vera_core.cli.progress import meters
from vera_core.cli.signals import Drain, rest
from vera_core.cli.values import Days, read_days
from vera_core.errors import Kind, UnavailableError, UsageError
from vera_core.model import parse_day
from vera_core.operations.due import Migration, due_windows, note_late_rows
from vera_core.operations.migrate import MigrateReport, migrate
from vera_core.operations.migration_status import migration_status
from vera_core.operations.opening import open_repository
from vera_core.operations.sources import migration_state, open_migrations
from vera_core.source.mapping import OnRejects  # noqa: TC001 - typer reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from vera_core.settings import Settings
    from vera_core.source.base import Window

ONE_DAY = timedelta(days=1)
STATUS = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What was asked for."""

    settings: Settings
    sources: tuple[str, ...]
    tenant: str | None
    days: Days
    on_rejects: OnRejects | None
    retry_rejects: bool

    def migrations(self) -> Iterator[Migration]:
        """Each tenant of each source that was asked for, opened anew."""
        repo = open_repository(self.settings)
        for name in self.sources:
            for migration in open_migrations(repo, self.settings, name):
                if self.tenant in {None, migration.source.tenant}:
                    yield migration if self.on_rejects is None else replace(migration, on_rejects=self.on_rejects)

    def due(self, migration: Migration) -> list[Window]:
        """The windows to migrate."""
        end = None if self.days.last is None else self.days.last + ONE_DAY
        return due_windows(migration, first=self.days.first, end=end, retry_rejects=self.retry_rejects)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    """What is due of one tenant of a source."""

    source: str
    tenant: str
    watermark: date | None
    windows: tuple[Window, ...]


def command(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[status] [SOURCE]", help="One source; all if none is named. `status` only shows."),
    ] = None,
    first: FromOption = None,
    last: ToOption = None,
    once: Annotated[
        bool,
        typer.Option("--once/--continuous", help="Do what is due and end, or look again and again until interrupted."),
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            "--every", metavar="SECONDS", min=1, help="How long to wait between two looks: 60, for --watch 2."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there: 127.0.0.1:9464."),
    ] = None,
    watching: Annotated[bool, typer.Option("--watch", help="With status: show it again and again.")] = False,
    on_rejects: Annotated[
        OnRejects | None,
        typer.Option(
            "--rejects",
            metavar="stop|advance",
            help="Whether the watermark waits before a day with rejected rows, or passes it. Default: the settings'.",
        ),
    ] = None,
    retry_rejects: Annotated[
        bool, typer.Option("--retry-rejects", help="Try the rejected rows of finished days again.")
    ] = False,
    create_schema: Annotated[
        bool, typer.Option("--create-schema", help="Make VERA's own tables in the business database, and end.")
    ] = False,
    print_schema: Annotated[
        bool, typer.Option("--print-schema", help="Print the statements that make them, and end.")
    ] = False,
    dry_run: DryRunOption = False,
    tenant: AnyTenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Archive and verify what is due of the sources that the settings name.

    Due is every day from the watermark on that is over (less lag_days), every day that was begun and has no verdict,
    and every day with rows that came late or changed. Each is frozen, packed, verified by new readers and compared with
    the source; then the watermark moves over the days that are verified. A day that fails does not stop the others, but
    the watermark waits before it. Rows that can't be archived are rejected by name.

    Any number of workers may run at once, on any machines: each takes a day that no other has, by a lease in VERA's own
    tables that ends a minute after a worker stops answering. SIGTERM lets a worker finish its day and end, a second one
    or Ctrl-C ends it at once; one that is killed leaves nothing but its lease. status shows the watermark, what is
    done, due and failed, and how far each worker is; with --watch again and again.

    With --from or --to only those days, once. What VERA knows of a migration stands in tables of its own in the
    business database; they are made by --create-schema, or by whoever runs what --print-schema prints.
    """
    status, source = _asked(what or [])
    if listen is not None:
        serve_metrics(listen)
    if watching and (not status or as_json):
        raise UsageError("--watch is for status, and not with --json")
    chosen = load_settings(settings, repository=repository)
    if not chosen.sources:
        raise UsageError("the settings name no source", todo="Describe one in vera.toml; see docs/sources.md.")
    names = tuple(sorted(chosen.sources)) if source is None else (source,)
    if create_schema or print_schema:
        _schema(chosen, names, create=create_schema, as_json=as_json)
        return
    job = _Job(
        settings=chosen,
        sources=names,
        tenant=tenant,
        days=read_days(first, last),
        on_rejects=on_rejects,
        retry_rejects=retry_rejects,
    )
    if status:
        _status(job, every=(every or 2.0) if watching else None, as_json=as_json)
    elif dry_run:
        _show_due(job, as_json=as_json)
    elif once or first or last:
        reports = []
        for migration, report in _look(job, quiet=as_json):
            reports.append(report)
            if not as_json:
                _show(migration, report)
        _finish(reports, as_json=as_json)
    elif as_json:
        raise UsageError("--json prints one document, so it needs --once", todo="Add --once, or --from and --to.")
    else:
        _keep_looking(job, every or 60.0)


def _asked(what: list[str]) -> tuple[bool, str | None]:
    """Whether only the status is asked for, and which source.

    Raises:
        UsageError: more than that is named.
    """
    status = what[:1] == [STATUS]
    names = what[1:] if status else what
    if len(names) > 1:
        raise UsageError("more than one source is named", todo="Name one, or none for all of them.")
    return status, names[0] if names else None


def _status(job: _Job, *, every: float | None, as_json: bool) -> None:
    migrations = list(job.migrations())
    if every is not None:
        watch(lambda: [migration_status(migration) for migration in migrations], every)
    found = [migration_status(migration) for migration in migrations]
    if as_json:
        emit({"ok": all(status.ok for status in found), "sources": found})
        return
    for status in found:
        show_status(status)


def _schema(settings: Settings, names: tuple[str, ...], *, create: bool, as_json: bool) -> None:
    found = {name: migration_state(settings, name) for name in names}
    if create:
        for state in found.values():
            state.create()
    if as_json:
        emit({"ok": True, "created": create, "ddl": {name: state.ddl() for name, state in found.items()}})
    elif create:
        say(f"VERA's own tables are there for: {', '.join(found)}.")
    else:
        for ddl in dict.fromkeys(state.ddl() for state in found.values()):
            say(ddl.rstrip())


def _show_due(job: _Job, *, as_json: bool) -> None:
    found = []
    for migration in job.migrations():
        mark = migration.state.watermark(*migration.name)
        name, owner = migration.name
        windows = tuple(job.due(migration))
        found.append(_Due(source=name, tenant=owner, watermark=None if mark is None else mark.day, windows=windows))
    if as_json:
        emit({"ok": True, "sources": found})
        return
    for due in found:
        say(f"Source {due.source}, tenant {due.tenant}: watermark {due.watermark or 'not set yet'}")
        if due.windows:
            show_table(("day", "revision"), [(str(window.day), str(window.revision)) for window in due.windows])
        else:
            say("  nothing is due")


def _look(job: _Job, *, quiet: bool) -> Iterator[tuple[Migration, MigrateReport]]:
    """Migrates what is due now, source by source."""
    for migration in job.migrations():
        note_late_rows(migration)
        with Drain() as drain, meters(f"{migration.source.name}", quiet=quiet) as each:
            due = job.due(migration)
            report = migrate(migration, due, each=lambda window: each(str(window.day)), stop=lambda: drain.asked)
        yield migration, report


def _finish(reports: list[MigrateReport], *, as_json: bool) -> None:
    ok = all(report.ok for report in reports)
    held = any(report.rejected and report.watermark.held_by for report in reports)
    if as_json:
        emit({"ok": ok and not held, "sources": reports})
    if not ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)
    if held:
        raise typer.Exit(Kind.REJECTS.exit_code)


def _keep_looking(job: _Job, every: float) -> None:
    """Looks again and again, and tells what it did; after the first look only where there was something to do."""
    first = True
    while True:
        try:
            for migration, report in _look(job, quiet=False):
                if first or report.windows or report.failures:
                    _show(migration, report)
            first = False
        except UnavailableError as error:
            warn(describe(error.to_json()))
        sys.stdout.flush()
        rest(every)


def _show(migration: Migration, report: MigrateReport) -> None:
    mark = report.watermark
    held = f"; {mark.held_by}" if mark.held_by else ""
    say(
        f"Source {report.source}, tenant {report.tenant}: {len(report.windows):,} windows; "
        f"watermark {day_words(mark.after)}{held}"
    )
    if report.windows:
        show_packs([item.pack for item in report.windows], [item.verify for item in report.windows])
        show_figures(report)
    for item in report.windows:
        if not item.pack.rejected:
            continue
        named = migration.state.rejects(*migration.name, day=parse_day(item.day))
        show_rejects(((str(w.day), r.uid, r.reason, r.detail) for w, r in named), item.pack.rejected)
    if report.elsewhere:
        say(f"  other workers have: {', '.join(map(day_words, report.elsewhere))}")
    for failure in report.failures:
        say(f"  failed: {failure}")
    for uid in report.untimed:
        say(f"  rejected: {uid}: it has no time, and so belongs to no day")
    for spot in report.blind_spots:
        say(f"  note: {spot}")


app = command_app(
    command,
    examples="""
vera migrate documents --print-schema
vera migrate documents --dry-run
vera migrate documents --once
vera migrate --from 2026-03-01 --to 2026-03-31 --json
vera migrate --continuous          # stays, and looks every minute; on as many machines as you have
vera migrate status --watch
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE, Kind.REJECTS),
)
