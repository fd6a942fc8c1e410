"""VERA as a peer of the others; what it does is local.py's business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.local import look_up_local, open_local, pack_local, prepare_local
from benchmarks.peers.base import Library

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.local import Prepared
    from benchmarks.peers.base import Read


class Vera(Library):
    """`balanced`, unencrypted, one shard."""

    title = "VERA"

    def __init__(self) -> None:
        self._prepared: Prepared | None = None

    def prepare(self, corpus: Corpus) -> None:
        self._prepared = prepare_local(corpus)

    def pack(self, corpus: Corpus, target: Path) -> None:
        pack_local(self._prepared or prepare_local(corpus), target)

    def open(self, target: Path) -> AbstractContextManager[Read]:
        return open_local(target)

    def open_warm(self, target: Path, *, digests: bool) -> AbstractContextManager[Read]:
        return look_up_local(target, digests=digests)
