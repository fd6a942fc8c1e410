"""A corpus as the rows of a business database that names files: what VERA packs, to S3 or locally.

All rows are of one day, which is a window; the time of the day is the file's.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks.records import DAY
from vera_core.model import from_micros
from vera_core.routing import DAY_MICROS
from vera_core.source.base import Window
from vera_core.source.directory import media_type_of
from vera_core.source.mapping import ContentColumn, ContentKind, Given, SourceSettings, TimeColumn, TimeType
from vera_core.source.sql import open_sources

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from vera_core.source.base import Terms
    from vera_core.source.sql import SqlSource

SOURCE = "invoices"
WINDOW = Window(SOURCE, "default", DAY)
TABLE = """
CREATE TABLE invoices (
    number INTEGER PRIMARY KEY,
    uid TEXT NOT NULL,
    created_at TEXT NOT NULL,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    media_type TEXT NOT NULL
)
"""


def make_database(corpus: Corpus) -> Path:
    """Writes the rows of a corpus; the SQLite database lies beside it."""
    database = corpus.directory / "business.sqlite"
    database.unlink(missing_ok=True)
    root = f"{corpus.root}/"
    rows = (
        (number, uid, _time(created_at), root + path, size, media_type_of(path))
        for number, (uid, path, size, created_at) in enumerate(corpus.items())
    )
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(TABLE)
        connection.executemany("INSERT INTO invoices VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("CREATE INDEX invoices_by_time ON invoices (created_at, uid)")
    return database


def database_source(terms: Terms, root: Path, database: Path) -> SqlSource:
    """Such a database as a source; its files lie below `root`."""
    settings = SourceSettings(
        url=f"sqlite:///{database}",
        table="invoices",
        uid="uid",
        created_at=TimeColumn(column="created_at", type=TimeType.TEXT),
        content=ContentColumn(column="path", kind=ContentKind.PATH, roots=(root,)),
        size="bytes",
        media_type=Given(column="media_type"),
    )
    (source,) = open_sources(SOURCE, settings, terms)
    return source


def _time(micros: int) -> str:
    return from_micros(WINDOW.first_micros + micros % DAY_MICROS).isoformat(timespec="microseconds")
