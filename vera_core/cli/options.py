"""What the commands' options have in common: their types, their help, and the last part of every help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vera_core.errors import Kind

HELP_OPTIONS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

RepositoryOption = Annotated[
    str | None,
    typer.Option(
        "--repository", "-r", metavar="URI", envvar="VERA_REPOSITORY", help="The repository, as s3://bucket/prefix."
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", envvar="VERA_SETTINGS", help="The settings file; else ./vera.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME", envvar="VERA_TENANT", help="The tenant; `default` if nothing names one."),
]
AnyTenantOption = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="Only this tenant; all if none is named.")
]
CreatedAtOption = Annotated[
    str | None,
    typer.Option(
        "--created-at",
        metavar="TIME",
        help="The file's time with zone, or its UTC day. Not needed where the uid carries a trusted time.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; stays on record.")]
VersionOption = Annotated[
    str | None,
    typer.Option("--version", metavar="N", help="An older version, as `vera stat --versions` prints it: 3.17, or 3."),
]
DayOption = Annotated[str | None, typer.Option("--day", metavar="DAY", help="Only this UTC day.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="DAY", help="The first UTC day, for example 2026-03-01.")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="DAY", help="The last UTC day, itself included.")]
UidArgument = Annotated[str, typer.Argument(metavar="UID", help="The file's uid.", show_default=False)]

_MEANINGS: dict[int, str] = {
    0: "success",
    1: "a bug in VERA",
    Kind.USAGE.exit_code: "the call or the settings are wrong",
    Kind.NOT_FOUND.exit_code: "no such repository, file or version",
    Kind.ERASED.exit_code: "the file was erased",
    Kind.RESTRICTED.exit_code: "a lock, hold or policy forbids it",
    Kind.INTEGRITY.exit_code: "bytes or records do not verify",
    Kind.CONFLICT.exit_code: "something is there already, or somebody else was first",
    Kind.UNSAFE_STORE.exit_code: "the store breaks a promise that VERA needs",
    Kind.UNAVAILABLE.exit_code: "store or database can't be reached, or refuses for now",
    Kind.REJECTS.exit_code: "rows were rejected; the rest is archived",
    Kind.INCOMPATIBLE.exit_code: "written by a newer VERA",
    129: "ended by SIGHUP",
    130: "interrupted (Ctrl-C)",
    141: "whoever read standard output went away",
    143: "ended by SIGTERM",
}


def exit_codes(*chosen: Kind) -> str:
    """The exit codes of a command as a paragraph of help; all of them where none is named."""
    codes = [0, *(kind.exit_code for kind in chosen)] if chosen else list(_MEANINGS)
    lines = [f"  {code:<4} {_MEANINGS[code]}" for code in codes]
    return "\n".join(["\b", "Exit codes:", *lines, *(["  The others: vera --help"] if chosen else [])])


def command_app(function: Any, *, examples: str, codes: tuple[Kind, ...]) -> typer.Typer:
    """A module's command: `function` with its docstring as help, and examples and exit codes below it."""
    app = typer.Typer(
        rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, context_settings=HELP_OPTIONS
    )
    shown = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())
    app.command(epilog=f"{shown}\n\n{exit_codes(*codes)}")(function)
    return app
