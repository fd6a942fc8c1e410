"""`vera get`: a file's verified bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.deliver import new_file, to_stdout
from vera_core.cli.options import (
    CreatedAtOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    UidArgument,
    VersionOption,
    command_app,
)
from vera_core.cli.output import emit
from vera_core.cli.values import read_time
from vera_core.errors import Kind, UsageError
from vera_core.operations.opening import open_repository
from vera_core.operations.report import as_json as jsonable
from vera_core.operations.retrieve import Retriever

STDOUT = "-"


def command(
    uid: UidArgument,
    created_at: CreatedAtOption = None,
    version: VersionOption = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to FILE instead of standard output (-)."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE if it exists. Never skips verification.")
    ] = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a file, verified.

    Writes the file's bytes to standard output, or with -o to a file. Every byte is checked against the checksum and the
    SHA-256 that were taken when the file was archived, before any of it is let out: what you get is exactly what was
    archived, or an error. FILE appears whole or not at all. Binary content is not written to a terminal.
    """
    target = None if output in {None, STDOUT} else Path(str(output))
    if as_json and target is None:
        raise UsageError("--json needs -o FILE: standard output carries the file", todo="Or see `vera stat --json`.")
    if force and target is None:
        raise UsageError("--force is about the FILE of -o", todo="Name one, or leave --force out.")
    moment = read_time(created_at)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    retriever = Retriever(open_repository(chosen), chosen.tenant)
    if target is None:
        to_stdout(retriever.stream(uid, moment, version=version)[1], may_be_terminal=output == STDOUT)
        return
    with new_file(target, force=force) as file:
        for chunk in retriever.stream(uid, moment, version=version)[1]:
            file.write(chunk)
    if as_json:
        emit({**jsonable(retriever.stat(uid, moment, version=version)), "output": str(target)})


app = command_app(
    command,
    examples="""
vera get invoices/2026-000017.pdf --created-at 2026-03-01 -o invoice.pdf
vera get 01890a5d-ac96-774b-bcce-b302099a8057 | jq .     # a uid that carries its time
vera get contract-7 --created-at 2026-03-01 --version 3.17 -o old.pdf --force
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.ERASED, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
