"""Files to pack: JSON records of a made-up business and the SQLite database that names them, the same for one seed.

Every record is different, so that nothing is gained by finding one record in another; within a record names and
texts repeat, as they do in what business systems write.
"""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = date(2026, 3, 2)
FILES_PER_DIRECTORY = 1000
RECORD_SIZES = (512, 8000)
"""Bytes of the records that packing is measured with: spread evenly by their logarithm, about 2.8 KB on average."""
SMALL_SIZES = (512, 640)
"""Bytes of the records that memory is measured with."""
TABLE = """
CREATE TABLE invoices (
    number INTEGER PRIMARY KEY,
    uid TEXT NOT NULL,
    created_at TEXT NOT NULL,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL
)
"""
ARTICLES = (
    "copper pipe 22 mm", "elbow joint 90 degrees", "hemp and paste", "ball valve", "radiator type 22", "hours worked",
    "travel", "small parts", "insulation 30 mm", "circulation pump", "thermostat", "pressure gauge", "disposal",
)  # fmt: skip
CITIES = ("Aachen", "Bremen", "Chemnitz", "Dresden", "Erfurt", "Freiburg", "Gera", "Hamburg")


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was laid out: `database` names every file below `root`; all rows and modification times are of one day."""

    root: Path
    database: Path
    day: date
    files: int
    content_bytes: int

    def uid(self, number: int) -> str:
        """The uid of a record, counted from 0."""
        return _uid(number)

    def path(self, number: int) -> Path:
        """Its file."""
        return self.root / _folder(number) / f"{_uid(number)}.json"


def make_corpus(directory: Path, files: int, *, sizes: tuple[int, int] = RECORD_SIZES, seed: int = 1) -> Corpus:
    """Writes `files` records below `directory`/files and the database beside them."""
    root, database = directory / "files", directory / "business.sqlite"
    root.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(TABLE)
        connection.executemany("INSERT INTO invoices VALUES (?, ?, ?, ?, ?)", _write(root, files, sizes, seed))
        connection.execute("CREATE INDEX invoices_by_time ON invoices (created_at, uid)")
        (total,) = connection.execute("SELECT SUM(bytes) FROM invoices").fetchone()
    return Corpus(root, database, DAY, files, total)


def _write(root: Path, files: int, sizes: tuple[int, int], seed: int) -> Iterator[tuple[int, str, str, str, int]]:
    start = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    step = timedelta(days=1) / files
    noon = start.timestamp() + 43_200
    rng = random.Random(seed)
    for number in range(files):
        if number % FILES_PER_DIRECTORY == 0:
            (root / _folder(number)).mkdir()
        uid, created_at = _uid(number), (start + number * step).isoformat(timespec="microseconds")
        content = record(rng, uid, created_at, size=_size(rng, sizes))
        path = f"{root}/{_folder(number)}/{uid}.json"
        Path(path).write_bytes(content)
        os.utime(path, (noon, noon))
        yield number, uid, created_at, path, len(content)


def _uid(number: int) -> str:
    return f"INV-2026-{number:09d}"


def _folder(number: int) -> str:
    return f"{number // FILES_PER_DIRECTORY:05d}"


def _size(rng: random.Random, sizes: tuple[int, int]) -> int:
    low, high = sizes
    return int(low * exp(rng.random() * log(high / low)))


def record(rng: random.Random, uid: str, created_at: str, *, size: int) -> bytes:
    """One record of at least `size` bytes, and at most one line (110 bytes) more."""
    bits = rng.getrandbits
    head = (
        f'{{"id": "{uid}", "created_at": "{created_at}", "currency": "EUR", "status": "open",\n'
        f' "customer": {{"number": "C{bits(24):08d}", "city": "{CITIES[bits(3)]}", "iban": "DE{bits(66):020d}"}},\n'
        ' "lines": ['
    )
    tail = f'],\n "total": "{bits(20)}.{bits(6):02d}", "tax": "19.00", "checksum": "{bits(128):032x}"}}\n'
    lines: list[str] = []
    left = size - len(head) - len(tail)
    while left > 0:
        value = bits(48)
        line = (
            f'\n  {{"article": "A-{value & 0xFFFFF:07d}", "text": "{ARTICLES[value % 13]}", "quantity": '
            f'{1 + (value >> 20) % 20}, "unit": "pcs", "price": "{(value >> 28) % 1000}.{value >> 42:02d}"}}'
        )
        left -= len(line) + 1
        lines.append(line)
    return f"{head}{','.join(lines)}{tail}".encode()
