"""`vera readmit`: lets an erased uid be archived again."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    CreatedAtOption,
    JsonOption,
    ReasonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    UidArgument,
    command_app,
)
from vera_core.cli.output import emit, say
from vera_core.cli.values import read_time
from vera_core.erasures import Target
from vera_core.errors import Kind
from vera_core.operations.opening import open_repository
from vera_core.operations.readmit import Readmission, readmit


def command(
    uid: UidArgument,
    request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="On which request.")],
    reason: ReasonOption,
    created_at: CreatedAtOption = None,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let an erased uid be archived again.

    Rows of an erased uid are rejected for ever, so that no re-run brings back what was erased. After this, the next row
    of the uid that a source gives is archived as a new version. What was erased stays erased.
    """
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    target = Target(uid, read_time(created_at))
    wanted = Readmission(tenant=chosen.tenant, target=target, request=request_id, reason=reason)
    report = readmit(open_repository(chosen), wanted)
    if as_json:
        emit(report)
    else:
        say(f"{report.uid} may be archived again.")


app = command_app(
    command,
    examples="""
vera readmit customers/4711.pdf --created-at 2026-03-01 --request-id ticket-88 --reason "erased by mistake"
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
