"""Results as a picture: an SVG with bars for each entrant and corpus. Nothing but text, so no library is needed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.peers import VERA
from benchmarks.tables import CORPORA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.results import Comparison, Entrant, Results

WIDTH, MARGIN, LABELS, GAP = 960, 16, 176, 20
PANEL = (WIDTH - 2 * MARGIN - LABELS - 2 * GAP) / 3
VALUE = 66
"""Room for a figure at the end of the longest bar."""
BAR, ROW, TITLE, HEAD = 14, 20, 34, 22
OWN, OTHERS = "#0b7a75", "#a9b4bd"


class _Panel(NamedTuple):
    title: str
    value: Callable[[Comparison, Entrant], float]
    text: str
    """How a value is written."""


_PANELS = (
    _Panel("packed, files/s (more is better)", lambda whole, one: whole.files / one.seconds, "{:,.0f}"),
    _Panel("stored, % (less is better)", lambda whole, one: 100 * one.stored_bytes / whole.content_bytes, "{:.1f}"),
    _Panel("random reads/s (more is better)", lambda _, one: one.lookups.per_second if one.lookups else 0.0, "{:,.0f}"),
)


def plot(results: Results) -> str:
    """The picture of all comparisons; those that did not run are left out."""
    parts: list[str] = []
    top = float(MARGIN)
    for name, comparison in results.comparisons.items():
        mean = comparison.content_bytes / comparison.files
        title = f"{CORPORA[name]}: {comparison.files:,} files of {mean:,.0f} bytes on average"
        parts.append(_text(MARGIN, top + 16, title, size=15, weight="bold"))
        parts += _comparison(comparison, top + TITLE)
        top += TITLE + HEAD + ROW * len(_present(comparison)) + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}"'
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#1c2429"'
    back = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([f"{head} {style}>", back, *parts, "</svg>", ""])


def _comparison(comparison: Comparison, top: float) -> Iterator[str]:
    present = _present(comparison)
    for row, (name, entrant) in enumerate(present):
        weight = "bold" if name == VERA else "normal"
        yield _text(MARGIN, top + HEAD + row * ROW + 11, entrant.title, weight=weight)
    for column, panel in enumerate(_PANELS):
        left = MARGIN + LABELS + column * (PANEL + GAP)
        yield _text(left, top + 12, panel.title, colour="#5b6770")
        values = [panel.value(comparison, entrant) for _, entrant in present]
        scale = (PANEL - VALUE) / (max(values) or 1.0)
        for row, ((name, _), value) in enumerate(zip(present, values, strict=True)):
            y = top + HEAD + row * ROW
            colour = OWN if name == VERA else OTHERS
            yield f'<rect x="{left:.1f}" y="{y:.1f}" width="{value * scale:.1f}" height="{BAR}" fill="{colour}"/>'
            text = panel.text.format(value) if value else "not measured"
            yield _text(left + value * scale + 5, y + 11, text, weight="bold" if name == VERA else "normal")


def _present(comparison: Comparison) -> list[tuple[str, Entrant]]:
    return [(name, entrant) for name, entrant in comparison.entrants.items() if not entrant.missing]


def _text(x: float, y: float, text: str, *, size: int = 12, weight: str = "normal", colour: str = "") -> str:
    fill = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"{fill}>{escape(text)}</text>'
