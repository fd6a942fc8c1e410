"""How the commands about erasures show a request, and with which exit code they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.cli.output import say, show_figures, show_first, show_pairs
from vera_core.errors import Kind
from vera_core.model import format_time
from vera_core.operations.erase import Outcome
from vera_core.operations.erasure_reports import Stage

if TYPE_CHECKING:
    from vera_core.operations.erase import FileErasure
    from vera_core.operations.erasure_reports import ErasureReport


TOLD = (Outcome.REFUSED, Outcome.MISSING, Outcome.AWAITED, Outcome.BARRED)
"""Outcomes of files that are shown by name."""


def show_erasure(report: ErasureReport) -> None:
    """A request as people read it: what it came to, and by name the files that were not simply erased."""
    say(f"Request {report.request}: {report.stage.value}.")
    hidden = "" if report.hidden_until is None else format_time(report.hidden_until)
    show_pairs(
        [
            ("asked for by", report.requester),
            ("received", format_time(report.received)),
            ("approved by", report.approver),
            ("bytes hidden until", hidden),
        ]
    )
    show_figures(report)
    named = [item for item in report.files if item.outcome in TOLD]
    show_first([_line(item) for item in named])
    if report.destroyed:
        say(f"What became of the keys: vera erasures certificate {report.request}")
    if report.stage is Stage.WAITING:
        say(f"Nothing is erased before somebody else approves it: vera erasures approve {report.request}")


def _line(file: FileErasure) -> str:
    why = "" if file.refusal is None else f": {file.refusal.ground.value}: {file.refusal.detail}"
    return f"{file.outcome.value}: {file.uid}{why}"


def erasure_code(report: ErasureReport) -> int:
    """The exit code: 5 if it waits or files are refused, 3 if some were not found, else 0."""
    if report.refused or report.stage is Stage.WAITING:
        return Kind.RESTRICTED.exit_code
    return Kind.NOT_FOUND.exit_code if report.missing else 0
