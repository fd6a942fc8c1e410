"""`vera doctor`: puts right what can be put right without a doubt."""

from __future__ import annotations

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    AnyTenantOption,
    DryRunOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    command_app,
)
from vera_core.cli.output import emit, say, show_figures, show_findings, show_pairs, show_table
from vera_core.cli.progress import meter
from vera_core.errors import Kind
from vera_core.operations.doctor import DoctorPlan, DoctorReport, execute_doctor, plan_doctor
from vera_core.operations.opening import open_repository
from vera_core.operations.report import as_json as jsonable


def command(
    tenant: AnyTenantOption = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put right what a crash or a stranger left behind.

    Examines every slot and record and prints what it found; then, unless --dry-run, seals commits whose locks were not
    yet extended, rebuilds sidecars that are missing or old, and removes delete markers and unlocked versions over
    records of every kind, by VersionId. None of these can hide or change a file; they only cost time. Uploads that no
    record names are listed with what they cost. What it can't put right, such as a lost shard, is a finding and exit
    code 6. Of an encrypted repository it also looks at the key service, the keyrings and the tenant keys in every
    place; `vera keys restore` puts back what is missing. With --tenant only the tenant's own slots and manifests are
    examined.
    """
    repo = open_repository(load_settings(settings, repository=repository))
    with meter("Examining", "slots", quiet=as_json) as progress:
        plan = plan_doctor(repo, tenant=tenant, progress=progress)
    if not as_json:
        _show_plan(plan)
    report = None if dry_run else execute_doctor(repo, plan)
    if as_json:
        emit({"ok": (report or plan).ok, "plan": jsonable(plan), "done": jsonable(report)})
    elif report is not None:
        _show_report(plan, report)
    if not (report or plan).ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)


def _show_plan(plan: DoctorPlan) -> None:
    show_figures(plan)
    if plan.keys is not None:
        version = f"version {plan.keys.current}" if plan.keys.current else "no answer"
        pairs = [("key encryption key", f"{plan.keys.kek}, {version}"), ("tenant keys", str(plan.keys.tenant_keys))]
        show_pairs([*pairs, *(("copy of the keys", uri) for uri in plan.keys.places[1:])])
    if plan.diagnoses:
        show_table(
            ("where", "unsealed", "sidecar", "to remove", "error"),
            [
                (item.place, str(item.unsealed), item.sidecar, str(len(item.removals)), item.error)
                for item in plan.diagnoses
            ],
        )
    show_findings([*plan.findings, *(found for item in plan.diagnoses for found in item.removals)])


def _show_report(plan: DoctorPlan, report: DoctorReport) -> None:
    if not plan.diagnoses:
        say("Nothing to put right." if report.ok else "Nothing that the doctor can put right; see the findings above.")
        return
    say("Done:")
    show_figures(report)
    show_findings(report.findings[len(plan.findings) :])


app = command_app(
    command,
    examples="""
vera doctor --dry-run
vera doctor
vera doctor --json | jq .plan.garbage_bytes
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.INTEGRITY, Kind.UNAVAILABLE),
)
