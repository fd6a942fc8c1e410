"""Rewrites what docs/performance.md shows of a run: the tables between its markers, and its picture.

What stands outside the markers is people's. Parts that the run has no figures for stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.plot import plot
from benchmarks.tables import as_markdown, tables

if TYPE_CHECKING:
    from benchmarks.results import Results

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = "performance.md", "images/performance.svg"


def rewrite(results: Results, docs: Path = DOCS) -> None:
    """Puts the results into the page and its picture below `docs`.

    Raises:
        ValueError: the page lacks the markers of a part.
    """
    page = docs / PAGE
    text = page.read_text("utf-8")
    for name, found in tables(results).items():
        text = _replaced(text, name, "\n\n".join(map(as_markdown, found)))
    if results.comparisons:
        (docs / PICTURE).write_text(plot(results), "utf-8")
        text = _replaced(text, "picture", f"![Speed, stored size and random reads of all entrants]({PICTURE})")
    page.write_text(text, "utf-8")


def _replaced(text: str, name: str, body: str) -> str:
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    pattern = re.compile(f"{begin}\n.*?{end}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page lacks {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n{body}\n{end}", text)
