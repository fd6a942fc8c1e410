"""`vera erase`: takes files from sight for good."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.erasing import erasure_code, show_erasure
from vera_core.cli.naming import ListOption, UidsArgument, named_files
from vera_core.cli.options import (
    CreatedAtOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    command_app,
)
from vera_core.cli.output import emit
from vera_core.cli.progress import meter
from vera_core.cli.values import read_time
from vera_core.errors import Kind
from vera_core.operations.erasures import Draft, plan_request, submit
from vera_core.operations.opening import open_repository


def command(
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="The request's id: a-z, 0-9, -, _ and dots.")
    ],
    reason: ReasonOption,
    uids: UidsArgument = None,
    listed: ListOption = None,
    created_at: CreatedAtOption = None,
    received: Annotated[
        str | None, typer.Option("--received", metavar="TIME", help="When the person asked; now if not given.")
    ] = None,
    dry_run: DryRunOption = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase files: take them from sight for good.

    All versions of the files are erased. Once this says so, no reader gives them any more, at the latest after the five
    seconds for which readers take what they know as current; no later run archives them again (`vera readmit` allows
    it), and no old object that somebody puts back brings them back.

    In an encrypted repository their keys are destroyed, too, in every registered copy: nobody can read the bytes any
    more, wherever they lie. `vera erasures certificate ID` says so. In one that is not encrypted the bytes stay in
    their locked objects, hidden, until the date that the report gives: only then can they be deleted.

    A file that must be kept is refused, and its ground is recorded: a legal hold, or a regulated retention class
    whose lock has not ended. `vera erasures run` erases it when that is over. Where the repository asks for approvals,
    the request is only stored: nothing is erased before somebody else says `vera erasures approve ID`.

    The request, with its reason and what became of each file, stays on record under its id, for years: write nothing
    personal into reason and id. Running the same command again, after a crash for example, goes on where it was.
    """
    targets = named_files(uids, listed, created_at)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    draft = Draft(tenant=chosen.tenant, id=request_id, reason=reason, targets=targets, received=read_time(received))
    repo = open_repository(chosen)
    with meter("Erasing", "files", quiet=as_json) as progress:
        report = (plan_request if dry_run else submit)(repo, draft, progress)
    if as_json:
        emit(report)
    else:
        show_erasure(report)
    if code := erasure_code(report):
        raise typer.Exit(code)


app = command_app(
    command,
    examples="""
vera erase customers/4711.pdf --created-at 2026-03-01 --request-id art17-2026-0412 --reason "GDPR Art. 17(1)(b)"
vera erase --list customer.csv --request-id art17-2026-0412 --reason "GDPR Art. 17(1)(b)" --received 2026-04-12
vera erase 01890a5d-ac96-774b-bcce-b302099a8057 --request-id art17-7 --reason "wrong archive" --dry-run
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
