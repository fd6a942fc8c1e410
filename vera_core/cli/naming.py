"""How commands that work on many files are told which: by uids with one time, or by a list with a time for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.values import read_time
from vera_core.erasures import Target
from vera_core.errors import UsageError
from vera_core.operations.find import read_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

UidsArgument = Annotated[list[str] | None, typer.Argument(metavar="UID", help="The files, by their uids.")]
ListOption = Annotated[
    Path | None,
    typer.Option("--list", metavar="FILE", help="The files of a .csv or .jsonl list: uid, created_at, and the like."),
]


def named_files(uids: Sequence[str] | None, listed: Path | None, created_at: str | None) -> tuple[Target, ...]:
    """The files that UIDs with --created-at, or --list, name.

    Raises:
        UsageError: both or none of them are given, or the list can't be read.
        BadTimeError: the time is none.
    """
    moment = read_time(created_at)
    if bool(uids) == (listed is not None) or (listed is not None and moment is not None):
        raise UsageError("name UIDs, or a list with their times by --list", todo="Give one of the two.")
    return tuple(Target(uid, moment) for uid in uids or []) if listed is None else tuple(read_targets(listed))
