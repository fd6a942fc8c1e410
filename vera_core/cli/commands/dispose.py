"""`vera dispose`: lets go what no law keeps any more."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    FromOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    ToOption,
    command_app,
)
from vera_core.cli.output import emit, say, show_figures, show_first, show_pairs, show_table
from vera_core.cli.progress import meter
from vera_core.cli.values import read_days
from vera_core.errors import Kind, UsageError
from vera_core.model import format_time
from vera_core.operations.disposals import (
    DisposalDraft,
    DisposalReport,
    ShardDisposal,
    approve_disposal,
    decline_disposal,
    list_disposals,
    plan_disposal,
    run_disposal,
    show_disposal,
    submit_disposal,
)
from vera_core.operations.erasure_reports import Stage
from vera_core.operations.opening import open_repository

if TYPE_CHECKING:
    from vera_core.operations.repository import Repository


class _Action(StrEnum):
    """What is to be done."""

    PLAN = "plan"
    REQUEST = "request"
    LIST = "list"
    SHOW = "show"
    APPROVE = "approve"
    DECLINE = "decline"
    RUN = "run"


NAMELESS = (_Action.PLAN, _Action.LIST)
REASONED = (_Action.REQUEST, _Action.DECLINE)


def command(
    action: Annotated[
        _Action, typer.Argument(metavar="ACTION", help="plan, request, list, show, approve, decline, run.")
    ] = _Action.PLAN,
    request_id: Annotated[str | None, typer.Argument(metavar="ID", help="The request.", show_default=False)] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why it is requested or declined; stays on record.")
    ] = None,
    first: FromOption = None,
    last: ToOption = None,
    retention_class: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Only this retention class.", show_default=False)
    ] = "",
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let go what no law keeps any more.

    plan: the objects with files whose retention has ended, by the store's clock, and what keeps them all the same: a
    legal hold, a longer lock in the store. Changes nothing.

    request ID: asks for the disposal of those that nothing keeps, of the days and the class that are given, and names
    them for good. Where the repository asks for approvals (`vera erasures require-approval`), nothing is done before
    somebody else says `vera dispose approve ID`, and then `vera dispose run ID`; else it is done at once. Files that a
    `vera retain` keeps longer stay readable. An object is disposed of whole, or not at all.

    run ID: executes what is open of a request, also after a crash, and again once what kept an object is over.

    show ID: the certificate: which objects, with their SHA-256, why, who asked, who approved, and what was kept.

    From then on no reader finds these files, and no later run archives the rows again. Their bytes are deleted by
    `vera gc`. In an encrypted repository nobody can read them any more: the keyrings of these objects are deleted
    along with the disposal, in every place.
    """
    if (action in NAMELESS) != (request_id is None):
        raise UsageError(f"{action.value} takes {'no ID' if action in NAMELESS else 'the ID of a request'}")
    if (action in REASONED) != (reason is not None):
        raise UsageError("request and decline need a --reason, and nothing else does")
    days = read_days(first, last)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    draft = DisposalDraft(
        tenant=chosen.tenant, id=request_id or "plan", reason=reason or "plan", first=days.first, last=days.last,
        retention_class=retention_class,
    )  # fmt: skip
    repo = open_repository(chosen)
    if action is _Action.LIST:
        _list(list_disposals(repo, chosen.tenant), as_json=as_json)
        return
    with meter("Examining", "slots", quiet=as_json) as progress:
        if action is _Action.PLAN:
            report = plan_disposal(repo, draft, progress)
        elif action is _Action.REQUEST:
            report = submit_disposal(repo, draft, progress)
        else:
            report = _decided(repo, action, draft)
    if as_json:
        emit(report)
    else:
        _show(report)
    if action in (_Action.REQUEST, _Action.RUN) and not report.ok:
        raise typer.Exit(Kind.RESTRICTED.exit_code)


def _decided(repo: Repository, action: _Action, draft: DisposalDraft) -> DisposalReport:
    if action is _Action.DECLINE:
        return decline_disposal(repo, draft.tenant, draft.id, draft.reason)
    work = {_Action.SHOW: show_disposal, _Action.APPROVE: approve_disposal, _Action.RUN: run_disposal}[action]
    return work(repo, draft.tenant, draft.id)


def _list(reports: list[DisposalReport], *, as_json: bool) -> None:
    if as_json:
        emit({"ok": True, "disposals": reports})
        return
    show_table(
        ("request", "stage", "objects", "disposed of", "kept", "asked for by", "approved by"),
        [
            (
                item.request, item.stage.value, str(item.requested), str(item.disposed), str(item.kept),
                item.requester, item.approver,
            )
            for item in reports
        ],
        right=frozenset({2, 3, 4}),
    )  # fmt: skip


def _show(report: DisposalReport) -> None:
    if report.stage is not Stage.PLANNED:
        say(f"Request {report.request}: {report.stage.value}.")
        finished = "" if report.finished is None else format_time(report.finished)
        show_pairs(
            [
                ("why", report.reason),
                ("asked for by", report.requester),
                ("approved by", report.approver),
                ("last executed", finished),
            ]
        )
    show_figures(report)
    show_first([_line(item) for item in report.shards])
    if report.stage is Stage.WAITING:
        say(f"Nothing is done before somebody else approves it: vera dispose approve {report.request}")


def _line(item: ShardDisposal) -> str:
    state = f"kept: {item.kept}" if item.kept else "disposed of" if item.disposed else "may go"
    return f"{item.shard.key} ({item.shard.retention_class}, {item.shard.entries:,} versions): {state}"


app = command_app(
    command,
    examples="""
vera dispose
vera dispose request year-2019 --to 2019-12-31 --reason "retention of 7 years has ended"
vera dispose approve year-2019 && vera dispose run year-2019
vera dispose show year-2019 --json > certificate.json
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNAVAILABLE),
)
