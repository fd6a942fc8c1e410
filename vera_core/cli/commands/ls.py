"""`vera ls`: days, or the files of a day."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import JsonOption, RepositoryOption, SettingsOption, TenantOption, command_app
from vera_core.cli.output import emit, json_text, say, show_table
from vera_core.errors import Kind, VeraError
from vera_core.model import parse_day
from vera_core.operations import walk
from vera_core.operations.opening import open_repository
from vera_core.operations.report import as_json as jsonable
from vera_core.operations.report import size_text
from vera_core.operations.retrieve import FileReport, Retriever

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date


def command(
    day: Annotated[str | None, typer.Argument(metavar="DAY", help="A UTC day: 2026-03-01.")] = None,
    tenants: Annotated[bool, typer.Option("--tenants", help="List the tenants instead.")] = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List archived days, or the files of a day.

    Without DAY the days that hold files, with the number of their slots. With DAY the latest version of each file of
    that day that is not erased: time, size, version and uid, slot by slot, in little memory however many they are. The
    day of a file is that of its created_at, or of its uid where that carries a trusted time.
    """
    wanted = None if day is None else parse_day(day)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    repo = open_repository(chosen)
    if tenants:
        names = list(walk.tenants(repo))
        if as_json:
            emit({"ok": True, "tenants": names})
        else:
            for name in names:
                say(name)
    elif wanted is None:
        counts = [
            (found, sum(1 for _ in walk.slots(repo, chosen.tenant, found))) for found in walk.days(repo, chosen.tenant)
        ]
        if as_json:
            emit(
                {
                    "ok": True,
                    "tenant": chosen.tenant,
                    "days": [{"day": found, "slots": count} for found, count in counts],
                }
            )
        elif counts:
            show_table(("day", "slots"), [(str(found), f"{count:,}") for found, count in counts], right=frozenset({1}))
    else:
        _list_files(Retriever(repo, chosen.tenant), wanted, chosen.tenant, as_json=as_json)


def _list_files(retriever: Retriever, day: date, tenant: str, *, as_json: bool) -> None:
    files = retriever.list_day(day)
    if as_json:
        _stream_json(files, {"tenant": tenant, "day": jsonable(day)})
        return
    for item in files:
        say(f"{item.created:<27}  {size_text(item.size):>10}  {item.version:>8}  {item.uid}")


def _stream_json(files: Iterator[FileReport], about: dict[str, Any]) -> None:
    """One document, written as the files come; an error on the way closes it with an `error` beside the files."""
    count = 0
    end: dict[str, Any] = {"ok": True}
    failed: VeraError | None = None
    say(json.dumps(about)[:-1] + ', "files": [')
    try:
        for item in files:
            say(("," if count else "") + json_text(item, indent=None))
            count += 1
    except VeraError as error:
        failed = error
        end = {"ok": False, "error": {**error.to_json(), "exit_code": error.kind.exit_code}}
    say("], " + json.dumps({"count": count, **end})[1:])
    if failed is not None:
        raise typer.Exit(failed.kind.exit_code) from failed


app = command_app(
    command,
    examples="""
vera ls
vera ls 2026-03-01
vera ls 2026-03-01 --json | jq -r '.files[] | select(.media_type == "application/pdf") | .uid'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.UNAVAILABLE),
)
