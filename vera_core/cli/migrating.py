"""How `vera migrate status` shows where migrations stand."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from prometheus_client import start_http_server
from rich.console import Console

from vera_core.cli.output import day_words, say, show_figures, show_table
from vera_core.errors import UsageError
from vera_core.operations import metrics
from vera_core.operations.report import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vera_core.operations.migration_status import MigrationStatus, WorkerLine

DAYS_NAMED = 10


def watch(look: Callable[[], Sequence[MigrationStatus]], every: float) -> None:
    """Shows the statuses again and again, in one place where there is a terminal; ends by a signal."""
    console = Console()
    while True:
        statuses = look()
        if console.is_terminal:
            console.clear()
        for status in statuses:
            show_status(status)
        sys.stdout.flush()
        time.sleep(every)


def serve_metrics(place: str) -> None:
    """Serves the process's metrics under HOST:PORT, at any path, until it ends.

    Raises:
        UsageError: it is no such place, or something listens there already.
    """
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{place!r} is no HOST:PORT", todo="Write it like 127.0.0.1:9464, or [::]:9464.")
    try:
        start_http_server(int(port), host.strip("[]"), registry=metrics.REGISTRY)
    except OSError as error:
        raise UsageError(f"metrics can't be served at {place}: {error.strerror}", todo="Name another port.") from error


def show_status(status: MigrationStatus) -> None:
    """One migration: the watermark, the workers, the figures."""
    mark = day_words(status.watermark) if status.watermark else "not set yet"
    say(f"Source {status.source}, tenant {status.tenant}: watermark {mark}")
    if status.workers:
        header = ("worker", "day", "files", "of", "content", "files/s", "for", "lease")
        show_table(header, map(_cells, status.workers), right=frozenset({2, 3, 4, 5, 6, 7}))
    show_figures(status)
    if status.failed_days:
        named = ", ".join(map(day_words, status.failed_days[:DAYS_NAMED]))
        more = f" and {len(status.failed_days) - DAYS_NAMED:,} more" if len(status.failed_days) > DAYS_NAMED else ""
        say(f"  failed: {named}{more}")
    if status.due:
        say(f"  done by about {status.eta:%Y-%m-%d %H:%M} UTC" if status.eta else "  done by: nobody can say yet")


def _cells(worker: WorkerLine) -> tuple[str, ...]:
    return (
        worker.holder, day_words(worker.day), f"{worker.files:,}", f"{worker.total:,}" if worker.total else "",
        size_text(worker.content_bytes), f"{worker.files_per_second:,.0f}", f"{worker.seconds:,.0f} s",
        f"{worker.left:,.0f} s" if worker.answers else "ENDED",
    )  # fmt: skip
