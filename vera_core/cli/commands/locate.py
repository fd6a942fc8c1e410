"""`vera locate`: where a uid lives."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    CreatedAtOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    UidArgument,
    command_app,
)
from vera_core.cli.output import emit, say
from vera_core.cli.values import read_time
from vera_core.errors import Kind, UsageError
from vera_core.operations.opening import open_repository
from vera_core.operations.report import as_json as jsonable
from vera_core.routing import locate_shard


def command(
    uid: UidArgument,
    created_at: CreatedAtOption = None,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", metavar="N", min=0, max=16, help="Routing bits to take instead of the repository's: asks nobody."
        ),
    ] = None,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where a uid lives: its slot.

    Prints the slot as tenant/day/index. That is a pure function of the uid, its time and the routing bits of its day;
    only those are read from the repository's settings, or given as --bits. Whether anything is archived there tells
    `vera stat`.
    """
    moment = read_time(created_at)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    if bits is None:
        slot = open_repository(chosen).config.routing.slot(chosen.tenant, uid, moment)
    elif moment is None:
        raise UsageError("--bits needs --created-at", todo="Give it; the day is enough.")
    else:
        slot = locate_shard(uid, moment, bits, tenant=chosen.tenant)
    if as_json:
        place = {"slot": str(slot), "tenant": slot.tenant, "day": slot.day, "index": slot.index, "n_bits": slot.n_bits}
        emit({"ok": True, "uid": uid, **jsonable(place)})
    else:
        say(str(slot))


app = command_app(
    command,
    examples="""
vera locate invoices/2026-000017.pdf --created-at 2026-03-01
vera locate invoices/2026-000017.pdf --created-at 2026-03-01 --bits 4
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.UNAVAILABLE),
)
