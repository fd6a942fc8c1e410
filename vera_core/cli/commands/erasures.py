"""`vera erasures`: requests for erasures, from the asking to the end."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.certifying import certificate_code, show_certificates, show_destroyed
from vera_core.cli.context import load_settings
from vera_core.cli.erasing import erasure_code, show_erasure
from vera_core.cli.options import JsonOption, RepositoryOption, SettingsOption, TenantOption, command_app
from vera_core.cli.output import emit, say, show_figures, show_findings, show_table
from vera_core.cli.progress import meter
from vera_core.errors import Kind, UsageError
from vera_core.model import format_time
from vera_core.operations.approval import require_approval
from vera_core.operations.certificates import certificates_of, verify_certificates
from vera_core.operations.deadlines import survey_requests
from vera_core.operations.destroy_again import destroy_again
from vera_core.operations.erasure_imports import import_requests
from vera_core.operations.erasure_reports import show_request
from vera_core.operations.erasures import approve, decline, run_due, run_request
from vera_core.operations.opening import open_repository

if TYPE_CHECKING:
    from vera_core.operations.deadlines import RequestsReport
    from vera_core.operations.erasure_reports import ErasureReport
    from vera_core.operations.erasures import RunReport
    from vera_core.operations.repository import Repository
    from vera_core.settings import Settings


class _Action(StrEnum):
    """What is to be done."""

    LIST = "list"
    SHOW = "show"
    APPROVE = "approve"
    DECLINE = "decline"
    RUN = "run"
    CERTIFICATE = "certificate"
    DESTROY = "destroy"
    IMPORT = "import"
    REQUIRE_APPROVAL = "require-approval"


NAMES_ONE = (_Action.SHOW, _Action.APPROVE, _Action.DECLINE, _Action.CERTIFICATE)


def command(
    action: Annotated[
        _Action,
        typer.Argument(
            metavar="ACTION",
            help="list, show, approve, decline, run, certificate, destroy, import, require-approval.",
        ),
    ] = _Action.LIST,
    request_id: Annotated[str | None, typer.Argument(metavar="ID", help="The request.", show_default=False)] = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why it is declined.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="List finished requests of any age, too.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Prove a certificate again.")] = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """List, approve, decline, run, certify and import erasure requests.

    list: the requests that are open, or were within a month, with what is open and until when it must be done; with
    --all, every request there ever was. A file must be out of sight within `erasure_hours` (48 by default) after the
    person asked, and within a month by law; what is overdue is an error and exit code 6, what will be soon a warning.

    show ID: what became of each file of a request.

    approve ID: lets a request of somebody else be executed. Who you are is `actor` in the settings. decline ID ends a
    request; what it has erased stays erased.

    run: executes what may be executed and is not done, of all requests or of ID: approved ones, those that a crash cut
    off, and files that were refused, once their ground has ended. Run it every day. In an encrypted repository it also
    destroys the keys of what is out of sight; of ID again, whatever was put back since.

    certificate ID: what became of the keys of the erased files, as the request's log keeps it; only of an encrypted
    repository. --verify opens every version of every keyring concerned, in every registered copy, and ends with exit
    code 6 if any of them still gives a key.

    destroy: makes sure that no key of any erased file of the tenant is left, as after a backup was restored.

    import: takes the requests from the table that `erasure_table` in the settings describes, each id once, and executes
    those that need no approval. The table is only read.

    require-approval: from now on erasures in this repository need an approval. There is no way back: whoever could turn
    it off alone would need nobody.
    """
    if (action in NAMES_ONE) != (request_id is not None) and not (action is _Action.RUN and request_id):
        raise UsageError(f"{action.value} takes {'the ID of a request' if action in NAMES_ONE else 'no ID'}")
    if everything and action is not _Action.LIST:
        raise UsageError("--all is for listing requests")
    if (action is _Action.DECLINE) != (reason is not None):
        raise UsageError("decline needs a --reason, and nothing else does")
    if verify and action is not _Action.CERTIFICATE:
        raise UsageError("--verify is for a certificate")
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    repo = open_repository(chosen)
    if action is _Action.LIST:
        code = _list(repo, chosen, everything=everything, as_json=as_json)
    elif action is _Action.IMPORT:
        with meter("Erasing", "files", quiet=as_json) as progress:
            code = _ran(import_requests(repo, chosen.erasures_from(), chosen.tenant, progress), as_json=as_json)
    elif action is _Action.REQUIRE_APPROVAL:
        code = _require(repo, as_json=as_json)
    elif action is _Action.DESTROY:
        code = _destroy(repo, chosen.tenant, as_json=as_json)
    elif request_id is None:
        with meter("Erasing", "files", quiet=as_json) as progress:
            code = _ran(run_due(repo, chosen.tenant, progress), as_json=as_json)
    elif action is _Action.CERTIFICATE:
        code = _certificate(repo, chosen.tenant, request_id, verify=verify, as_json=as_json)
    else:
        code = _told(repo, chosen.tenant, (action, request_id, reason or ""), as_json=as_json)
    if code:
        raise typer.Exit(code)


def _told(repo: Repository, tenant: str, told: tuple[_Action, str, str], *, as_json: bool) -> int:
    report = _done(repo, tenant, told, quiet=as_json)
    if as_json:
        emit(report)
    else:
        show_erasure(report)
    return erasure_code(report) if told[0] is _Action.RUN else 0


def _certificate(repo: Repository, tenant: str, request_id: str, *, verify: bool, as_json: bool) -> int:
    report = (verify_certificates if verify else certificates_of)(repo, tenant, request_id)
    if as_json:
        emit(report)
    else:
        show_certificates(report)
    return certificate_code(report)


def _destroy(repo: Repository, tenant: str, *, as_json: bool) -> int:
    with meter("Looking", "slots", quiet=as_json) as progress:
        report = destroy_again(repo, tenant, progress)
    if as_json:
        emit(report)
    else:
        show_destroyed(report)
    return 0


def _done(repo: Repository, tenant: str, told: tuple[_Action, str, str], *, quiet: bool) -> ErasureReport:
    action, request_id, reason = told
    if action is _Action.APPROVE:
        return approve(repo, tenant, request_id)
    if action is _Action.DECLINE:
        return decline(repo, tenant, request_id, reason)
    if action is _Action.SHOW:
        return show_request(repo, tenant, request_id)
    with meter("Erasing", "files", quiet=quiet) as progress:
        return run_request(repo, tenant, request_id, progress)


def _list(repo: Repository, chosen: Settings, *, everything: bool, as_json: bool) -> int:
    within = timedelta(hours=chosen.erasure_hours)
    with meter("Reading", "requests", quiet=as_json) as progress:
        report = survey_requests(repo, chosen.tenant, within, progress, everything=everything)
    if as_json:
        emit(report)
    else:
        _show_list(report)
    return 0 if report.ok else Kind.INTEGRITY.exit_code


def _show_list(report: RequestsReport) -> None:
    if report.requests:
        show_table(
            ("request", "received", "files", "erased", "refused", "open", "to be done by", ""),
            [
                (
                    line.request,
                    format_time(line.received),
                    f"{line.requested:,}",
                    f"{line.erased:,}",
                    f"{line.refused:,}",
                    f"{line.open:,}",
                    "" if line.hide_by is None else format_time(line.hide_by),
                    line.stage.value,
                )
                for line in report.requests
            ],
            right=frozenset(range(2, 6)),
        )
    show_findings(report.findings)
    show_figures(report)
    if not report.complete:
        say("  Requests that were finished more than a month ago are not among these: --all lists them.")


def _ran(report: RunReport, *, as_json: bool) -> int:
    if as_json:
        emit(report)
    else:
        for item in report.requests:
            show_erasure(item)
        if not report.requests:
            say("There is nothing to do.")
        show_findings(report.findings)
    if report.findings:
        return Kind.INTEGRITY.exit_code
    return max((erasure_code(item) for item in report.requests), default=0)


def _require(repo: Repository, *, as_json: bool) -> int:
    report = require_approval(repo)
    if as_json:
        emit(report)
    else:
        say(f"Erasures in {report.repository} need the approval of somebody else than who asks for them.")
    return 0


app = command_app(
    command,
    examples="""
vera erasures
vera erasures --all --json | jq .count
vera erasures show art17-2026-0412
vera erasures approve art17-2026-0412
vera erasures decline art17-2026-0412 --reason "not the person's own data"
vera erasures run
vera erasures certificate art17-2026-0412 --verify
vera erasures certificate art17-2026-0412 --json > certificate.json
vera erasures destroy
vera erasures import
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
