"""What encryption costs: the same files packed to S3 openly, openly with an encrypted shard's dictionaries, encrypted.

A dictionary of an encrypted shard holds only what many files have in common, and so compresses less, and more slowly.
That is a matter of codecs; the second run has it too, so that what the third takes more is encryption alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.business import make_database
from benchmarks.packing import Kind, pack_s3
from benchmarks.results import Encrypting

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus
    from benchmarks.results import Packed
    from benchmarks.world import World

ROUNDS = 3


def measure_encrypting(world: World, corpus: Corpus) -> Encrypting:
    """Packs the corpus from a database in each way, in turns; the best round of each counts."""
    database = make_database(corpus)
    runs: dict[Kind, list[Packed]] = {kind: [] for kind in Kind}
    for number in range(ROUNDS):
        for kind in list(Kind)[:: -1 if number % 2 else 1]:
            runs[kind].append(pack_s3(world, corpus, database=database, kind=kind)[0])
    plain, common, encrypted = (min(runs[kind], key=lambda run: run.seconds) for kind in Kind)
    return Encrypting(plain=plain, common=common, encrypted=encrypted)
