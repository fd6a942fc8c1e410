"""What is done in measured processes (process.py): packing a corpus, reading it in random order, opening it cold."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.corpus import Corpus

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.peers.base import Peer, Read
    from benchmarks.process import Meter

CHECKED = 100
"""Files that are compared with the original, before anything is measured."""


def pack(meter: Meter, *, peer: str, corpus: str, target: str) -> dict[str, Any]:
    """Packs; the outcome says how many bytes are stored."""
    files = Corpus.load(Path(corpus))
    packer = peers.peer(peer)
    packer.prepare(files)
    # What others wrote before must not get in the way of what is written now.
    os.sync()
    with meter:
        packer.pack(files, Path(target))
    return {"size": Path(target).stat().st_size}


def look_up(
    meter: Meter, *, peer: str, corpus: str, target: str, reads: int, seconds: float, digests: bool = False
) -> dict[str, Any]:
    """Reads up to `reads` files in random order, for about `seconds`, a second time: the outcome says how many.

    `digests`: as for `Peer.open_warm`.

    Raises:
        RuntimeError: one came back with other bytes.
    """
    it = peers.peer(peer)
    keys = _checked_keys(it, Corpus.load(Path(corpus)), it.open_warm(Path(target), digests=digests), reads)
    with it.open_warm(Path(target), digests=digests) as read:
        count = _read_for(read, keys, seconds)
        with meter:
            count = _read_for(read, keys[:count], 2 * seconds)
    return {"count": count}


def open_cold(meter: Meter, *, peer: str, corpus: str, target: str) -> dict[str, Any]:
    """Opens, reads one file and closes, measured the second time: code is loaded by then, nothing is left open."""
    it = peers.peer(peer)
    (key,) = _checked_keys(it, Corpus.load(Path(corpus)), it.open(Path(target)), 1)
    with meter, it.open(Path(target)) as read:
        read(key)
    return {}


def _checked_keys(peer: Peer, corpus: Corpus, opened: AbstractContextManager[Read], count: int) -> list[str | bytes]:
    """Keys of files in random order, of which the first are read and compared."""
    items = corpus.sample(count)
    keys = [peer.key(corpus, item) for item in items]
    with opened as read:
        for key, item in zip(keys[:CHECKED], items, strict=False):
            if read(key) != corpus.content(item):
                raise RuntimeError(f"{peer.title} gave other bytes for {item.path}")
    return keys


def _read_for(read: Read, keys: list[str | bytes], seconds: float) -> int:
    """Reads those keys one after the other until time is over; returns how many it were."""
    end = time.perf_counter() + seconds
    now = time.perf_counter
    for number, key in enumerate(keys, 1):
        read(key)
        if now() > end:
            return number
    return len(keys)
