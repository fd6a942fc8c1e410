"""What the same files cost by other means, in the same run: a compressed tar, and an S3 object for each file."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import obstore
import zstandard
from obstore.store import S3Store

from benchmarks.world import BUCKET

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.world import World

SAMPLE = 2000
IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """How many files, in how many seconds, stored in how many bytes."""

    files: int
    seconds: float
    stored_bytes: int

    @property
    def files_per_second(self) -> float:
        """The speed."""
        return self.files / self.seconds


def tar_zstd(corpus: Corpus, target: Path) -> Peer:
    """`tar | zstd -3 -T2` to a local file: no index, no checksums of files, no locks, no upload."""
    began = time.monotonic()
    command = ["tar", "-C", str(corpus.root), "-cf", "-", "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar, target.open("wb") as file:
        assert tar.stdout is not None
        zstandard.ZstdCompressor(level=3, threads=2).copy_stream(tar.stdout, file)
    seconds = time.monotonic() - began
    if tar.returncode:
        raise RuntimeError("tar failed")
    return Peer(corpus.files, seconds, target.stat().st_size)


def single_objects(world: World, corpus: Corpus) -> Peer:
    """Each of the first `SAMPLE` files as an object of its own, 16 at a time: no compression, no locks."""
    access = world.access
    store = S3Store(
        BUCKET,
        endpoint=access.endpoint,
        region=access.region,
        access_key_id=access.key_id,
        secret_access_key=access.secret,
        client_options={"allow_http": True},
    )

    def put(path: Path) -> int:
        data = path.read_bytes()
        obstore.put(store, f"single/{path.name}", data)
        return len(data)

    paths = list(islice(sorted(corpus.root.rglob("*.json")), SAMPLE))
    began = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        total = sum(pool.map(put, paths))
    return Peer(len(paths), time.monotonic() - began, total)
