"""Packing runs: the corpus from a database and from a directory, the objects that it takes, and its memory."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.corpus import SMALL_SIZES, make_corpus
from benchmarks.worker import Job, Measured, run

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus
    from benchmarks.world import World

FEW, MANY = 200_000, 2_000_000
"""Files between which memory is compared."""
BLOCK_BYTES = 4096
"""What a small file takes on disk."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A run, the repository's prefix, the server's CPU seconds meanwhile, and all objects that are there after it."""

    prefix: str
    measured: Measured
    server_seconds: float
    objects: int

    @property
    def files_per_second(self) -> float:
        """The speed."""
        return self.measured.files / self.measured.seconds

    @property
    def files_per_object(self) -> float:
        """Files for each object of any kind, config and audit included."""
        return self.measured.files / self.objects


def pack(world: World, corpus: Corpus, *, database: bool = True, profile: str = "") -> Packed:
    """Packs the corpus into a fresh repository."""
    prefix = world.repository()
    job = Job(
        prefix=prefix,
        access=asdict(world.access),
        spool=str(world.directory / "spool"),
        root=str(corpus.root),
        database=str(corpus.database) if database else "",
        day=corpus.day.isoformat(),
        profile=profile,
    )
    before = world.server_seconds()
    measured = run(job)
    used = world.server_seconds() - before
    return Packed(prefix, measured, used, sum(1 for _ in world.store().list_versions(f"{prefix}/")))


def pack_many(world: World, files: int) -> Packed:
    """Packs `files` small files, made for it and removed after it.

    Raises:
        RuntimeError: the disk has no room for them.
    """
    free = shutil.disk_usage(world.directory).free
    if free < 2 * files * BLOCK_BYTES:
        raise RuntimeError(f"{files:,} files need {2 * files * BLOCK_BYTES >> 30} GiB of disk; {free >> 30} are free")
    directory = world.directory / f"small-{files}"
    try:
        return pack(world, make_corpus(directory, files, sizes=SMALL_SIZES))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
