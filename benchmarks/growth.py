"""How VERA's cost grows with the number of files, and with their size, on corpora of records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.compare import entrant, lookups, reads_per_second, say
from benchmarks.jobs import pack
from benchmarks.peers import VERA
from benchmarks.process import call
from benchmarks.results import Grown
from benchmarks.stages import freeze, verify

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus

ROUNDS = 2


def grow(corpus: Corpus) -> Grown:
    """Measures VERA alone on one corpus."""
    say(f"growth: {corpus.files:,} files of {corpus.content_bytes // corpus.files:,} bytes")
    target = corpus.directory / "grown.vera"
    where: dict[str, object] = {"peer": VERA, "corpus": corpus.directory, "target": target}
    call(freeze, {"corpus": corpus.directory})
    runs = [call(pack, where, watch=turn == 0) for turn in range(ROUNDS)]
    found = lookups(where, reads_per_second(where))
    verified = call(verify, {"target": target})
    target.unlink()
    return Grown(
        files=corpus.files,
        content_bytes=corpus.content_bytes,
        index_bytes=verified.outcome["index"],
        rest_bytes=verified.outcome["rest"],
        entrant=entrant(VERA, runs, found),
        verify_seconds=verified.seconds,
    )
