"""What reading costs: requests of a cold and a warm read, counted at the store, and the speed of random reads."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.operations.retrieve import Retriever
from vera_core.store.faulty import FaultyStore

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus
    from benchmarks.world import World

READS = 1000


@dataclass(frozen=True, slots=True)
class Reads:
    """The requests of a first and of a second read of one file, and files read a second in random order."""

    cold: tuple[str, ...]
    warm: tuple[str, ...]
    files_per_second: float


def measure_reads(world: World, prefix: str, corpus: Corpus) -> Reads:
    """Reads files of a packed corpus, one after the other, each verified.

    Raises:
        RuntimeError: one came back with other bytes.
    """
    rng = random.Random(1)
    numbers = [rng.randrange(corpus.files) for _ in range(READS)]
    repo = world.open(prefix)
    watched = FaultyStore(repo.store)
    repo.store = watched
    retriever = Retriever(repo)

    def requests() -> tuple[str, ...]:
        watched.calls.clear()
        if retriever.get(corpus.uid(numbers[0]), corpus.day) != corpus.path(numbers[0]).read_bytes():
            raise RuntimeError("a file came back with other bytes")
        return tuple(call.kind for call in watched.calls)

    cold, warm = requests(), requests()
    began = time.monotonic()
    for number in numbers:
        retriever.get(corpus.uid(number), corpus.day)
    return Reads(cold, warm, READS / (time.monotonic() - began))
