"""swh-shard, the read shards of Software Heritage: a perfect hash in front of contents, each found by one read.

Its user names contents by their SHA-256 and compresses them himself, or not at all. It has no checksums.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.peers.base import LEVEL, Library, compressor, decompressor, read_file

try:
    from swh.shard import Shard, ShardCreator
except ImportError:
    Shard = ShardCreator = None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.corpus import Corpus, Item
    from benchmarks.peers.base import Read


class _Shard(Library):
    """What both kinds have in common."""

    def missing(self) -> str:
        return "swh-shard not installed" if Shard is None else ""

    def key(self, corpus: Corpus, item: Item) -> bytes:
        return hashlib.sha256(corpus.content(item)).digest()


class RawShard(_Shard):
    """Contents as they are."""

    title = "swh-shard, raw"

    def pack(self, corpus: Corpus, target: Path) -> None:
        _write(corpus, target, bytes)

    @contextmanager
    def open(self, target: Path) -> Iterator[Read]:
        with Shard(str(target)) as shard:
            yield shard.lookup


class ZstdShard(_Shard):
    """Each content as a zstd frame."""

    title = f"swh-shard, each file zstd -{LEVEL}"

    def pack(self, corpus: Corpus, target: Path) -> None:
        _write(corpus, target, compressor().compress)

    @contextmanager
    def open(self, target: Path) -> Iterator[Read]:
        unpack = decompressor().decompress
        with Shard(str(target)) as shard:
            yield lambda key: unpack(shard.lookup(key))


def _write(corpus: Corpus, target: Path, pack: Callable[[bytes], bytes]) -> None:
    """Writes each different content once: the format has no place for a second one."""
    target.unlink(missing_ok=True)
    root = f"{corpus.root}/"
    seen: set[bytes] = set()
    with ShardCreator(str(target), corpus.distinct) as shard:
        for item in corpus.items():
            content = read_file(root + item.path, item.size)
            key = hashlib.sha256(content).digest()
            if key not in seen:
                seen.add(key)
                shard.write(key, pack(content))
