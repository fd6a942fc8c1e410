"""The corpora that formats are compared on: records, a mix of real files, incompressible blobs."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpus import FILES_PER_DIRECTORY, Corpus, Item, lay_out
from benchmarks.records import SIZES, records

if TYPE_CHECKING:
    from collections.abc import Iterator

MIXED_FILES, MIXED_BYTES = 20_000, 256 << 20
"""At most so many files and bytes of the Python installation."""
LARGEST_MIXED = 4 << 20
BLOB_SIZES = (8 << 10, 64 << 10)
BLOB_TIME = 1_772_409_600_000_000
"""2026-03-02T00:00:00Z."""


def record_corpus(directory: Path, files: int, *, sizes: tuple[int, int] = SIZES) -> Corpus:
    """JSON records (records.py)."""
    return lay_out("json", directory, records(files, sizes=sizes))


def blob_corpus(directory: Path, files: int, *, sizes: tuple[int, int] = BLOB_SIZES, seed: int = 1) -> Corpus:
    """Random bytes, as what is encrypted or compressed already; sizes are spread evenly."""
    return lay_out("blobs", directory, _blobs(files, sizes, seed))


def mixed_corpus(directory: Path, *, files: int = MIXED_FILES) -> Corpus:
    """Up to `files` copies of files of the running Python's standard library and site-packages.

    Which ones follows from their names alone: a pseudo-random choice, the same wherever the same files are installed.
    """
    return lay_out("mixed", directory, _installed(files))


def _blobs(files: int, sizes: tuple[int, int], seed: int) -> Iterator[tuple[Item, bytes]]:
    rng = random.Random(seed)
    for number in range(files):
        content = rng.randbytes(rng.randint(*sizes))
        uid = f"{rng.getrandbits(128):032x}"
        path = f"{number // FILES_PER_DIRECTORY:05d}/{uid}.bin"
        yield Item(uid, path, len(content), BLOB_TIME + number * 1_000_000), content


def _installed(files: int) -> Iterator[tuple[Item, bytes]]:
    places = {name: Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")}
    names = [f"{name}/{path}" for name, place in places.items() for path in _below(place)]
    names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen: list[Item] = []
    total = 0
    for name in names:
        kind, _, path = name.partition("/")
        facts = (places[kind] / path).stat(follow_symlinks=False)
        if stat.S_ISREG(facts.st_mode) and facts.st_size <= LARGEST_MIXED:
            chosen.append(Item(name, name, facts.st_size, facts.st_mtime_ns // 1000))
            total += facts.st_size
        if len(chosen) >= files or total >= MIXED_BYTES:
            break
    for item in sorted(chosen):
        kind, _, path = item.path.partition("/")
        content = (places[kind] / path).read_bytes()
        yield item._replace(size=len(content)), content


def _below(place: Path) -> Iterator[str]:
    """Paths from `place` of everything that is no directory, but not of what lies in a site-packages of its own."""
    for folder, folders, names in os.walk(place):
        if "site-packages" in folders:
            folders.remove("site-packages")
        for name in names:
            path = f"{folder}/{name}"[len(str(place)) + 1 :]
            # Not every zip says in which encoding it wrote a name that is not ASCII.
            if path.isascii() and path.isprintable():
                yield path
