"""`vera keys`: the keys of an encrypted repository: what wraps them, where they lie, rotating, copies and drills."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

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
from vera_core.cli.output import INDENT, emit, say, show_figures, show_findings, show_pairs, show_table
from vera_core.cli.planned import Work, carry_out
from vera_core.cli.progress import meter
from vera_core.errors import Kind, UsageError
from vera_core.model import format_time
from vera_core.operations.key_census import KeyCensus, take_census
from vera_core.operations.key_copies import CopiesReport, add_copy, list_copies, remove_copy
from vera_core.operations.key_drill import PERCENT, DrillReport, drill
from vera_core.operations.key_restore import RestoreReport, execute_restore, plan_restore
from vera_core.operations.opening import open_repository
from vera_core.operations.report import Report, size_text
from vera_core.operations.rewrap import RewrapReport, execute_rewrap, rotate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vera_core.cli.progress import Meter
    from vera_core.operations.key_census import PlaceLine
    from vera_core.operations.repository import Repository


class _Action(StrEnum):
    """What is to be done."""

    LS = "ls"
    ROTATE = "rotate"
    REWRAP = "rewrap"
    COPIES = "copies"
    DRILL = "drill"
    RESTORE = "restore"


R = TypeVar("R", bound=Report)
_CHANGING = {"add": add_copy, "remove": remove_copy}


def command(
    action: Annotated[
        _Action, typer.Argument(metavar="ACTION", help="ls, rotate, rewrap, copies, drill or restore.")
    ] = _Action.LS,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="...", help="Of copies: `add URI` or `remove URI`; none lists them.", show_default=False
        ),
    ] = None,
    percent: Annotated[
        float, typer.Option("--percent", metavar="P", help="Of drill: how many of the shards to try.")
    ] = PERCENT,
    tenant: AnyTenantOption = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look after the keys of an encrypted repository.

    ls: counts keyrings and tenant keys in the repository's bucket and each registered copy, by the version of the key
    encryption key (KEK) that wraps them.

    rotate: makes a new version of the KEK, then wraps every keyring and tenant key by it, in every place. rewrap does
    the second half alone: after a rotation by the key service itself, or one that was cut off. Shards stay as they
    are, and packing, reading and erasing go on meanwhile. Both say up to where the KEK's min_decryption_version may be
    raised then. Keyrings of regulated classes are locked: they get a newer version under the same lock, and the old
    one, which nobody needs, stays until its lock ends.

    copies: lists the registered copies. `copies add s3://bucket/prefix` registers one: all keys are brought there, and
    kept there from then on. Whoever erases must reach every copy, and so must whoever packs. `copies remove URI` gives
    one up, and deletes the keys in it.

    drill: tries whether each place alone would do: opens the keyrings of a share of the shards with what lies there,
    and reads a file with each. What fails is a finding and exit code 6.

    restore: puts back what a place lacks, or has damaged, hidden or older, from another one: never a keyring that is
    older than the slot's log says, so nothing that was erased comes back.
    """
    words = words or []
    _check_words(action, words, dry_run=dry_run)
    repo = open_repository(load_settings(settings, repository=repository))
    if action is _Action.LS:
        with meter("Reading", "keys", quiet=as_json) as progress:
            ok = _tell(take_census(repo, tenant=tenant, progress=progress), _show_census, as_json=as_json)
    elif action in (_Action.ROTATE, _Action.REWRAP):
        ok = _rewrap(repo, tenant, turn=action is _Action.ROTATE, dry_run=dry_run, as_json=as_json)
    elif action is _Action.COPIES:
        ok = _copies(repo, words, as_json=as_json)
    elif action is _Action.DRILL:
        with meter("Trying", "shards", quiet=as_json) as progress:
            ok = _tell(drill(repo, percent=percent, tenant=tenant, progress=progress), _show_drill, as_json=as_json)
    else:
        ok = _restore(repo, tenant, dry_run=dry_run, as_json=as_json)
    if not ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)


def _check_words(action: _Action, words: Sequence[str], *, dry_run: bool) -> None:
    right = not words or (action is _Action.COPIES and words[0] in _CHANGING and len(words) == 2)
    if not right:
        raise UsageError(
            f"`vera keys {action.value}` does not take {' '.join(words)!r}",
            todo="Copies are changed by `vera keys copies add s3://bucket/prefix` and `vera keys copies remove ...`.",
        )
    if dry_run and action not in (_Action.ROTATE, _Action.REWRAP, _Action.RESTORE):
        raise UsageError(f"`vera keys {action.value}` has no --dry-run", todo="Leave it out.")


def _tell(report: R, show: Callable[[R], None], *, as_json: bool) -> bool:
    if as_json:
        emit(report)
    else:
        show(report)
    return report.ok


