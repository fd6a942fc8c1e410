"""What reading from S3 costs: requests of a cold and a warm read, counted at the store, and the speed of reads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.records import DAY
from vera_core.operations.retrieve import Retriever
from vera_core.store.faulty import FaultyStore

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus
    from benchmarks.world import World

READS = 1000


@dataclass(frozen=True, slots=True)
class Reads:
    """The requests of a first and of a second read of one file, and files read a second in random order."""

    cold: list[str]
    warm: list[str]
    files_per_second: float


def measure_reads(world: World, prefix: str, corpus: Corpus) -> Reads:
    """Reads files of a packed corpus, one after the other, each verified.

    Raises:
        RuntimeError: one came back with other bytes.
    """
    items = corpus.sample(READS)
    repo = world.open(prefix)
    watched = FaultyStore(repo.store)
    repo.store = watched
    retriever = Retriever(repo)

    def requests() -> list[str]:
        watched.calls.clear()
        if retriever.get(items[0].uid, DAY) != corpus.content(items[0]):
            raise RuntimeError("a file came back with other bytes")
        return [call.kind for call in watched.calls]

    cold, warm = requests(), requests()
    began = time.monotonic()
    for item in items:
        retriever.get(item.uid, DAY)
    return Reads(cold, warm, len(items) / (time.monotonic() - began))
