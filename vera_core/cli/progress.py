"""Progress with rate and time left, on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vera_core.operations.report import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Meter(Protocol):
    """Takes how far a command has come: things done, things in all (0: not known), bytes done."""

    def __call__(self, done: int, total: int = 0, size: int = 0) -> None:
        """Shows it."""
        ...


class _Rate(ProgressColumn):
    """Things per second and bytes per second."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        seconds = task.elapsed or 0.0
        if not seconds:
            return Text("")
        size = task.fields["size"]
        volume = f"  {size_text(size / seconds)}/s" if size else ""
        return Text(f"{task.completed / seconds:,.0f} {task.fields['unit']}/s{volume}")


@contextmanager
def meter(label: str, unit: str, *, quiet: bool = False) -> Iterator[Meter | None]:
    """A progress line while the block runs; None where standard error is no terminal, or `quiet`.

    Args:
        label: what is being done: Packing.
        unit: what is counted: files.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with _line() as progress:
        yield _shower(progress, label, unit)


def _line() -> Progress:
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _shower(progress: Progress, label: str, unit: str) -> Meter:
    task = progress.add_task(label, total=None, unit=unit, size=0)

    def show(done: int, total: int = 0, size: int = 0) -> None:
        progress.update(task, completed=done, total=total or None, size=size)

    return show


@contextmanager
def meters(label: str, unit: str = "files", *, quiet: bool = False) -> Iterator[Callable[[str], Meter | None]]:
    """As `meter`, for work in several steps: each call names the step that begins, and begins to count anew."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with _line() as progress:

        def begin(step: str) -> Meter:
            for task in progress.task_ids:
                progress.remove_task(task)
            return _shower(progress, f"{label} {step}", unit)

        yield begin