def _rewrap(repo: Repository, tenant: str | None, *, turn: bool, dry_run: bool, as_json: bool) -> bool:
    if turn and not dry_run:
        made = rotate(repo)
        if not as_json:
            say(f"{made.kek} has version {made.version} now.")
    with meter("Reading", "keys", quiet=as_json) as progress:
        plan = take_census(repo, tenant=tenant, progress=progress)

    def execute(repo: Repository, plan: KeyCensus, *, progress: Meter | None) -> RewrapReport:
        return execute_rewrap(repo, plan, tenant=tenant, progress=progress)

    work = Work("Rewrapping", "keys", execute, show_plan=_show_census, show_done=_show_rewrap)
    return carry_out(repo, plan, work, dry_run=dry_run, as_json=as_json)


def _copies(repo: Repository, words: Sequence[str], *, as_json: bool) -> bool:
    report = _CHANGING[words[0]](repo, words[1]) if words else list_copies(repo)
    if words[:1] != ["add"]:
        return _tell(report, _show_copies, as_json=as_json)
    with meter("Filling", "slots", quiet=as_json) as progress:
        filled = execute_restore(repo, plan_restore(repo), progress=progress)
    if as_json:
        emit({"ok": filled.ok, "copies": report, "filled": filled})
    else:
        _show_copies(report)
        _show_restore(filled)
    return filled.ok


def _restore(repo: Repository, tenant: str | None, *, dry_run: bool, as_json: bool) -> bool:
    with meter("Examining", "slots", quiet=as_json) as progress:
        plan = plan_restore(repo, tenant=tenant, progress=progress)

    def done(_plan: RestoreReport, report: RestoreReport) -> None:
        say("Done:" if report.lines else "Every place has all keys.")
        show_figures(report)

    work = Work("Restoring", "slots", execute_restore, show_plan=_show_restore, show_done=done)
    return carry_out(repo, plan, work, dry_run=dry_run, as_json=as_json)


def _show_census(report: KeyCensus) -> None:
    show_pairs([("key encryption key", report.kek), ("its current version", f"made on {format_time(report.made)}")])
    show_table(
        ("place", "tenant keys", "keyrings", "punctured", "stored", "wrapped by"),
        [
            (
                line.place, f"{line.tenant_keys:,}", f"{line.keyrings:,}", f"{line.punctured:,}",
                size_text(line.stored_bytes), line.error or _versions(line),
            )
            for line in report.places
        ],
        right=frozenset(range(1, 5)),
    )  # fmt: skip
    show_findings(report.findings)
    show_figures(report)


def _versions(line: PlaceLine) -> str:
    return ", ".join(f"version {version}: {count:,}" for version, count in line.versions)


def _show_rewrap(_plan: KeyCensus, report: RewrapReport) -> None:
    say("Done:")
    show_findings(report.findings)
    show_figures(report)
    if report.raise_to > 1 and report.kek.startswith("transit:"):
        say(f"No keyring and no tenant key needs versions of the KEK below {report.raise_to}. To end them:")
        say(f"{INDENT}bao write <mount>/keys/<key>/config min_decryption_version={report.raise_to}")
        say("Inventories that were written before are not to be read then, until they are written again.")


def _show_copies(report: CopiesReport) -> None:
    if report.copies:
        rows = [(line.place, format_time(line.since), line.actor) for line in report.copies]
        show_table(("copy", "registered", "by"), rows)
    else:
        say(f"{report.repository} has no registered copies of its keys.")
    show_findings(report.findings)


def _show_restore(report: RestoreReport) -> None:
    if report.lines:
        rows = _few((line.place, line.key, line.why, line.source) for line in report.lines)
        show_table(("place", "key", "is", "comes from"), rows)
    show_findings(report.findings)
    show_figures(report)


def _few(rows: Iterable[tuple[str, ...]], most: int = 20) -> list[tuple[str, ...]]:
    """The first rows, and how many more there are."""
    every = list(rows)
    more = [(f"... and {len(every) - most:,} more; --json names them", "", "", "")] if len(every) > most else []
    return every[:most] + more


def _show_drill(report: DrillReport) -> None:
    rows = [
        (
            line.place, f"{line.shards:,}", f"{line.opened:,}", f"{line.files:,}",
            "" if line.oldest is None else format_time(line.oldest),
            "" if line.newest is None else format_time(line.newest),
        )
        for line in report.places
    ]  # fmt: skip
    show_table(("place", "shards", "opened", "files read", "oldest stored", "newest stored"), rows)
    show_findings(report.findings)
    show_figures(report)


app = command_app(
    command,
    examples="""
vera keys
vera keys rotate --dry-run
vera keys rotate
vera keys copies add s3://archive-keys-elsewhere/documents
vera keys drill --percent 5
vera keys restore --dry-run
vera keys --json | jq '.places[] | {place, versions}'
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNSAFE_STORE,
           Kind.UNAVAILABLE),
)  # fmt: skip
