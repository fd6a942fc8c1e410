"""Shards of very many small files, made fast: their contents pass for zstd frames, but are noise."""

from __future__ import annotations

import hashlib
import io
import random
from typing import NamedTuple

import numpy as np

from tests.format.support import NOON, OPTIONS
from vera_core.codec import crc32
from vera_core.encoding import FACTS, EncodedBatch
from vera_core.format import Names, ShardWriter
from vera_core.model import Codec

_BATCH = 1 << 14
_SECOND = 1_000_000


class Large(NamedTuple):
    """A shard and its uids, in order."""

    data: bytes
    uids: list[str]


def noise(size: int) -> bytes:
    """Bytes that nothing compresses, the same every time."""
    return random.Random(1).randbytes(size)


def records(count: int, stored: int = 600, *, micros: bool = True) -> Large:
    """A shard as `count` JSON records of 2.8 KB make it, stored as about `stored` bytes, with a dictionary of 16 KiB.

    Uids are 16 random bytes in hex; times are spread over a day, in microseconds or whole seconds.
    """
    rng, numbers = random.Random(count), np.random.default_rng(count)
    uids = [f"{rng.getrandbits(128):032x}" for _ in range(count)]
    uids.sort(key=lambda uid: hashlib.sha256(uid.encode()).digest()[:8])
    some = noise(1 << 20)
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS, dictionaries=[some[: 16 << 10]])
    for begin in range(0, count, _BATCH):
        own = uids[begin : begin + _BATCH]
        facts = np.zeros(len(own), FACTS)
        facts["codec"], facts["parameter"] = Codec.ZSTD, 1
        facts["size"] = numbers.integers(2_200, 3_400, len(own))
        facts["stored_size"] = numbers.integers(stored * 4 // 5, stored * 6 // 5, len(own))
        facts["digest"] = numbers.integers(0, 256, (len(own), 32), np.uint8)
        places = numbers.integers(0, 1 << 19, len(own)).tolist()
        contents = [some[at : at + size] for at, size in zip(places, facts["stored_size"].tolist(), strict=True)]
        facts["crc32"] = [crc32(content) for content in contents]
        times = NOON + numbers.integers(0, 86_400 * _SECOND, len(own))
        if not micros:
            times = times // _SECOND * _SECOND
        names = Names(own, times, [("application/json", ())] * len(own))
        writer.append_batch(names, EncodedBatch(facts, b"".join(contents)))
    writer.finish()
    return Large(out.getvalue(), uids)
