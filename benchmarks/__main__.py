"""`python -m benchmarks`: what packing and reading cost on this machine, beside peers in the same run.

Everything is generated from a seed into a temporary directory, which is removed. Seconds alone say little: they depend
on the machine and on what else it does; read them with the peers' and with the CPU time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpus import make_corpus
from benchmarks.packing import FEW, MANY, pack, pack_many
from benchmarks.peers import single_objects, tar_zstd
from benchmarks.reading import measure_reads
from benchmarks.table import Results, table
from benchmarks.world import World
from vera_core.store.embedded import EmbeddedS3

if TYPE_CHECKING:
    from collections.abc import Sequence


def measure(directory: Path, files: int, many: int, *, profile: str = "") -> Results:
    """Measures everything in `directory`; memory between `FEW` and `many` files, or not at all where that is 0."""
    with EmbeddedS3(directory / "s3") as server:
        world = World(directory, server)
        corpus = make_corpus(directory / "corpus", files)
        # Packed twice: the first run also warms the disk's cache and the server.
        warming = pack(world, corpus)
        tar = tar_zstd(corpus, directory / "peer.tar.zst")
        packed = pack(world, corpus, profile=profile)
        return Results(
            corpus=corpus,
            packed=packed if packed.files_per_second > warming.files_per_second else warming,
            directory=pack(world, corpus, database=False),
            tar=tar,
            single=single_objects(world, corpus),
            reads=measure_reads(world, packed.prefix, corpus),
            few=pack_many(world, FEW) if many else None,
            many=pack_many(world, many) if many else None,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--files", type=int, default=200_000, help="files to pack (default 200,000)")
    parser.add_argument(
        "--memory-files", type=int, default=MANY, metavar="N",
        help=f"compare the memory of packing {FEW:,} and N small files; 0: don't (default {MANY:,}: 16 GB of disk)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--profile", default="", metavar="FILE", help="write a profile of the packing thread to FILE")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="vera-bench-") as name:
        results = measure(Path(name), given.files, given.memory_files, profile=given.profile)
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(results), indent=2, default=str) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
