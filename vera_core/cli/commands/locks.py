"""`vera locks`: what is locked or held, until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from vera_core.cli.output import day_words, emit, say, show_figures, show_table
from vera_core.cli.progress import meter
from vera_core.cli.values import read_days
from vera_core.errors import Kind
from vera_core.operations.locks import survey_locks
from vera_core.operations.opening import open_repository
from vera_core.operations.report import size_text

if TYPE_CHECKING:
    from vera_core.operations.locks import CaseLine, LockLine

LOCK_HEADER = ("tenant", "day", "class", "", "lock", "from", "until", "ended", "objects", "versions", "bytes")
CASE_HEADER = ("case", "tenant", "from", "until", "files", "versions")


def command(
    first: FromOption = None,
    last: ToOption = None,
    tenant: AnyTenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is locked or held, until when.

    For each tenant, day and retention class the objects with files, the versions and bytes in them, and when their
    locks end; `kept longer` are the small objects that `vera retain` makes. Below, for each legal case, what it holds.
    By the store's clock, and as the records say: `vera verify` asks the store whether it keeps these locks.
    """
    days = read_days(first, last)
    repo = open_repository(load_settings(settings, repository=repository))
    with meter("Examining", "slots", quiet=as_json) as progress:
        report = survey_locks(repo, tenant=tenant, days=days, progress=progress)
    if as_json:
        emit(report)
        return
    show_figures(report)
    if report.locks:
        show_table(LOCK_HEADER, map(_lock_row, report.locks), right=frozenset({7, 8, 9, 10}))
    if report.cases:
        say()
        show_table(CASE_HEADER, map(_case_row, report.cases), right=frozenset({4, 5}))


def _lock_row(line: LockLine) -> tuple[str, ...]:
    return (
        line.tenant,
        day_words(line.day),
        line.retention_class,
        "kept longer" if line.copies else line.erasability.value,
        line.mode.value,
        line.first.date().isoformat(),
        line.last.date().isoformat(),
        f"{line.ended:,}",
        f"{line.shards:,}",
        f"{line.versions:,}",
        size_text(line.stored_bytes),
    )


def _case_row(line: CaseLine) -> tuple[str, ...]:
    days = (day_words(line.first_day), day_words(line.last_day))
    return (line.case, line.tenant, *days, f"{line.files:,}", f"{line.versions:,}")


app = command_app(
    command,
    examples="""
vera locks
vera locks --from 2026-03-01 --to 2026-03-31 --tenant default
vera locks --json | jq '.locks[] | select(.ended > 0)'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE),
)
