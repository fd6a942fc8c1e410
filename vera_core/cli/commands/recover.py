"""`vera recover`: saves what can be saved of a damaged shard."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.deliver import new_file
from vera_core.cli.options import DryRunOption, JsonOption, RepositoryOption, SettingsOption, command_app
from vera_core.cli.output import INDENT, amount, emit, say, show_pairs
from vera_core.cli.progress import meters
from vera_core.errors import Kind, UsageError
from vera_core.format import Clues, Damage
from vera_core.model import Erasability, check_name
from vera_core.operations.damaged import Damaged, Known, open_damaged, recorded
from vera_core.operations.extract import extract, new_directory
from vera_core.operations.opening import open_repository
from vera_core.operations.putback import damaged_shard, put_back
from vera_core.operations.recover import (
    DAMAGES_SHOWN,
    Outcome,
    RecoveryReport,
    execute_recovery,
    plan_recovery,
)
from vera_core.operations.report import as_json as jsonable
from vera_core.operations.report import figures
from vera_core.store.s3 import parse_uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.cli.progress import Meter
    from vera_core.operations.repository import Repository
    from vera_core.settings import Settings

SHOWN = 5
SUFFIX = ".recovered.vera"


def command(
    shard: Annotated[
        str,
        typer.Argument(
            metavar="SHARD",
            help="A file, s3://bucket/key, or a key of the repository as `vera verify` prints it.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The shard to write; by default NAME.recovered.vera here."),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option("--files", metavar="DIR", help="Write the saved files to a new directory; no shard without -o."),
    ] = None,
    losses: Annotated[
        Path | None,
        typer.Option("--losses", metavar="FILE", help="Write every damage there, one JSON object a line."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists; never SHARD itself.")] = False,
    version_id: Annotated[
        str | None,
        typer.Option(
            "--version-id", metavar="ID", help="The version in the bucket; else the one on record, or latest."
        ),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(
            "--sha256", metavar="HEX", help="The archived shard's SHA-256 (or 32 digits of it), if its name is another."
        ),
    ] = None,
    commit: Annotated[
        int | None,
        typer.Option(
            "--commit", metavar="N", help="The commit that brought the shard: 3, if `vera stat` says version 3.17."
        ),
    ] = None,
    retention_class: Annotated[
        str | None,
        typer.Option("--retention-class", metavar="NAME[:regulated]", help="The shard's class, if its header is lost."),
    ] = None,
    repository_id: Annotated[
        str | None,
        typer.Option("--repository-id", metavar="HEX", help="32 digits, if header and footer are lost."),
    ] = None,
    wanted_back: Annotated[
        bool, typer.Option("--put-back", help="Put the recovered shard back, if it is bit for bit the archived one.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="Which shard of the repository a copy is of, as `vera verify` prints its key."
        ),
    ] = None,
    sealed: Annotated[
        bool,
        typer.Option("--sealed", help="Without keys: --files of an encrypted shard writes them as they are sealed."),
    ] = False,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save what can be saved of a damaged shard.

    Reads all of the shard, finds every file whose bytes are whole, and writes a shard that verifies. Directory and
    footer are made anew: all that they say is said in the shard's data as well. Where the data is whole, the result is
    bit for bit the shard that was archived, which its digest proves, if its name or the slot log tells that. Else the
    files that are left are written to a new shard, and every loss is told: its place, its ordinals, and the uid where
    that is known. A file is saved only if its content matches the SHA-256 that was taken when it was archived; one of
    an encrypted shard, if its bytes match their CRC32.

    SHARD is never changed, and no FILE is there before it is whole and verified. A local file needs no repository. Of a
    shard in the repository the slot log tells version, digest, class and commit.

    With --put-back a shard that is bit for bit the archived one takes the place of the damaged version in the
    repository: readers find all its files again, under the same versions, and its lock ends when it would have. A
    replica's copy is put back in the same way, with --key. Nothing else in the repository is ever changed.

    With --files the saved files are written to DIR, under their uids where these are good names, and listed in
    DIR/files.jsonl, which `vera pack` takes. Files that were erased are left out where the slot log tells of them.

    An encrypted shard is recovered and put back without its keys. Only --files takes them: of the repository, in which
    --key says where the shard of a local file lies. With --sealed the files are written as they are sealed, listed in
    DIR/sealed.jsonl; that they are what was archived is proved only when they are opened.
    """
    if sealed and files is None:
        raise UsageError("--sealed is about --files", todo="Name a directory with it, or leave --sealed out.")
    known = Known(version_id, (sha256 or "").lower(), commit, _clues(repository_id, retention_class))
    chosen = load_settings(settings, repository=repository)
    place = _place(shard, key, chosen) if wanted_back else None
    with ExitStack() as stack:
        given = known if place is None else known.completed(place.known)
        if key is not None and place is None:
            # The version of a copy elsewhere is its own.
            given = known.completed(replace(recorded(open_repository(chosen), key), version_id=None))
        damaged = stack.enter_context(open_damaged(shard, given, chosen))
        wants_shard = not dry_run and (output is not None or files is None or wanted_back)
        targets = _Targets(
            shard=(output or _default_output(damaged.name)) if wants_shard else None,
            files=None if dry_run else files,
            losses=losses,
            force=force,
            sealed=sealed,
        )
        targets.check(shard)
        report = _recover(damaged, targets, quiet=as_json)
    if place is not None and targets.shard is not None and report.outcome is Outcome.IDENTICAL:
        report = replace(report, put_back=put_back(place.repo, place.key, targets.shard))
    if as_json:
        emit(report)
    else:
        _show(report)
        _show_put_back(report, wanted=place is not None and not dry_run)
    if not report.ok:
        raise typer.Exit(Kind.INTEGRITY.exit_code)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a shard is put back to, and what is known of the one that was archived there."""

    repo: Repository
    key: str
    known: Known


def _place(shard: str, key: str | None, settings: Settings) -> _Place:
    """The place in the repository that `--put-back` means: that of the shard itself, or of `--key`.

    Raises:
        UsageError: it is not named, or no shard's.
        NotFoundError, ConflictError: no live shard has the key, or it is whole.
    """
    if key is None and Path(shard).exists():
        raise UsageError("--put-back needs the place of a local file", todo="Name the damaged shard with --key.")
    repo = open_repository(settings)
    name = key or (parse_uri(shard)[1] if shard.startswith("s3://") else shard)
    archived = damaged_shard(repo, name)[1]
    known = recorded(repo, name, archived.version_id)
    return _Place(repo, name, known if key is None else replace(known, version_id=None))


@dataclass(frozen=True, slots=True)
class _Targets:
    """What is to be written where; None: not. `sealed`: the files as they are sealed."""

    shard: Path | None
    files: Path | None
    losses: Path | None
    force: bool
    sealed: bool

    def check(self, name: str) -> None:
        """Makes sure that nothing is written over the damaged shard, or over another target.

        Raises:
            UsageError: it would be.
        """
        given = [path.resolve() for path in (self.shard, self.files, self.losses) if path is not None]
        if len(set(given)) < len(given):
            raise UsageError("two of the results would have the same name", todo="Give each its own.")
        for path in given:
            if path.exists() and Path(name).exists() and path.samefile(name):
                raise UsageError(
                    "the damaged shard is never written over: it may still be needed",
                    todo="Name another file.",
                    path=path,
                )


def _recover(damaged: Damaged, targets: _Targets, *, quiet: bool) -> RecoveryReport:
    """Plans and executes; all that is to be written is begun first, so that a taken name is told at once."""
    with ExitStack() as stack:
        shard = None if targets.shard is None else stack.enter_context(new_file(targets.shard, force=targets.force))
        files = None if targets.files is None else stack.enter_context(new_directory(targets.files))
        losses = None if targets.losses is None else stack.enter_context(new_file(targets.losses, force=targets.force))
        each = stack.enter_context(meters("Recovering:", "MiB", quiet=quiet))
        tell = None if losses is None else _teller(losses)
        plan = plan_recovery(damaged, tell=tell, progress=_in_mebibytes(each("reading")))
        report = plan.report
        if shard is not None and plan.obstacle is not None:
            if not quiet:
                _show(report)
            raise plan.obstacle
        if shard is not None:
            report = execute_recovery(plan, shard, progress=_in_mebibytes(each("writing the shard")))
            report = replace(report, output=str(targets.shard))
        if files is not None:
            shown = _in_mebibytes(each("writing the files"))
            left_out = extract(plan, files, sealed=targets.sealed, tell=tell, progress=shown)
            report = replace(
                report, ok=report.ok and not left_out.unopened, files=str(targets.files), erased=left_out.erased,
                unopened=left_out.unopened, damages=(report.damages + left_out.damages)[:DAMAGES_SHOWN],
                damaged=report.damaged + left_out.unopened,
            )  # fmt: skip
        return report


def _teller(file: IO[bytes]) -> Callable[[Damage], None]:
    """Writes damages as JSON Lines."""

    def tell(damage: Damage) -> None:
        file.write(json.dumps(jsonable(damage)).encode() + b"\n")

    return tell


def _in_mebibytes(show: Meter | None) -> Callable[[int, int], None] | None:
    return None if show is None else lambda done, total: show(done >> 20, -(-total >> 20))


def _default_output(name: str) -> Path:
    """NAME.recovered.vera in the working directory."""
    return Path(Path(name).name.removesuffix(".vera") + SUFFIX)


def _clues(repository_id: str | None, retention_class: str | None) -> Clues:
    """What the options say of the header.

    Raises:
        UsageError: the id is no 32 hex digits, the class no name.
    """
    try:
        identity = None if repository_id is None else bytes.fromhex(repository_id)
    except ValueError:
        identity = b""
    if identity is not None and len(identity) != 16:
        raise UsageError(f"{repository_id!r} is no repository id", todo="Give its 32 hex digits, as `vera init` said.")
    if retention_class is None:
        return Clues(identity)
    name, _, erasability = retention_class.partition(":")
    if erasability not in {"", *Erasability}:
        raise UsageError(f"{retention_class!r} is no retention class", todo="Write it like tax or ledger:regulated.")
    return Clues(identity, check_name(name, "retention class"), Erasability(erasability or Erasability.ERASABLE))


def _show(report: RecoveryReport) -> None:
    say(report.shard + (f", version {report.version_id}:" if report.version_id else ":"))
    _show_damages(report)
    say(_verdict(report))
    rare = {"searched", "erased", "unopened"}
    shown = [item for item in figures(report) if item.value or item.name not in rare]
    shown.sort(key=lambda item: item.name == "seconds")
    show_pairs([(item.label, amount(item.value, item.unit, said=item.label)) for item in shown])
    if report.searched:
        say("Behind a lost group the next ones were searched for. A file that was made to look like a group can pass")
        say("for one there: compare these files with their source.")
    if report.output:
        say(f"Wrote the shard to {report.output}, and verified it.")
    if report.files:
        say(f"Wrote the files to {report.files}, with a list of them.")


def _show_put_back(report: RecoveryReport, *, wanted: bool) -> None:
    done = report.put_back
    if done is not None:
        say(f"Put back: version {done.version_id} stands for {done.damaged_version}, locked until {done.locked_until}.")
    elif wanted:
        say("Not put back: only a shard that is bit for bit the archived one is. Pack the saved files again: --files.")


def _show_damages(report: RecoveryReport) -> None:
    """The damages, a few of each sort."""
    sorts: dict[str, list[Damage]] = {}
    for damage in report.damages:
        sorts.setdefault(damage.what, []).append(damage)
    for found in sorts.values():
        for damage in found[:SHOWN]:
            say(INDENT + _line(damage))
        if len(found) > SHOWN:
            say(f"{INDENT}... and {len(found) - SHOWN:,} more of this sort")
    if report.damaged > len(report.damages):
        say(f"{INDENT}... and {report.damaged - len(report.damages):,} more; --losses FILE writes them all")


def _line(damage: Damage) -> str:
    """A damage as people read it: what is lost, why, and where."""
    last = damage.position + damage.length - 1
    place = f"bytes {damage.position:,} to {last:,}" if damage.length else f"byte {damage.position:,}"
    if not damage.count:
        return f"damaged: {damage.what} ({place})"
    first = damage.first or 0
    name = f"entry {first:,}" if damage.count == 1 else f"entries {first:,} to {first + damage.count - 1:,}"
    return f"lost: {name}{', ' + damage.uid if damage.uid else ''}: {damage.what} ({place})"


def _verdict(report: RecoveryReport) -> str:
    if report.outcome is Outcome.PARTIAL:
        if report.end_known:
            return f"{report.saved:,} of {report.entries:,} files are saved."
        return f"{report.saved:,} of at least {report.entries:,} files are saved: nothing tells whether more followed."
    saved = f"All {report.saved:,} files are saved"
    if report.outcome is Outcome.IDENTICAL:
        return f"{saved}, in a shard that is bit for bit the one that was archived."
    if report.outcome is Outcome.COMPLETE:
        return f"{saved}. Whether the shard is the one that was archived is not known: give its --sha256."
    return (
        f"{saved}, but the shard is not the one that was archived, whose SHA-256 is {report.archived_sha256}: another\n"
        "codec library wrote its directory, or somebody changed it. Compare the files with their source."
    )


app = command_app(
    command,
    examples="""
vera recover 0c3d5e.vera --dry-run                    # what is left?
vera recover 0c3d5e.vera -o whole.vera --sha256 0c3d5e...
vera recover s3://archive/documents/t/default/20260301/0/0c3d5e.vera --files saved
vera recover t/default/20260301/0/0c3d5e.vera --losses lost.jsonl --json
vera recover t/default/20260301/0/0c3d5e.vera --put-back
vera recover replica/0c3d5e.vera --put-back --key t/default/20260301/0/0c3d5e.vera
vera recover 0c3d5e.vera --files saved --key t/default/20260301/0/0c3d5e.vera    # an encrypted shard's
""",
    codes=(
        Kind.USAGE,
        Kind.NOT_FOUND,
        Kind.RESTRICTED,
        Kind.INTEGRITY,
        Kind.CONFLICT,
        Kind.UNAVAILABLE,
        Kind.INCOMPATIBLE,
    ),
)
