"""`vera find`: files by their metadata."""

from __future__ import annotations

import io
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.deliver import new_file
from vera_core.cli.options import (
    FromOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    ToOption,
    command_app,
)
from vera_core.cli.output import emit, say
from vera_core.cli.progress import meter
from vera_core.cli.values import read_days
from vera_core.errors import Kind, UsageError
from vera_core.operations.find import Wanted, find_files, write_list
from vera_core.operations.opening import open_repository
from vera_core.operations.report import size_text

SUFFIXES = {".csv": True, ".jsonl": False}


def command(
    pairs: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE", help="Metadata that a file must have, all of it.", show_default=False),
    ],
    first: FromOption = None,
    last: ToOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a list: FILE.csv or FILE.jsonl.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find files by their metadata.

    Lists the latest version of every file of which some version that is not erased has all the metadata: of a person,
    say, whose files are to be erased. There is no index of metadata, so every day is read; --from and --to save time.
    Of an encrypted repository the contents are read too: metadata are sealed with them.
    The list that -o writes is for you to look through: take out what should stay, then give it to `vera erase --list`.
    Nothing is changed. If a slot can't be read, there is an error and no list, for it would not be complete.
    """
    days = read_days(first, last)
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise UsageError("the list is neither .csv nor .jsonl", todo="Name it after its format.", path=output)
    if as_json and output is None:
        raise UsageError("--json needs -o FILE.jsonl for the list", todo="Name one.")
    if force and output is None:
        raise UsageError("--force is about the FILE of -o", todo="Name one, or leave --force out.")
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    wanted = Wanted(chosen.tenant, dict(map(_pair, pairs)), days.first, days.last)
    repo = open_repository(chosen)
    with meter("Reading", "slots", quiet=as_json) as progress:
        files = find_files(repo, wanted, progress)
        if output is None:
            for item in files:
                say(f"{item.created:<27}  {size_text(item.size):>10}  {item.version:>8}  {item.uid}")
            return
        with new_file(output, force=force) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            count = write_list(text, files, as_csv=SUFFIXES[output.suffix.lower()])
            text.detach()
    if as_json:
        emit({"ok": True, "tenant": chosen.tenant, "output": str(output), "files": count})
    else:
        say(f"{count:,} files are listed in {output}.")


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"{text!r} is no metadata", todo="Write it like customer=4711.")
    return key, value


app = command_app(
    command,
    examples="""
vera find customer=4711 --from 2019-01-01 -o customer.csv
vera find customer=4711 type=invoice
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
