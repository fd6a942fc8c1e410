"""SQLite with a compressed blob in each row."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from benchmarks.peers.base import LEVEL, Library, compressor, decompressor, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.peers.base import Read


class Sqlite(Library):
    """One table; settings as for bulk loading, and pages of a size that wastes little of blobs of some KB."""

    title = f"SQLite, each row zstd -{LEVEL}"

    def pack(self, corpus: Corpus, target: Path) -> None:
        target.unlink(missing_ok=True)
        with closing(sqlite3.connect(target, isolation_level=None)) as database:
            for pragma in ("page_size=8192", "journal_mode=OFF", "synchronous=OFF"):
                database.execute(f"PRAGMA {pragma}")
            database.execute("CREATE TABLE files (uid TEXT PRIMARY KEY, created_at INT, size INT, content BLOB)")
            database.execute("BEGIN")
            database.executemany("INSERT INTO files VALUES (?, ?, ?, ?)", self._rows(corpus))
            database.execute("COMMIT")

    @contextmanager
    def open(self, target: Path) -> Iterator[Read]:
        unpack = decompressor().decompress
        with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as database:

            def read(key: str | bytes) -> bytes:
                (stored,) = database.execute("SELECT content FROM files WHERE uid = ?", (key,)).fetchone()
                return unpack(stored)

            yield read

    def _rows(self, corpus: Corpus) -> Iterator[tuple[str, int, int, bytes]]:
        pack, root = compressor().compress, f"{corpus.root}/"
        for uid, path, size, created_at in corpus.items():
            yield uid, created_at, size, pack(read_file(root + path, size))
