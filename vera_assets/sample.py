"""The sample business that `make demo` and `make dev` archive: every file of this Python installation, in a database.

A SQLite table `documents` names each file with a uid, a time in one of three days, a department and a media type; the
files stay where they are. Nothing here knows VERA's operations; its settings file is written in full, to be read.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import sqlite3
import sysconfig
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.config import DEFAULT_INLINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = 3
SOURCE = "documents"
BUCKET = "vera-demo"
REPOSITORY = f"s3://{BUCKET}/archive"
SKIPPED = frozenset({"__pycache__", "site-packages", "dist-packages"})
"""Bytecode changes while Python runs, and the base installation's packages are not this Python's."""
DEPARTMENTS = ("accounts", "claims", "legal", "mail", "personnel", "research")
TABLE = """
CREATE TABLE documents (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    uid        TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    path       TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    department TEXT NOT NULL
)
"""
INSERT = "INSERT INTO documents (uid, created_at, path, bytes, media_type, department) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was laid out: the days (first to last), the files and their bytes."""

    first: date
    last: date
    files: int
    content_bytes: int

    @property
    def days(self) -> list[date]:
        """Each day of the sample."""
        return [self.first + timedelta(number) for number in range((self.last - self.first).days + 1)]


@dataclass(frozen=True, slots=True)
class Document:
    """One row of the business table."""

    uid: str
    created_at: datetime
    path: Path
    size: int
    media_type: str
    department: str


def installed_roots() -> list[Path]:
    """The directories of this Python's standard library and packages."""
    return [Path(sysconfig.get_path(scheme)).resolve() for scheme in ("stdlib", "purelib")]


def installed_files() -> Iterator[tuple[str, Path]]:
    """(uid, path) of each file of this Python's standard library and packages, in a stable order; no links.

    Without the few that are larger than what an encrypted repository takes.
    """
    for name, root in zip(("stdlib", "packages"), installed_roots(), strict=True):
        for folder, below, files in os.walk(root):
            below[:] = sorted(set(below) - SKIPPED)
            for file in sorted(files):
                path = Path(folder) / file
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= DEFAULT_INLINE_LIMIT:
                    yield f"{name}/{path.relative_to(root).as_posix()}", path


def write_database(path: Path, *, today: date, limit: int | None = None) -> Sample:
    """Makes the business database at `path`: all files (or the first `limit`), spread over three whole days."""
    first = today - timedelta(days=DAYS + 1)
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    files = list(installed_files())[:limit]
    step = timedelta(days=DAYS) / max(len(files), 1)
    total = 0
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(TABLE)
        for number, (uid, file) in enumerate(files):
            document = _document(uid, file, start + number * step)
            total += document.size
            database.execute(
                INSERT,
                (
                    document.uid, document.created_at.isoformat(), str(document.path), document.size,
                    document.media_type, document.department,
                ),
            )  # fmt: skip
        database.execute("CREATE INDEX documents_by_time ON documents (created_at, uid)")
    return Sample(first, first + timedelta(days=DAYS - 1), len(files), total)


def _document(uid: str, path: Path, created_at: datetime) -> Document:
    guessed, _ = mimetypes.guess_type(path.name)
    department = DEPARTMENTS[hashlib.sha256(uid.encode()).digest()[0] % len(DEPARTMENTS)]
    return Document(uid, created_at, path, path.stat().st_size, guessed or "application/octet-stream", department)


def documents(path: Path) -> Iterator[Document]:
    """The rows of the business database, in the order in which they were made."""
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT uid, created_at, path, bytes, media_type, department FROM documents ORDER BY number"
        for uid, created_at, file, size, media_type, department in database.execute(query):
            yield Document(uid, datetime.fromisoformat(created_at), Path(file), size, media_type, department)
