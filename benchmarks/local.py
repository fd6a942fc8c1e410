"""VERA on local files: packing a corpus into one shard, and reading it. What talks to S3 is packing.py's business.

Packing does what `vera pack` does between a frozen manifest and an upload, with the same parts: rows are read from the
manifest, files read, hashed, compressed and written. Freezing the manifest comes before it, verifying after; both are
measured by themselves. As neither shares the cores here, each core has a process that loads.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

from benchmarks.business import WINDOW, database_source
from vera_core.codec import MAX_INLINE
from vera_core.format import FileSource, Lookup, MappedFile, ShardOptions, ShardReader
from vera_core.model import Policy
from vera_core.operations.build import BuildLimits, build_part
from vera_core.operations.inspector import inspect_file
from vera_core.operations.judge import Judge
from vera_core.operations.loader import Options, loader
from vera_core.operations.pace import at_pace
from vera_core.operations.repository import Workplace
from vera_core.routing import Routing
from vera_core.source.base import Terms
from vera_core.source.manifest import Freezing, Manifest, freeze

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.peers.base import Read
    from vera_core.operations.load import Loaded
    from vera_core.source.sql import SqlSource

RETENTION = "std"
TERMS = Terms(frozenset({RETENTION}), RETENTION, MAX_INLINE)
NO_LIMIT = 1 << 60
"""Stored bytes at which a shard is closed: never, so that all files are in one."""


class Prepared(NamedTuple):
    """What a packer has when a window is frozen."""

    source: SqlSource
    manifest: Manifest


class _AllNew(Judge):
    """Judges rows of a slot that has no shard yet: all are archived."""

    __slots__ = ()

    def __init__(self) -> None:
        """Needs no repository to say so."""

    def verdicts(self, loaded: Loaded) -> dict[int, str]:
        """None, or an error: a corpus has only files that can be read."""
        if loaded.special:
            raise RuntimeError(f"a file was not read: {loaded.special}")
        return {}


def freeze_local(corpus: Corpus) -> None:
    """Freezes the rows of the corpus's database as a manifest beside it."""
    path = _manifest(corpus)
    path.unlink(missing_ok=True)
    with at_pace():
        freeze(_source(corpus).batches(WINDOW), path, window=WINDOW, by=Freezing(Routing(), corpus.directory))


def prepare_local(corpus: Corpus) -> Prepared:
    """Opens source and manifest and looks at the first row, which loads code that freezing has loaded by then."""
    source, manifest = _source(corpus), Manifest.open(_manifest(corpus))
    for batch in manifest.batches(0, 1):
        deque(source.fetch(batch.rows()), maxlen=0)
    return Prepared(source, manifest)


def pack_local(prepared: Prepared, target: Path, policy: Policy = Policy.BALANCED) -> None:
    """Packs the rows of the frozen manifest into the shard `target`."""
    manifest, count = prepared.manifest, prepared.manifest.row_count
    workplace = Workplace(actor="benchmark", spool=target.parent)
    options = Options(policy, workplace.threads, processes=os.cpu_count() or 1)
    shard = ShardOptions(bytes(16), RETENTION)
    limits = BuildLimits(NO_LIMIT, policy)
    with (
        at_pace(),
        loader(prepared.source, count, options) as load,
        closing(load(manifest.batches(0, count), count)) as feed,
    ):
        built = build_part(feed, (0, count), options=shard, limits=limits, spool=workplace.spool, judge=_AllNew())
    if built.local is None or built.archived != count:
        raise RuntimeError(f"{built.archived} of {count} files were packed")
    built.local.path.rename(target)


@contextmanager
def open_local(target: Path) -> Iterator[Read]:
    """Reads single files of a shard by their uid: found in the index, decompressed, CRC32 and SHA-256 checked."""
    with FileSource(target) as source:
        yield cast("Read", ShardReader.open(source).get)


@contextmanager
def look_up_local(target: Path, *, digests: bool) -> Iterator[Read]:
    """As `open_local`, for many files: the shard is mapped; without `digests`, SHA-256 is left to `verify_local`."""
    with MappedFile(target) as source:
        yield cast("Read", Lookup.open(source, digests=digests).get)


def verify_local(target: Path) -> None:
    """Verifies a shard whole, as `vera pack` does before it uploads one."""
    inspect_file(target)


def describe_local(target: Path) -> dict[str, int]:
    """Bytes of a shard: contents as stored, the index that lies between them, and all the rest."""
    with FileSource(target) as source:
        footer = ShardReader.open(source).footer
    index = footer.data_end - footer.data_start - footer.stored_bytes
    return {
        "contents": footer.stored_bytes,
        "index": index,
        "rest": footer.shard_size - footer.stored_bytes - index,
    }


def _source(corpus: Corpus) -> SqlSource:
    return database_source(TERMS, corpus.root, corpus.directory / "business.sqlite")


def _manifest(corpus: Corpus) -> Path:
    return corpus.directory / "manifest.parquet"
