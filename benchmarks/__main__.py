"""`python -m benchmarks`: packs a generated corpus into the embedded S3 and compares with peers in the same run.

Peers: `tar | zstd -3` of the same files (no random access), and the same files as single S3 objects (a sample). Figures
are ratios of one run on one machine; seconds alone say little. What they were is docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import make_corpus
from benchmarks.worker import Job, Measured, run
from benchmarks.world import World
from vera_core.operations.retrieve import Retriever
from vera_core.store.embedded import EmbeddedS3
from vera_core.store.faulty import FaultyStore

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus

SAMPLE = 2000
MIB = 1 << 20


def _pack(world: World, corpus: Corpus, *, database: bool) -> tuple[str, Measured]:
    prefix = world.repository()
    job = Job(
        prefix=prefix,
        access=asdict(world.access),
        spool=str(world.directory / "spool"),
        root=str(corpus.root),
        database=str(corpus.database) if database else "",
        # A directory's files are of the day on which they were written: today.
        day=(corpus.day if database else datetime.now(UTC).date()).isoformat(),
    )
    return prefix, run(job)


def _tar(corpus: Corpus, directory: Path) -> dict[str, Any] | None:
    """Seconds and bytes of `tar | zstd -3 -T2`; None where zstd is not installed."""
    if shutil.which("zstd") is None:
        return None
    target = directory / "peer.tar.zst"
    began = time.monotonic()
    with subprocess.Popen(["tar", "-C", str(corpus.root), "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["zstd", "-q", "-3", "-T2", "-f", "-o", str(target)], stdin=tar.stdout, check=True)
    return {"seconds": time.monotonic() - began, "stored_bytes": target.stat().st_size}


def _single_objects(world: World, corpus: Corpus) -> float:
    """Seconds for `SAMPLE` files as single objects, one PUT after the other."""
    store = world.store()
    files = sorted(path for path in corpus.root.rglob("*.json"))[:SAMPLE]
    began = time.monotonic()
    for number, path in enumerate(files):
        store.put(f"single/{number:06d}.json", path.read_bytes())
    return (time.monotonic() - began) / max(1, len(files))


def _reads(world: World, prefix: str, uid: str, corpus: Corpus) -> dict[str, list[str]]:
    """The requests of a cold and of a warm read."""
    repo = world.open(prefix)
    watched = FaultyStore(repo.store)
    repo.store = watched
    retriever = Retriever(repo)
    retriever.get(uid, corpus.day)
    cold = [call.kind for call in watched.calls]
    watched.calls.clear()
    retriever.get(uid, corpus.day)
    return {"cold": cold, "warm": [call.kind for call in watched.calls]}


def main() -> None:
    """Runs everything and prints a table; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--files", type=int, default=200_000, help="files of the corpus (default 200,000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vera-bench-") as name:
        directory = Path(name)
        corpus = make_corpus(directory, arguments.files)
        with EmbeddedS3(directory / "s3") as server:
            world = World(directory, server)
            prefix, packed = _pack(world, corpus, database=True)
            _, listed = _pack(world, corpus, database=False)
            keys = list(world.store().list_versions(prefix))
            single = _single_objects(world, corpus)
            reads = _reads(world, prefix, f"INV-2026-{arguments.files // 2:09d}", corpus)
        tar = _tar(corpus, directory)
    figures: dict[str, Any] = {
        "files": corpus.files,
        "content_bytes": corpus.content_bytes,
        "from_database": asdict(packed),
        "from_directory": asdict(listed),
        "objects": len(keys),
        "tar_zstd": tar,
        "single_object_seconds": single,
        "requests": reads,
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2))
    _print(figures, packed, listed)


def _print(figures: dict[str, Any], packed: Measured, listed: Measured) -> None:
    files, tar = figures["files"], figures["tar_zstd"]
    for title, one in (("packed from a database", packed), ("packed from a directory", listed)):
        print(
            f"{title:26} {files / one.seconds:10,.0f} files/s  {1e6 * one.cpu_seconds / files:6.1f} us CPU a file  "
            f"peak {one.peak_bytes / MIB:,.0f} MiB, with helpers {one.together_bytes / MIB:,.0f} MiB"
        )
    if tar is None:
        print("tar | zstd -3              zstd is not installed: not compared")
    else:
        print(
            f"{'tar | zstd -3':26} {files / tar['seconds']:10,.0f} files/s; VERA has "
            f"{tar['seconds'] / packed.seconds:.2f} times its speed, "
            f"{packed.stored_bytes / tar['stored_bytes']:.2f} times its size"
        )
    ratio = figures["single_object_seconds"] * files / packed.seconds
    print(f"{'single S3 objects':26} {1 / figures['single_object_seconds']:10,.0f} files/s; VERA {ratio:,.0f} times")
    print(
        f"{'objects of every kind':26} {figures['objects']:10,}          {files / figures['objects']:,.0f} files each"
    )
    print(f"{'stored':26} {packed.stored_bytes / figures['content_bytes']:10.1%} of the content")
    print(f"requests: cold {', '.join(figures['requests']['cold'])}; warm {', '.join(figures['requests']['warm'])}")


if __name__ == "__main__":
    main()
