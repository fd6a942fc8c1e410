"""`vera rejects`: rows that were rejected, by name, and another try."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    AnyTenantOption,
    FromOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    ToOption,
    command_app,
)
from vera_core.cli.output import emit, say, show_figures, show_table
from vera_core.cli.progress import meters
from vera_core.cli.values import read_days
from vera_core.errors import Kind, UsageError
from vera_core.operations.due import due_rejects
from vera_core.operations.migrate import migrate
from vera_core.operations.opening import open_repository
from vera_core.operations.rejects import read_rejects
from vera_core.operations.sources import open_migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.cli.values import Days
    from vera_core.operations.rejects import RejectedFile
    from vera_core.operations.repository import Repository
    from vera_core.settings import Settings

SHOWN = 100


class _Action(StrEnum):
    """What is to be done."""

    LS = "ls"
    RETRY = "retry"


def command(
    action: Annotated[_Action, typer.Argument(metavar="ls|retry", help="List them, or try them again.")] = _Action.LS,
    source: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="One source; all if none is named.", show_default=False)
    ] = None,
    first: FromOption = None,
    last: ToOption = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="WORD", help="With ls: only these.")] = None,
    tenant: AnyTenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the rows that were rejected, or try them again.

    ls reads the quarantine lists in the bucket, one for each window with rejects, which name every row, its reason and,
    of rows that were rejected when the day was frozen, what exactly was wrong: the first 100, all with --json.
    docs/sources.md says what each reason means. In an encrypted repository they name keyed uids; `vera migrate` and
    `vera pack` name the uids while they run.

    retry freezes a new revision of each day with rejects, with those rows only, and archives what can be archived now.
    What is still rejected stands in the new revision's list. Mend the rows first: in the source, or where their files
    are.
    """
    if reason is not None and action is _Action.RETRY:
        raise UsageError("--reason is for ls", todo="retry takes the rows of whole days: name them by --from and --to.")
    chosen = load_settings(settings, repository=repository)
    if source is None and not chosen.sources:
        raise UsageError("the settings name no source", todo="Describe one in vera.toml; see docs/sources.md.")
    names = sorted(chosen.sources) if source is None else [source]
    days = read_days(first, last)
    repo = open_repository(chosen)
    if action is _Action.RETRY:
        _retry(repo, chosen, names, tenant, days, as_json=as_json)
        return
    found = (item for item in _all(repo, chosen, names, tenant, days) if reason in {None, item.reason})
    if as_json:
        emit({"ok": True, "rejects": [_line(item) for item in found]})
    else:
        _show(found)


def _all(
    repo: Repository, settings: Settings, names: list[str], tenant: str | None, days: Days
) -> Iterator[RejectedFile]:
    for name in names:
        for own in settings.source(name).tenants:
            if tenant in {None, own}:
                yield from read_rejects(repo, own, name, first=days.first, last=days.last)


def _line(item: RejectedFile) -> dict[str, object]:
    window = item.window
    return {
        "source": window.source, "tenant": window.tenant, "day": window.day, "revision": window.revision,
        "uid": item.uid, "reason": item.reason, "detail": item.detail,
    }  # fmt: skip


def _show(found: Iterator[RejectedFile]) -> None:
    counts: Counter[str] = Counter()
    rows: list[tuple[str, ...]] = []
    for item in found:
        counts[item.reason] += 1
        if len(rows) < SHOWN:
            rows.append((item.window.source, str(item.window.day), item.uid, item.reason, item.detail))
    if not rows:
        say("No row is rejected.")
        return
    show_table(("source", "day", "uid", "reason", "what is wrong"), islice(rows, SHOWN))
    if counts.total() > SHOWN:
        say(f"  ... and {counts.total() - SHOWN:,} more; --json names them")
    say("  " + ", ".join(f"{reason}: {count:,}" for reason, count in counts.most_common()))


def _retry(
    repo: Repository, settings: Settings, names: list[str], tenant: str | None, days: Days, *, as_json: bool
) -> None:
    reports = []
    for name in names:
        for migration in open_migrations(repo, settings, name):
            if tenant not in {None, migration.source.tenant}:
                continue
            with meters(name, quiet=as_json) as each:
                windows = due_rejects(migration, first=days.first, last=days.last)
                report = migrate(migration, windows, each=lambda window, each=each: each(str(window.day)))  # type: ignore[misc]
            reports.append(report)
            if not as_json:
                say(f"Source {name}, tenant {migration.source.tenant}: {len(windows):,} days with rejects tried again")
                show_figures(report)
    ok = all(report.ok for report in reports)
    left = sum(report.rejected for report in reports)
    if as_json:
        emit({"ok": ok and not left, "sources": reports})
    if not ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)
    if left:
        raise typer.Exit(Kind.REJECTS.exit_code)


app = command_app(
    command,
    examples="""
vera rejects ls
vera rejects ls invoices --from 2026-03-01 --reason missing-file
vera rejects retry invoices --from 2026-03-01 --to 2026-03-31
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE, Kind.REJECTS),
)
