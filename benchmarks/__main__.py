"""`python -m benchmarks`: VERA and its peers on the same files in one run, as ratios, as JSON and as a picture.

Everything is generated from a seed into a temporary directory, which is removed. Seconds alone say little: they depend
on the machine and on what else it does; ratios within a run say more. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.compare import compare, say
from benchmarks.corpora import blob_corpus, mixed_corpus, record_corpus
from benchmarks.encrypting import measure_encrypting
from benchmarks.erasing import measure_erasing
from benchmarks.growth import grow
from benchmarks.machine import this_machine
from benchmarks.packing import measure_memory, measure_s3
from benchmarks.plot import plot
from benchmarks.repacking import measure_repacking
from benchmarks.report import rewrite
from benchmarks.results import Growth, Results, load, save
from benchmarks.tables import as_text, tables
from benchmarks.world import Transit, World
from tests.openbao import OpenBao
from vera_core.store.embedded import EmbeddedS3

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from benchmarks.corpus import Corpus

PARTS = ("json", "mixed", "blobs", "growth", "s3", "encrypted", "repack", "erase")
MEMORY = "memory"
KEY = "bench"
"""The transit key of encrypted repositories."""
SIZES = (((512, 640), 8), ((2000, 4000), 16), ((16_000, 24_000), 64), ((128_000, 192_000), 400))
"""Bytes of the files by which growth with size is measured, and the part of all files that are made of each."""


class Run:
    """One run in a temporary directory; the corpus of records is made once for all parts that use it."""

    def __init__(self, directory: Path, given: Namespace) -> None:
        self._directory = directory
        self._given = given
        self._records: Corpus | None = None
        self.results = Results(machine=this_machine(), comparisons={})

    def measure(self, part: str) -> None:
        """Measures a part and keeps what it came to."""
        measures = {
            "growth": self._growth,
            "s3": self._s3,
            "encrypted": self._encrypted,
            "repack": self._repack,
            "erase": self._erase,
            MEMORY: self._memory,
        }
        if part in measures:
            self.results = measures[part]()
        else:
            self.results.comparisons[part] = compare(self._corpus(part), rounds=self._given.rounds)

    def _corpus(self, part: str) -> Corpus:
        files = self._given.files
        if part == "mixed":
            return mixed_corpus(self._directory / part, files=max(1, files // 10))
        if part == "blobs":
            return blob_corpus(self._directory / part, max(1, files // 20))
        if self._records is None:
            say(f"making {files:,} records")
            self._records = record_corpus(self._directory / "json", files)
        return self._records

    def _growth(self) -> Results:
        files = self._given.files
        by_number = [
            grow(record_corpus(self._directory / f"growth-{number}", number)) for number in (files // 20, files // 4)
        ]
        by_number.append(grow(self._corpus("json")))
        if self._given.million:
            by_number.append(grow(record_corpus(self._directory / "growth-million", 1_000_000)))
        by_size = [
            grow(record_corpus(self._directory / f"size-{sizes[0]}", max(1, files // part), sizes=sizes))
            for sizes, part in SIZES
        ]
        return replace(self.results, growth=Growth(by_number=by_number, by_size=by_size))

    def _s3(self) -> Results:
        with EmbeddedS3(self._directory / "s3") as server:
            world = World(self._directory / "s3-work", server)
            return replace(self.results, s3=measure_s3(world, self._corpus("json"), profile=self._given.profile))

    def _encrypted(self) -> Results:
        with EmbeddedS3(self._directory / "encrypted-s3") as server, self._transit("encrypted") as transit:
            world = World(self._directory / "encrypted-work", server, transit)
            return replace(self.results, encrypting=measure_encrypting(world, self._corpus("json")))

    def _repack(self) -> Results:
        with EmbeddedS3(self._directory / "repack-s3") as server, self._transit("repack") as transit:
            world = World(self._directory / "repack-work", server, transit)
            return replace(self.results, repacking=measure_repacking(world, self._corpus("json")))

    def _erase(self) -> Results:
        # Nine of ten slots' files would be left alone: a corpus with fewer says as much.
        corpus = record_corpus(self._directory / "erase", max(1, self._given.files // 5))
        with EmbeddedS3(self._directory / "erase-s3") as server, self._transit("erase") as transit:
            world = World(self._directory / "erase-work", server, transit)
            return replace(self.results, erasing=measure_erasing(world, corpus))

    @contextmanager
    def _transit(self, name: str) -> Iterator[Transit]:
        """The transit key of an OpenBao that runs as long as it is used."""
        directory = self._directory / f"{name}-keys"
        directory.mkdir()
        with OpenBao(directory) as bao:
            bao.keys(key=KEY)
            yield Transit(bao.address, KEY, bao.root.token)

    def _memory(self) -> Results:
        with EmbeddedS3(self._directory / "memory") as server:
            world = World(self._directory / "memory-work", server)
            return replace(self.results, memory=measure_memory(world, self._given.memory_files))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints tables, writes JSON and a picture."""
    given = _parser().parse_args(arguments)
    if given.report is not None:
        rewrite(load(given.report))
        return
    with tempfile.TemporaryDirectory(prefix="vera-bench-") as name:
        run = Run(Path(name), given)
        for part in given.only.split(","):
            run.measure(part)
    for found in tables(run.results).values():
        print("\n".join(f"\n{as_text(table)}" for table in found))
    save(run.results, given.json)
    given.json.with_suffix(".svg").write_text(plot(run.results))
    print(f"\nWritten: {given.json} and {given.json.with_suffix('.svg')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--only", default=",".join(PARTS), metavar="PARTS", type=_parts,
        help=f"of {','.join(PARTS)},{MEMORY}; all but {MEMORY} (16 GB of disk) are the default",
    )  # fmt: skip
    parser.add_argument("--files", type=int, default=200_000, help="records; other corpora follow (default 200,000)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="packing runs of each entrant, the best counts (default 3)"
    )
    parser.add_argument("--million", action="store_true", help="growth: up to 1,000,000 files (4 GB of disk)")
    parser.add_argument(
        "--memory-files", type=int, default=2_000_000, help=f"{MEMORY}: small files (default 2,000,000)"
    )
    parser.add_argument(
        "--profile", default="", metavar="FILE", help="s3: write a profile of the packing thread to FILE"
    )
    parser.add_argument(
        "--json", type=Path, default=Path(".bench/results.json"), metavar="FILE",
        help="where the figures go, and FILE.svg beside them (default .bench/results.json)",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="measure nothing: put FILE into docs/performance.md"
    )
    return parser


def _parts(text: str) -> str:
    unknown = set(text.split(",")) - {*PARTS, MEMORY}
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(sorted(unknown))}")
    return text


if __name__ == "__main__":
    main()
