"""The table of commands, and the group that loads a command's module only when it is called.

So `vera --help` and `vera get` start without paying for what `vera migrate` needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command as build_command
from typer.main import get_group

from vera_core import __version__
from vera_core.cli.options import HELP_OPTIONS, exit_codes
from vera_core.cli.output import say

COMMANDS = {
    "init": "Make a repository in a bucket.",
    "probe": "Check which promises a store keeps, and how the bucket is set up.",
    "source": "Look at a source before its migration, and say what it needs.",
    "cost": "Estimate duration, objects, requests and monthly cost of an archive, beside one object a file.",
    "pack": "Archive a directory, or the files that a list names, and verify them.",
    "migrate": "Archive and verify what is due of the sources that the settings name.",
    "rejects": "List the rows that were rejected, or try them again.",
    "get": "Fetch a file, verified.",
    "stat": "Show what is archived of a file, without its bytes.",
    "ls": "List archived days, or the files of a day.",
    "locate": "Show where a uid lives: its slot.",
    "find": "Find files by their metadata.",
    "erase": "Erase files: take them from sight for good.",
    "erasures": "List, approve, decline, run, certify and import erasure requests.",
    "readmit": "Let an erased uid be archived again.",
    "hold": "Keep files for a legal case, or let them go.",
    "retain": "Keep files longer than their retention class says.",
    "locks": "Show what is locked or held, until when.",
    "dispose": "Let go what no law keeps any more.",
    "verify": "Check what is archived: records, locks and, with --deep, every byte.",
    "scrub": "Prove a share of the archive: whole shards, keyrings, locks, logs, holds.",
    "recover": "Save what can be saved of a damaged shard.",
    "repack": "Leave erased files behind: write what lives of their shards into new ones.",
    "optimize": "Merge small shards, and compress the shards of old days anew.",
    "gc": "Delete shard versions that count no more, once their locks have ended.",
    "doctor": "Put right what a crash or a stranger left behind.",
    "keys": "Look after the keys of an encrypted repository.",
    "epoch": "Show or set how many slots a day has.",
}
"""Name of each command (and of its module in `commands`) and its first line of help, in the order of `vera --help`."""

OVERVIEW = """\
VERA packs many small files into large immutable objects on S3 and finds any of them again without a database.

The repository is named by --repository or VERA_REPOSITORY. Credentials, endpoint, CA bundle and proxies come the AWS
SDK's own way: AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL_S3, AWS_CA_BUNDLE, ~/.aws/config, instance roles.
Settings come from vera.toml, then VERA_* variables, then options; the later wins.
"""
EPILOG = (
    """\
\b
Examples:
  vera init s3://archive/documents --lock-mode GOVERNANCE --retain 7y
  export VERA_REPOSITORY=s3://archive/documents
  vera pack ./invoices
  vera get invoices/2026-000017.pdf --created-at 2026-03-01 -o invoice.pdf
  vera verify --deep
\b

"""
    + exit_codes()
    + """

\b
With --json standard output holds one JSON document and nothing else; a failure is {"error": {...}}.
VERA_TRACEBACK=1 prints the traceback of an unexpected error."""
)


class LazyGroup(TyperGroup):
    """Knows its commands by name and summary; a command's module is imported when the command is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name=name, short_help=summary, help=summary) for name, summary in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The real command in place of the summary that stands for it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        return name, load(name), rest


def load(name: str) -> Any:
    """The command of that name, with its module imported."""
    command = build_command(import_module(f"vera_core.cli.commands.{name}").app)
    command.name = name
    return command


def application() -> TyperGroup:
    """The whole command line as one command."""
    app = typer.Typer(
        cls=LazyGroup, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=HELP_OPTIONS
    )
    app.callback(help=OVERVIEW, epilog=EPILOG, no_args_is_help=True)(_root)
    return get_group(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"vera {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print VERA's version.")
    ] = False,
) -> None:
    """Options that concern no command; each does its work while it is parsed."""
