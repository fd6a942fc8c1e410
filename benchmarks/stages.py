"""VERA's stages around packing, done in measured processes: freezing rows before it, verifying after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.business import make_database
from benchmarks.corpus import Corpus
from benchmarks.local import describe_local, freeze_local, verify_local

if TYPE_CHECKING:
    from benchmarks.process import Meter


def freeze(meter: Meter, *, corpus: str) -> dict[str, Any]:
    """Makes the corpus rows of a database, and freezes these."""
    files = Corpus.load(Path(corpus))
    make_database(files)
    with meter:
        freeze_local(files)
    return {}


def verify(meter: Meter, *, target: str) -> dict[str, Any]:
    """Verifies a shard; the outcome says of what it consists."""
    with meter:
        verify_local(Path(target))
    return describe_local(Path(target))
