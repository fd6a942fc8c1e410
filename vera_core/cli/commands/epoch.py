"""`vera epoch`: how many slots a day has."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import DryRunOption, JsonOption, RepositoryOption, SettingsOption, command_app
from vera_core.cli.output import emit, say, show_table
from vera_core.errors import Kind, UsageError
from vera_core.model import parse_day
from vera_core.operations.epochs import plan_epoch, set_epoch
from vera_core.operations.opening import open_repository


def command(
    from_day: Annotated[
        str | None, typer.Argument(metavar="DAY", help="The first UTC day that the setting is for: 2026-03-01.")
    ] = None,
    bits: Annotated[
        int | None, typer.Argument(metavar="BITS", help="0 to 16: a day has 2^BITS slots.", show_default=False)
    ] = None,
    dry_run: DryRunOption = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or set how many slots a day has.

    Without arguments the routing epochs. With DAY and BITS every day from DAY on has 2^BITS slots, so that a day's
    shards stay between 64 MiB and 1 GiB. Only days for which nothing is archived can be set: where a file is follows
    from this number, and must never change. Run again after a crash, the command settles what it had begun.
    """
    if (from_day is None) != (bits is None):
        raise UsageError("DAY and BITS belong together", todo="Write it like `vera epoch 2026-03-01 4`.")
    day = None if from_day is None else parse_day(from_day)
    repo = open_repository(load_settings(settings, repository=repository))
    if day is None or bits is None:
        epochs = repo.config.routing.epochs
        if as_json:
            found = [{"from_day": item.from_day, "n_bits": item.n_bits, "state": item.state} for item in epochs]
            emit({"ok": True, "repository": repo.uri, "epochs": found})
        else:
            show_table(
                ("from day", "bits", "slots a day", "state"),
                [(str(item.from_day), str(item.n_bits), f"{1 << item.n_bits:,}", item.state.value) for item in epochs],
            )
        return
    report = (plan_epoch if dry_run else set_epoch)(repo, day, bits)
    if as_json:
        emit(report)
    else:
        how = "would be" if dry_run else "is"
        say(f"The epoch from {day} with {bits} bits ({1 << bits:,} slots a day) {how} {report.state}.")
    if not report.ok:
        raise typer.Exit(Kind.RESTRICTED.exit_code)


app = command_app(
    command,
    examples="""
vera epoch
vera epoch 2026-03-01 4 --dry-run
vera epoch 2026-03-01 4
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.RESTRICTED, Kind.UNAVAILABLE),
)
