"""`vera cost`: what an archive takes and costs, before there is one."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import JsonOption, RepositoryOption, SettingsOption, command_app
from vera_core.cli.output import emit, say, show_figures, show_table
from vera_core.cli.values import read_count, read_size
from vera_core.errors import Kind, UsageError
from vera_core.operations.cost import PRICES, Workload, estimate, read_prices
from vera_core.operations.opening import open_repository
from vera_core.operations.source_check import check_source
from vera_core.operations.sources import terms
from vera_core.source.sql import open_sources

if TYPE_CHECKING:
    from vera_core.operations.cost import CostReport
    from vera_core.settings import Settings


def command(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="A source of the settings: it is looked at.", show_default=False),
    ] = None,
    files: Annotated[str | None, typer.Option("--files", metavar="N", help="How many files: 100M, 5_000_000.")] = None,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Their mean size: 4k, 1.5M.")] = "4k",
    compression: Annotated[
        float, typer.Option("--compression", metavar="RATIO", help="Content per stored byte.", min=0.01)
    ] = 2.5,
    days: Annotated[int, typer.Option("--days", metavar="N", help="Over how many days they are spread.", min=1)] = 365,
    bits: Annotated[int, typer.Option("--bits", metavar="N", help="A day has 2^N slots.", min=0, max=16)] = 0,
    speed: Annotated[
        float, typer.Option("--speed", metavar="N", help="Files a second of a worker: two cores did 20,000.", min=1)
    ] = 20_000,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Workers side by side.", min=1)] = 1,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="Your own price tables, as TOML.")
    ] = None,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Count keyrings, too.")] = False,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate duration, objects, requests and monthly cost of an archive, beside one object a file.

    From numbers that you give, or from SOURCE as `vera source check` sees it: then its rows, sizes, days and a sample
    of its contents say what the options would. Prices are tables with a date and where they are from; they change, so
    have your own with --prices: a list of [[prices]] with name, dated, source, gib_month, put_thousand and get_thousand
    in USD, and minimum_object and overhead_object in bytes.

    An estimate: retrieval, early deletion, transfer and replicas are not in it.
    """
    if (source is None) == (files is None):
        raise UsageError("give either a SOURCE or --files", todo="For example: vera cost --files 100M --size 4k")
    tables = PRICES if prices is None else read_prices(prices)
    if source is not None:
        work = _looked_at(load_settings(settings, repository=repository), source, workers=workers, speed=speed)
    else:
        assert files is not None
        count = read_count(files)
        work = Workload(
            files=count, content_bytes=count * read_size(size), compression=compression, days=days, slots=1 << bits,
            workers=workers, speed=speed, encrypted=encrypt,
        )  # fmt: skip
    report = estimate(work, tables)
    if as_json:
        emit(report)
    else:
        _show(report)


def _looked_at(settings: Settings, name: str, *, workers: int, speed: float) -> Workload:
    """The workload of all tenants of a source."""
    config = open_repository(settings).config
    found = [check_source(config, item) for item in open_sources(name, settings.source(name), terms(config))]
    stored = sum(report.stored_bytes for report in found)
    content = sum(report.content_bytes for report in found)
    bits = [epoch.n_bits for report in found for epoch in report.epochs]
    return Workload(
        files=sum(report.rows for report in found), content_bytes=content,
        compression=content / stored if stored else 1.0, days=max(1, sum(report.day_count for report in found)),
        slots=1 << max(bits, default=0), workers=workers, speed=speed, shard_bytes=config.shard_bytes,
        part_rows=config.part_rows, encrypted=config.encryption is not None,
    )  # fmt: skip


def _show(report: CostReport) -> None:
    show_figures(report)
    say("  USD, as one object a file and as this archive:")
    rows = [
        (
            f"{line.name} ({line.dated})",
            f"{line.monthly_before:,.2f}",
            f"{line.monthly_after:,.2f}",
            f"{line.saved_monthly:,.2f}",
            f"{line.writing_before:,.2f}",
            f"{line.writing_after:,.2f}",
        )
        for line in report.lines
    ]
    header = ("storage", "a month", "a month, packed", "saved", "to write", "to write, packed")
    show_table(header, rows, right=frozenset(range(1, 6)))


app = command_app(
    command,
    examples="""
vera cost --files 100M --size 4k --days 3650
vera cost --files 5_000_000_000 --size 2k --days 3650 --bits 3 --workers 20
vera cost invoices --prices our-prices.toml --json
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.UNAVAILABLE),
)
