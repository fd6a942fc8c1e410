"""`vera verify`: checks what is archived."""

from __future__ import annotations

from typing import Annotated

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
from vera_core.cli.output import emit, show_verification
from vera_core.cli.progress import meter
from vera_core.cli.values import read_days
from vera_core.errors import Kind
from vera_core.operations.opening import open_repository
from vera_core.operations.verify import verify_slots
from vera_core.operations.walk import all_slots


def command(
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte of every shard and check every sum.")] = False,
    first: FromOption = None,
    last: ToOption = None,
    tenant: AnyTenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check what is archived: records, locks and, with --deep, every byte.

    Asks the store anew for every slot log, for the lock of every version that counts, for the legal hold of every shard
    that a case needs, and for every shard by its VersionId: that it is there and has its size, or with --deep that
    every byte of it verifies. A finding names key and version, and is exit code 6. Whether source and archive agree is
    checked by `vera migrate`, which knows the source.

    Of an encrypted shard the keyring is opened as well, and with --deep every file that was not erased. That takes the
    key service: without it there is an error, and no verdict.
    """
    days = read_days(first, last)
    repo = open_repository(load_settings(settings, repository=repository))
    slots = all_slots(repo, tenant=tenant, first=days.first, last=days.last)
    with meter("Verifying", "shards", quiet=as_json) as show:
        progress = None if show is None else lambda shards, size: show(shards, 0, size)
        report = verify_slots(repo, slots, deep=deep, progress=progress)
    if as_json:
        emit(report)
    else:
        show_verification(report)
    if not report.ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)


app = command_app(
    command,
    examples="""
vera verify
vera verify --deep --from 2026-03-01 --to 2026-03-31
vera verify --deep --json | jq '.checks[].findings'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.UNAVAILABLE),
)
