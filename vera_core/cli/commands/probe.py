"""`vera probe`: which promises a store keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import connect, load_settings
from vera_core.cli.options import JsonOption, RepositoryOption, SettingsOption, command_app
from vera_core.cli.output import emit, say, show_table
from vera_core.errors import Kind
from vera_core.operations.opening import named_repository
from vera_core.operations.report import as_json as jsonable
from vera_core.store.probe import ProbeReport, Verdict, hygiene, probe

_MARKS = {Verdict.HELD: "yes", Verdict.BROKEN: "NO", Verdict.UNKNOWN: "?"}


def command(
    uri: Annotated[
        str | None, typer.Argument(metavar="URI", help="Bucket and prefix; the repository's by default.")
    ] = None,
    look_only: Annotated[
        bool, typer.Option("--look-only", help="Only look at the bucket's settings: writes nothing, takes a second.")
    ] = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check which promises a store keeps, and how the bucket is set up.

    Tries to break each promise that VERA needs, with small objects under probe/ that are locked for seconds and removed
    afterwards: 16 writers that race, deletions and overwrites of locked versions, shortened locks, wrong checksums.
    Needs an existing bucket with Object Lock, and rights to write, lock and delete in it. Takes up to a minute.
    """
    store, prefix = connect(uri or named_repository(load_settings(settings, repository=repository)))
    if look_only:
        findings = hygiene(store, prefix)
        failed = any(item.required for item in findings)
        if as_json:
            emit({"ok": not failed, "bucket": store.bucket, "prefix": prefix, "findings": findings})
        else:
            say(f"Bucket {store.bucket}: {'is set up well' if not findings else 'see below'}.")
            for item in findings:
                say(f"  {item.name}: {item.what}")
                say(f"    {item.todo}")
    else:
        report = probe(store, prefix=prefix)
        failed = any(item.verdict is not Verdict.HELD for item in report.promises if item.required)
        if as_json:
            emit({"ok": not failed, **jsonable(report)})
        else:
            _show(report, failed=failed)
    if failed:
        raise typer.Exit(Kind.UNSAFE_STORE.exit_code)


def _show(report: ProbeReport, *, failed: bool) -> None:
    show_table(
        ("held", "promise", "what was seen"),
        [
            (_MARKS[item.verdict] + ("" if item.required else " *"), item.name, item.evidence)
            for item in report.promises
        ],
    )
    if any(not item.required for item in report.promises):
        say("  * good to know; an archive does not depend on it")
    for key in report.left_behind:
        say(f"  left behind, could not be removed: {key}")
    say(
        f"Bucket {report.bucket}: "
        + ("not every promise was seen to hold." if failed else "every promise that VERA needs was seen to hold.")
    )


app = command_app(
    command,
    examples="""
vera probe s3://archive/documents
vera probe --look-only          # the daily check: settings of the bucket only
vera probe --json | jq -r '.promises[] | select(.verdict != "held") | .name'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.UNSAFE_STORE, Kind.UNAVAILABLE),
)
