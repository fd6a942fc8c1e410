"""Packing to S3, whole: from a database's rows or a directory, frozen, built, verified, uploaded, committed."""

from __future__ import annotations

import cProfile
import pstats
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import obstore
from obstore.store import S3Store as Obstore

from benchmarks.business import SOURCE, WINDOW, database_source, make_database
from benchmarks.compare import say
from benchmarks.corpora import record_corpus
from benchmarks.process import call
from benchmarks.reading import measure_reads
from benchmarks.records import SMALL_SIZES
from benchmarks.results import Memory, OnS3, Packed
from benchmarks.world import BUCKET, Transit, terms
from vera_core.operations import migrate as _migrate  # noqa: F401 - what a real process has loaded by then
from vera_core.operations.load import Encoding
from vera_core.operations.pack import pack_window
from vera_core.operations.repository import Repository
from vera_core.source.directory import DirectorySource, Packing
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.corpus import Corpus
    from benchmarks.process import Meter
    from benchmarks.world import World
    from vera_core.keys.naming import Naming
    from vera_core.model import Policy
    from vera_core.source.base import Source

FEW = 200_000
"""Files whose packing takes the memory that more may not exceed by much."""
BLOCK_BYTES = 4096
"""What a small file takes on disk."""
SINGLE, IN_FLIGHT = 2000, 16


class Kind(StrEnum):
    """How files are packed: openly, openly with the dictionaries that an encrypted shard would have, encrypted."""

    PLAIN = "plain"
    COMMON = "common"
    ENCRYPTED = "encrypted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Packs the corpus below `root`: as the rows of `database`, or as a directory where that is "".

    `profile`: where to write a profile of the main thread, or "". `transit`: that of the world.
    """

    prefix: str
    access: dict[str, str]
    spool: str
    root: str
    database: str
    profile: str
    transit: dict[str, str]
    kind: str


def measure_s3(world: World, corpus: Corpus, *, profile: str = "") -> OnS3:
    """Packs the corpus from a database (twice: the first run also warms the server) and a directory, and reads it."""
    database = make_database(corpus)
    warming, _ = pack_s3(world, corpus, database=database)
    packed, prefix = pack_s3(world, corpus, database=database, profile=profile)
    directory, _ = pack_s3(world, corpus)
    single_files, single_seconds = single_objects(world, corpus)
    reads = measure_reads(world, prefix, corpus)
    return OnS3(
        database=min(packed, warming, key=lambda run: run.seconds),
        directory=directory,
        single_files=single_files,
        single_seconds=single_seconds,
        cold_requests=reads.cold,
        warm_requests=reads.warm,
        reads_per_second=reads.files_per_second,
    )


def measure_memory(world: World, files: int) -> Memory:
    """Packs `FEW` and `files` small files, made for it and removed after it.

    Raises:
        RuntimeError: the disk has no room for them.
    """
    return Memory(few=_pack_small(world, min(FEW, files // 2)), many=_pack_small(world, files))


def pack_s3(
    world: World,
    corpus: Corpus,
    *,
    database: Path | None = None,
    profile: str = "",
    n_bits: int = 0,
    kind: Kind = Kind.PLAIN,
) -> tuple[Packed, str]:
    """Packs the corpus into a fresh repository with 2 ** `n_bits` slots a day; returns its prefix, too."""
    say(f"s3: packing {corpus.files:,} files from a {'directory' if database is None else 'database'} ({kind})")
    prefix = world.repository(n_bits, encrypt=kind is Kind.ENCRYPTED)
    before = world.server_seconds()
    job = Job(
        prefix=prefix,
        access=asdict(world.access),
        spool=str(world.directory / "spool"),
        root=str(corpus.root),
        database=str(database or ""),
        profile=profile,
        transit=asdict(world.transit),
        kind=kind,
    )
    run = call(pack_one_day, {"job": asdict(job)}, watch=True)
    used = world.server_seconds() - before
    objects = sum(1 for _ in world.store().list_versions(f"{prefix}/"))
    packed = Packed(
        **run.outcome,
        objects=objects,
        seconds=run.seconds,
        cpu_seconds=run.cpu_seconds,
        server_cpu_seconds=used,
        own_bytes=run.own_bytes,
        helper_bytes=run.helper_bytes,
    )
    return packed, prefix


def pack_one_day(meter: Meter, *, job: dict[str, Any]) -> dict[str, Any]:
    """Does a `Job`, in a measured process.

    Raises:
        RuntimeError: some file was not archived.
    """
    todo = Job(**job)
    spool = Path(todo.spool)
    store = S3Store(BUCKET, options=S3Options(access=Access(**todo.access)))
    repo = Repository(store, todo.prefix, Transit(**todo.transit).workplace(spool))
    source: Source
    if todo.database:
        source = database_source(terms(repo), Path(todo.root), Path(todo.database))
    else:
        source = DirectorySource(Path(todo.root), terms(repo), Packing(spool=spool, name=SOURCE))
    with _dictionaries_of(Kind(todo.kind)), _profiled(todo.profile), meter:
        report = pack_window(repo, source, WINDOW)
    if report.archived != report.rows:
        raise RuntimeError(f"{report.rows - report.archived} files were not archived: {report.rejects}")
    return {"files": report.archived, "content_bytes": report.content_bytes, "stored_bytes": report.stored_bytes}


def single_objects(world: World, corpus: Corpus) -> tuple[int, float]:
    """Some files as objects of their own, 16 at a time, without compression or locks: how many, and seconds."""
    access = world.access
    store = Obstore(
        BUCKET,
        endpoint=access.endpoint,
        region=access.region,
        access_key_id=access.key_id,
        secret_access_key=access.secret,
        client_options={"allow_http": True},
    )
    items = corpus.sample(SINGLE)
    began = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(lambda item: obstore.put(store, f"single/{item.uid}", corpus.content(item)), items))
    return len(items), time.monotonic() - began


def _pack_small(world: World, files: int) -> Packed:
    free = shutil.disk_usage(world.directory).free
    if free < 2 * files * BLOCK_BYTES:
        raise RuntimeError(f"{files:,} files need {2 * files * BLOCK_BYTES >> 30} GiB of disk; {free >> 30} are free")
    directory = world.directory / f"small-{files}"
    try:
        corpus = record_corpus(directory, files, sizes=SMALL_SIZES)
        return pack_s3(world, corpus, database=make_database(corpus))[0]
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _dictionaries_of(kind: Kind) -> Iterator[None]:
    """Makes files that are packed openly get the dictionaries of an encrypted shard, where they shall."""

    def common(policy: Policy, naming: Naming) -> Encoding:
        return Encoding(policy, naming.digest, common=True)

    with patch.object(Encoding, "of", common) if kind is Kind.COMMON else nullcontext():
        yield


@contextmanager
def _profiled(path: str) -> Iterator[None]:
    """Writes a profile of this thread to `path`, unless that is ""."""
    if not path:
        yield
        return
    profile = cProfile.Profile()
    with profile:
        yield
    with Path(path).open("w") as file:
        pstats.Stats(profile, stream=file).sort_stats("tottime").print_stats(60)
